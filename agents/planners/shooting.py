"""Random shooting: the best of K uniformly random action sequences. It is CEM with one iteration, and its baseline."""

import torch
from pydantic import Field
from torch import Tensor

from agents.base import (
    Actor,
    ActorInfo,
    Candidates,
    Mode,
    Objective,
    Stateless,
    add_exploration_noise,
    random_actions,
)
from agents.imagination import evaluate_sequences
from worldmodel.base import Spec, State, StrictConfig, WorldModel


class Config(StrictConfig):
    name: str
    horizon: int = Field(ge=1, le=1000)
    candidates: int = Field(ge=1, le=10**6)
    exploration_noise: float = Field(ge=0, le=2)  # exploration: standard deviation; for discrete actions a probability


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "Shooting":
    return Shooting(config, model, spec, objective)


class Shooting(Actor):
    objective: Objective

    def __init__(self, config: Config, model: WorldModel, spec: Spec, objective: Objective) -> None:
        super().__init__(model, spec, objective)
        self.config = config

    def imagined_rows(self, rows: int) -> int:
        return rows * self.config.candidates * self.config.horizon

    def initial(self, n: int) -> Stateless:
        return Stateless(torch.zeros(n, 0))

    def act(
        self, state: State, carry: Stateless, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Stateless, ActorInfo]:
        config, n, device = self.config, len(carry.rows), carry.rows.device
        samples = random_actions(
            self.spec, n, config.candidates, config.horizon, device=device, generator=generator
        )  # (N, K, H, A)
        returns = evaluate_sequences(self.model, self.objective, state, samples)  # (N, K)
        value, best = returns.max(1)
        actions = samples[torch.arange(n, device=device), best]  # (N, H, A)
        action = actions[:, 0]
        if mode == "explore":
            action = add_exploration_noise(self.spec, action, config.exploration_noise, generator)
        return action, carry, ActorInfo(value, actions, Candidates(samples, returns))
