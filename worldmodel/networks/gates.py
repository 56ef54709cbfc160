"""What gates do, in a form that a CPU computes fast where no gradient is wanted: planning and imagining are the same
few functions of large arrays, hundreds of times.
"""

import torch
from torch import Tensor


def tanh(x: Tensor) -> Tensor:
    """2 sigmoid(2 x) - 1 on a CPU and without gradients: the library takes five times as long for its own function. Not
    as precise near 0, where the error of float32 is 2e-7 and not a share of the value.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return x.tanh()
    return x.mul(2).sigmoid_().mul_(2).sub_(1)


def gru_update(h: Tensor, reset: Tensor, candidate: Tensor, update: Tensor) -> Tensor:
    """h' = u c + (1 - u) h with c = tanh(sigmoid(r) c) and u = sigmoid(u - 1), as DreamerV2's GRU and its successors'.
    h itself keeps all its digits whatever the precision of the gates.
    """
    candidate = tanh(reset.sigmoid() * candidate)
    return torch.lerp(h, candidate, (update - 1).sigmoid())
