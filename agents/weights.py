"""Whether stored weights are those of a model or an actor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def fits(name: str, module: torch.nn.Module, tensors: dict[str, Tensor], report: Callable[[str], Any]) -> None:
    """Errors: ValueError, if tensors are not what a module takes: names, shapes, types, finite numbers. Buffers may be
    missing or left over, which is reported.
    """
    own, parameters = module.state_dict(), dict(module.named_parameters())
    absent = [key for key in own if key not in tensors]
    extra = [key for key in tensors if key not in own]
    if any(key in parameters for key in absent):
        raise ValueError(f"{name}: the weights of {', '.join(key for key in absent if key in parameters)} are missing")
    for key, value in tensors.items():
        if key in own and (own[key].shape != value.shape or own[key].dtype != value.dtype):
            raise ValueError(
                f"{name}: {key} is {value.dtype} {tuple(value.shape)}, not {own[key].dtype} {tuple(own[key].shape)}"
            )
        if key in parameters and not value.isfinite().all():
            raise ValueError(f"{name}: {key} holds numbers that are not finite")
    if absent:
        report(f"{name}: {', '.join(absent)} came with a later version and start(s) afresh")
    if extra:
        report(f"{name}: {', '.join(extra)} is not known to this version and left out")
