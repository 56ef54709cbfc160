"""Tiny parts that tests share: a small RSSM, random batches and episodes, exact models, fake environments."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents import agent
from agents.agent import Agent
from agents.objectives.reward import Reward
from agents.optimizers import OptimizerConfig
from training.configuration import command_line
from training.configuration.components import ROOT
from training.configuration.config import check_section
from worldmodel.base import Batch, Spec, WorldModel
from worldmodel.models import rssm
from worldmodel.replay.episodes import Episode

SPEC = Spec((1, 16, 16), 2, False)
DISCRETE = Spec((3, 16, 16), 3, True)
PLANET = dict(
    name="rssm",
    deter=200,
    stoch=30,
    hidden=200,
    min_std=0.1,
    depths=[32, 64, 128, 256],
    kernels=[5, 5, 6, 6],
    reward_units=300,
    reward_layers=3,
    bit_depth=5,
    dequantise=True,
    normalise=False,
    free_nats=3.0,
    overshooting=1,
    image_weight=1.0,
    reward_weight=10.0,
    reward_divisor=1.0,
    kl_weight=1.0,
    continue_weight=0.0,
)
SMALL = dict(deter=32, stoch=8, hidden=32, depths=[8, 16], kernels=[6, 6], reward_units=32, reward_layers=1)
REWARD = Reward()
LITTLE = SMALL | dict(
    horizon=4, iterations=2, candidates=20, elites=5, population=8, rollouts=2, eval_rollouts=2, generations=2,
    units=32, layers=1, actor_layers=1, critic_layers=1, classes=4, blocks=2,
)  # fmt: skip
EXACT = dict(bit_depth=8, dequantise=False, free_nats=0.0)  # no noise on images, no slack in the KL


def config(**changes: Any) -> rssm.Config:
    return rssm.Config(**{**PLANET, **SMALL, **EXACT, **changes})


def names(room: str) -> list[str]:
    """The configs of a group, 'model' or 'actor': a new file is found by being there."""
    return sorted(path.stem for path in (ROOT / "configs" / room).glob("*.yaml"))


def section(room: str, name: str, **changes: Any) -> Any:
    """The checked config of that file, with everything that costs time shrunk; changes where they apply."""
    values = command_line.component_section((room,), name)
    for key, value in (LITTLE | changes).items():
        if key in values:
            values[key] = value
    return check_section(room, {room: values})


def model(spec: Spec = SPEC, seed: int = 0, **changes: Any) -> rssm.RSSM:
    """A small RSSM whose biases are not zero, as in one that has learned: zeros would hide a missing term."""
    torch.manual_seed(seed)
    built = rssm.build(config(**changes), spec)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith("bias"):
                parameter += 0.1 * torch.randn_like(parameter)
    return built


def batch(b: int = 3, t: int = 6, spec: Spec = SPEC, seed: int = 0, starts: Sequence[tuple[int, int]] = ()) -> Batch:
    """Random sequences that begin with an episode's first row; starts: (b, t) of further first rows."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.zeros(b, t, dtype=torch.bool)
    first[:, 0] = True
    for row, column in starts:
        first[row, column] = True
    if spec.discrete:
        choice = torch.randint(spec.action_dim, (b, t), generator=generator)
        action = torch.nn.functional.one_hot(choice, spec.action_dim).float()
    else:
        action = torch.rand(b, t, spec.action_dim, generator=generator) * 2 - 1
    action[first] = 0
    image = torch.randint(0, 256, (b, t, *spec.image_shape), generator=generator, dtype=torch.uint8)
    reward = torch.randn(b, t, generator=generator)
    reward[first] = 0
    return Batch(image, action, reward, first, torch.rand(b, t, generator=generator) < 0.2)


def episode(actions: int, spec: Spec = SPEC, seed: int = 0, terminal: bool = False) -> Episode:
    """A random episode of so many actions."""
    rng, rows = np.random.default_rng(seed), actions + 1
    action = rng.uniform(-1, 1, (rows, spec.action_dim)).astype(np.float32)
    reward = rng.normal(size=rows).astype(np.float32)
    action[0], reward[0] = 0, 0
    image = rng.integers(0, 256, (rows, *spec.image_shape), dtype=np.uint8)
    return Episode(image, action, reward, np.arange(rows) == (actions if terminal else -1))


def agent_config(**changes: Any) -> agent.Config:
    optimizer = OptimizerConfig(kind="adam", learning_rate=1e-3, eps=1e-4, max_grad_norm=100.0)
    values = dict(device="cpu", precision="fp32", optimizers={"model": optimizer}, threads=None)
    return agent.Config(**{**values, "compile": "auto", **changes})


def make_agent(actor: Any, spec: Spec = SPEC, seed: int = 0, **changes: Any) -> Agent:
    """An agent on a small RSSM. actor: function of (model, spec)."""
    built = model(spec, seed, **changes)
    return Agent(agent_config(), built, actor(built, spec), spec)


# ---- exact fake models ----


class Point(NamedTuple):
    """A place, and what was earned on arriving there."""

    x: Tensor  # (N, D)
    earned: Tensor  # (N,)
    alive: Tensor  # (N,) probability


class Fake(WorldModel):
    """A model of a known world: move(point, action (N, A)) -> point."""

    def __init__(self, move: Callable[[Point, Tensor], Point], start: Sequence[float] = (0.0,)) -> None:
        super().__init__()
        self.move, self.start = move, torch.tensor(start, dtype=torch.float32)

    def at(self, x: Tensor, earned: float = 0.0) -> Point:
        return Point(x, torch.full((len(x),), earned), torch.ones(len(x)))

    def initial(self, n: int) -> Point:
        return self.at(self.start.expand(n, -1))

    def imagine(self, state: Point, action: Tensor, temperature: float = 1.0) -> Point:
        return self.move(state, action)

    def features(self, state: Point) -> Tensor:
        return state.x

    def reward(self, state: Point) -> Tensor:
        return state.earned

    def continues(self, state: Point) -> Tensor:
        return state.alive

    def observe(self, state: Point, action: Tensor, image: Tensor, first: Tensor) -> Point:
        raise NotImplementedError

    def decode(self, state: Point) -> Tensor:
        raise NotImplementedError

    def loss(self, batch: Batch, part: str = "model") -> Any:
        raise NotImplementedError


A, B, Q, R = torch.tensor([[1, 0.1], [0, 1]]), torch.tensor([[0.005], [0.1]]), torch.tensor([1, 0.1]), 0.01


def linear(x: Sequence[float] = (0.1, 0.0)) -> tuple[Fake, Point]:
    """LIN2, the double integrator, and its start. A reward is minus the cost of the action and of the state
    after it; the start's own cost is paid on the first arrival, so that the rewards' sum is exactly -J."""

    def move(point: Point, action: Tensor) -> Point:
        there = point.x @ A.T + action @ B.T
        owed = point.earned * (point.alive == 2)  # only the start, marked by 2, owes
        cost = (there.square() * Q).sum(-1) + R * action.square().sum(-1)
        return Point(there, owed - cost, torch.ones_like(cost))

    start = torch.tensor([x], dtype=torch.float32)
    return Fake(move, x), Point(start, -(start.square() * Q).sum(-1), torch.full((1,), 2.0))


def quadratic(goal: Tensor) -> Fake:
    """The reward of step t is -|action - goal[t]|^2, goal (H, A): each number is found by itself."""

    def move(point: Point, action: Tensor) -> Point:
        wanted = goal[point.x[:, 0].long().clamp(max=len(goal) - 1)]
        return Point(point.x + 1, -(action - wanted).square().sum(-1), torch.ones(len(action)))

    return Fake(move)


# ---- fake environments ----


class Worlds:
    """`count` environments in this process. An ended row holds still until it is reset, as envs.Vector's do.

    picture and reward: functions of (seed, step, action (A,)); length and dies (else truncated): of the seed.
    """

    def __init__(
        self,
        count: int,
        picture: Callable[[int, int, np.ndarray], Any],
        reward: Callable[[int, int, np.ndarray], float],
        length: Callable[[int], int],
        dies: Callable[[int], bool] = lambda seed: False,
        spec: Spec = SPEC,
    ) -> None:
        self.num_envs, self.spec, self.time_limit = count, spec, 1000
        self.failed, self.failures = dict[int, Any](), 0
        self.picture, self.reward, self.length, self.dies = picture, reward, length, dies
        self.image = np.zeros((count, *spec.image_shape), np.uint8)
        self.seed, self.clock, self.live = [-1] * count, [0] * count, [False] * count
        self.used: list[int] = []  # every seed of every reset
        self.taken: dict[int, list[np.ndarray]] = {}  # by seed: the actions that it was given

    def reset(self, seeds: dict[int, int]) -> np.ndarray:
        for row, seed in seeds.items():
            self.seed[row], self.clock[row], self.live[row] = seed, 0, True
            self.image[row] = self.picture(seed, 0, np.zeros(self.spec.action_dim, np.float32))
            self.used.append(seed)
            self.taken[seed] = []
        return self.image.copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for row, seed in enumerate(self.seed):
            if not self.live[row]:
                continue
            self.clock[row] += 1
            self.taken[seed].append(actions[row].copy())
            self.image[row] = self.picture(seed, self.clock[row], actions[row])
            reward[row] = self.reward(seed, self.clock[row], actions[row])
            if self.clock[row] == self.length(seed):
                self.live[row] = False
                (terminated if self.dies(seed) else truncated)[row] = True
        return self.image.copy(), reward, terminated, truncated, {"render_seconds": 0.0}
