"""Model predictive path integral control: the planner of TD-MPC2 (Hansen et al. 2024), without its value function.

    repeat I times:  draw K action sequences from the proposal;  weigh the E with the best imagined return;  refit it

It is CEM with weights: an elite counts exp(temperature * (its return - the best return)). As in TD-MPC2 that is an
inverse temperature, in units of 1 / return: an elite that falls 1 / temperature behind the best counts e times less.
At 0 all elites count alike, which is CEM; the larger it is, the more the best one decides. The proposal is N(mean,
std^2) per step and dimension, samples clipped to [-1, 1] and refitted as clipped (T21); for discrete actions it is a
categorical distribution per step. TD-MPC2 ends its horizon of 3 with a learned value, and draws some candidates from a
policy: there is neither here, so the horizon itself has to reach the rewards that matter.
"""

from typing import Any, Literal, NamedTuple

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
    temperature: float = Field(ge=0)  # inverse, see above
    min_std: float = Field(ge=0)
    max_std: float = Field(gt=0)  # every plan begins with it, a warm start's too
    momentum: float = Field(ge=0, lt=1)  # new = momentum * old + (1 - momentum) * refitted
    warm_start: bool  # begin with the last mean, shifted by one step
    choose: Literal[
        "mean", "sample"
    ]  # act on the proposal's mean, or on an elite drawn by its weight, exploring or not
    proposal_noise: bool  # exploration: N(0, std^2) of the proposal's first step; discrete proposals have no std
    noise: float = Field(ge=0, le=2)  # exploration: standard deviation, on top; for discrete actions a probability

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.elites > self.candidates:
            raise ValueError(
                f"elites is {self.elites} but there are only {self.candidates} candidates: use fewer elites"
            )
        if self.min_std > self.max_std:
            raise ValueError(f"min_std is {self.min_std} but max_std only {self.max_std}: use a smaller min_std")
        return self


def build(config: Config, model: WorldModel, spec: Spec) -> "MPPI":
    return MPPI(config, model, spec)


class Proposal(NamedTuple):
    """What the last iteration leaves."""

    mean: Tensor  # (N, H, A)
    std: Tensor  # (N, H, A)
    elites: Tensor  # (N, E, H, A) the best one first
    weight: Tensor  # (N, E)
    value: Tensor  # (N,) the mean return of the elites by their weights: what an elite drawn by weight brings


class MPPI(Actor):
    def __init__(self, config: Config, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.config = config
        self.no_idea = 1 / spec.action if spec.discrete else 0.0  # the proposal's mean before anything was planned

    def initial(self, n: int) -> Plan:
        mean = torch.full((n, self.config.horizon, self.spec.action), self.no_idea)
        return Plan(mean, torch.full((n,), torch.nan))

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        """The action, and the proposal's mean as memory, whatever was chosen: a warm start follows the mean."""
        proposal = self.plan(state, plan)
        action = self.choice(proposal)[:, 0]
        if self.spec.discrete:
            action = F.one_hot(action.argmax(-1), self.spec.action).float()
        if explore:
            if self.config.proposal_noise and not self.spec.discrete:
                action = action + proposal.std[:, 0] * torch.randn_like(action)
            action = explored(self.spec, action, self.config.noise)  # clips, too
        return action, Plan(proposal.mean, proposal.value)

    def plan(self, state: Any, plan: Plan) -> Proposal:
        config = self.config
        mean = self.begin(plan)
        std = torch.full_like(mean, config.max_std)
        for _ in range(config.iterations):
            samples = self.sample(mean, std)  # (N, K, H, A)
            value, best = score(self.model, state, samples).topk(config.elites, 1)  # (N, E), the best one first
            elites = samples.gather(1, best[..., None, None].expand(-1, -1, *samples.shape[2:]))  # (N, E, H, A)
            weight = weights(value, config.temperature)
            share = weight[..., None, None]  # (N, E, 1, 1)
            centre = (share * elites).sum(1)
            spread = ((share * (elites - centre[:, None]).square()).sum(1) + 1e-6).sqrt()  # as in CEM
            mean = torch.lerp(centre, mean, config.momentum)
            std = torch.lerp(spread, std, config.momentum).clamp(config.min_std, config.max_std)
        promised = torch.where(weight > 0, weight * value, 0).sum(1)  # 0 * -inf is not a number
        return Proposal(mean, std, elites, weight, promised)

    def choice(self, proposal: Proposal) -> Tensor:
        """The sequence (N, H, A) to act on."""
        if self.config.choose == "mean":
            return proposal.mean
        drawn = torch.multinomial(proposal.weight, 1)[:, 0]
        return proposal.elites[torch.arange(len(drawn), device=drawn.device), drawn]

    def begin(self, plan: Plan) -> Tensor:
        """The first proposal's mean: the last one shifted by one step, or no idea."""
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


def weights(value: Tensor, temperature: float) -> Tensor:
    """exp(temperature * (value - the row's best)), normalised: (N, E) -> (N, E).

    A value of -inf is a broken candidate and weighs nothing, at any temperature. If all are broken, all weigh alike.
    """
    best = value.amax(1, keepdim=True)
    behind = (temperature * (value - best)).nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # 0 * inf, and inf - inf
    return behind.masked_fill(value == best, 0).softmax(1)
