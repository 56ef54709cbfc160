"""A random walk of actions: what fills replay where single random actions cancel out (T35), as in a car.

    action' = clip(action + scale * N(0, 1), -1, 1), from a uniformly random action on

Discrete actions: one number for each walks so, and the action with the largest is taken until another overtakes it.
These numbers are reflected at the bounds: clipped ones would tie there, and the first action would win all ties.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from agents.base import Actor, Plan
from worldmodel.base import Spec, WorldModel
from worldmodel.config import Section


class Config(Section):
    name: str
    scale: float = Field(gt=0, le=1)  # standard deviation of one agent step


def build(config: Config, model: WorldModel, spec: Spec) -> "Brownian":
    return Brownian(config, model, spec)


class Brownian(Actor):
    """Its plan is one row: where the walk is, NaN before the first step. Unless discrete, that is the last action."""

    blind = True

    def __init__(self, config: Config, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.config = config

    def initial(self, n: int) -> Plan:
        return Plan(torch.full((n, 1, self.spec.action), torch.nan), torch.full((n,), torch.nan))

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        # Both are drawn for every row: a row's noise must not depend on the other rows.
        start = torch.rand_like(plan.actions) * 2 - 1  # (N, 1, A)
        moved = plan.actions + self.config.scale * torch.randn_like(plan.actions)
        inside = reflected(moved) if self.spec.discrete else moved.clamp(-1, 1)
        walk = torch.where(plan.actions.isnan(), start, inside)
        action = F.one_hot(walk[:, 0].argmax(-1), self.spec.action).float() if self.spec.discrete else walk[:, 0]
        return action, Plan(walk, plan.value)


def reflected(x: Tensor) -> Tensor:
    """Fold the line into [-1, 1] as mirrors at both ends would: 1.2 becomes 0.8."""
    return 1 - ((x + 1) % 4 - 2).abs()
