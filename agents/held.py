"""Uniformly random actions, each held for a while: what fills replay where single random actions cancel out (T35).

World Models' Doom agent collects so, with 1 to 10 steps. The number of steps is itself uniform in [shortest, longest].
"""

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agents.base import Actor, Plan, propose
from worldmodel.base import Spec, WorldModel
from worldmodel.config import Section


class Config(Section):
    name: str
    shortest: int = Field(ge=1, le=1000)  # agent steps
    longest: int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest} but longest only {self.longest}: exchange them")
        return self


def build(config: Config, model: WorldModel, spec: Spec) -> "Held":
    return Held(config, model, spec)


class Held(Actor):
    """Its plan is the held action, once for every step that it still lasts; NaN marks the steps that are left open."""

    blind = True

    def __init__(self, config: Config, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.config = config

    def initial(self, n: int) -> Plan:
        nothing = torch.full((n, self.config.longest, self.spec.action), torch.nan)
        return Plan(nothing, torch.full((n,), torch.nan))

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        n, device = len(plan.value), plan.value.device
        nothing = torch.full_like(plan.actions, torch.nan)  # (N, longest, A)
        left = torch.cat([plan.actions[:, 1:], nothing[:, :1]], 1)
        # Drawn for every row, also where an action lasts on: a row's noise must not depend on the other rows.
        steps = torch.randint(self.config.shortest, self.config.longest + 1, (n, 1, 1), device=device)
        lasts = torch.arange(self.config.longest, device=device)[:, None] < steps  # (N, longest, 1)
        drawn = torch.where(lasts, propose(self.spec, n, 1, device=device), nothing)
        actions = torch.where(left[:, :1].isnan(), drawn, left)
        return actions[:, 0], Plan(actions, plan.value)
