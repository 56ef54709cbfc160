"""Checks of what a checkpoint holds, before anything of it is used: weights, buffers and random-number states."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

MERSENNE = 624  # numbers that torch's generator on the CPU draws before it makes the next ones


def check_tensors(
    name: str, module: torch.nn.Module, tensors: Mapping[str, Tensor], report: Callable[[str], Any] = print
) -> None:
    """Errors: ValueError, if tensors are not what a module takes: names, shapes, types, finite numbers. Buffers may be
    missing or left over, which is reported. Only a buffer that begins infinite, such as a best score, may be so still.
    """
    own, parameters = module.state_dict(), dict(module.named_parameters())
    absent = [key for key in own if key not in tensors]
    extra = [key for key in tensors if key not in own]
    if any(key in parameters for key in absent):
        missing = [key for key in absent if key in parameters]
        raise ValueError(f"{name}: the weights of {listed(missing)} are missing")
    for key, value in tensors.items():
        if key not in own:
            continue
        if own[key].shape != value.shape or own[key].dtype != value.dtype:
            raise ValueError(
                f"{name}: {key} is {value.dtype} {tuple(value.shape)}, not {own[key].dtype} {tuple(own[key].shape)}"
            )
        if not (value.isfinite() | (value.isinf() & (value == own[key].to(value.device)))).all():
            raise ValueError(f"{name}: {key} holds numbers that are not finite")
    if absent:
        report(f"{name}: {listed(absent)} came with a later version and start(s) afresh")
    if extra:
        report(f"{name}: {listed(extra)} is not known to this version and left out")


def listed(names: list[str]) -> str:
    """The first few; a file may name a million."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(name[:100] for name in names[:10]) + more


def check_random_state(states: Mapping[str, Tensor]) -> None:
    """Errors: ValueError, for what no generator was ever in. torch's own check of the CPU's generator lets states pass
    in which it reads beyond its 624 numbers: `left` of them are left, `next` comes next, and both must agree.
    """
    if "cpu" not in states:
        raise ValueError("the random-number state of the CPU is missing")
    for name, state in states.items():
        sizes = {"cpu": torch.get_rng_state().shape, "cuda": torch.Size([16])}
        if name not in sizes:
            raise ValueError(f"there is no generator {name[:100]!r}")
        if state.dtype != torch.uint8 or state.shape != sizes[name]:
            raise ValueError(f"the random-number state {name!r} is {state.dtype} {tuple(state.shape)}")
    if "cuda" in states and int(states["cuda"].cpu().numpy()[8:].view(np.int64)[0]) % 4:  # seed, offset
        raise ValueError("the GPU's random-number state is impossible: its offset is no multiple of 4")
    content = states["cpu"].cpu().numpy()
    left, seeded = map(int, content[8:16].view(np.int32))  # after the seed
    following = int(content[16:24].view(np.uint64)[0])
    numbers = content[24 : 24 + 8 * MERSENNE].view(np.uint64)
    normals, (cached, normal) = content[24 + 8 * MERSENNE :][:24].view(np.float64), normal_flags(content)
    fresh = (left, following) == (1, 0)
    sound = seeded == 1 and (fresh or (1 <= left <= MERSENNE and left + following == MERSENNE + 1))
    if not sound or not numbers.astype(np.uint32).any() or not np.isfinite([*normals, normal]).all() or not cached:
        raise ValueError("the CPU's random-number state is impossible: it was damaged, or made up")


def normal_flags(content: np.ndarray) -> tuple[bool, float]:
    """Whether the flags that say that a normal number is left over are flags, and the float32 one."""
    tail = content[24 + 8 * MERSENNE + 24 :]  # int32 flag, padding, float32 number, bool flag, padding
    sound = int(tail[:4].view(np.int32)[0]) in (0, 1) and int(tail[12]) in (0, 1)
    return sound, float(tail[8:12].view(np.float32)[0])
