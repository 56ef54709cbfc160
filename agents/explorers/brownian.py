"""A random walk of actions, for environments in which independent ones cancel out (trap 35), as in a car.

    action' = clip(action + scale * N(0, 1), -1, 1), from a uniformly random action on

Discrete actions: each has a number that walks like this, and the action with the largest number is taken.
These numbers are reflected at the bounds: clipped ones would tie there, and the first action would win all ties.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from agents.base import Actor, ActorInfo, Mode, Objective, no_plan, normal_like
from worldmodel.base import Spec, State, StrictConfig, WorldModel


class Config(StrictConfig):
    name: str
    scale: float = Field(gt=0, le=1)  # standard deviation of one agent step


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "Brownian":
    return Brownian(config, model, spec)


class Walk(NamedTuple):
    position: Tensor  # (N, A) unless discrete, that is the last action
    started: Tensor  # (N, 1) bool


class Brownian(Actor):
    needs_observation = False

    def __init__(self, config: Config, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.config = config

    def initial(self, n: int) -> Walk:
        return Walk(torch.zeros(n, self.spec.action_dim), torch.zeros(n, 1, dtype=torch.bool))

    def act(
        self, state: State, carry: Walk, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Walk, ActorInfo]:
        n, device = len(carry.position), carry.position.device
        # Both are drawn for every row: a row's noise must not depend on the other rows.
        start = torch.rand(carry.position.shape, device=device, generator=generator) * 2 - 1  # (N, A)
        moved = carry.position + self.config.scale * normal_like(carry.position, generator)
        inside = reflected(moved) if self.spec.discrete else moved.clamp(-1, 1)
        position = torch.where(carry.started, inside, start)
        action = F.one_hot(position.argmax(-1), self.spec.action_dim).float() if self.spec.discrete else position
        return action, Walk(position, torch.ones_like(carry.started)), no_plan(n, self.spec, device)


def reflected(x: Tensor) -> Tensor:
    """Fold the line into [-1, 1] as mirrors at both ends would: 1.2 becomes 0.8."""
    return 1 - ((x + 1) % 4 - 2).abs()
