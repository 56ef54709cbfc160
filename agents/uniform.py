"""Uniformly random actions: what fills replay before anything was learned, and the score that everything must beat."""

from typing import Any

import torch
from torch import Tensor

from agents.base import Actor, Plan, propose
from worldmodel.base import Spec, WorldModel
from worldmodel.config import Section


class Config(Section):
    name: str


def build(config: Config, model: WorldModel, spec: Spec) -> "Uniform":
    return Uniform(model, spec)


class Uniform(Actor):
    blind = True

    def initial(self, n: int) -> Plan:
        return Plan(torch.zeros(n, 0, self.spec.action), torch.full((n,), torch.nan))

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        return propose(self.spec, len(plan.value), device=plan.value.device), plan
