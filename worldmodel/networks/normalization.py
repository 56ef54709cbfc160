"""Normalisation over the last axis, computed in float32 whatever the precision; the result has the input's type."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale, without a shift (DreamerV3): (..., C) -> (..., C)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.scale)


def rms_norm(x: Tensor, scale: Tensor, eps: float = 1e-4) -> Tensor:
    """What RMSNorm computes: (..., C) and (C,) -> (..., C)."""
    if x.device.type == "cpu" and scale.dtype == torch.float32 and not torch.compiler.is_compiling():
        result: Tensor = RMSNormOnCPU.apply(x, scale, eps)
        return result
    wide = x.float()
    rms = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * rms * scale).to(x.dtype)


def rms_norm_silu(x: Tensor, scale: Tensor) -> Tensor:
    """SiLU(RMSNorm(x)), likewise."""
    return F.silu(rms_norm(x, scale))


class RMSNormOnCPU(torch.autograd.Function):
    """RMSNorm in fewer passes over memory, half the time. With n = x / rms and g what reaches n,

        dx = (g - n mean(g n)) / rms

    which is LayerNorm's gradient for a mean of 0, computed by the library in one pass, without its share of mean(g).
    Where a gradient of this gradient is wanted, it is computed as it is written. Not for torch.func's transforms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()  # 1 / rms
        ctx.save_for_backward(x, scale, inverse)
        ctx.eps = eps
        return (wide * inverse).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():
            inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + ctx.eps)
            n, outer = x.float() * inverse, gradient.float()
            g = outer * scale
            ours = (g - n * (g * n).mean(-1, keepdim=True)) * inverse
            return ours.to(x.dtype), (outer * n).reshape(-1, len(scale)).sum(0), None
        gradient, mean, wanted = gradient.float(), torch.zeros_like(inverse), [*ctx.needs_input_grad[:2], False]
        ours, scales, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x.float(), scale.shape, mean, inverse, scale, None, wanted
        )
        if ours is not None:
            ours = ours.add_((gradient @ scale)[..., None] * inverse / x.shape[-1]).to(x.dtype)
        return ours, scales, None


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + shift (DreamerV2's GRU, DreamerV3 of 2023): torch's, but for eps."""

    def __init__(self, size: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.scale.shape, self.scale, self.shift, self.eps).to(x.dtype)
