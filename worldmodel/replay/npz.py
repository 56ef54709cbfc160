"""Arrays of .npz files that may be damaged or hostile: sizes are checked before they are unpacked. Never unpickled."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from worldmodel import files


class RecordedError(ValueError):
    """Recorded files that cannot be learned from. Says which, why, and what to do."""


class Rows(Protocol):
    """Reads an array's rows one after the other."""

    def read(self, count: int) -> np.ndarray: ...

    def close(self) -> None: ...


class Arrays(Protocol):
    """An open file of named arrays: .npz here, HDF5 in hdf5.py."""

    names: list[str]

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of an array, sure to be no more than what is there. Errors: RecordedError."""

    def load(self, name: str, limit: int) -> np.ndarray:
        """A whole array, of at most `limit` bytes. Errors: RecordedError."""

    def rows(self, name: str, limit: int) -> Rows: ...


def too_large(name: str, size: int, limit: int) -> RecordedError:
    much = f"{size:,} bytes; {limit:,} are allowed, by the memory that is free"
    return RecordedError(f"'{name}' would unpack to {much}: split it into several files")


def check_kind(name: str, kind: np.dtype) -> None:
    if kind.hasobject:
        why = "never loaded, since unpickling can run code. Save numbers; rows of unequal lengths are a common cause"
        raise RecordedError(f"'{name}' holds Python objects (dtype object), which are {why}")
    if kind.kind not in "biuf":
        raise RecordedError(f"'{name}' is {kind}: save it as numbers")


@contextmanager
def opened(path: Path) -> Iterator["NpzArrays"]:
    """Damaged or hostile files make zipfile and numpy raise nearly anything; here it becomes RecordedError."""
    try:
        with files.opened(path, follow=True) as file, zipfile.ZipFile(file) as archive:
            yield NpzArrays(archive)
    except RecordedError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RecordedError(f"damaged, or no .npz file ({reason}): copy or record it again") from error


class NpzArrays:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        if name not in self.names:
            raise RecordedError(f"it has no array '{name}'")
        with self.archive.open(f"{name}.npy") as file:
            return self.read_header(name, file)[:2]

    def read_header(self, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool]:
        """Shape, type, and whether the first axis runs fastest."""
        if np.lib.format.read_magic(file) == (1, 0):
            shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, kind = np.lib.format.read_array_header_2_0(file)
        # zipfile unpacks no more than an entry's file_size, whatever is compressed there
        size = self.archive.getinfo(f"{name}.npy").file_size - file.tell()
        check_kind(name, kind)
        if math.prod(shape) * kind.itemsize != size:
            raise RecordedError(f"damaged: '{name}' says that it is {kind} {shape}, but has {size:,} bytes")
        return shape, kind, fortran

    def load(self, name: str, limit: int) -> np.ndarray:
        shape, kind = self.header(name)
        if math.prod(shape) * kind.itemsize > limit:
            raise too_large(name, math.prod(shape) * kind.itemsize, limit)
        with self.archive.open(f"{name}.npy") as file:
            return np.load(file, allow_pickle=False)

    def rows(self, name: str, limit: int) -> Rows:
        file = self.archive.open(f"{name}.npy")
        shape, kind, fortran = self.read_header(name, file)
        if fortran:  # its rows do not lie one after the other
            file.close()
            return LoadedRows(self.load(name, limit))
        return NpzRows(name, file, shape, kind, limit)


class NpzRows:
    """Unpacks as many rows as are asked for, so that a file may be larger than memory."""

    def __init__(self, name: str, file: IO[bytes], shape: tuple[int, ...], kind: np.dtype, limit: int) -> None:
        self.name, self.file, self.kind, self.limit = name, file, kind, limit
        self.left, self.shape = shape[0], shape[1:]
        self.size = math.prod(self.shape) * kind.itemsize  # bytes of a row

    def read(self, count: int) -> np.ndarray:
        if count * self.size > self.limit:
            raise too_large(self.name, count * self.size, self.limit)
        rows = np.empty((count, *self.shape), self.kind)
        content = rows.reshape(-1).view(np.uint8).data
        while content and (taken := self.file.readinto(content)):  # type: ignore[attr-defined]
            content = content[taken:]
        self.left -= count
        if content or (self.left == 0 and self.file.read(1)):  # which checks the sum, too
            raise RecordedError(f"damaged: '{self.name}' does not have as many bytes as it says")
        return rows

    def close(self) -> None:
        self.file.close()


class LoadedRows:
    def __init__(self, array: np.ndarray) -> None:
        self.array, self.at = array, 0

    def read(self, count: int) -> np.ndarray:
        self.at += count
        return self.array[self.at - count : self.at]

    def close(self) -> None:
        pass
