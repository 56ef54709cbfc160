"""Normalisation over the last axis, computed in float32 whatever the precision; the result has the input's type."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale, without a shift (DreamerV3): (..., C) -> (..., C)."""

    def __init__(self, size: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        rms = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * rms * self.scale).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + shift (DreamerV2's GRU, DreamerV3 of 2023): torch's, but for eps."""

    def __init__(self, size: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.scale.shape, self.scale, self.shift, self.eps).to(x.dtype)
