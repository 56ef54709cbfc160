"""Replay: whole uint8 episodes in, uniformly drawn sequences out; on disk as immutable chunks named by their digest.

Episodes lie one after the other in a ring of rows. A sequence is any `length` rows in a row of that ring, so every
row, the last ones of an episode included (T33), is drawn equally often, and short episodes simply follow each other:
`first` marks where the model must forget. When the ring is full the oldest whole episodes make room.
"""

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from pydantic import Field, model_validator

from worldmodel.base import Batch, Spec
from worldmodel.config import Section

RESERVE = 1 << 30  # bytes left to the model, the libraries and the rest of the machine when memory is planned


class Config(Section):
    batch: int = Field(ge=1)  # sequences in a batch
    length: int = Field(ge=2)  # rows in a sequence
    capacity: int = Field(ge=2)  # rows kept; older episodes are evicted

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.length > self.capacity:
            raise ValueError(f"length is {self.length} but capacity only {self.capacity} rows: raise capacity")
        return self


class Episode(NamedTuple):
    """N actions and the N + 1 rows that they link (see worldmodel/base.py for what a row holds)."""

    image: np.ndarray  # (N + 1, C, Y, X) uint8
    action: np.ndarray  # (N + 1, A) float32, zero in row 0
    reward: np.ndarray  # (N + 1,) float32, zero in row 0
    terminal: np.ndarray  # (N + 1,) bool, only ever true in the last row

    def digest(self) -> str:
        """SHA-256 of the content: names, types, shapes and bytes."""
        sha = hashlib.sha256()
        for name, array in zip(self._fields, self, strict=True):
            sha.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


class Chunk(NamedTuple):
    """An episode as a checkpoint's manifest lists it."""

    digest: str
    rows: int


class DamagedChunk(OSError):
    """A replay chunk that is missing or is not what its digest says."""


class Replay:
    def __init__(self, config: Config, spec: Spec, rows: int | None = None) -> None:
        """rows: how many the run can fill at most, if that is known; less than `capacity` saves address space."""
        self.config, self.spec = config, spec
        self.capacity = max(config.length, min(config.capacity, rows or config.capacity))
        self.image = torch.empty(self.capacity, *spec.image, dtype=torch.uint8)  # untouched pages take no memory
        self.action = torch.empty(self.capacity, spec.action)
        self.reward = torch.empty(self.capacity)
        self.first = torch.empty(self.capacity, dtype=torch.bool)
        self.terminal = torch.empty(self.capacity, dtype=torch.bool)
        self.begin = self.end = 0  # live rows, counted since the start of the run; row r lies at r % capacity
        self.chunks: deque[Chunk] = deque()  # the live episodes, oldest first
        self.unsaved: dict[str, Episode] = {}  # by digest, until save()

    def __len__(self) -> int:
        return self.end - self.begin

    def add(self, episode: Episode) -> None:
        rows = len(episode.reward)
        if rows > self.capacity:
            raise ValueError(
                f"an episode of {rows} rows does not fit: replay.capacity is {self.capacity} rows; raise it"
            )
        while len(self) + rows > self.capacity:
            old = self.chunks.popleft()
            if old not in self.chunks:  # the same episode may have happened twice
                self.unsaved.pop(old.digest, None)
            self.begin += old.rows
        at = torch.arange(self.end, self.end + rows) % self.capacity
        self.image[at] = torch.from_numpy(episode.image)
        self.action[at] = torch.from_numpy(episode.action)
        self.reward[at] = torch.from_numpy(episode.reward)
        self.terminal[at] = torch.from_numpy(episode.terminal)
        self.first[at] = torch.arange(rows) == 0
        self.end += rows
        chunk = Chunk(episode.digest(), rows)
        self.chunks.append(chunk)
        self.unsaved[chunk.digest] = episode

    def sample(self, rng: np.random.Generator, batch: int | None = None, length: int | None = None) -> Batch:
        """Sequences that start at uniformly drawn rows. With fewer rows than `length` the ring is run around."""
        start = torch.from_numpy(rng.integers(len(self), size=batch or self.config.batch))
        rows = (start[:, None] + torch.arange(length or self.config.length)) % len(self)  # (B, T)
        at = ((self.begin + rows) % self.capacity).flatten()
        return Batch(
            self.image.index_select(0, at).view(*rows.shape, *self.spec.image),
            self.action[at].view(*rows.shape, -1),
            self.reward[at].view(rows.shape),
            self.first[at].view(rows.shape),  # the oldest live row, which follows the newest, is a first one too
            self.terminal[at].view(rows.shape),
        )

    def digest(self) -> str:
        """SHA-256 over the live episodes, in order."""
        return hashlib.sha256(json.dumps([list(chunk) for chunk in self.chunks]).encode()).hexdigest()

    # ---- on disk ----

    def save(self, folder: Path) -> list[Chunk]:
        """Write the episodes that are not on disk yet; return the list that belongs into the manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        for digest, episode in self.unsaved.items():
            write_chunk(folder / f"{digest}.npz", episode)
        self.unsaved.clear()
        return list(self.chunks)

    def load(self, folder: Path, chunks: list[Chunk], skip: Callable[[str], Any] | None = None) -> None:
        """Fill an empty replay with a manifest's episodes. Damaged ones raise, or are left out and told to `skip`."""
        for chunk in chunks:
            try:
                self.add(read_chunk(folder / f"{chunk.digest}.npz", chunk, self.spec))
                self.unsaved.clear()  # at once: it would hold everything a second time
            except DamagedChunk as error:
                if skip is None:
                    raise
                skip(f"left out: {error}")


def write_chunk(path: Path, episode: Episode) -> None:
    """Atomic: half a chunk never has its final name. One that is there already, perhaps damaged, is replaced."""
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **episode._asdict())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        size, free = sum(array.nbytes for array in episode), shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"a replay chunk of up to {size:,} bytes was not saved, {error.strerror}: {free:,} bytes are free; "
            "the previous checkpoint is untouched",
            str(path),
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_chunk(path: Path, chunk: Chunk, spec: Spec) -> Episode:
    """Read and verify one chunk. Sizes are checked before anything is unpacked; nothing is unpickled."""
    try:
        expected = chunk.rows * row_bytes(spec) + 4096
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > expected:
                raise ValueError(f"it would unpack to more than the {expected} bytes of {chunk.rows} rows")
        with np.load(path, allow_pickle=False) as arrays:
            episode = Episode(*(arrays[name] for name in Episode._fields))
        if len(episode.reward) != chunk.rows or episode.image.shape[1:] != spec.image:
            raise ValueError(f"its shape is {episode.image.shape}, not {(chunk.rows, *spec.image)}")
        if episode.digest() != chunk.digest:
            raise ValueError("its content does not match its digest")
    except (
        OSError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        EOFError,
        RuntimeError,
        NotImplementedError,
        MemoryError,
        zlib.error,
    ) as error:
        raise DamagedChunk(f"replay chunk {path.name} is damaged or missing: {error}") from error
    return episode


# ---- memory ----


def row_bytes(spec: Spec) -> int:
    """Bytes of one row: image, action, reward, first, terminal."""
    c, y, x = spec.image
    return c * y * x + 4 * spec.action + 4 + 2


class Memory(NamedTuple):
    """What replay will take, and what the machine has, in bytes."""

    rows: int
    needed: int
    available: int

    def __str__(self) -> str:
        return (
            f"replay: at most {self.rows:,} rows, {self.needed / 1e9:.2f} GB of memory; "
            f"available {self.available / 1e9:.2f} GB, of which {RESERVE / 1e9:.2f} GB stay reserved"
        )

    @property
    def enough(self) -> bool:
        return self.needed + RESERVE <= self.available


def available_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's if that is less."""
    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return free if limit == "max" else min(free, int(limit) - used)
    except (OSError, ValueError):
        return free


def plan_memory(config: Config, spec: Spec, rows: int) -> Memory:
    """The memory that `rows` rows take, no more than the capacity."""
    rows = min(rows, config.capacity)
    return Memory(rows, rows * row_bytes(spec), available_memory())
