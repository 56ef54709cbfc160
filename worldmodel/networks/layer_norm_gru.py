"""The recurrent cell of DreamerV2 and of DreamerV3 of 2023: a GRU with LayerNorm over all its gates."""

import torch
from torch import Tensor, nn

from worldmodel.networks.dense import dense
from worldmodel.networks.gates import gru_update
from worldmodel.networks.normalization import LayerNorm


class LayerNormGRUCell(nn.Module):
    """h' = u c + (1 - u) h:

        r, c, u = LayerNorm(W [x, h] (+ b))
        c = tanh(sigmoid(r) c);  u = sigmoid(u - 1)

    DreamerV2 has the bias, which LayerNorm makes nearly useless; its successor left it out. W is initialised by the
    model that it is part of.
    """

    def __init__(self, inputs: int, units: int, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs + units, 3 * units, bias=bias)
        self.norm = LayerNorm(3 * units)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        joint = torch.cat([x, h.to(x.dtype)], -1)
        reset, candidate, update = self.norm(dense(self.linear, joint).float()).chunk(3, -1)
        return gru_update(h, reset, candidate, update)
