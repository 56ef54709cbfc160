"""The GRU of Dreamer V1. PlaNet's, in recurrent.py, is another one, and V2's, in layer_norm_gru.py, a third (T18)."""

import torch
from torch import Tensor, nn

from worldmodel.networks.dense import dense, glorot
from worldmodel.networks.gates import tanh


class ResetAfterGRUCell(nn.Module):
    """torch.nn.GRUCell: the reset gate multiplies what h has become AFTER its matrix; two bias sets.

    r, u, c = W x + b;  R, U, C = V h + d;  h' = u h + (1 - u) c with r = sigmoid(r + R), u = sigmoid(u + U),
    c = tanh(c + r C)

    As Keras initialises it: W Glorot uniform, V orthogonal, biases zero. h keeps all its digits whatever the precision.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.input_proj = glorot(nn.Linear(inputs, 3 * units))  # reset, update, candidate
        self.recurrent_proj = glorot(nn.Linear(units, 3 * units))
        nn.init.orthogonal_(self.recurrent_proj.weight)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        reset, update, candidate = dense(self.input_proj, x).float().chunk(3, -1)
        reset_h, update_h, candidate_h = dense(self.recurrent_proj, h.to(x.dtype)).float().chunk(3, -1)
        reset, update = (reset + reset_h).sigmoid(), (update + update_h).sigmoid()
        return torch.lerp(tanh(candidate + reset * candidate_h), h, update)
