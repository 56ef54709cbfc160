"""In which precision products and convolutions are computed."""

import torch
from torch import Tensor


def precision_of_products(x: Tensor) -> torch.dtype:
    """Autocast's where that is on, else that of x, a weight or an input."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype
