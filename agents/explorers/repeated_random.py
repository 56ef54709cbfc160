"""Uniformly random actions, each held for a while, where independent ones cancel out (trap 35).

World Models' Doom agent collects like this, with 1 to 10 steps. Their number is uniform in [shortest, longest].
"""

from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agents.base import Actor, ActorInfo, Mode, Objective, no_plan, random_actions
from worldmodel.base import Spec, State, StrictConfig, WorldModel


class Config(StrictConfig):
    name: str
    shortest: int = Field(ge=1, le=1000)  # agent steps
    longest: int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest} but longest only {self.longest}: exchange them")
        return self


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "RepeatedRandom":
    return RepeatedRandom(config, model, spec)


class Repetition(NamedTuple):
    action: Tensor  # (N, A)
    steps_left: Tensor  # (N, 1) int64, for which it is still to be taken


class RepeatedRandom(Actor):
    needs_observation = False

    def __init__(self, config: Config, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.config = config

    def initial(self, n: int) -> Repetition:
        return Repetition(torch.zeros(n, self.spec.action_dim), torch.zeros(n, 1, dtype=torch.int64))

    def act(
        self, state: State, carry: Repetition, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Repetition, ActorInfo]:
        n, device, config = len(carry.action), carry.action.device, self.config
        # Drawn for every row, also where an action lasts on: a row's noise must not depend on the other rows.
        steps = torch.randint(config.shortest, config.longest + 1, (n, 1), device=device, generator=generator)
        drawn = random_actions(self.spec, n, device=device, generator=generator)
        lasts = carry.steps_left > 0
        action = torch.where(lasts, carry.action, drawn)
        left = torch.where(lasts, carry.steps_left, steps) - 1
        return action, Repetition(action, left), no_plan(n, self.spec, device)
