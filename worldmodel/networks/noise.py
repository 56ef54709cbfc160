"""The noise of models: from the default generator of the tensors' device, or common to blocks of rows."""

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor


class Noise(threading.local):
    """How this thread draws."""

    def __init__(self) -> None:
        self.copies = 1  # set by common_random_numbers


noise = Noise()


@contextlib.contextmanager
def common_random_numbers(blocks: int) -> Iterator[None]:
    """Common random numbers: rows come in so many blocks of equal length, and every block draws the same noise.

    Candidates that are imagined side by side then differ by their actions, not by their random numbers (trap 40).
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
