"""DreamerV3's recurrent cell: a GRU whose units are in blocks that do not see each other within a step."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.networks.gates import gru_update
from worldmodel.networks.initializers import truncated_normal
from worldmodel.networks.joint_gradients import product
from worldmodel.networks.normalization import RMSNorm


class BlockLinear(nn.Module):
    """Every block of outputs reads its own block of inputs: (..., inputs) -> (..., outputs), blocks neighbours.

    The initial weights' std is 1 / sqrt(inputs), all inputs and not one block's, as published.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        truncated_normal(self.weight, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return block_product(x, self.weight) + self.bias


def block_product(x: Tensor, weight: Tensor) -> Tensor:
    """(N, blocks * i) times (blocks, i, o) -> (N, blocks * o)."""
    blocks = x.unflatten(-1, (len(weight), -1)).transpose(0, 1)  # (blocks, N, i)
    return product(blocks, weight).transpose(0, 1).flatten(1)


class StepWeights(NamedTuple):
    """The hidden layer's weights, cut into what reads h and what reads the inputs."""

    recurrent: Tensor  # (blocks, D / blocks, D / blocks)
    inputs: Tensor  # (I, D)


class BlockGRU(nn.Module):
    """h' = u c + (1 - u) h, with x (N, I) read by all blocks, and h (N, D), of which each block reads its own:

    y = SiLU(RMSNorm(W [h_g, x] + b))     the norm runs over all of D
    r, c, u = V y_g + d                   in each block
    c = tanh(sigmoid(r) c);  u = sigmoid(u - 1)
    """

    def __init__(self, inputs: int, units: int, blocks: int) -> None:
        super().__init__()
        self.block = units // blocks
        # Laid out so that the inputs' part is a plain matrix, and yet one tensor: clipping looks at its norm.
        self.weight = nn.Parameter(torch.empty(self.block + inputs, blocks, self.block))
        self.bias = nn.Parameter(torch.zeros(units))
        self.norm = RMSNorm(units)
        self.gates = BlockLinear(units, 3 * units, blocks)
        truncated_normal(self.weight, units + inputs * blocks)

    def step_weights(self) -> StepWeights:
        """Made once for many steps: the gradient of every slice is a whole tensor of zeros around its own."""
        return StepWeights(self.weight[: self.block].transpose(0, 1), self.weight[self.block :].flatten(1))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        weights = self.step_weights()
        return self.step(x @ weights.inputs + self.bias, h, weights.recurrent)

    def step(self, entered: Tensor, h: Tensor, recurrent: Tensor) -> Tensor:
        """One step from W x + b, which may have been computed before: (N, D), h (N, D) -> h'."""
        y = F.silu(self.norm(entered + block_product(h, recurrent)))
        gates = self.gates(y).float().unflatten(-1, (len(recurrent), 3, self.block))  # (N, blocks, 3, D / blocks)
        return gru_update(h.unflatten(-1, (-1, self.block)), *gates.unbind(-2)).flatten(1)
