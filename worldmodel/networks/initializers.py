"""DreamerV3's initial weights."""

import math

from torch import Tensor, nn

# The standard deviation of N(0, 1) cut off at +-2 is 0.8796: this makes it 1 again.
TRUNCATION = 1.1368


def truncated_normal(weight: Tensor, fan: float, scale: float = 1.0) -> None:
    """Fill with a normal distribution of standard deviation scale / sqrt(fan), cut off at twice that of the normal
    distribution before it is cut: bounds of +-2 themselves would cut off nothing.
    """
    if scale == 0:
        nn.init.zeros_(weight)
        return
    std = scale * TRUNCATION / math.sqrt(fan)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
