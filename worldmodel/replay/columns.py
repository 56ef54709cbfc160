"""Columns: one part of every row of replay, in a tensor or in a file. All give the same rows for the same indices."""

import math
import os
import shutil
import tempfile
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

THREADS = 2  # that read side by side: copying from the page cache takes CPU time
SLOW = 2e9  # bytes per second; the page cache gives several times as much, disks mostly less


class TensorColumn:
    """Rows in a tensor, in main memory or on a GPU. pinned: what is read can be copied to a GPU while it computes."""

    def __init__(
        self, rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, pinned: bool
    ) -> None:
        self.rows = torch.empty(rows, *shape, dtype=dtype, device=device)  # unwritten pages take no memory
        self.pinned = pinned

    def write(self, at: int, rows: np.ndarray) -> None:
        self.rows[at : at + len(rows)] = torch.from_numpy(rows)

    def read(self, at: Tensor) -> Tensor:
        """Copies of the rows `at` (N,), (N, ...), on the same device."""
        shape, like = (len(at), *self.rows.shape[1:]), self.rows
        out = torch.empty(shape, dtype=like.dtype, device=like.device, pin_memory=self.pinned)
        return torch.index_select(like, 0, at, out=out)


class FileColumn:
    """Rows of bytes in a file without a name: the system deletes it when the process ends, however it ends.

    Read by preadv, not mapped: as fast when the system still has the file in its cache, and far faster when it has not
    (docs/log.md; benchmarks/replay.py measures it as it is now). What was read never counts as this process's memory,
    and a disk that is full or damaged is an error that can be caught, not a signal that ends the process.
    """

    def __init__(self, shape: tuple[int, ...], folder: Path, pinned: bool) -> None:
        self.shape, self.size, self.pinned = shape, math.prod(shape), pinned
        self.folder, self.cold = folder, False
        with tempfile.TemporaryFile(buffering=0, dir=folder) as file:  # has no name, or loses it at once
            self.file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.file)
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="replay")

    def write(self, at: int, rows: np.ndarray) -> None:
        content, place = np.ascontiguousarray(rows).data.cast("B"), at * self.size
        try:
            while content:
                written = os.pwrite(self.file, content, place)
                content, place = content[written:], place + written
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                error.errno,
                f"replay's file was not written, {error.strerror}: {free:,} bytes of disk are free; "
                "the last checkpoint is untouched",
            ) from error

    def read(self, at: Tensor) -> Tensor:
        """Copies of the rows `at` (N,), (N, ...), in memory of their own: a batch in use is never overwritten."""
        out = torch.empty(len(at), *self.shape, dtype=torch.uint8, pin_memory=self.pinned)
        rows, content = at.numpy(), out.numpy().data.cast("B")
        begins = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of runs of neighbours, which are read at once
        runs = list(zip(begins.tolist(), [*begins[1:].tolist(), len(rows)], (rows[begins] * self.size).tolist()))
        began = time.perf_counter()
        if self.cold and hasattr(os, "posix_fadvise"):
            # The disk may fetch all runs together, in half the time; from the page cache it would only cost.
            for begin, end, place in runs:
                os.posix_fadvise(self.file, place, (end - begin) * self.size, os.POSIX_FADV_WILLNEED)

        def fill(some: list[tuple[int, int, int]]) -> None:
            for begin, end, place in some:
                self.fill(content[begin * self.size : end * self.size], place)

        list(self.threads.map(fill, [runs[first::THREADS] for first in range(THREADS)]))
        self.cold = time.perf_counter() - began > len(content) / SLOW
        return out

    def fill(self, content: memoryview, place: int) -> None:
        """Read bytes from a place in the file."""
        while content:
            count = os.preadv(self.file, [content], place)
            if not count:
                raise OSError(f"replay's file ends before byte {place:,}: was it cut?")
            content, place = content[count:], place + count


Column: TypeAlias = TensorColumn | FileColumn
