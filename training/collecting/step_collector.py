"""Collecting by steps: environments keep running between rounds of learning, and their rows so far are in replay."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from agents.agent import Agent, Memory
from agents.base import Mode
from envs import EnvError
from training.collecting.rollout import Environments, EpisodeBuilder, EpisodeResult, Interrupted, Seconds
from worldmodel.base import Spec
from worldmodel.replay.episodes import ROUNDING, Episode

LONGEST_REPLAYED = 100_000  # decisions of an open episode that are taken again to resume amid it


class Rows(NamedTuple):
    """Rows of one environment that follow on those before."""

    stream: int  # the environment's row
    episode: Episode
    continuation: bool  # False: they begin with an episode's first row


class StepCollector:
    """Environments and the episodes that are under way in them.

    Resuming is exact for environments that are functions of their seed and the actions: open episodes are then played
    again up to where they were. Where that fails they are begun anew, and the rows that were collected stay.
    """

    def __init__(self, envs: Environments, episode_seed: Callable[[int], int]) -> None:
        """episode_seed: of the environment, by the number of the episode."""
        self.envs, self.episode_seed = envs, episode_seed
        self.started = 0  # episodes
        self.numbers: list[int] = []  # of the open episodes
        self.builders: list[EpisodeBuilder] = []
        self.images = np.zeros(0, np.uint8)
        self.first = np.ones(envs.num_envs, bool)
        self.memory: Memory | None = None
        self.agent: Agent | None = None  # whose memory it is
        self.failed = 0  # episodes of the last round
        self.error: EnvError | None = None  # that has ended the environments amid a round

    def collect(
        self, agent: Agent, decisions: int, mode: Mode, stop: Callable[[], bool]
    ) -> tuple[list[Rows], list[EpisodeResult], Seconds]:
        """So many decisions in every environment: the new rows, the episodes that ended, and where the time went. A
        call that is asked to stop gives what it has; if that is nothing, it raises Interrupted. One whose environments
        fail too often does the same, and `error` says why. Of an episode that fails, the rows that were not given
        before are dropped.
        """
        rows: list[Rows] = []
        ended: list[EpisodeResult] = []
        seconds, failures = Seconds(0.0, 0.0, 0.0), self.envs.failures
        self.failed = 0
        try:
            if not self.builders:
                self.begin(range(self.envs.num_envs))
            if agent is not self.agent:  # another actor cannot use its memory
                self.agent, self.memory, self.first[:] = agent, None, True
            for done in range(decisions):
                if stop():
                    if not done:
                        raise Interrupted
                    break
                seconds = self.decide(agent, mode, seconds, rows, ended)
        except EnvError as error:
            self.error = error
        for row in range(len(self.builders)):
            rows += self.taken(row)
        if self.error:
            self.abandon()
        self.failed = self.envs.failures - failures
        return rows, ended, seconds

    def decide(
        self, agent: Agent, mode: Mode, seconds: Seconds, rows: list[Rows], ended: list[EpisodeResult]
    ) -> Seconds:
        """One decision in every environment."""
        began = time.perf_counter()
        actions, self.memory = agent.act(self.memory, self.images, self.first, mode)
        info = self.memory.info
        predicted, horizon = info.predicted_return.float().cpu().numpy(), info.plan.shape[1]
        acted = time.perf_counter()
        self.images, rewards, terminated, truncated, told = self.envs.step(actions)
        seconds = seconds.plus(acted - began, time.perf_counter() - acted, told["render_seconds"])
        self.first[:] = False
        failed = set(self.envs.failed)
        for row, builder in enumerate(self.builders):
            if row not in failed:
                builder.append(self.images[row], actions[row], rewards[row], terminated[row], predicted[row])
        over = set(map(int, np.flatnonzero(terminated | truncated))) - failed
        for row in sorted(over):
            rows += self.taken(row)
            ended.append(self.builders[row].finish(horizon, bool(truncated[row])))
        if over | failed:
            self.begin(sorted(over | failed))
        return seconds

    def begin(self, rows: Any) -> None:
        """New episodes in some environments."""
        numbers = {row: self.started + i for i, row in enumerate(rows)}
        self.started += len(numbers)
        self.images = self.envs.reset({row: self.episode_seed(number) for row, number in numbers.items()})
        if not self.builders:
            self.builders = [EpisodeBuilder(self.images[row]) for row in range(self.envs.num_envs)]
            self.numbers = list(range(self.envs.num_envs))
        for row, number in numbers.items():
            self.builders[row], self.numbers[row], self.first[row] = EpisodeBuilder(self.images[row]), number, True
        if self.envs.failed:  # at their first image
            self.begin(sorted(self.envs.failed))

    def taken(self, row: int) -> list[Rows]:
        """The rows of an environment since the last call; none, if its episode has only begun."""
        builder = self.builders[row]
        if not builder.images or not builder.actions:
            return []
        continuation = len(builder.images) < len(builder.rewards)
        return [Rows(row, builder.take(), continuation)]

    def abandon(self) -> None:
        """Forget the open episodes: the next call begins new ones."""
        self.builders, self.numbers, self.memory, self.agent = [], [], None, None

    # ---- what a checkpoint holds ----

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The open episodes: numbers, and the actions so far; the agent's memory."""
        leaves = pytree.tree_leaves(remembered(self.memory)) if self.memory else []
        tensors = {f"memory/{i:03d}": leaf.clone() for i, leaf in enumerate(leaves)} | {
            f"actions/{row:03d}": torch.from_numpy(np.stack(builder.actions))
            for row, builder in enumerate(self.builders)
            if builder.actions
        }
        tensors |= {
            f"predicted/{row:03d}": torch.tensor(builder.predicted, dtype=torch.float32)
            for row, builder in enumerate(self.builders)
            if builder.actions
        }
        images = {f"image/{row:03d}": torch.from_numpy(self.images[row].copy()) for row in range(len(self.builders))}
        return {"started": self.started, "numbers": self.numbers}, tensors | images

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], agent: Agent) -> bool:
        """Play the open episodes again up to where they were. False: they were begun anew, since the environments did
        not give the same, or the agent's memory is another.
        """
        self.started, numbers = state["started"], list(state["numbers"])
        check_open_episodes(self.started, numbers, tensors, agent.spec)
        if not numbers:
            return True
        actions = [tensors[f"actions/{row:03d}"].numpy() if f"actions/{row:03d}" in tensors else np.zeros((0, 0))
                   for row in range(len(numbers))]  # fmt: skip
        n = self.envs.num_envs
        fresh = agent.initial(n)
        leaves, structure = pytree.tree_flatten(remembered(fresh))
        stored = [tensors.get(f"memory/{i:03d}") for i in range(len(leaves))]
        acted = any(old is not None for old in stored)  # else there is no memory yet
        fits = not acted or all(
            old is not None and (old.shape, old.dtype) == (leaf.shape, leaf.dtype) and old.isfinite().all()
            for old, leaf in zip(stored, leaves, strict=True)
        )
        fits = fits and len(numbers) == n
        if not fits or max(map(len, actions)) > LONGEST_REPLAYED or not self.replayed(numbers, actions, tensors):
            self.builders, self.memory = [], None
            self.begin(range(n))
            return False
        if acted:
            moved = [old.to(leaf) for old, leaf in zip(stored, leaves, strict=True) if old is not None]
            state_, action, carry = pytree.tree_unflatten(moved, structure)
            self.agent, self.memory = agent, Memory(state_, action, carry, fresh.info)
        return True

    def replayed(self, numbers: list[int], actions: list[np.ndarray], tensors: Mapping[str, Tensor]) -> bool:
        """Whether the same actions lead to the same images and no end; the environments are there then."""
        self.images = self.envs.reset({row: self.episode_seed(number) for row, number in enumerate(numbers)})
        self.builders, self.numbers = [EpisodeBuilder(self.images[row]) for row in range(self.envs.num_envs)], numbers
        self.first = np.array([len(taken) == 0 for taken in actions])
        longest = max(map(len, actions))
        zero = np.zeros(next((taken.shape[1:] for taken in actions if len(taken)), (0,)), np.float32)
        # Rows with fewer actions wait: each is reset when as many steps are left as it has actions.
        for step in range(longest):
            begins = [row for row, taken in enumerate(actions) if longest - step == len(taken) and step]
            if begins:
                self.images = self.envs.reset({row: self.episode_seed(numbers[row]) for row in begins})
                for row in begins:
                    self.builders[row] = EpisodeBuilder(self.images[row])
            live = [row for row, taken in enumerate(actions) if longest - step <= len(taken)]
            chosen = np.stack([
                taken[len(taken) - longest + step] if row in live else zero for row, taken in enumerate(actions)
            ])  # fmt: skip
            self.images, rewards, terminated, truncated, _ = self.envs.step(chosen)
            for row in live:
                predicted = tensors[f"predicted/{row:03d}"][len(actions[row]) - longest + step]
                self.builders[row].images = []  # they are in replay
                self.builders[row].append(self.images[row], chosen[row], rewards[row], False, float(predicted))
            if any(terminated[row] or truncated[row] for row in live):
                return False
        idle = [row for row, taken in enumerate(actions) if len(taken) == 0]
        if idle and longest:
            self.images = self.envs.reset({row: self.episode_seed(numbers[row]) for row in idle})
            for row in idle:
                self.builders[row] = EpisodeBuilder(self.images[row])
        for builder in self.builders:
            if builder.actions:
                builder.images = []
        return all(np.array_equal(tensors[f"image/{row:03d}"].numpy(), self.images[row]) for row in range(len(numbers)))


def remembered(memory: Memory) -> tuple[Any, Tensor, Any]:
    """The memory without the info, which is about the last decision only."""
    return memory.state, memory.action, memory.carry


def check_open_episodes(started: int, numbers: list[int], tensors: Mapping[str, Tensor], spec: Spec) -> None:
    """Errors: ValueError, for what StepCollector.state() never gives. The memory is checked where it is used."""
    if any(number >= started for number in numbers):
        raise ValueError(f"open episodes: their numbers must be below {started}, that of the next one")
    wanted = {
        "actions": (torch.float32, (spec.action_dim,)),
        "predicted": (torch.float32, ()),
        "image": (torch.uint8, spec.image_shape),
    }
    for name, value in tensors.items():
        part, _, row = name.partition("/")
        dtype, shape = wanted.get(part, (value.dtype, tuple(value.shape)))
        found = tuple(value.shape[1:] if part in ("actions", "predicted") else value.shape)
        known = part == "memory" or (part in wanted and row in {f"{number:03d}" for number in range(len(numbers))})
        if not known or (value.dtype, found) != (dtype, tuple(shape)):
            raise ValueError(f"open episodes: {name[:100]!r} is {value.dtype} {tuple(value.shape)}, or not known")
        if part == "actions" and not value.abs().amax() <= 1 + ROUNDING:
            raise ValueError(f"open episodes: {name!r} is not in [-1, 1] somewhere")
        if part == "actions" and tensors.get(f"predicted/{row}", value[:0]).shape[:1] != value.shape[:1]:
            raise ValueError(f"open episodes: {name!r} and 'predicted/{row}' are of unequal length")
