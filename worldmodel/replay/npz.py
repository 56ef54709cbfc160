"""Arrays of .npz files that may be damaged or hostile: sizes are checked before they are unpacked. Never unpickled."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from worldmodel import files


class RecordedError(ValueError):
    """Recorded files that cannot be learned from. Says which, why, and what to do."""


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Damaged or hostile files make zipfile and numpy raise nearly anything; here it becomes RecordedError."""
    try:
        with files.opened(path, follow=True) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except RecordedError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RecordedError(f"damaged, or no .npz file ({reason}): copy or record it again") from error


def header(archive: zipfile.ZipFile, name: str, limit: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, sure to be no more than what is there, and no more than `limit` bytes."""
    if f"{name}.npy" not in archive.namelist():
        raise RecordedError(f"it has no array '{name}': image, action, reward and terminal are needed")
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > limit:  # zipfile unpacks no more than an entry's file_size, whatever is compressed there
        much = f"{entry.file_size:,} bytes; {limit:,} are allowed, by the memory that is free"
        raise RecordedError(f"'{name}' would unpack to {much}: split it into several files")
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, kind = np.lib.format.read_array_header_2_0(file)
        size = entry.file_size - file.tell()
    if kind.hasobject:
        why = "never loaded, since unpickling can run code. Save numbers; rows of unequal lengths are a common cause"
        raise RecordedError(f"'{name}' holds Python objects (dtype object), which are {why}")
    if kind.kind not in "biuf":
        raise RecordedError(f"'{name}' is {kind}: save it as numbers")
    if math.prod(shape) * kind.itemsize != size:
        raise RecordedError(f"damaged: '{name}' says that it is {kind} {shape}, but has {size:,} bytes")
    return shape, kind


def load(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """An array, once its header is found good."""
    header(archive, name, limit)
    with archive.open(f"{name}.npy") as file:
        return np.load(file, allow_pickle=False)
