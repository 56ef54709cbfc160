"""Episodes, and the immutable files that hold them: chunks, named by the digest of what they hold. Never unpickled."""

import dataclasses
import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldmodel import files
from worldmodel.base import Spec
from worldmodel.replay.npz import NpzArrays
from worldmodel.replay.storage import available_memory, row_bytes

TYPES = (np.uint8, np.float32, np.float32, np.bool_)  # of an episode's arrays
ROUNDING = 1e-5  # beyond 1 that an action may be


class Episode(NamedTuple):
    """N actions and the N + 1 rows that they link (see worldmodel/base.py for what a row holds)."""

    image: np.ndarray  # (N + 1, C, Y, X) uint8
    action: np.ndarray  # (N + 1, A) float32, zero in row 0
    reward: np.ndarray  # (N + 1,) float32, zero in row 0
    terminal: np.ndarray  # (N + 1,) bool, only ever true in the last row

    def plain(self) -> "Episode":
        """With the types and the layout that are listed above: what is stored is then exactly what the digest is of."""
        return Episode(*(np.ascontiguousarray(array, kind) for array, kind in zip(self, TYPES, strict=True)))

    def begun(self) -> "Episode":
        """The same rows, as those of an episode that begins with the first of them."""
        action, reward = self.action.copy(), self.reward.copy()
        action[0], reward[0] = 0, 0
        return self._replace(action=action, reward=reward)

    def digest(self) -> str:
        """SHA-256 of the content: names, types, shapes and bytes."""
        sha = hashlib.sha256()
        for name, array in zip(self._fields, self, strict=True):
            sha.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


class Chunk(NamedTuple):
    """An episode, or a piece of one, as a checkpoint's manifest lists it."""

    digest: str
    rows: int
    stream: int = 0  # of replay
    continuation: bool = False  # begins amid an episode, after the stream's last rows


@dataclasses.dataclass
class Piece:
    """Rows of one episode that go into one chunk, counted since the start of the run."""

    stream: int
    begin: int
    end: int
    continuation: bool  # begins amid an episode
    digest: str | None = None  # once it is on disk; nothing is added to it then

    @property
    def chunk(self) -> Chunk:
        return Chunk(str(self.digest), self.end - self.begin, self.stream, self.continuation)


def by_episode(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """The chunks of each episode that has an action, in the order in which episodes begin. One of which the first rows
    were evicted begins with what is left.
    """
    found: list[list[Chunk]] = []
    open_ones: dict[int, list[Chunk]] = {}  # by stream
    for chunk in chunks:
        if not chunk.continuation or chunk.stream not in open_ones:
            open_ones[chunk.stream] = []
            found.append(open_ones[chunk.stream])
        open_ones[chunk.stream].append(chunk)
    return [pieces for pieces in found if sum(chunk.rows for chunk in pieces) > 1]


def joined(pieces: Sequence[Episode]) -> Episode:
    """One episode of pieces that follow on each other."""
    return Episode(*(np.concatenate(parts) for parts in zip(*pieces, strict=True))).begun()


class DamagedChunk(OSError):
    """A replay chunk that is missing or is not what its digest says."""


def write_chunk(path: Path, episode: Episode) -> None:
    """Atomic: half a chunk never has its final name. One that is there already, perhaps damaged, is replaced."""
    try:
        with files.replacing(path) as file:
            np.savez_compressed(file, **episode._asdict())
    except OSError as error:
        size, free = sum(array.nbytes for array in episode), shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"a replay chunk of up to {size:,} bytes was not saved, {error.strerror}: {free:,} bytes are free; "
            "the previous checkpoint is untouched",
            str(path),
        ) from error


def read_chunk(path: Path, chunk: Chunk, spec: Spec) -> Episode:
    """Read and verify one chunk: what it would unpack to before it is, and what it holds as strictly as recorded
    episodes, for whoever made the manifest may have made this, too. Nothing is unpickled. Errors: DamagedChunk;
    MemoryError, if it is what the manifest says, and too large to be read here and now.
    """
    try:
        wanted, expected = layout(chunk.rows, spec), chunk.rows * row_bytes(spec) + 4096
        limit = available_memory() // 2
        most = expected + expected // 1000  # what cannot be compressed grows a little
        with files.opened(path, most) as file, zipfile.ZipFile(file) as archive:
            arrays = NpzArrays(archive)
            for name, (shape, kind) in wanted.items():
                found = arrays.header(name)
                if found != (shape, kind):
                    raise ValueError(f"'{name}' is {found[1]} {found[0]}, not {kind} {shape}")
            if expected > limit:
                raise MemoryError(
                    f"memory: replay chunk {path} has {chunk.rows:,} rows, {expected:,} bytes; {limit:,} are half of "
                    "what is free"
                )
            episode = Episode(*(arrays.load(name, limit) for name in Episode._fields))
        if episode.digest() != chunk.digest:
            raise ValueError("its content does not match its digest")
        check_rows(episode, spec, chunk.continuation)
    except MemoryError:
        raise
    except Exception as error:  # zipfile and numpy raise nearly anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedChunk(f"replay chunk {path.name} is damaged or missing: {reason}") from error
    return episode


def layout(rows: int, spec: Spec) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shapes and types of an episode's arrays."""
    shapes = ((rows, *spec.image_shape), (rows, spec.action_dim), (rows,), (rows,))
    return {name: (shape, np.dtype(kind)) for name, shape, kind in zip(Episode._fields, shapes, TYPES, strict=True)}


def check_rows(episode: Episode, spec: Spec, continuation: bool) -> None:
    """Errors: ValueError, for rows that no environment gives. continuation: they begin amid an episode."""
    if not np.isfinite(episode.reward).all():
        raise ValueError("'reward' is not finite somewhere")
    if not np.abs(episode.action).max(initial=0) <= 1 + ROUNDING:  # NaN is not
        raise ValueError("'action' is not in [-1, 1] somewhere")
    if episode.terminal[:-1].any():
        raise ValueError("'terminal' is true before the last row")
    if not continuation and (episode.action[0].any() or episode.reward[0]):
        raise ValueError("it begins an episode, but its first row has an action or a reward")
    acted = episode.action if continuation else episode.action[1:]
    if spec.discrete and not (np.isin(acted, (0, 1)).all() and (acted.sum(1) == 1).all()):
        raise ValueError("actions are discrete, but 'action' is not one-hot somewhere")
