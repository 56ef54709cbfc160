"""Replay: whole uint8 episodes in, uniformly drawn sequences out; on disk as immutable chunks named by their digest.

Episodes lie one after the other in a ring of rows. A sequence is any `length` rows in a row of that ring, so every
row, the last ones of an episode included (T33), is drawn equally often, and short episodes simply follow each other:
`first` marks where the model must forget. When the ring is full the oldest whole episodes make room. Where the rows
lie, in memory, in a file or on a GPU, is the business of worldmodel/storage.py.
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
import torch
from pydantic import Field, model_validator

from worldmodel import storage
from worldmodel.base import Batch, Spec
from worldmodel.config import Section
from worldmodel.storage import IN_MEMORY, Place, row_bytes


class Config(Section):
    batch: int = Field(ge=1)  # sequences in a batch
    length: int = Field(ge=2)  # rows in a sequence
    capacity: int = Field(ge=2)  # rows kept; older episodes are evicted

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.length > self.capacity:
            raise ValueError(f"length is {self.length} but capacity only {self.capacity} rows: raise capacity")
        return self


class Settings(Config, storage.Config):
    """The section `replay`: what it holds, and where."""


class Episode(NamedTuple):
    """N actions and the N + 1 rows that they link (see worldmodel/base.py for what a row holds)."""

    image: np.ndarray  # (N + 1, C, Y, X) uint8
    action: np.ndarray  # (N + 1, A) float32, zero in row 0
    reward: np.ndarray  # (N + 1,) float32, zero in row 0
    terminal: np.ndarray  # (N + 1,) bool, only ever true in the last row

    def plain(self) -> "Episode":
        """With the types and the layout that are promised above: what is kept is then exactly what has the digest."""
        types = (np.uint8, np.float32, np.float32, np.bool_)
        return Episode(*(np.ascontiguousarray(array, kind) for array, kind in zip(self, types, strict=True)))

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
    def __init__(self, config: Config, spec: Spec, rows: int | None = None, place: Place = IN_MEMORY) -> None:
        """rows: how many the run can fill at most, if that is known; less than `capacity` saves address space."""
        self.config, self.spec, self.place = config, spec, place
        self.capacity = max(config.length, min(config.capacity, rows or config.capacity))
        self.image = place.images(self.capacity, spec.image)
        self.action = place.column(self.capacity, (spec.action,))
        self.reward = place.column(self.capacity)
        self.first = place.column(self.capacity, dtype=torch.bool)
        self.terminal = place.column(self.capacity, dtype=torch.bool)
        self.clear()

    def clear(self) -> None:
        self.begin = self.end = 0  # live rows, counted since the start of the run; row r lies at r % capacity
        self.chunks: deque[Chunk] = deque()  # the live episodes, oldest first
        self.unsaved: dict[str, range] = {}  # by digest: an episode's rows, until save()

    def __len__(self) -> int:
        return self.end - self.begin

    def add(self, episode: Episode) -> None:
        """Errors: ValueError, if it can never fit; OSError, if the disk is full."""
        episode = episode.plain()
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
        at = self.end % self.capacity
        head = self.capacity - at  # rows before the ring's end
        columns = (self.image, self.action, self.reward, self.terminal, self.first)
        for column, values in zip(columns, (*episode, np.arange(rows) == 0), strict=True):
            column.write(at, values[:head])
            if rows > head:
                column.write(0, values[head:])
        chunk = Chunk(episode.digest(), rows)
        self.chunks.append(chunk)
        self.unsaved[chunk.digest] = range(self.end, self.end + rows)
        self.end += rows

    def sample(self, rng: np.random.Generator, batch: int | None = None, length: int | None = None) -> Batch:
        """Sequences that start at uniformly drawn rows. With fewer rows than `length` the ring is run around. The batch
        is new memory, on the device where the rows lie; pinned, if it is to be copied to another one.
        """
        drawn = torch.from_numpy(rng.integers(len(self), size=batch or self.config.batch))
        start = drawn.to(self.place.home, non_blocking=True)  # a GPU need not end what it is doing for that
        steps = torch.arange(length or self.config.length, device=self.place.home)
        rows = (start[:, None] + steps) % len(self)  # (B, T)
        at = ((self.begin + rows) % self.capacity).flatten()
        # The oldest live row, which follows the newest, is a first one too.
        columns = (self.image, self.action, self.reward, self.first, self.terminal)
        return Batch(*(column.read(at).unflatten(0, rows.shape) for column in columns))

    def digest(self) -> str:
        """SHA-256 over the live episodes, in order."""
        return hashlib.sha256(json.dumps([list(chunk) for chunk in self.chunks]).encode()).hexdigest()

    def episode(self, rows: range) -> Episode:
        """A copy of a live episode, by its rows."""
        at = (torch.arange(rows.start, rows.stop) % self.capacity).to(self.place.home)
        columns = (self.image, self.action, self.reward, self.terminal)
        return Episode(*(column.read(at).cpu().numpy() for column in columns))

    # ---- on disk ----

    def save(self, folder: Path) -> list[Chunk]:
        """Write the episodes that are not on disk yet; return the list that belongs into the manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        for digest, rows in self.unsaved.items():
            write_chunk(folder / f"{digest}.npz", self.episode(rows))
        self.unsaved.clear()
        return list(self.chunks)

    def load(self, folder: Path, chunks: list[Chunk], skip: Callable[[str], Any] | None = None) -> None:
        """Fill an empty replay with a manifest's episodes. Damaged ones raise, or are left out and told to `skip`."""
        for chunk in chunks:
            try:
                self.add(read_chunk(folder / f"{chunk.digest}.npz", chunk, self.spec))
                self.unsaved.clear()
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
