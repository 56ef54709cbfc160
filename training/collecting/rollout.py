"""Acting in environments: whole episodes, for collecting and evaluating. By steps: collector.py."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from agents.base import Mode
from training import streams
from worldmodel.replay.episodes import Episode

UNKNOWN_LIMIT = 10_000  # decisions of an evaluated episode, in environments that may never end


class Environments(Protocol):
    """What rollout needs of envs.Vector: rows are environments, and an ended row holds still until it is reset."""

    num_envs: int
    time_limit: int | None
    failures: int  # episodes that were dropped
    failed: dict[int, Any]  # rows whose episode has failed in the last call, if that is allowed: it is to be dropped

    def reset(self, seeds: dict[int, int]) -> np.ndarray: ...

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, float]]: ...


class EpisodeResult(NamedTuple):
    """One finished episode, and what the planner expected on the way."""

    episode: Episode
    predicted_return: np.ndarray  # (N,) over the horizon of the plan of each step; NaN if none
    horizon: int
    truncated: bool

    @property
    def length(self) -> int:
        """Decisions."""
        return len(self.predicted_return)

    @property
    def episode_return(self) -> float:
        """Undiscounted."""
        return float(self.episode.reward.sum(dtype=np.float64))


class Seconds(NamedTuple):
    """Where the time of a rollout went."""

    act: float
    step: float
    render: float

    def plus(self, act: float, step: float, render: float) -> "Seconds":
        """step: rendering included."""
        return Seconds(self.act + act, self.step + step - render, self.render + render)


class Interrupted(Exception):
    """A rollout was asked to stop; its unfinished episodes are dropped."""


def episode_seed(seed: int, stream: int, number: int) -> int:
    """The environment's seed for an episode: a function of (run, stream, number), so that a resumed run repeats it."""
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1)[0] & 0x7FFFFFFF)


def rollout(
    act: Callable[..., tuple[np.ndarray, Any]],
    envs: Environments,
    seeds: Sequence[int],
    mode: Mode,
    stop: Callable[[], bool] = lambda: False,
    another: Callable[[int], int] | None = None,
    longest: int | None = None,
    waited: Callable[[int], Any] = lambda decisions: None,
) -> tuple[list[EpisodeResult], Seconds]:
    """One episode per seed, as many at a time as there are environments. Results come in the seeds' order. An episode
    that fails is played with another seed instead; another: the n-th of these. longest: decisions after which an
    episode is cut, as by a time limit; by default one that is evaluated is, in an environment that has none. waited: is
    told how many decisions an episode has without an end. Errors: Interrupted, if `stop` says so before a step;
    envs.EnvError.
    """
    if longest is None and mode == "evaluate" and not envs.time_limit:
        longest = UNKNOWN_LIMIT
    episodes = Episodes(envs, seeds, another or (lambda n: episode_seed(seeds[0], streams.FAILED, n)))
    images, memory, seconds = episodes.begin({row: seeds[row] for row in range(episodes.rows)}), None, Seconds(0, 0, 0)
    while len(episodes.finished) < len(seeds):
        if stop():
            raise Interrupted
        began = time.perf_counter()
        actions, memory = act(memory, images, episodes.first, mode)
        predicted, horizon = memory.info.predicted_return.float().cpu().numpy(), memory.info.plan.shape[1]
        acted = time.perf_counter()
        images, rewards, terminated, truncated, info = envs.step(actions)
        seconds = seconds.plus(acted - began, time.perf_counter() - acted, info["render_seconds"])
        episodes.first[:] = False
        starts = {row: next(episodes.others) for row in episodes.failed()}
        for row in (row for row in episodes.live() if row not in starts):
            builder = episodes.builders[row]
            builder.append(images[row], actions[row], rewards[row], terminated[row], predicted[row])
            decisions = len(builder.actions)
            if terminated[row] or truncated[row] or decisions == longest:
                starts |= episodes.end(row, builder.finish(horizon, not terminated[row]))
            else:
                waited(decisions)
        if starts:
            images = episodes.begin(starts)
    return [episodes.finished[i] for i in range(len(seeds))], seconds


class Episodes:
    """The episodes of one rollout, and which of them is under way in which row."""

    def __init__(self, envs: Environments, seeds: Sequence[int], another: Callable[[int], int]) -> None:
        """another: the n-th seed in the place of one whose episode has failed."""
        self.envs, self.seeds, self.rows = envs, seeds, min(envs.num_envs, len(seeds))
        self.number = list(range(self.rows))
        self.waiting = iter(range(self.rows, len(seeds)))
        self.others = map(another, itertools.count())
        self.finished: dict[int, EpisodeResult] = {}
        self.builders: dict[int, EpisodeBuilder] = {}
        self.first = np.ones(envs.num_envs, bool)

    def live(self) -> list[int]:
        """Rows in which an episode is under way."""
        return [row for row in range(self.rows) if self.number[row] not in self.finished]

    def failed(self) -> list[int]:
        """Those of them whose episode has failed in the last call."""
        return [row for row in self.live() if row in self.envs.failed]

    def begin(self, seeds: dict[int, int]) -> np.ndarray:
        """Begin episodes in some rows until none fails at once -> all images. A worker that is lost takes the episodes
        of others with it.
        """
        begun, images = set(seeds), self.envs.reset(seeds)
        while failed := self.failed():
            begun |= set(failed)
            images = self.envs.reset({row: next(self.others) for row in failed})
        for row in begun:
            self.first[row], self.builders[row] = True, EpisodeBuilder(images[row])
        return images

    def end(self, row: int, result: EpisodeResult) -> dict[int, int]:
        """An episode has ended -> the row and the seed of the one that follows in its place, if one is left."""
        self.finished[self.number[row]] = result
        following = next(self.waiting, None)
        if following is None:
            return {}
        self.number[row] = following
        return {row: self.seeds[following]}


class EpisodeBuilder:
    """The rows of an episode while it lasts."""

    def __init__(self, image: np.ndarray) -> None:
        self.images, self.rewards = [image.copy()], [0.0]
        self.actions: list[np.ndarray] = []
        self.predicted: list[float] = []
        self.terminal = False

    def append(self, image: np.ndarray, action: np.ndarray, reward: float, terminal: bool, predicted: float) -> None:
        self.images.append(image.copy())
        self.actions.append(action.copy())
        self.rewards.append(reward)
        self.predicted.append(predicted)
        self.terminal = bool(terminal)

    def take(self) -> Episode:
        """The rows since the last call. Their images are not kept: an episode may never end."""
        begin = len(self.rewards) - len(self.images)
        actions = np.stack([np.zeros_like(self.actions[0]), *self.actions][begin:]).astype(np.float32)
        terminal = np.zeros(len(actions), bool)
        terminal[-1] = self.terminal
        rows = Episode(np.stack(self.images), actions, np.array(self.rewards[begin:], np.float32), terminal)
        self.images = []
        return rows

    def finish(self, horizon: int, truncated: bool) -> EpisodeResult:
        """The whole episode; of images those that were not taken before."""
        actions = np.stack([np.zeros_like(self.actions[0]), *self.actions]).astype(np.float32)
        terminal = np.zeros(len(actions), bool)
        terminal[-1] = self.terminal
        images = np.stack(self.images) if self.images else np.zeros((0,), np.uint8)
        episode = Episode(images, actions, np.array(self.rewards, np.float32), terminal)
        return EpisodeResult(episode, np.array(self.predicted, np.float32), horizon, truncated)


def planned_vs_obtained(result: EpisodeResult) -> tuple[float, float]:
    """The mean return that the plans of an episode predicted over their horizon, and the mean that was then obtained.

    Their difference shows a planner that exploits its model. Steps whose horizon reaches beyond the episode are left
    out, and those whose plan has none that is finite; NaN if none is left.
    """
    steps = len(result.predicted_return) - result.horizon + 1
    predicted = result.predicted_return[: max(0, steps)]
    sound = np.isfinite(predicted)
    if result.horizon == 0 or not sound.any():
        return math.nan, math.nan
    total = np.concatenate([[0.0], np.cumsum(result.episode.reward[1:], dtype=np.float64)])
    obtained = total[result.horizon :] - total[: -result.horizon]
    return float(predicted[sound].mean()), float(obtained[sound].mean())


def value_vs_obtained(result: EpisodeResult, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """What a critic said at each decision of an episode, and the discounted return that was then obtained, both (N,):

        G_t = r_{t+1} + discount G_{t+1},   G_N = 0 after a death.

    What would have followed a time limit is not known: there the critic's word at the last decision stands for it, and
    that decision is left out.
    """
    value, reward = result.predicted_return.astype(np.float64), result.episode.reward[1:]
    decisions, following = len(value), 0.0
    if result.truncated:
        decisions, following = len(value) - 1, value[-1]
    obtained = np.zeros(decisions)
    for t in reversed(range(decisions)):
        obtained[t] = following = reward[t] + discount * following
    return value[:decisions], obtained


def mean_ci95(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and the half-width of its 95 % interval (normal approximation)."""
    mean = float(np.mean(scores))
    return mean, 1.96 * float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
