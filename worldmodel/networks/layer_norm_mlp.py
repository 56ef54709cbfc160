"""The dense layers of DreamerV3's release of 2023: no bias, LayerNorm, SiLU."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.networks.dense import dense, glorot
from worldmodel.networks.initializers import truncated_normal
from worldmodel.networks.normalization import LayerNorm


class NormLinear(nn.Module):
    """SiLU(LayerNorm(W x)): (..., inputs) -> (..., outputs). std 1 / sqrt((inputs + outputs) / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = LayerNorm(outputs)
        truncated_normal(self.linear.weight, (inputs + outputs) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(dense(self.linear, x)))


class MLP(nn.Module):
    """`layers` of `units`, then a linear one, Glorot uniform with the VARIANCE times output_scale, where 0 makes a head
    that begins with zeros: (..., inputs) -> (..., outputs).
    """

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, output_scale: float = 1.0) -> None:
        super().__init__()
        sizes = [inputs] + [units] * layers
        self.hidden = nn.Sequential(*(NormLinear(here, there) for here, there in pairwise(sizes)))
        self.output = glorot(nn.Linear(sizes[-1], outputs))
        self.output.weight.data.mul_(output_scale**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return dense(self.output, self.hidden(x))
