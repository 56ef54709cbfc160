"""The cross-entropy method: PlaNet's planner (Hafner et al. 2019, algorithm 2), for continuous and discrete actions.

    repeat I times:  draw K action sequences from the proposal;  keep the E with the best imagined return;  refit it

The proposal is that of proposal.py, refitted to samples as clipped. PlaNet: mean 0, std 1, no momentum, floor or warm
start, returns the mean.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agents.base import Actor, ActorInfo, Candidates, Mode, Objective, add_exploration_noise
from agents.imagination import evaluate_sequences
from agents.planners.proposal import Carry, first_action, first_mean, initial_mean, mean_of_sound, sample
from worldmodel.base import Spec, State, StrictConfig, WorldModel


class Config(StrictConfig):
    name: str
    horizon: int = Field(ge=1, le=1000)
    iterations: int = Field(ge=1, le=1000)
    candidates: int = Field(ge=2, le=10**6)
    elites: int = Field(ge=1, le=10**6)
    init_std: float = Field(gt=0, le=1000)
    min_std: float = Field(ge=0, le=1000)  # of a refitted proposal; the first one of every plan has init_std
    momentum: float = Field(ge=0, lt=1)  # new = momentum * old + (1 - momentum) * refitted
    warm_start: bool  # begin with the last plan, shifted by one step
    choose: Literal["mean", "best"]  # act on the proposal's mean, or on the best sequence of the last iteration
    exploration_noise: float = Field(ge=0, le=2)  # standard deviation; for discrete actions a probability

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.elites > self.candidates:
            raise ValueError(
                f"elites is {self.elites} but there are only {self.candidates} candidates: use fewer elites"
            )
        return self


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "CEM":
    return CEM(config, model, spec, objective)


class CEM(Actor):
    objective: Objective

    def __init__(self, config: Config, model: WorldModel, spec: Spec, objective: Objective) -> None:
        super().__init__(model, spec, objective)
        self.config = config

    def imagined_rows(self, rows: int) -> int:
        return rows * self.config.candidates * self.config.horizon

    def initial(self, n: int) -> Carry:
        return Carry(initial_mean(self.spec, n, self.config.horizon))

    def act(
        self, state: State, carry: Carry, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Carry, ActorInfo]:
        actions, value, candidates = self.plan(state, carry, generator)
        action = first_action(self.spec, actions)
        if mode == "explore":
            action = add_exploration_noise(self.spec, action, self.config.exploration_noise, generator)
        return action, Carry(actions), ActorInfo(value, actions, candidates)

    def plan(
        self, state: State, carry: Carry, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Candidates]:
        """The planned actions (N, H, A), the mean return of the last elites (N,), and the last candidates."""
        config = self.config
        mean = first_mean(self.spec, carry, config.warm_start)
        std = torch.full_like(mean, config.init_std)
        for _ in range(config.iterations):
            samples = sample(self.spec, mean, std, config.candidates, generator)  # (N, K, H, A)
            returns = evaluate_sequences(self.model, self.objective, state, samples)  # (N, K)
            value, best = returns.topk(config.elites, 1)  # (N, E), the best one first
            elites = samples.gather(1, best[..., None, None].expand(-1, -1, *samples.shape[2:]))  # (N, E, H, A)
            mean = torch.lerp(elites.mean(1), mean, config.momentum)
            spread = (elites.var(1, correction=0) + 1e-6).sqrt()  # the population's variance, as released
            std = torch.lerp(spread, std, config.momentum).clamp(min=config.min_std)
        return (mean if config.choose == "mean" else elites[:, 0]), mean_of_sound(value), Candidates(samples, returns)
