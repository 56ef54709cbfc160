"""Equations of mixtures of Gaussians, one mixture for each dimension, as free functions.

A mixture is given by log weights, means and log standard deviations, (..., Z, K) each, K components for each of Z
dimensions; compute in float32.
"""

import math

import torch
from torch import Tensor

from worldmodel.networks import gaussian
from worldmodel.networks.noise import uniform


def nll(z: Tensor, log_weight: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log sum_k w_k N(z; mean_k, std_k^2) in nats, element by element: z (..., Z) -> (..., Z)."""
    distance = (z[..., None] - mean) * (-log_std).exp()
    log_density = -0.5 * distance.square() - log_std - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(log_weight + log_density, -1)


def sample(log_weight: Tensor, mean: Tensor, log_std: Tensor, temperature: float = 1.0) -> Tensor:
    """z (..., Z): a component drawn with probability ~ w_k^(1/tau), then N(mean_k, tau std_k^2). At temperature 0 the
    mean of the likeliest component, without a random number.
    """
    if temperature == 0:
        return mean.gather(-1, log_weight.argmax(-1, keepdim=True)).squeeze(-1)
    weight = log_weight.exp() if temperature == 1 else (log_weight.mT / temperature).softmax(-2).mT
    below = weight.cumsum(-1)  # (..., Z, K)
    drawn = uniform(mean[..., 0])[..., None]
    chosen = (below[..., :-1] <= drawn).sum(-1, keepdim=True)  # the last one needs no comparing: rounding cannot harm
    return gaussian.sample(
        mean.gather(-1, chosen).squeeze(-1), log_std.gather(-1, chosen).squeeze(-1).exp(), temperature
    )
