"""A tiny controller, evolved: World Models' C (Ha & Schmidhuber 2018), trained by pycma's CMA-ES.

    one generation:  draw P weight vectors from N(mean, sigma^2 C);  score each by the mean return of R rollouts;
                     move mean, sigma and C towards the better ones

The rollouts are dreams: the population is one latent batch of P x R rows, and all candidates meet the same R starts and
the same noise. Or, with `world: true`, they are episodes of the real environments. The first mean is zero, which does
nothing (of discrete actions it takes the first). What acts is the newest mean, the incumbent, and not the best of a
population, whose score is luck in part; for the same reason it is judged on other starts and noise (T40).

Weight decay: weight_decay * mean(w^2) is taken off a candidate's score. (The released es.py subtracts it from the cost
instead, and so pays for large weights; at .01 and returns of hundreds it is nothing either way.)

Two departures from the defaults of pycma 4.5: sigma is adapted by CSA however many weights there are, as in the pycma
of that time, and not by TPA from 300 on; and an ill-conditioned C is not moved into a hidden change of coordinates.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cma
import numpy as np
import torch
import torch.nn.functional as F
from cma.sigma_adaptation import CMAAdaptSigmaCSA
from cma.utilities.utils import ElapsedWCTime
from pydantic import Field
from torch import Tensor

from agents.base import Actor, Plan, Play, explored
from agents.imagination import returns
from worldmodel.base import Spec, WorldModel, each, flatten
from worldmodel.config import ConfigError, Section
from worldmodel.latents import common_noise


class Config(Section):
    name: str
    hidden: int = Field(ge=0)  # tanh units; 0 is a linear controller
    bias: bool
    ordered: bool  # discrete actions are a scale: one tanh output, its range cut into A equal parts, as for Doom
    reads: int | None = Field(ge=1)  # that many leading features (z comes before h); None reads all
    population: int = Field(ge=4)
    rollouts: int = Field(ge=1)
    horizon: int = Field(ge=1)  # of the dream
    temperature: float = Field(ge=0)  # of the dream
    sigma: float = Field(gt=0)  # the first one
    weight_decay: float = Field(ge=0)
    judge_every: int = Field(ge=1)  # generations
    judge_rollouts: int = Field(ge=1)
    # Act as the incumbent that was judged best so far, World Models' "best agent". Only for a model that stays as it
    # is: scores of dreams of different models do not compare.
    keep_best: bool
    world: bool  # score in the real environments
    noise: float = Field(ge=0, le=2)  # exploration: standard deviation; for discrete actions a probability


def build(config: Config, model: WorldModel, spec: Spec) -> "Evolution":
    return Evolution(config, model, spec)


class Controller:
    """A network of no or one hidden layer, whose weights are a vector.

    Their order, which never changes: [matrix of the hidden layer, one row per unit; its biases;] matrix of the outputs,
    one row per output; their biases. Many vectors at once act on a batch in which each has its block of rows.
    """

    def __init__(self, config: Config, spec: Spec, features: int) -> None:
        if config.ordered and not spec.discrete:
            raise ConfigError(["actor.ordered: only discrete actions can be cut from a scale: use false"])
        if (config.reads or 0) > features:
            raise ConfigError([f"actor.reads: the model has only {features} features: use that many or fewer"])
        self.spec, self.bias, self.ordered = spec, config.bias, config.ordered
        self.reads = config.reads or features
        outputs = 1 if config.ordered else spec.action
        widths = [self.reads, *[config.hidden] * (config.hidden > 0), outputs]
        self.layers = list(pairwise(widths))
        self.size = sum(here * there + there * self.bias for here, there in self.layers)

    def policy(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Weights (P, size) become a function of features (P*R, F), block after block, to actions (P*R, A).

        It computes in float32 whatever the model does: bfloat16 would round the candidates to the same few weights.
        """
        weights, at, parts = weights.float(), 0, []
        for here, there in self.layers:
            matrix = weights[:, at : at + here * there].unflatten(1, (there, here)).mT  # (P, here, there)
            at += here * there
            bias = weights[:, at : at + there * self.bias]
            at += there * self.bias
            parts.append((matrix, bias[:, None] if self.bias else weights.new_zeros(1, 1, there)))

        def act(features: Tensor) -> Tensor:
            with torch.autocast(features.device.type, enabled=False):
                x = features[:, : self.reads].float().unflatten(0, (len(weights), -1))  # (P, R, F)
                for number, (matrix, bias) in enumerate(parts):
                    x = torch.baddbmm(bias, x.tanh() if number else x, matrix)
                return self.action(x.flatten(0, 1))

        return act

    def action(self, output: Tensor) -> Tensor:
        """Outputs (N, O) -> actions (N, A)."""
        if not self.spec.discrete:
            return output.tanh()
        count = self.spec.action
        if not self.ordered:
            return F.one_hot(output.argmax(-1), count).float()
        part = ((output[:, 0].tanh() + 1) / 2 * count).nan_to_num().clamp(0, count - 1).long()
        return F.one_hot(part, count).float()


class Tiny(Actor):
    """Acts by a controller with given weights (size,)."""

    def __init__(self, controller: Controller, weights: Tensor, noise: float, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.policy, self.noise = controller.policy(weights[None]), noise

    def initial(self, n: int) -> Plan:
        return Plan(torch.zeros(n, 0, self.spec.action), torch.full((n,), torch.nan))

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        action = self.policy(self.model.features(state))
        return (explored(self.spec, action, self.noise) if explore and self.noise else action), plan


class Evolution(Actor):
    """What CMA-ES has learned is in these buffers. pycma's object is made from them for one generation at a time: so a
    checkpoint cannot leave anything out, and a resumed run continues bit for bit."""

    mean: Tensor  # (n,) the incumbent
    sigma: Tensor  # ()
    covariance: Tensor  # (n, n)
    axes: Tensor  # (n, n) its eigenvectors, one per column, as last decomposed: pycma does so every few generations
    scales: Tensor  # (n,) the roots of their eigenvalues
    path: Tensor  # (n,) evolution path of the covariance
    path_sigma: Tensor  # (n,) evolution path of sigma
    generation: Tensor  # () generations lived through
    decomposed: Tensor  # () the generation of the last decomposition
    best: Tensor  # (n,) the incumbent that was judged best
    best_score: Tensor  # () its score; -inf before any was judged

    def __init__(self, config: Config, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.config = config
        with torch.no_grad():
            features = model.features(model.initial(1)).shape[-1]
        self.controller = Controller(config, spec, features)
        n = self.controller.size
        strategy = fresh(n, config)
        for name in ("mean", "sigma", "covariance", "axes", "scales", "path", "path_sigma"):
            self.register_buffer(name, torch.from_numpy(np.array(learned(strategy)[name], np.float64, order="C")))
        for name in ("generation", "decomposed"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("best", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("best_score", torch.tensor(-torch.inf, dtype=torch.float64))

    # ---- acting ----

    def variant(self, weights: Tensor) -> Tiny:
        """An actor with these weights on the same model."""
        return Tiny(self.controller, weights, self.config.noise, self.model, self.spec)

    def weights(self) -> Tensor:
        """What it acts with, (n,)."""
        use_best = self.config.keep_best & (self.best_score > -torch.inf)
        return torch.where(use_best, self.best, self.mean)

    def initial(self, n: int) -> Plan:
        return self.variant(self.mean).initial(n)

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        return self.variant(self.weights()).act(state, plan, explore)

    # ---- learning ----

    @torch.no_grad()
    def learn(self, states: Any, play: Play | None = None) -> dict[str, Tensor]:
        """One generation, from states (B, T, ...). Scores are told without weight decay, and `incumbent` only when it
        was judged. If no candidate's score is finite, nothing can be learned from them, and nothing changes.
        """
        config, number = self.config, int(self.generation)
        strategy = self.revived()
        candidates = np.stack(strategy.ask())  # (P, n)
        scores = self.scores(torch.from_numpy(candidates), config.rollouts, states, play, 2 * number)  # (P,)
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
        if (number + 1) % config.judge_every == 0:
            metrics["incumbent"] = self.judge(states, play, 2 * number + 1)
        return broken | {name: value.detach().float().clone() for name, value in metrics.items()}

    def judge(self, states: Any, play: Play | None, number: int) -> Tensor:
        """The incumbent's score, (), on starts and noise drawn anew, or in other episodes."""
        score = self.scores(self.mean[None], self.config.judge_rollouts, states, play, number)[0]
        if score > self.best_score:
            self.best.copy_(self.mean)
            self.best_score.copy_(score)
        return score

    def scores(self, weights: Tensor, rollouts: int, states: Any, play: Play | None, number: int) -> Tensor:
        """The mean return of each of the weights (P, n): (P,), on the CPU. number: which real episodes to play."""
        if self.config.world:
            if play is None:
                raise ValueError("actor.world is true, but learn() was not told how to play in the environments")
            each_one = [play(self.variant(one), rollouts, number) for one in weights.to(self.mean.device)]
            return torch.stack([total.double().mean().cpu() for total in each_one])
        count, pool = len(weights), flatten(states)
        rows = torch.randint(len(pool[0]), (rollouts,)).repeat(count)  # one block per candidate: row p * R + r
        start = each(lambda a: a[rows.to(a.device)], pool)
        with common_noise(count):
            policy = self.controller.policy(weights.to(pool[0].device))
            total = returns(
                self.model, start, lambda state: policy(self.model.features(state)), self.config.horizon,
                self.config.temperature,
            )  # fmt: skip
        return total.double().view(count, rollouts).mean(1).cpu()

    def revived(self) -> Any:
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
