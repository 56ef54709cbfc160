"""Products with the same weights at every step of a scan, whose gradients are computed at once. With y_t = x_t W + b,

    dW = sum_t x_t^T dy_t,   db = sum_t dy_t

By itself autograd adds these up step by step, which for the few rows of a step is mostly reading and writing of what
has W's size. Within joint_gradients() dW is one product over the rows of all steps, made when the gradient has passed
through all of them, and rounded once, as any layer's (what it saves: docs/log.md).
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldmodel.networks.precision import precision_of_products


class Rows:
    """x and dy of every step that a backward pass has gone through, by the pass: one may go through for the sake of
    other tensors, and never ask for dW. They refer to no graph, of which this is a part.
    """

    def __init__(self) -> None:
        self.passes: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def add(self, x: Tensor, dy: Tensor) -> None:
        self.passes.setdefault(current_pass(), []).append((x.detach(), dy.detach()))

    def pop(self) -> tuple[Tensor, Tensor]:
        """Those of this pass, (..., N, i) and (..., N, o), N over all steps."""
        x, dy = (torch.cat(rows, -2) for rows in zip(*self.passes.pop(current_pass()), strict=True))
        return x, dy


def current_pass() -> int:
    """The number of the backward pass that is under way in this thread."""
    return torch._C._current_graph_task_id()


class SharedWeight(torch.autograd.Function):
    """W (..., i, o) and b (o,) in the precision of the products. Their gradients come from the rows; what autograd
    hands in is nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Rows, weight: Tensor, bias: Tensor | None, precision: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, bias)  # so that autograd notices if they have changed by then
        ctx.rows = rows
        low = weight.to(precision, copy=True)
        if low.ndim > 2:
            low = low.contiguous()  # else a CPU's product of blocks copies them, at every step
        return low, None if bias is None else bias.to(precision, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *nothing: None) -> tuple[Tensor | None, ...]:
        weight, bias = ctx.saved_tensors
        x, dy = ctx.rows.pop()
        dw = x.mT @ dy if weight.stride(-1) == 1 else (dy.mT @ x).mT  # laid out as W is
        return None, dw.to(weight.dtype), None if bias is None else dy.sum(-2, dtype=bias.dtype), None


class ProductStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Rows, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.to(weight.dtype)
        ctx.save_for_backward(x, weight)
        ctx.rows = rows
        return x @ weight if bias is None else F.linear(x, weight.mT, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if ctx.needs_input_grad[2]:
            ctx.rows.add(x, dy)
        return None, dy @ weight.mT if ctx.needs_input_grad[1] else None, None, None


class Shared(NamedTuple):
    rows: Rows
    weight: Tensor
    bias: Tensor | None


Use: TypeAlias = tuple[Tensor, Tensor | None, bool, torch.dtype]  # weight, bias, transposed, precision


class InUse(threading.local):
    """What this thread has shared so far; None outside of joint_gradients()."""

    weights: dict[Use, Shared] | None = None


in_use = InUse()


@contextlib.contextmanager
def joint_gradients() -> Iterator[None]:
    """Within it, product() gathers what the gradients of its weights are made of. Neither for a gradient's gradient nor
    for torch.func's transforms.
    """
    outer, in_use.weights = in_use.weights, {}
    try:
        yield
    finally:
        in_use.weights = outer


def gathers() -> bool:
    """Whether product() does so here."""
    return not torch.compiler.is_compiling() and in_use.weights is not None and torch.is_grad_enabled()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False) -> Tensor:
    """x W + b, (..., N, i) times (..., i, o) -> (..., N, o); transposed: of W as nn.Linear has it, (o, i). Blocks have
    no b.
    """
    if not gathers() or in_use.weights is None:
        return F.linear(x, weight if transposed else weight.mT, bias) if weight.ndim == 2 else x @ weight
    use = (weight, bias, transposed, precision_of_products(weight))
    if use not in in_use.weights:
        rows = Rows()
        laid_out = weight.mT if transposed else weight
        in_use.weights[use] = Shared(rows, *SharedWeight.apply(rows, laid_out, bias, use[-1]))
    shared = in_use.weights[use]
    flat = x if weight.ndim > 2 or x.ndim == 2 else x.reshape(-1, x.shape[-1])
    result: Tensor = ProductStep.apply(shared.rows, flat, shared.weight, shared.bias)
    return result if flat is x else result.view(*x.shape[:-1], result.shape[-1])
