"""Equations of diagonal Gaussians, as free functions. All sums run over the last axis; compute in float32."""

import contextlib
import math
import threading
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


class Noise(threading.local):
    """How this thread draws."""

    def __init__(self) -> None:
        self.copies = 1  # set by common_noise


noise = Noise()


@contextlib.contextmanager
def common_noise(blocks: int) -> Iterator[None]:
    """Common random numbers: rows come in so many blocks of equal length, and every block draws the same noise.

    Candidates that dream side by side are then told apart by what they do, and not by their luck (T40).
    """
    before, noise.copies = noise.copies, blocks
    try:
        yield
    finally:
        noise.copies = before


def normal(like: Tensor) -> Tensor:
    """e ~ N(0, 1) in the shape of `like`, rows first."""
    copies = noise.copies
    return torch.randn_like(like) if copies == 1 else torch.randn_like(like[: len(like) // copies]).tile(tiling(like))


def uniform(like: Tensor) -> Tensor:
    """e ~ U[0, 1) in the shape of `like`, rows first."""
    copies = noise.copies
    return torch.rand_like(like) if copies == 1 else torch.rand_like(like[: len(like) // copies]).tile(tiling(like))


def tiling(like: Tensor) -> tuple[int, ...]:
    if len(like) % noise.copies:
        raise ValueError(f"{len(like)} rows are not {noise.copies} blocks of equal length")
    return (noise.copies, *[1] * (like.dim() - 1))


def sample(mean: Tensor, std: Tensor, temperature: float = 1.0) -> Tensor:
    """z = mean + sqrt(tau) std e with e ~ N(0, 1): reparameterised, so that gradients reach mean and std. At
    temperature 0 no random number is drawn.
    """
    if temperature == 0:
        return mean
    return torch.addcmul(mean, std, normal(mean), value=math.sqrt(temperature))


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), element by element, without relative precision far below 0 where no gradient is wanted: on a
    processor exp and log are vectorised, and the library's own function takes more time than the matrices beside it.
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


def squares(target: Tensor, mean: Tensor) -> Tensor:
    """The sum of squares of a row's differences, averaged over rows, (): in one pass over pictures forwards, and in one
    backwards.
    """
    return F.mse_loss(mean, target, reduction="sum") / len(target)


def unit_nll(target: Tensor, mean: Tensor) -> Tensor:
    """-log N(target; mean, 1) element by element, without its constant log(2 pi) / 2: half the square (trap T10)."""
    return 0.5 * (target - mean).square()
