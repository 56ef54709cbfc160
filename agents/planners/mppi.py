"""Model predictive path integral control: the planner of TD-MPC2 (Hansen et al. 2024), without its value function.

    repeat I times:  draw K action sequences from the proposal;  weigh the E with the best imagined return;  refit it

It is CEM with weights: an elite counts exp(inverse_temperature * (its return - the best return)). An elite that falls
1 / inverse_temperature behind the best counts e times less. At 0 all elites count alike, which is CEM; the larger it
is, the more the best one decides. The proposal is that of proposal.py. TD-MPC2 ends its horizon of 3 with a learned
value, and draws some candidates from a policy: there is neither here, so the horizon itself has to reach the rewards
that matter.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agents.base import Actor, ActorInfo, Candidates, Mode, Objective, add_exploration_noise, normal_like
from agents.imagination import evaluate_sequences
from agents.planners.proposal import Carry, first_action, first_mean, initial_mean, sample
from worldmodel.base import Spec, State, StrictConfig, WorldModel


class Config(StrictConfig):
    name: str
    horizon: int = Field(ge=1, le=1000)
    iterations: int = Field(ge=1, le=1000)
    candidates: int = Field(ge=2, le=10**6)
    elites: int = Field(ge=1, le=10**6)
    inverse_temperature: float = Field(ge=0, le=1e9)  # TD-MPC2 calls it temperature
    min_std: float = Field(ge=0, le=1000)
    max_std: float = Field(gt=0, le=1000)  # every plan begins with it, a warm start's too
    momentum: float = Field(ge=0, lt=1)  # new = momentum * old + (1 - momentum) * refitted
    warm_start: bool  # begin with the last mean, shifted by one step
    choose: Literal[
        "mean", "sample"
    ]  # act on the proposal's mean, or on an elite drawn by its weight, exploring or not
    proposal_noise: bool  # exploration: N(0, std^2) of the proposal's first step; discrete proposals have no std
    exploration_noise: float = Field(ge=0, le=2)  # on top: standard deviation; for discrete actions a probability

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.elites > self.candidates:
            raise ValueError(
                f"elites is {self.elites} but there are only {self.candidates} candidates: use fewer elites"
            )
        if self.min_std > self.max_std:
            raise ValueError(f"min_std is {self.min_std} but max_std only {self.max_std}: use a smaller min_std")
        return self


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "MPPI":
    return MPPI(config, model, spec, objective)


class Proposal(NamedTuple):
    """What the last iteration leaves."""

    mean: Tensor  # (N, H, A)
    std: Tensor  # (N, H, A)
    elites: Tensor  # (N, E, H, A) the best one first
    weight: Tensor  # (N, E)
    value: Tensor  # (N,) the mean return of the elites by their weights: what an elite drawn by weight brings
    candidates: Candidates | tuple[()] = ()


class MPPI(Actor):
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
        """The action, and the proposal's mean as memory, whatever was chosen: a warm start follows the mean."""
        proposal = self.plan(state, carry, generator)
        chosen = self.choice(proposal, generator)
        action = first_action(self.spec, chosen)
        if mode == "explore":
            if self.config.proposal_noise and not self.spec.discrete:
                action = action + proposal.std[:, 0] * normal_like(action, generator)
            action = add_exploration_noise(self.spec, action, self.config.exploration_noise, generator)  # clips, too
        return action, Carry(proposal.mean), ActorInfo(proposal.value, chosen, proposal.candidates)

    def plan(self, state: State, carry: Carry, generator: torch.Generator | None = None) -> Proposal:
        config = self.config
        mean = first_mean(self.spec, carry, config.warm_start)
        std = torch.full_like(mean, config.max_std)
        for _ in range(config.iterations):
            samples = sample(self.spec, mean, std, config.candidates, generator)  # (N, K, H, A)
            returns = evaluate_sequences(self.model, self.objective, state, samples)  # (N, K)
            value, best = returns.topk(config.elites, 1)  # (N, E), the best one first
            elites = samples.gather(1, best[..., None, None].expand(-1, -1, *samples.shape[2:]))  # (N, E, H, A)
            weight = weights(value, config.inverse_temperature)
            share = weight[..., None, None]  # (N, E, 1, 1)
            centre = (share * elites).sum(1)
            spread = ((share * (elites - centre[:, None]).square()).sum(1) + 1e-6).sqrt()  # as in CEM
            mean = torch.lerp(centre, mean, config.momentum)
            std = torch.lerp(spread, std, config.momentum).clamp(config.min_std, config.max_std)
        predicted = torch.where(weight > 0, weight * value, 0).sum(1)  # 0 * -inf is not a number
        return Proposal(mean, std, elites, weight, predicted, Candidates(samples, returns))

    def choice(self, proposal: Proposal, generator: torch.Generator | None = None) -> Tensor:
        """The sequence (N, H, A) to act on."""
        if self.config.choose == "mean":
            return proposal.mean
        drawn = torch.multinomial(proposal.weight, 1, generator=generator)[:, 0]
        return proposal.elites[torch.arange(len(drawn), device=drawn.device), drawn]


def weights(value: Tensor, inverse_temperature: float) -> Tensor:
    """exp(inverse_temperature * (value - the row's best)), normalised: (N, E) -> (N, E).

    A value of -inf is a broken candidate and weighs nothing, at any temperature. If all are broken, all weigh alike.
    """
    best = value.amax(1, keepdim=True)
    behind = inverse_temperature * (value - best)
    behind = behind.nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # 0 * inf, and inf - inf
    return behind.masked_fill(value == best, 0).softmax(1)
