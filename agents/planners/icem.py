"""iCEM: the cross-entropy method with fewer candidates for equal plans (Pinneri et al. 2020, arXiv 2008.06389).

    repeat I times:  draw K_i action sequences of coloured noise from the proposal, beside those that were kept;
                     keep the E with the best imagined return;  refit the proposal

What it adds to CEM: noise that is correlated over time, so that sequences lead somewhere instead of trembling on the
spot; elites that are candidates once more in the next iteration and, shifted by a step, in the next plan; fewer
candidates in every iteration, K_i = max(2 E, K / shrink^i); the last iteration also tries the mean; and the best
sequence of all is acted on. The mean always starts from the last plan, shifted.

For discrete actions the noise is turned into Gumbel noise of the same order, which keeps each step's probabilities.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from agents.base import Actor, ActorInfo, Candidates, Mode, Objective, add_exploration_noise, executable
from agents.imagination import evaluate_sequences
from agents.planners import proposal
from agents.planners.proposal import first_action, first_mean, initial_mean, mean_of_sound
from worldmodel.base import Spec, State, StrictConfig, WorldModel


class Config(StrictConfig):
    name: str
    horizon: int = Field(ge=1, le=1000)
    iterations: int = Field(ge=1, le=1000)
    candidates: int = Field(ge=2, le=10**6)  # of the first iteration
    elites: int = Field(ge=1, le=10**6)
    shrink: float = Field(ge=1, le=100)  # of the candidates, from iteration to iteration
    kept_elites: float = Field(ge=0, le=1)  # share of the elites that are candidates once more
    noise_exponent: float = Field(ge=0, le=10)  # b of noise whose power falls as 1 / frequency^b; 0 is white
    init_std: float = Field(gt=0, le=1000)
    momentum: float = Field(ge=0, lt=1)  # new = momentum * old + (1 - momentum) * refitted
    choose: Literal["best", "mean"]  # act on the best sequence of the last iteration, or on the proposal's mean
    exploration_noise: float = Field(ge=0, le=2)  # standard deviation; for discrete actions a probability

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if 2 * self.elites > self.candidates:
            raise ValueError(
                f"elites is {self.elites} but there are only {self.candidates} candidates, and at least twice as many "
                "are wanted: use fewer elites"
            )
        return self

    @property
    def populations(self) -> list[int]:
        """New candidates of every iteration."""
        return [max(2 * self.elites, int(self.candidates / self.shrink**i)) for i in range(self.iterations)]

    @property
    def kept(self) -> int:
        """Elites that are candidates once more."""
        return math.ceil(self.kept_elites * self.elites)


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "ICEM":
    return ICEM(config, model, spec, objective)


class Carry(NamedTuple):
    """What it remembers."""

    mean: Tensor  # (N, H, A) of the last proposal
    elites: Tensor  # (N, kept, H, A) the best sequences of the last iteration


class ICEM(Actor):
    objective: Objective
    colour: Tensor

    def __init__(self, config: Config, model: WorldModel, spec: Spec, objective: Objective) -> None:
        super().__init__(model, spec, objective)
        self.config = config
        self.register_buffer("colour", colouring(config.horizon, config.noise_exponent), persistent=False)

    def imagined_rows(self, rows: int) -> int:
        return rows * self.config.candidates * self.config.horizon

    def initial(self, n: int) -> Carry:
        mean = initial_mean(self.spec, n, self.config.horizon)
        return Carry(mean, executable(self.spec, mean)[:, None].expand(-1, self.config.kept, -1, -1))

    def act(
        self, state: State, carry: Carry, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Carry, ActorInfo]:
        actions, value, carry, candidates = self.plan(state, carry, generator)
        action = first_action(self.spec, actions)
        if mode == "explore":
            action = add_exploration_noise(self.spec, action, self.config.exploration_noise, generator)
        return action, carry, ActorInfo(value, actions, candidates)

    def plan(
        self, state: State, carry: Carry, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Carry, Candidates]:
        """The planned actions (N, H, A), the mean return of the last elites (N,), what to remember, and the last
        candidates.
        """
        config = self.config
        mean = first_mean(self.spec, proposal.Carry(carry.mean), warm_start=True)
        std = torch.full_like(mean, config.init_std)
        kept = torch.cat([carry.elites[:, :, 1:], carry.elites[:, :, -1:]], 2)  # a step on; the last action is held
        for iteration, candidates in enumerate(config.populations):
            samples = sample(self.spec, mean, std, candidates, self.colour, generator)  # (N, K, H, A)
            middle = [executable(self.spec, mean)[:, None]] if iteration == config.iterations - 1 else []
            samples = torch.cat([samples, kept, *middle], 1)
            returns = evaluate_sequences(self.model, self.objective, state, samples)  # (N, K)
            value, best = returns.topk(config.elites, 1)  # (N, E), the best one first
            elites = samples.gather(1, best[..., None, None].expand(-1, -1, *samples.shape[2:]))  # (N, E, H, A)
            mean = torch.lerp(elites.mean(1), mean, config.momentum)
            std = torch.lerp((elites.var(1, correction=0) + 1e-6).sqrt(), std, config.momentum)
            kept = elites[:, : config.kept]
        actions = elites[:, 0] if config.choose == "best" else mean
        return actions, mean_of_sound(value), Carry(mean, kept), Candidates(samples, returns)


def sample(
    spec: Spec, mean: Tensor, std: Tensor, candidates: int, colour: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Candidates (N, K, H, A) from the proposal (N, H, A), their noise correlated along H."""
    shape = (len(mean), candidates, *mean.shape[1:])
    noise = torch.randn(shape, device=mean.device, generator=generator)
    noise = torch.einsum("nkha,hi->nkia", noise, colour).float()
    if spec.discrete:  # the largest of log p + Gumbel noise is a draw from p
        uniform = torch.special.ndtr(noise).clamp(1e-6, 1 - 1e-6)
        choice = (mean.clamp(min=1e-6).log()[:, None] - (-uniform.log()).log()).argmax(-1)
        return F.one_hot(choice, spec.action_dim).float()
    return (mean[:, None] + std[:, None] * noise).clamp(-1, 1)


def colouring(horizon: int, exponent: float) -> Tensor:
    """The symmetric matrix (H, H) that turns white noise over H steps into noise of variance 1, whose power at a
    frequency f = k / H is in proportion to f^-exponent. The constant, whose frequency is 0, is as strong as the lowest
    frequency (Timmer and Koenig 1995). The noise is periodic over H.
    """
    frequency = torch.fft.rfftfreq(horizon, dtype=torch.float64).clamp(min=1 / horizon)
    filtered = torch.fft.rfft(torch.eye(horizon, dtype=torch.float64)) * frequency ** (-exponent / 2)
    matrix = torch.fft.irfft(filtered, horizon)
    return (matrix / matrix.square().sum(0).sqrt()).float()
