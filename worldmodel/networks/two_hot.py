"""Regression as classification over bins (DreamerV3): symlog, two-hot targets and means, as free functions in float32.

A number x between two neighbouring bins is the distribution that has x as its mean and lies on these two alone. A head
predicts logits (..., K) and learns them by cross-entropy, so that the size of its gradient does not depend on x.

    bins are exponentially spaced (2024)   loss(logits, x, symexp_bins())          mean(logits, bins)
    bins live in symlog space (2023)       loss(logits, symlog(x), symlog_bins())  symexp(mean(logits, bins))

The two place x between the same bins, but not at the same point between them, and differ in what they call the mean.
"""

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

LIMIT = 20.0  # of bins in symlog space: +-4.85e8


def odd(bins: int) -> int:
    """Errors: ValueError, for an even number: none of the bins would be 0."""
    if bins % 2 == 0:
        raise ValueError(f"{bins} is even: make it odd, so that one of the bins is 0")
    return bins


Bins = Annotated[int, Field(ge=3, le=4095), AfterValidator(odd)]  # what a Config says: how many


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """sign(x) (e^|x| - 1), the inverse of symlog."""
    return x.sign() * x.abs().expm1()


def symexp_bins(count: int = 255) -> Tensor:
    """symexp of evenly spaced numbers in [-20, 20], (K,), K odd. The positive half is the negative one's mirror image
    exactly, and the middle 0 exactly.
    """
    return mirrored(symexp(torch.linspace(-LIMIT, 0, (count + 1) // 2, dtype=torch.float64)))


def symlog_bins(count: int = 255) -> Tensor:
    """Evenly spaced numbers in [-20, 20], (K,), K odd, mirrored as symexp_bins."""
    return mirrored(torch.linspace(-LIMIT, 0, (count + 1) // 2, dtype=torch.float64))


def mirrored(half: Tensor) -> Tensor:
    """Bins from their lower half and the middle, 0: ((K + 1) / 2,) -> (K,) float32."""
    return torch.cat([half, -half[:-1].flip(0)]).float()


def neighbours(x: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Where x lies: the number k of the bin below and the weight of bin k + 1, so that x is the mean of the two. What
    lies outside of all bins counts as the last one. (...) -> (...) int64, (...) float32.
    """
    x = x.float().clamp(bins[0], bins[-1]).contiguous()
    k = (torch.searchsorted(bins, x, right=True) - 1).clamp(0, len(bins) - 2)
    low = bins[k]
    return k, (x - low) / (bins[k + 1] - low)


def loss(logits: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy in nats of the predicted distribution (..., K) to the two-hot target (...): (...)."""
    k, weight = neighbours(target, bins)
    pair = logits.float().log_softmax(-1).gather(-1, torch.stack([k, k + 1], -1))  # (..., 2)
    return -torch.lerp(pair[..., 0], pair[..., 1], weight)


def mean(logits: Tensor, bins: Tensor) -> Tensor:
    """sum p_k bins_k, (..., K) -> (...).

    Mirror images are added first. From left to right the rounding errors of the outer bins, +-4.85e8, would let
    an untrained head predict 2 and not 0 (trap 24).
    """
    probs = logits.float().softmax(-1)
    half = len(bins) // 2
    return ((probs[..., half + 1 :] - probs[..., :half].flip(-1)) * bins[half + 1 :]).sum(-1)
