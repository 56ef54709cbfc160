"""Choice of device and precision, and a setting of the C library's memory."""

import contextlib
import ctypes
import os
import sys
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
PROCESS = os.getpid()  # that imported this
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """Errors: ValueError, if it is not there."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("agent.device is cuda but torch sees no GPU: use agent.device=cpu, or install a driver")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    index = torch.cuda.current_device()  # 0, unless several processes have one each
    return torch.device("cuda", index) if index else torch.device("cuda")


def choose_precision(wanted: str, device: torch.device) -> str:
    """auto: bf16 where the hardware multiplies it faster than float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    flags: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.12 or newer
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"


def is_forked() -> bool:
    """Whether this process is a fork of the one that imported this. Threads do not survive a fork: torch would wait for
    its own for ever, if it had computed with several before.
    """
    return os.getpid() != PROCESS


def mind_fork() -> None:
    """A forked process computes with one thread. What its parent computed on a GPU it cannot use at all."""
    if is_forked() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def default_generator(device: torch.device) -> torch.Generator:
    """The one that models draw from, and that CUDA graphs know."""
    if device.type != "cuda":
        return torch.default_generator
    torch.cuda.init()
    generator: torch.Generator = torch.cuda.default_generators[device.index or 0]
    return generator


def keep_freed_memory(keep: bool = True) -> None:
    """Let the C library keep what was freed. It would return every large tensor to the system, which hands it out again
    page by page, zeroed: at PlaNet's sizes a million page faults and a third of an update's time on a CPU.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries than GNU's have no such settings
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_MAX, 0 if keep else 65536)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 128 * 1024)
