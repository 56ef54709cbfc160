"""Replay: uint8 episodes in, uniformly drawn sequences out; on disk as immutable chunks named by their digest.

Rows lie in rings, one for each stream: whole episodes share one stream, environments that are learned from while their
episodes go on have one each. A sequence is any `length` rows in a row of a ring, so every row, the last ones of an
episode included (trap 33), is drawn equally often, and episodes simply follow each other: `first` marks where the model
must forget. When a ring is full its oldest chunk makes room. Where the rows lie, in memory, in a file or on a GPU, is
decided in storage.py.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from worldmodel import files
from worldmodel.base import Batch, Spec, State, StrictConfig
from worldmodel.replay.context import StoredStates
from worldmodel.replay.episodes import Chunk, DamagedChunk, Episode, Piece, read_chunk, write_chunk
from worldmodel.replay.storage import IN_MEMORY, Storage

LONGEST_CHUNK = 1024  # rows of an episode that are saved together, if it is added in pieces


class ReplayConfig(StrictConfig):
    """The section `replay`: what is drawn, what is kept, and where."""

    batch_size: int = Field(ge=1, le=65536)  # sequences in a batch
    batch_length: int = Field(ge=2, le=65536)  # rows in a sequence
    capacity: int = Field(ge=2, le=10**10)  # rows kept; older ones are evicted
    context: bool  # keep the model's states, so that sequences begin in that in which they were left
    storage: Literal["auto", "memory", "disk", "device"]
    memory_gb: float | None = Field(gt=0, le=1e6)  # of main memory, at most; None: all that is there, less the reserve

    @model_validator(mode="after")
    def agree(self) -> "ReplayConfig":
        if self.batch_length > self.capacity:
            raise ValueError(
                f"batch_length is {self.batch_length} but capacity only {self.capacity} rows: raise capacity"
            )
        return self


class Replay:
    def __init__(
        self,
        config: ReplayConfig,
        spec: Spec,
        rows: int | None = None,
        storage: Storage = IN_MEMORY,
        streams: int = 1,
        by_rows: bool = False,
    ) -> None:
        """rows: how many the run can fill at most, if that is known; less than `capacity` saves address space."""
        self.config, self.spec, self.storage = config, spec, storage
        self.capacity = max(config.batch_length, min(config.capacity, rows or config.capacity))
        self.ring = -(-self.capacity // streams)  # rows of each stream
        self.image = storage.images(self.ring * streams, spec.image_shape)
        self.action = storage.column(self.ring * streams, (spec.action_dim,))
        self.reward = storage.column(self.ring * streams)
        self.first = storage.column(self.ring * streams, dtype=torch.bool)
        self.terminal = storage.column(self.ring * streams, dtype=torch.bool)
        self.streams, self.by_rows = streams, by_rows
        self.states: StoredStates | None = None
        self.added: Callable[[Episode, int, bool], Any] | None = None  # is told what add() is given
        self.clear()

    def keep_states(self, example: State) -> None:
        """From now on batches know the states in which their sequences were left; example: of one row, (1, ...)."""
        self.states = StoredStates(self.streams, self.ring, example)

    def clear(self) -> None:
        # Live rows of each stream, counted since the start of the run; row r of stream s lies at s * ring + r % ring.
        self.begin, self.end = np.zeros(self.streams, np.int64), np.zeros(self.streams, np.int64)
        self.pieces: deque[Piece] = deque()  # the live ones, oldest first
        self.torn: set[int] = set()  # streams whose last chunk was damaged, and left out

    def __len__(self) -> int:
        return int((self.end - self.begin).sum())

    def add(self, episode: Episode, stream: int = 0, continuation: bool = False) -> None:
        """Add an episode, or rows of one; `continuation`: they follow on the last ones of the same stream. Errors:
        ValueError, if they can never fit; OSError, if the disk is full.
        """
        episode = episode.plain()
        if continuation and stream in self.torn:  # those are not there: it begins anew
            episode, continuation = episode.begun(), False
        self.torn.discard(stream)
        rows = len(episode.reward)
        last = next((piece for piece in reversed(self.pieces) if piece.stream == stream), None)
        grows = continuation and last is not None and last.digest is None
        if not (grows and last and last.end - last.begin + rows <= min(LONGEST_CHUNK, self.ring // 2)):
            last = Piece(stream, int(self.end[stream]), int(self.end[stream]), continuation)
        if rows > self.ring:
            raise ValueError(
                f"an episode of {rows} rows does not fit: replay.capacity is {self.ring} rows"
                f"{' for each environment' if self.streams > 1 else ''}; raise it"
            )
        while self.end[stream] - self.begin[stream] + rows > self.ring:
            self.evict(stream, int(self.end[stream]) + rows - self.ring)
        at, offset = int(self.end[stream]) % self.ring, stream * self.ring
        head = self.ring - at  # rows before the ring's end
        first = (np.arange(rows) == 0) & (not continuation)
        columns = (self.image, self.action, self.reward, self.terminal, self.first)
        for column, values in zip(columns, (*episode, first), strict=True):
            column.write(offset + at, values[:head])
            if rows > head:
                column.write(offset, values[head:])
        if self.states:
            self.states.forget(stream, at, rows)
        self.end[stream] += rows
        if last.begin == last.end:
            self.pieces.append(last)
        last.end += rows
        self.mark_oldest(stream)
        if self.added:
            self.added(episode, stream, continuation)

    def evict(self, stream: int, needed: int) -> None:
        """The oldest episode of a stream makes room; if rows come in pieces, only the rows before `needed`, so that it
        does not matter where saves have cut.
        """
        old = next(piece for piece in self.pieces if piece.stream == stream)
        if not self.by_rows or old.end <= needed:
            self.pieces.remove(old)
            self.begin[stream] = old.end
            return
        self.begin[stream] = needed
        if old.digest is None:
            old.begin, old.continuation = needed, True

    def mark_oldest(self, stream: int) -> None:
        """The oldest live row, which follows the newest in the ring, is a first one, whatever was before it."""
        oldest = stream * self.ring + int(self.begin[stream]) % self.ring
        self.first.write(oldest, np.array([True]))

    def sample(
        self,
        rng: np.random.Generator,
        batch_size: int | None = None,
        length: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Batch:
        """Sequences that start at uniformly drawn rows. With fewer rows than `length` the ring repeats. The batch
        is new memory, on the device where the rows lie; pinned, if it is to be copied to another one. share: (r, R),
        the r-th of R equal parts of the batch, in order.
        """
        drawn = rng.integers(len(self), size=batch_size or self.config.batch_size)
        drawn = drawn.reshape(share[1], -1)[share[0]]
        live = self.end - self.begin
        stream = np.searchsorted(live.cumsum(), drawn, side="right")  # (B,)
        start = (drawn - (live.cumsum() - live)[stream])[:, None]  # (B, 1)
        rows = (start + np.arange(length or self.config.batch_length)) % live[stream, None]  # (B, T)
        place = stream[:, None] * self.ring + (self.begin[stream, None] + rows) % self.ring
        at = torch.from_numpy(place.ravel()).to(self.storage.device, non_blocking=True)  # does not wait for the GPU
        columns = (self.image, self.action, self.reward, self.first, self.terminal)
        batch = Batch(*(column.read(at).unflatten(0, rows.shape) for column in columns))
        ids = {"row": torch.from_numpy(self.begin[stream, None] + rows), "stream": torch.from_numpy(stream)}
        return batch._replace(extras=ids) if self.states else batch

    # ---- replay context ----

    def with_context(self, batch: Batch) -> Batch:
        """The batch with the states before its first rows, as they are now."""
        return self.states.added_to(batch, self.begin) if self.states else batch

    def write_context(self, batch: Batch, states: State) -> None:
        """The states (B, T, ...) that were computed of a drawn batch."""
        if self.states:
            self.states.take(batch, states, self.begin)

    def live_rows(self) -> np.ndarray:
        """The places of all live rows, the oldest of each stream first."""
        rows = [s * self.ring + np.arange(self.begin[s], self.end[s]) % self.ring for s in range(self.streams)]
        return np.concatenate(rows)

    def context(self) -> dict[str, Tensor]:
        """The states of all live rows, for a checkpoint."""
        return self.states.tensors(self.live_rows()) if self.states else {}

    def restore_context(self, tensors: Mapping[str, Tensor]) -> bool:
        """The reverse, when the rows are there. False, if these are states of other rows: all are unknown then."""
        return self.states is None or self.states.restore(self.live_rows(), tensors)

    def digest(self) -> str:
        """SHA-256 over the live episodes, in order."""
        chunks = [piece.digest or self.rows(piece).digest() for piece in self.pieces]
        return hashlib.sha256(json.dumps(chunks).encode()).hexdigest()

    def rows(self, piece: Piece) -> Episode:
        """A copy of a piece's rows."""
        at = torch.from_numpy(piece.stream * self.ring + np.arange(piece.begin, piece.end) % self.ring)
        columns = (self.image, self.action, self.reward, self.terminal)
        return Episode(*(column.read(at.to(self.storage.device)).cpu().numpy() for column in columns))

    # ---- on disk ----

    def save(self, folder: Path) -> list[Chunk]:
        """Write what is not on disk yet; return the list that belongs into the manifest."""
        files.make_folder(folder)
        for piece in self.pieces:
            if piece.digest is None:
                episode = self.rows(piece)
                digest = episode.digest()
                write_chunk(folder / f"{digest}.npz", episode)
                piece.digest = digest
        return [piece.chunk for piece in self.pieces]

    def load(self, folder: Path, chunks: Sequence[Chunk], skip: Callable[[str], Any] | None = None) -> None:
        """Fill an empty replay with a manifest's episodes. Damaged ones raise, or are left out and told to `skip`; what
        continues one of these begins anew.
        """
        ended: set[int] = set()  # streams whose last row is a real end
        anew: list[Piece] = []
        for chunk in chunks:
            try:
                episode = self.read(folder, chunk, chunk.stream in ended)
            except DamagedChunk as error:
                if skip is None:
                    raise
                skip(f"left out: {error}")
                self.torn.add(chunk.stream)
                continue
            begins = chunk.continuation and chunk.stream in self.torn
            self.add(episode, chunk.stream, chunk.continuation)
            self.pieces[-1].digest = "" if begins else chunk.digest
            anew += [self.pieces[-1]] * begins
            (ended.add if episode.terminal[-1] else ended.discard)(chunk.stream)
        for piece in anew:  # to be saved; until now nothing could be added to them
            piece.digest = None

    def read(self, folder: Path, chunk: Chunk, ended: bool) -> Episode:
        """A chunk that has its place here. ended: the last row of its stream is a real end. Errors: DamagedChunk."""
        name = f"replay chunk {chunk.digest}"
        if chunk.stream >= self.streams:
            raise DamagedChunk(f"{name} is of stream {chunk.stream} of {self.streams}")
        if chunk.rows > self.ring:
            raise DamagedChunk(f"{name} has {chunk.rows:,} rows; there is room for {self.ring:,}")
        if chunk.continuation and ended:
            raise DamagedChunk(f"{name} goes on with an episode that has ended")
        return read_chunk(folder / f"{chunk.digest}.npz", chunk, self.spec)
