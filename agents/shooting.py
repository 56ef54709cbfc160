"""Random shooting: the best of K uniformly random action sequences. It is CEM with one iteration, and its baseline."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from agents.base import Actor, Plan, explored, propose
from agents.imagination import score
from worldmodel.base import Spec, WorldModel
from worldmodel.config import Section


class Config(Section):
    name: str
    horizon: int = Field(ge=1, le=1000)
    candidates: int = Field(ge=1)
    noise: float = Field(ge=0, le=2)  # exploration: standard deviation; for discrete actions a probability


def build(config: Config, model: WorldModel, spec: Spec) -> "Shooting":
    return Shooting(config, model, spec)


class Shooting(Actor):
    def __init__(self, config: Config, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.config = config

    def initial(self, n: int) -> Plan:
        return Plan(torch.zeros(n, self.config.horizon, self.spec.action), torch.full((n,), torch.nan))

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        n, device = len(plan.actions), plan.actions.device
        samples = propose(self.spec, n, self.config.candidates, self.config.horizon, device=device)  # (N, K, H, A)
        value, best = score(self.model, state, samples).max(1)
        actions = samples[torch.arange(n, device=device), best]  # (N, H, A)
        action = explored(self.spec, actions[:, 0], self.config.noise) if explore else actions[:, 0]
        return action, Plan(actions, value)
