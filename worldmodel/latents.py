"""Equations of diagonal Gaussians, as free functions. All sums run over the last axis; compute in float32."""

import math

import torch
from torch import Tensor


def sample(mean: Tensor, std: Tensor) -> Tensor:
    """z = mean + std * e with e ~ N(0, 1): reparameterised, so that gradients reach mean and std."""
    return torch.addcmul(mean, std, torch.randn_like(mean))


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


def unit_nll(target: Tensor, mean: Tensor) -> Tensor:
    """-log N(target; mean, 1) element by element, without its constant log(2 pi) / 2: half the square (trap T10)."""
    return 0.5 * (target - mean).square()
