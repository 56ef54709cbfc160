"""Recurrent cells: PlaNet's GRU and World Models' LSTM, initialised as TensorFlow does."""

import torch
from torch import Tensor, nn

from worldmodel.networks.dense import dense, glorot


class GRUCell(nn.Module):
    """PlaNet's GRU: the reset gate multiplies h BEFORE the candidate's matrix, one bias set, gate biases start at 1.

    r, u = sigmoid(W [x, h] + b);  c = tanh(V [x, r h] + d);  h' = u h + (1 - u) c.       (trap 18: torch's differs)
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + units, 2 * units)
        self.candidate = nn.Linear(inputs + units, units)
        glorot(self)
        nn.init.ones_(self.gates.bias)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        low = h.to(x.dtype)  # h itself stays in float32
        reset, update = dense(self.gates, torch.cat([x, low], -1), "sigmoid").chunk(2, -1)
        candidate = dense(self.candidate, torch.cat([x, reset * low], -1), "tanh")
        return torch.lerp(candidate.to(h.dtype), h, update.to(h.dtype))


class LSTMCell(nn.Module):
    """An LSTM with one bias (torch's has two), in two halves, so that known inputs are one product for all time steps.

    i, f, o = sigmoid, g = tanh of W x + b + U h;  c' = f c + i g;  h' = o tanh(c').

    The forget gate's bias starts at 1, as TensorFlow's.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        joint = glorot(nn.Linear(inputs + units, 4 * units))
        self.input_proj = nn.Linear(inputs, 4 * units)  # W, b
        self.recurrent_proj = nn.Linear(units, 4 * units, bias=False)  # U
        with torch.no_grad():
            self.input_proj.weight.copy_(joint.weight[:, :inputs])
            self.recurrent_proj.weight.copy_(joint.weight[:, inputs:])
            self.input_proj.bias.zero_()
            self.input_proj.bias[units : 2 * units] = 1

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return self.step(dense(self.input_proj, x), h, c)

    def step(self, entered: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step from W x + b, which may have been computed before: (N, 4H), h and c (N, H) -> h', c'."""
        i, f, o, g = (entered + dense(self.recurrent_proj, h)).float().chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
