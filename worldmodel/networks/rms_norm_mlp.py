"""DreamerV3's dense layers: a bias, then RMSNorm, then SiLU."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.networks.dense import dense
from worldmodel.networks.initializers import truncated_normal
from worldmodel.networks.normalization import RMSNorm


def linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    """A dense layer with DreamerV3's initial weights, std scale / sqrt(inputs), and a bias of zero."""
    layer = nn.Linear(inputs, outputs)
    truncated_normal(layer.weight, inputs, scale)
    nn.init.zeros_(layer.bias)
    return layer


class NormLinear(nn.Module):
    """SiLU(RMSNorm(W x + b)): (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = linear(inputs, outputs)
        self.norm = RMSNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(dense(self.linear, x)))


class MLP(nn.Module):
    """`layers` of `units`, then a linear one with weights of std output_scale / sqrt(units), where 0 makes a head that
    begins with zeros: (..., inputs) -> (..., outputs).
    """

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, output_scale: float = 1.0) -> None:
        super().__init__()
        sizes = [inputs] + [units] * layers
        self.hidden = nn.Sequential(*(NormLinear(here, there) for here, there in pairwise(sizes)))
        self.output = linear(sizes[-1], outputs, output_scale)

    def forward(self, x: Tensor) -> Tensor:
        return dense(self.output, self.hidden(x))
