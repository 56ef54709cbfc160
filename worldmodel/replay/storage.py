"""Where replay's rows lie: in main memory, in a file, or on the agent's device; decided by what fits, before training.

All of them give the same rows for the same indices: the choice changes speed, never what is learned.
"""

import math
import re
import resource
import shutil
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import psutil
import torch

from worldmodel.base import Spec
from worldmodel.replay.columns import Column, FileColumn, TensorColumn

RESERVE = 1 << 30  # bytes left to the model, the libraries and the rest of the machine when storage is planned
CPU = torch.device("cpu")
Kind: TypeAlias = Literal["memory", "disk", "device"]


class Storage(NamedTuple):
    """Where rows lie, and which device they are for."""

    kind: Kind = "memory"
    agent_device: torch.device = CPU
    folder: Path = Path()  # of the file

    @property
    def device(self) -> torch.device:
        """The device on which batches are put together."""
        return self.agent_device if self.kind == "device" else CPU

    @property
    def pinned(self) -> bool:
        return self.agent_device.type == "cuda" and self.kind != "device"

    @property
    def prefetch(self) -> bool:
        """Whether drawing the next batch beside an update saves time: it is copied to a GPU, or read from a disk."""
        return self.pinned or self.kind == "disk"

    def images(self, rows: int, shape: tuple[int, ...]) -> Column:
        if self.kind == "disk":
            return FileColumn(shape, self.folder, self.pinned)
        return self.column(rows, shape, torch.uint8)

    def column(self, rows: int, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Column:
        """Of what is small: it is never on disk."""
        return TensorColumn(rows, shape, dtype, self.device, self.pinned)


IN_MEMORY = Storage()


# ---- what fits where ----


def image_bytes(spec: Spec) -> int:
    return math.prod(spec.image_shape)


def row_bytes(spec: Spec) -> int:
    """Bytes of one row: image, action, reward, first, terminal."""
    return image_bytes(spec) + 4 * spec.action_dim + 4 + 2


class StoragePlan(NamedTuple):
    """Where replay will lie, and why."""

    rows: int  # at most
    needed: int  # bytes
    storage: Storage
    why: str

    def __str__(self) -> str:
        at = {"memory": "in memory", "disk": "on disk", "device": "on the agent's device"}[self.storage.kind]
        return f"replay: at most {self.rows:,} rows, {gigabytes(self.needed)}, {at}: {self.why}"


class Budget(NamedTuple):
    """How many bytes replay may take somewhere, and why."""

    limit: int
    why: str


def plan(
    wanted: Kind | Literal["auto"],
    memory_gb: float | None,
    spec: Spec,
    rows: int,
    device: torch.device,
    folder: Path,
    context: int = 0,
    working: int = 0,
    processes: int = 1,
) -> StoragePlan:
    """Where `rows` rows will lie. auto: on the agent's GPU, else in main memory, else in a file in `folder`. context:
    bytes of the state that is kept with each. processes: on this machine, each of which has such a replay. Errors:
    MemoryError, if they do not fit where they should, or anywhere.
    """
    auto = wanted == "auto"
    images, rest = rows * image_bytes(spec), rows * (row_bytes(spec) - image_bytes(spec) + context)
    needed, reasons = images + rest, []
    memory = memory_budget(memory_gb, working if device.type == "cpu" else 0)
    kinds: tuple[Kind, ...] = ("device", "memory", "disk") if wanted == "auto" else (wanted,)
    for kind in kinds:
        if kind == "device" and device.type == "cuda":
            budgets = [(needed, gpu_budget(device, sparing=auto))]
        elif kind == "device" and auto:
            continue  # without a GPU that is main memory
        elif kind == "disk":
            budgets = [(rest, memory), (images, disk_budget(folder))]
        else:
            budgets = [(needed, memory)]
        reasons += [budget.why for _, budget in budgets if budget.why not in reasons]
        copies = 1 if kind == "device" and device.type == "cuda" else processes
        if all(size * copies <= budget.limit for size, budget in budgets):
            return StoragePlan(rows, needed, Storage(kind, device, folder), "; ".join(reasons))
    advice = "lower replay.capacity, train.env_steps or train.prefill, or use smaller images"
    each = f" in each of {processes} processes" * (processes > 1)
    raise MemoryError(
        f"replay: {rows:,} rows need {gigabytes(needed)}{each}, but {'; '.join(reasons)}: "
        + ("" if auto else f"choose another place than replay.storage={wanted}, or ")
        + ("" if memory_gb is None else "raise replay.memory_gb, or ")
        + advice
    )


def memory_budget(memory_gb: float | None, working: int = 0) -> Budget:
    available = max(0, available_memory() - working)
    free = max(0, available - RESERVE)
    if memory_gb is not None and memory_gb * 1e9 <= free:
        size = int(memory_gb * 1e9)
        return Budget(size, f"the budget is {gigabytes(size)} of memory")
    return Budget(free, f"{gigabytes(available)} of memory are available, of which {gigabytes(RESERVE)} stay reserved")


def disk_budget(folder: Path) -> Budget:
    """folder: need not be there yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    why = f"{gigabytes(free)} of disk are free, of which {gigabytes(RESERVE)} stay reserved"
    return Budget(max(0, free - RESERVE), why)


def gpu_budget(device: torch.device, sparing: bool) -> Budget:
    """sparing: no more than half of what is free."""
    free, _ = torch.cuda.mem_get_info(device)
    if sparing:
        return Budget(free // 2, f"{gigabytes(free)} of the GPU's memory are free, of which replay takes at most half")
    why = f"{gigabytes(free)} of the GPU's memory are free, of which {gigabytes(RESERVE)} stay reserved"
    return Budget(max(0, free - RESERVE), why)


def available_memory() -> int:
    """Bytes that this process may still take: the machine's, or if that is less its control group's, or its own limit
    (ulimit -v).
    """
    free = psutil.virtual_memory().available
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    if own != resource.RLIM_INFINITY:
        free = max(0, min(free, own - psutil.Process().memory_info().vms))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        of_files = re.search(r"^inactive_file (\d+)$", Path("/sys/fs/cgroup/memory.stat").read_text(), re.MULTILINE)
        used -= int(of_files[1]) if of_files else 0  # kept as long as nobody needs the memory
        return free if limit == "max" else max(0, min(free, int(limit) - used))
    except (OSError, ValueError):
        return free


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
