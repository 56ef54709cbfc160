"""A tiny controller, evolved: World Models' C (Ha & Schmidhuber 2018), trained by pycma's CMA-ES.

    one generation:  draw P weight vectors from N(mean, sigma^2 C);  score each by the mean return of R rollouts;
                     move mean, sigma and C towards the better ones

The rollouts are dreams: the population is one latent batch of P x R rows, and all candidates meet the same R starts and
the same noise. Or, with `evaluate_in: env`, they are episodes of the real environments. The first mean is zero, that
is, no action (of discrete ones the first). What acts is the newest mean, the mean solution, and not the best
of a population, whose score is luck in part; for the same reason it is evaluated on other starts and noise (trap 40).

Weight decay: weight_decay * mean(w^2) is subtracted from a candidate's score. (The released es.py subtracts it from the
cost instead, which rewards large weights; at .01 and returns of hundreds neither matters.)

Two departures from the defaults of pycma 4.5: sigma is adapted by CSA however many weights there are, as in the pycma
of that time, and not by TPA from 300 on; and an ill-conditioned C is not moved into a hidden change of coordinates.
"""

from typing import Any, Literal

import cma
import numpy as np
import torch
from cma.sigma_adaptation import CMAAdaptSigmaCSA
from cma.utilities.utils import ElapsedWCTime
from pydantic import Field
from torch import Tensor

from agents.base import Actor, ActorInfo, Mode, Objective, Play, Stateless
from agents.controllers.controller import Controller, ControllerActor
from agents.imagination import imagined_return, start_states
from worldmodel.base import Batch, ConfigError, Spec, State, StrictConfig, WorldModel, tree_map
from worldmodel.networks.noise import common_random_numbers

MOST_WEIGHTS = 10_000  # of a controller: some matrices of 0.8 GB


class Config(StrictConfig):
    name: str
    hidden: int = Field(ge=0, le=16384)  # tanh units; 0 is a linear controller
    bias: bool
    ordinal_actions: bool  # discrete actions are a scale: one tanh output, cut into A equal parts, as for Doom
    num_features: int | None = Field(ge=1, le=10**6)  # that many leading features (z comes before h); None reads all
    population: int = Field(ge=4, le=100_000)
    rollouts: int = Field(ge=1, le=10_000)
    horizon: int = Field(ge=1, le=100_000)  # of the dream
    temperature: float = Field(ge=0, le=1000)  # of the dream
    sigma: float = Field(gt=0, le=1000)  # the first one
    weight_decay: float = Field(ge=0, le=1e9)
    eval_every: int = Field(ge=1, le=10**9)  # generations
    eval_rollouts: int = Field(ge=1, le=10_000)
    # Act as the mean solution that was evaluated best so far, World Models' "best agent". Only for a model that stays
    # as it is: scores of dreams of different models do not compare.
    keep_best: bool
    evaluate_in: Literal["model", "env"]  # scores come from dreams, or from episodes of the real environments
    exploration_noise: float = Field(ge=0, le=2)  # exploration: standard deviation; for discrete actions a probability

    def idle_keys(self) -> dict[str, str]:
        """The keys that do nothing beside these values, and why."""
        why = "there are no dreams, evaluate_in=env"
        return {"horizon": why, "temperature": why} if self.evaluate_in == "env" else {}


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "Evolution":
    return Evolution(config, model, spec, objective)


class Evolution(Actor):
    """What CMA-ES has learned is in these buffers. pycma's object is made from them for one generation at a time: so a
    checkpoint cannot leave anything out, and a resumed run continues bit for bit."""

    mean: Tensor  # (n,) the mean solution
    sigma: Tensor  # ()
    covariance: Tensor  # (n, n)
    axes: Tensor  # (n, n) its eigenvectors, one per column, as last decomposed: pycma does so every few generations
    scales: Tensor  # (n,) the roots of their eigenvalues
    path: Tensor  # (n,) evolution path of the covariance
    path_sigma: Tensor  # (n,) evolution path of sigma
    generation: Tensor  # () generations so far
    decomposed: Tensor  # () the generation of the last decomposition
    best: Tensor  # (n,) the mean solution that was evaluated best
    best_score: Tensor  # () its score; -inf before any was evaluated

    objective: Objective

    def __init__(self, config: Config, model: WorldModel, spec: Spec, objective: Objective) -> None:
        super().__init__(model, spec, objective)
        self.config = config
        with torch.no_grad():
            features = model.features(model.initial(1)).shape[-1]
        self.controller = Controller(
            spec, features, config.hidden, config.bias, config.num_features, config.ordinal_actions
        )
        n = self.controller.size
        if n > MOST_WEIGHTS:
            few = f"`hidden` units or `num_features`, so that there are {MOST_WEIGHTS:,} at most"
            raise ConfigError([f"actor: CMA-ES keeps {n:,} x {n:,} numbers for {n:,} weights: use fewer {few}"])
        strategy = fresh(n, config)
        for name in ("mean", "sigma", "covariance", "axes", "scales", "path", "path_sigma"):
            self.register_buffer(name, torch.from_numpy(np.array(learned(strategy)[name], np.float64, order="C")))
        for name in ("generation", "decomposed"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("best", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("best_score", torch.tensor(-torch.inf, dtype=torch.float64))

    def imagined_rows(self, rows: int) -> int:
        return max(self.config.population * self.config.rollouts, self.config.eval_rollouts)

    def check_loaded(self) -> None:
        """pycma ends in errors of its own, or never, with a covariance that is none."""
        number, decomposed = int(self.generation), int(self.decomposed)
        diagonal, near = self.covariance.diagonal(), self.covariance.abs().max() * 1e-6
        symmetric = ((self.covariance - self.covariance.T).abs() <= near).all()
        if not (0 <= decomposed <= number < 10**9 and self.sigma > 0 and (self.scales > 0).all()):
            raise ValueError("actor: generation, sigma or scales cannot be those of CMA-ES")
        if not (symmetric and (diagonal > 0).all()):
            raise ValueError("actor: the covariance is none")

    # ---- acting ----

    def with_weights(self, weights: Tensor) -> ControllerActor:
        """An actor with these weights on the same model."""
        return ControllerActor(self.controller, weights, self.config.exploration_noise, self.model, self.spec)

    def weights(self) -> Tensor:
        """What it acts with, (n,)."""
        use_best = self.config.keep_best & (self.best_score > -torch.inf)
        return torch.where(use_best, self.best, self.mean)

    def initial(self, n: int) -> Stateless:
        return self.with_weights(self.mean).initial(n)

    def act(
        self, state: State, carry: Stateless, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Stateless, ActorInfo]:
        return self.with_weights(self.weights()).act(state, carry, mode, generator)

    # ---- learning ----

    @torch.no_grad()
    def learn(self, batch: Batch, states: State, play: Play | None = None) -> dict[str, Tensor]:
        """One generation, from observed states (B, T, ...). Metrics are without weight decay, and
        `mean_solution` is there only when it was evaluated. If no candidate's score is finite, nothing changes.
        """
        config, number = self.config, int(self.generation)
        strategy = self.to_strategy()
        candidates = np.stack(strategy.ask())  # (P, n)
        pool = start_states(batch, states)  # (N, ...)
        scores = self.scores(torch.from_numpy(candidates), config.rollouts, pool, play, 2 * number)  # (P,)
        sound = scores.isfinite()
        broken = {"broken": (~sound).sum().float()}
        if not sound.any():
            return broken
        cost = config.weight_decay * np.square(candidates).mean(1) - scores.numpy()
        strategy.tell(list(candidates), np.where(sound.numpy(), cost, np.inf).tolist())
        for name, value in learned(strategy).items():
            getattr(self, name).copy_(torch.as_tensor(value))
        metrics = {
            "generation": self.generation,
            "population_best": scores[sound].max(),
            "population_mean": scores[sound].mean(),
            "population_worst": scores[sound].min(),
            "sigma": self.sigma,
        }
        if (number + 1) % config.eval_every == 0:
            metrics["mean_solution"] = self.evaluate_mean(pool, play, 2 * number + 1)
        return broken | {name: value.detach().float().clone() for name, value in metrics.items()}

    def evaluate_mean(self, pool: State, play: Play | None, number: int) -> Tensor:
        """The mean solution's score, (), on starts and noise drawn anew, or in other episodes."""
        score = self.scores(self.mean[None], self.config.eval_rollouts, pool, play, number)[0]
        if score > self.best_score:
            self.best.copy_(self.mean)
            self.best_score.copy_(score)
        return score

    def scores(self, weights: Tensor, rollouts: int, pool: State, play: Play | None, number: int) -> Tensor:
        """The mean return of each of the weights (P, n): (P,), on the CPU. number: which real episodes to play."""
        if self.config.evaluate_in == "env":
            if play is None:
                raise ValueError("actor.evaluate_in is env, but learn() was not told how to play in the environments")
            each_one = [play(self.with_weights(one), rollouts, number) for one in weights.to(self.mean.device)]
            return torch.stack([total.double().mean().cpu() for total in each_one])
        count = len(weights)
        rows = torch.randint(len(pool[0]), (rollouts,)).repeat(count)  # one block per candidate: row p * R + r
        start = tree_map(lambda a: a[rows.to(a.device)], pool)
        with common_random_numbers(count):
            policy = self.controller.policy(weights.to(pool[0].device))
            total = imagined_return(
                self.model,
                self.objective,
                start,
                lambda state: policy(self.model.features(state)),
                self.config.horizon,
                self.config.temperature,
            )
        return total.double().view(count, rollouts).mean(1).cpu()

    def to_strategy(self) -> Any:
        """pycma's strategy, as the last generation left it."""
        strategy = fresh(self.controller.size, self.config)
        mean, covariance, axes, scales, path, path_sigma = (
            part.cpu().numpy().copy()  # pycma writes into its arrays
            for part in (self.mean, self.covariance, self.axes, self.scales, self.path, self.path_sigma)
        )
        strategy.mean = strategy.mean_old = mean
        strategy.sigma, strategy.pc, strategy.adapt_sigma.ps = float(self.sigma), path, path_sigma
        sampler = strategy.sm
        sampler.C, sampler.B, sampler.D = covariance, axes, scales
        strategy.countiter = sampler.count_tell = int(self.generation)
        sampler.last_update = int(self.decomposed)
        strategy._updateBDfromSM()
        strategy.timer = ElapsedWCTime()  # which the first ask() would have made
        return strategy


def fresh(n: int, config: Config) -> Any:
    """pycma's strategy before the first generation. Its random numbers are torch's, whose state a checkpoint keeps;
    numpy's are neither read nor disturbed (seed nan: "do nothing").
    """

    def normal(*shape: int) -> np.ndarray:
        return torch.randn(*shape, dtype=torch.float64).numpy()

    options = dict(
        popsize=config.population, randn=normal, seed=np.nan, AdaptSigma=CMAAdaptSigmaCSA, CMA_mirrors=0,
        conditioncov_alleviate=False, verbose=-9,
    )  # fmt: skip
    return cma.CMAEvolutionStrategy(np.zeros(n), config.sigma, options)


def learned(strategy: Any) -> dict[str, Any]:
    """What pycma's strategy has learned, by the names of Evolution's buffers."""
    sampler = strategy.sm
    return {
        "mean": strategy.mean,
        "sigma": strategy.sigma,
        "covariance": sampler.C,
        "axes": sampler.B,
        "scales": sampler.D,
        "path": strategy.pc,
        "path_sigma": strategy.adapt_sigma.ps,
        "generation": strategy.countiter,
        "decomposed": sampler.last_update,
    }
