"""Uniformly random actions: they fill replay before anything was learned, and are the baseline of every score."""

import torch
from torch import Tensor

from agents.base import Actor, ActorInfo, Mode, Objective, Stateless, no_plan, random_actions
from worldmodel.base import Spec, State, StrictConfig, WorldModel


class Config(StrictConfig):
    name: str


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "Uniform":
    return Uniform(model, spec)


class Uniform(Actor):
    needs_observation = False

    def initial(self, n: int) -> Stateless:
        return Stateless(torch.zeros(n, 0))

    def act(
        self, state: State, carry: Stateless, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Stateless, ActorInfo]:
        n, device = len(carry.rows), carry.rows.device
        action = random_actions(self.spec, n, device=device, generator=generator)
        return action, carry, no_plan(n, self.spec, device)
