"""What planners that refine a proposal share: how it begins, and how candidates are drawn from it.

A proposal is N(mean, std^2) per step and dimension, samples clipped to [-1, 1] (trap 21); for discrete actions it is a
categorical distribution per step, whose probabilities are the mean, and std plays no part.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.base import executable
from worldmodel.base import Spec


class Carry(NamedTuple):
    """What such a planner remembers: the last proposal's mean (N, H, A)."""

    mean: Tensor


def initial_mean(spec: Spec, n: int, horizon: int, device: torch.device | None = None) -> Tensor:
    """The mean (N, H, A) before anything was planned: no action, or all discrete ones alike."""
    return torch.full((n, horizon, spec.action_dim), 1 / spec.action_dim if spec.discrete else 0.0, device=device)


def first_mean(spec: Spec, carry: Carry, warm_start: bool) -> Tensor:
    """The first proposal's mean (N, H, A): the initial one, or with a warm start the last one, shifted by one step."""
    n, horizon, _ = carry.mean.shape
    start = initial_mean(spec, n, horizon, carry.mean.device)
    if not warm_start:
        return start
    shifted = torch.cat([carry.mean[:, 1:], start[:, -1:]], 1)
    return (shifted + start) / 2 if spec.discrete else shifted  # probabilities need a floor, as std does


def sample(spec: Spec, mean: Tensor, std: Tensor, candidates: int, generator: torch.Generator | None) -> Tensor:
    """Candidates (N, K, H, A) from the proposal (N, H, A)."""
    shape = (len(mean), candidates, *mean.shape[1:])
    if spec.discrete:  # the largest of log p + Gumbel noise is a draw from p
        noise = -torch.empty(shape, device=mean.device).exponential_(generator=generator).log()
        choice = (mean.clamp(min=1e-6).log()[:, None] + noise).argmax(-1)
        return F.one_hot(choice, spec.action_dim).float()
    noise = torch.randn(shape, device=mean.device, generator=generator)
    return (mean[:, None] + std[:, None] * noise).clamp(-1, 1)


def first_action(spec: Spec, actions: Tensor) -> Tensor:
    """The action (N, A) to take of a sequence (N, H, A) that may hold probabilities."""
    return executable(spec, actions[:, 0])


def mean_of_sound(returns: Tensor) -> Tensor:
    """The mean of those that are finite, (N, E) -> (N,): one broken candidate among the elites is no prediction of
    -inf. NaN, if all are broken.
    """
    return returns.where(returns.isfinite(), torch.nan).nanmean(1)
