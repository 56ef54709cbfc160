"""Data-parallel learning: several processes compute one update, each from its share of the batch's sequences.

Each takes its loss as a mean over its own share, and the mean of all gradients g_r is followed:

    g = (1/R) sum over r = 1..R of g_r

which is the gradient of the whole batch if the loss is a plain mean. What is none (a mean over some rows only, a mean
that is compared with a threshold, a statistic) must be taken of all shares: by what is here. In a process alone every
function gives what it was given, to the bit.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """Those that compute this process's updates with it."""

    group: dist.ProcessGroup | None = None  # None: there are no others


def join(group: dist.ProcessGroup | None) -> None:
    """From now on updates are computed with the others of a group, which do the same; None: alone."""
    Processes.group = group


def size() -> int:
    """How many processes share a batch."""
    return 1 if Processes.group is None else dist.get_world_size(Processes.group)


class MeanOfShares(torch.autograd.Function):
    """Its gradient is that of the own share: the mean over processes, which is taken later, makes it the whole one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        whole = x.clone()
        dist.all_reduce(whole, group=Processes.group)
        return whole.div_(size())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def mean(x: Tensor) -> Tensor:
    """The mean over processes of a mean over rows: that of the whole batch, equal in all of them."""
    whole: Tensor = x if size() == 1 else MeanOfShares.apply(x)
    return whole


def means(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same for numbers (), all at once and without gradient."""
    if size() == 1:
        return dict(values)
    whole = mean(torch.stack([value.detach().float() for value in values.values()]))
    return dict(zip(values, whole.unbind(), strict=True))


def masked_mean(x: Tensor, counts: Tensor) -> Tensor:
    """The mean of x over those rows of the whole batch that count, 0 if none does: of one shape, counts boolean."""
    number = counts.sum() if size() == 1 else mean(counts.sum().float())
    return (x * counts).sum() / number.clamp(min=1 / size())


def gather(x: Tensor) -> Tensor:
    """The rows (N, ...) of all shares, in order: (R * N, ...), without gradient. The shares must be of one size."""
    if size() == 1:
        return x
    x = x.detach().contiguous()
    shares = [torch.empty_like(x) for _ in range(size())]
    dist.all_gather(shares, x, group=Processes.group)
    return torch.cat(shares)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one dtype by their means over processes: one message for all."""
    if size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat, group=Processes.group)
    pieces = flat.div_(size()).split([math.prod(tensor.shape) for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view(tensor.shape))
