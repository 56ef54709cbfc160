"""The cross-entropy method: PlaNet's planner (Hafner et al. 2019, algorithm 2), for continuous and discrete actions.

    repeat I times:  draw K action sequences from the proposal;  keep the E with the best imagined return;  refit it

The proposal is N(mean, std^2) per step and dimension, samples clipped to [-1, 1] and refitted as clipped (T21); for
discrete actions it is a categorical distribution per step. PlaNet: mean 0, std 1, no momentum, floor or warm start,
returns the mean.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from agents.base import Actor, Plan, explored
from agents.imagination import score
from worldmodel.base import Spec, WorldModel
from worldmodel.config import Section


class Config(Section):
    name: str
    horizon: int = Field(ge=1, le=1000)
    iterations: int = Field(ge=1, le=1000)
    candidates: int = Field(ge=2)
    elites: int = Field(ge=1)
    init_std: float = Field(gt=0)
    min_std: float = Field(ge=0)  # needed with warm_start: without a floor the proposal would die out
    momentum: float = Field(ge=0, lt=1)  # new = momentum * old + (1 - momentum) * refitted
    warm_start: bool  # begin with the last plan, shifted by one step
    choose: Literal["mean", "best"]  # act on the proposal's mean, or on the best sequence of the last iteration
    noise: float = Field(ge=0, le=2)  # exploration: standard deviation; for discrete actions a probability

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.elites > self.candidates:
            raise ValueError(
                f"elites is {self.elites} but there are only {self.candidates} candidates: use fewer elites"
            )
        return self


def build(config: Config, model: WorldModel, spec: Spec) -> "CEM":
    return CEM(config, model, spec)


class CEM(Actor):
    def __init__(self, config: Config, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.config = config
        self.no_idea = 1 / spec.action if spec.discrete else 0.0  # the proposal's mean before anything was planned

    def initial(self, n: int) -> Plan:
        mean = torch.full((n, self.config.horizon, self.spec.action), self.no_idea)
        return Plan(mean, torch.full((n,), torch.nan))

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        actions, value = self.plan(state, plan)
        action = actions[:, 0]
        if self.spec.discrete:
            action = F.one_hot(action.argmax(-1), self.spec.action).float()
        if explore:
            action = explored(self.spec, action, self.config.noise)
        return action, Plan(actions, value)

    def plan(self, state: Any, plan: Plan) -> tuple[Tensor, Tensor]:
        """The planned actions (N, H, A), and the mean return of the last elites (N,)."""
        config = self.config
        mean = self.begin(plan)
        std = torch.full_like(mean, config.init_std)
        for _ in range(config.iterations):
            samples = self.sample(mean, std)  # (N, K, H, A)
            value, best = score(self.model, state, samples).topk(config.elites, 1)  # (N, E), the best one first
            elites = samples.gather(1, best[..., None, None].expand(-1, -1, *samples.shape[2:]))  # (N, E, H, A)
            mean = torch.lerp(elites.mean(1), mean, config.momentum)
            spread = (elites.var(1, correction=0) + 1e-6).sqrt()  # the population's variance, as released
            std = torch.lerp(spread, std, config.momentum).clamp(min=config.min_std)
        return (mean if config.choose == "mean" else elites[:, 0]), value.mean(1)

    def begin(self, plan: Plan) -> Tensor:
        """The first proposal's mean: the last plan shifted by one step, or no idea."""
        start = torch.full_like(plan.actions, self.no_idea)
        if not self.config.warm_start:
            return start
        shifted = torch.cat([plan.actions[:, 1:], start[:, -1:]], 1)
        return (shifted + start) / 2 if self.spec.discrete else shifted  # probabilities need a floor, as std does

    def sample(self, mean: Tensor, std: Tensor) -> Tensor:
        """Candidates (N, K, H, A) from the proposal (N, H, A)."""
        shape = (len(mean), self.config.candidates, *mean.shape[1:])
        if self.spec.discrete:  # the largest of log p + Gumbel noise is a draw from p; std plays no part
            noise = -torch.empty(shape, device=mean.device).exponential_().log()
            choice = (mean.clamp(min=1e-6).log()[:, None] + noise).argmax(-1)
            return F.one_hot(choice, self.spec.action).float()
        noise = torch.randn(shape, device=mean.device)
        return (mean[:, None] + std[:, None] * noise).clamp(-1, 1)
