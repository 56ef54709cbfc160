"""Episodes, and the immutable files that hold them: chunks, named by the digest of what they hold. Never unpickled."""

import hashlib
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldmodel import files
from worldmodel.base import Spec
from worldmodel.replay.storage import row_bytes


class Episode(NamedTuple):
    """N actions and the N + 1 rows that they link (see worldmodel/base.py for what a row holds)."""

    image: np.ndarray  # (N + 1, C, Y, X) uint8
    action: np.ndarray  # (N + 1, A) float32, zero in row 0
    reward: np.ndarray  # (N + 1,) float32, zero in row 0
    terminal: np.ndarray  # (N + 1,) bool, only ever true in the last row

    def plain(self) -> "Episode":
        """With the types and the layout that are listed above: what is stored is then exactly what the digest is of."""
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
    """An episode, or a piece of one, as a checkpoint's manifest lists it."""

    digest: str
    rows: int
    stream: int = 0  # of replay
    continuation: bool = False  # begins amid an episode, after the stream's last rows


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
    """Read and verify one chunk. Sizes are checked before anything is unpacked; nothing is unpickled."""
    try:
        expected = chunk.rows * row_bytes(spec) + 4096
        with files.opened(path, expected) as file:
            with zipfile.ZipFile(file) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > expected:
                    raise ValueError(f"it would unpack to more than the {expected} bytes of {chunk.rows} rows")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                episode = Episode(*(arrays[name] for name in Episode._fields))
        if len(episode.reward) != chunk.rows or episode.image.shape[1:] != spec.image_shape:
            raise ValueError(f"its shape is {episode.image.shape}, not {(chunk.rows, *spec.image_shape)}")
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
