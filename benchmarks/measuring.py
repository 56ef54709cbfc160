"""Times beside their floors: how the programs of this folder that measure speed do it.

A floor is operations over the matrix rate, or bytes over the copy rate, that are measured in the same run. What is
compared runs in turns in one process, so that the ratio holds on a noisy machine; a time is a median.
"""

import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from agents.device import choose_device, keep_freed_memory
from agents.graphs import WARM_UP
from training.run_folder.versions import commit


def beside(
    ours: Callable[[], Any], plain: Callable[[], Any], device: torch.device, rate: float, repeats: int
) -> dict[str, float]:
    """Ours, the plain one, in turns, and the floor of the same job: the operations that the plain one counts."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: dense_flops})
    counter.mod_tracker = WholeCall()
    with counter:
        plain()
    floor = counter.get_total_flops() / rate
    for _ in range(WARM_UP + 2):
        ours()
    plain()

    def plainly() -> float:
        keep_freed_memory(False)  # which is a setting of ours
        seconds = timed(plain, device, 1)
        keep_freed_memory(device.type == "cpu")
        return seconds

    def mine() -> float:
        ours()  # takes back from the system what the plain one has just returned
        return timed(ours, device, 1)

    times = [(mine(), plainly()) for _ in range(repeats)]
    seconds, reference = (statistics.median(column) for column in zip(*times, strict=True))
    found = {
        "seconds": seconds,
        "plain_seconds": reference,
        "times_faster": reference / seconds,
        "gflop": counter.get_total_flops() / 1e9,
        "floor_seconds": floor,
        "times_floor": seconds / floor,
    }
    return found | ({"launches": launches(ours)} if device.type == "cuda" else {})


class WholeCall(ModuleTracker):
    """Operations are counted in all, not by module: hooks on modules fail where an actor freezes a model's weights."""

    def __enter__(self) -> "WholeCall":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def dense_flops(x: Sequence[int], weight: Sequence[int], *rest: Any, **more: Any) -> int:
    """Operations of a dense layer, which the counter does not know."""
    return 2 * math.prod(x) * weight[0]


def launches(job: Callable[[], Any]) -> int:
    """How often a job asks the GPU to start something: kernels, and graphs of kernels."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        job()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if "Launch" in event.key)


def timed(job: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median seconds of a job, the device's queue emptied."""
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a square matrix product."""
    size = 2048 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(dtype)
    timed(lambda: a @ a, device, 3)
    return 2 * size**3 / timed(lambda: a @ a, device, 9)


def copy_rate() -> float:
    """Bytes per second of copying 256 MB in main memory."""
    a = torch.ones(256 << 20, dtype=torch.uint8)
    b = torch.empty_like(a)
    return a.numel() / timed(lambda: b.copy_(a), torch.device("cpu"), 9)


def machine() -> dict[str, Any]:
    """Where, with what and by which command figures were measured."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
        "command": "python " + " ".join(sys.argv),
    }


def device_name(wanted: str) -> str:
    """What `--device` computes on."""
    return torch.cuda.get_device_name() if choose_device(wanted).type == "cuda" else "cpu"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
