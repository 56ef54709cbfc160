"""Acting in environments: whole episodes, for collecting and evaluating. By steps: collector.py."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from agents.base import Mode
from worldmodel.replay.episodes import Episode


class Environments(Protocol):
    """What rollout needs of envs.Vector: rows are environments, and an ended row holds still until it is reset."""

    num_envs: int

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
) -> tuple[list[EpisodeResult], Seconds]:
    """One episode per seed, as many at a time as there are environments. Results come in the seeds' order. Errors:
    Interrupted, if `stop` says so before a step; envs.EnvError.
    """
    rows = min(envs.num_envs, len(seeds))
    number = list(range(rows))  # which episode is under way in each row
    waiting = iter(range(rows, len(seeds)))
    images = envs.reset({row: seeds[row] for row in range(rows)})
    builders = [EpisodeBuilder(images[row]) for row in range(rows)]
    finished: dict[int, EpisodeResult] = {}
    first = np.ones(envs.num_envs, bool)
    memory = None
    seconds = Seconds(0.0, 0.0, 0.0)
    while len(finished) < len(seeds):
        if stop():
            raise Interrupted
        began = time.perf_counter()
        actions, memory = act(memory, images, first, mode)
        predicted, horizon = memory.info.predicted_return.float().cpu().numpy(), memory.info.plan.shape[1]
        acted = time.perf_counter()
        images, rewards, terminated, truncated, info = envs.step(actions)
        seconds = seconds.plus(acted - began, time.perf_counter() - acted, info["render_seconds"])
        first[:] = False
        for row in range(rows):
            if number[row] in finished:
                continue
            builders[row].append(images[row], actions[row], rewards[row], terminated[row], predicted[row])
            if terminated[row] or truncated[row]:
                finished[number[row]] = builders[row].finish(horizon, bool(truncated[row]))
                following = next(waiting, None)
                if following is not None:
                    images = envs.reset({row: seeds[following]})
                    number[row], first[row], builders[row] = following, True, EpisodeBuilder(images[row])
    return [finished[i] for i in range(len(seeds))], seconds


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
    out; NaN if none is left.
    """
    steps = len(result.predicted_return) - result.horizon + 1
    if result.horizon == 0 or steps < 1 or np.isnan(result.predicted_return).all():
        return math.nan, math.nan
    total = np.concatenate([[0.0], np.cumsum(result.episode.reward[1:], dtype=np.float64)])
    obtained = total[result.horizon :] - total[: -result.horizon]
    return float(result.predicted_return[:steps].mean()), float(obtained.mean())


def mean_ci95(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and the half-width of its 95 % interval (normal approximation)."""
    mean = float(np.mean(scores))
    return mean, 1.96 * float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
