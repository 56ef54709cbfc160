"""Equations of diagonal Gaussians, as free functions. All sums run over the last axis; compute in float32."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.networks.noise import normal


def sample(mean: Tensor, std: Tensor, temperature: float = 1.0) -> Tensor:
    """z = mean + sqrt(tau) std e with e ~ N(0, 1): reparameterised, so that gradients reach mean and std. At
    temperature 0 no random number is drawn.
    """
    if temperature == 0:
        return mean
    return torch.addcmul(mean, std, normal(mean), value=math.sqrt(temperature))


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), element by element. On a CPU and without gradients it is computed by exp and log, which are
    vectorised there: the library's own function takes longer than the matrix products around it. Far below 0 that is
    imprecise.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return F.softplus(x)
    return x.clamp(max=20).exp_().add_(1).log_().add_(F.relu(x - 20))


def kl(mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor) -> Tensor:
    """KL(q || p) in nats, q = N(mean, std^2) the posterior and p the prior, summed over dimensions: (..., S) -> (...).

    KL = sum log(p_std / q_std) + (q_std^2 + (q_mean - p_mean)^2) / (2 p_std^2) - 1/2
    """
    ratio = std / prior_std
    distance = (mean - prior_mean) / prior_std
    return 0.5 * (ratio.square() + distance.square() - 1 - 2 * ratio.log()).sum(-1)


def entropy(std: Tensor) -> Tensor:
    """H = sum log std + (1 + log 2 pi) / 2 in nats, (..., S) -> (...)."""
    return (std.log() + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)


def sum_squared_error(target: Tensor, mean: Tensor) -> Tensor:
    """The sum of squares of a row's differences, averaged over rows, (): in one pass over pictures forwards, and in one
    backwards.
    """
    return F.mse_loss(mean, target, reduction="sum") / len(target)


def unit_nll(target: Tensor, mean: Tensor) -> Tensor:
    """-log N(target; mean, 1) element by element, without its constant log(2 pi) / 2: half the square (trap 10)."""
    return 0.5 * (target - mean).square()
