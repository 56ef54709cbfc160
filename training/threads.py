"""How many CPU threads a run computes with. Two runs of two threads each on two cores slow each other fivefold: their
threads wait for each other, spinning.
"""

import os
from typing import Literal

import psutil
import torch

from agents.device import is_forked
from training.data_parallel.world import world

SMALL = 100_000  # parameters; below, several threads take longer to meet than to compute
BUSY = 0.25  # share of the machine's cores that others use
LOOK = 0.2  # seconds for which the machine is watched


def use_threads(wanted: int | Literal["auto"] | None, parameters: int, recorded: int | None = None) -> int:
    """Set torch's threads and return their number. auto: one if the model is small or the machine is busy now, else
    one for each core that no other process of the run has. recorded: what a run began with; it goes on so, since sums
    are rounded otherwise. In a forked process it is always one.
    """
    if is_forked():
        wanted = 1
    if wanted == "auto":
        wanted = recorded or (1 if parameters < SMALL or busy() else max(1, cores() // world().local_size))
    if wanted is not None:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> bool:
    """Whether other processes are at work."""
    return psutil.cpu_percent(interval=LOOK) > 100 * BUSY
