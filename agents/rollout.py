"""One loop that lets an agent live through episodes. Collecting and evaluating are its two callers."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from worldmodel.replay import Episode


class Environments(Protocol):
    """What rollout needs of envs.Vector: rows are environments, and an ended row holds still until it is reset."""

    count: int

    def reset(self, seeds: dict[int, int]) -> np.ndarray: ...

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]: ...


class Trial(NamedTuple):
    """One finished episode, and what the planner thought on the way."""

    episode: Episode
    predicted: np.ndarray  # (N,) the return that the plan of each step promised over its horizon; NaN if none
    horizon: int
    truncated: bool

    @property
    def score(self) -> float:
        """The undiscounted return."""
        return float(self.episode.reward.sum(dtype=np.float64))


class Seconds(NamedTuple):
    """Where the time of a rollout went."""

    act: float
    step: float
    render: float


class Interrupted(Exception):
    """A rollout was asked to stop; its unfinished episodes are dropped."""


def episode_seed(seed: int, stream: int, number: int) -> int:
    """The environment's seed for an episode: a function of (run, stream, number), so that a resumed run repeats it."""
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1)[0] & 0x7FFFFFFF)


def rollout(
    act: Callable[..., tuple[np.ndarray, Any]],
    envs: Environments,
    seeds: Sequence[int],
    explore: bool,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[list[Trial], Seconds]:
    """One episode per seed, as many at a time as there are environments. Trials come in the seeds' order."""
    rows = min(envs.count, len(seeds))
    number = list(range(rows))  # which episode each row lives through
    waiting = iter(range(rows, len(seeds)))
    images = envs.reset({row: seeds[row] for row in range(rows)})
    diaries = [Diary(images[row]) for row in range(rows)]
    finished: dict[int, Trial] = {}
    first = np.ones(envs.count, bool)
    memory = None
    acting = stepping = rendering = 0.0
    while len(finished) < len(seeds):
        if stop():
            raise Interrupted
        began = time.perf_counter()
        actions, memory = act(memory, images, first, explore)
        promised, horizon = memory.plan.value.float().cpu().numpy(), memory.plan.actions.shape[1]
        acted = time.perf_counter()
        images, rewards, terminated, truncated, rendered = envs.step(actions)
        acting, stepping, rendering = (
            acting + acted - began,
            stepping + time.perf_counter() - acted,
            rendering + rendered,
        )
        first[:] = False
        for row in range(rows):
            if number[row] in finished:
                continue
            diaries[row].write(images[row], actions[row], rewards[row], terminated[row], promised[row])
            if terminated[row] or truncated[row]:
                finished[number[row]] = diaries[row].close(horizon, bool(truncated[row]))
                following = next(waiting, None)
                if following is not None:
                    images = envs.reset({row: seeds[following]})
                    number[row], first[row], diaries[row] = following, True, Diary(images[row])
    return [finished[i] for i in range(len(seeds))], Seconds(acting, stepping - rendering, rendering)


class Diary:
    """The rows of an episode while it lasts."""

    def __init__(self, image: np.ndarray) -> None:
        self.images, self.rewards = [image.copy()], [0.0]
        self.actions: list[np.ndarray] = []
        self.promises: list[float] = []
        self.terminal = False

    def write(self, image: np.ndarray, action: np.ndarray, reward: float, terminal: bool, promise: float) -> None:
        self.images.append(image.copy())
        self.actions.append(action)
        self.rewards.append(reward)
        self.promises.append(promise)
        self.terminal = bool(terminal)

    def close(self, horizon: int, truncated: bool) -> Trial:
        actions = np.stack([np.zeros_like(self.actions[0]), *self.actions]).astype(np.float32)
        terminal = np.zeros(len(self.rewards), bool)
        terminal[-1] = self.terminal
        episode = Episode(np.stack(self.images), actions, np.array(self.rewards, np.float32), terminal)
        return Trial(episode, np.array(self.promises, np.float32), horizon, truncated)


def promise_kept(trial: Trial) -> tuple[float, float]:
    """The mean return that the plans of an episode predicted over their horizon, and the mean that was then obtained.

    Their difference shows a planner that exploits its model. Steps whose horizon reaches beyond the episode are left
    out; NaN if none is left.
    """
    steps = len(trial.predicted) - trial.horizon + 1
    if trial.horizon == 0 or steps < 1 or np.isnan(trial.predicted).all():
        return math.nan, math.nan
    total = np.concatenate([[0.0], np.cumsum(trial.episode.reward[1:], dtype=np.float64)])
    obtained = total[trial.horizon :] - total[: -trial.horizon]
    return float(trial.predicted[:steps].mean()), float(obtained.mean())


def confidence(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and the half-width of its 95 % interval (normal approximation)."""
    mean = float(np.mean(scores))
    return mean, 1.96 * float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
