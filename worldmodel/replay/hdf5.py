"""Arrays of HDF5 files that may be damaged or hostile: only what lies in the file itself, sizes checked before reading.

A link can name another file, and so can a dataset's storage: both are refused. h5py is imported only when such a file
is read (`pip install worldmodel[recordings]`).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import files
from worldmodel.replay.npz import RecordedError, check_kind, too_large

SUFFIXES = (".hdf5", ".h5", ".hdf")
MOST = 100_000  # names in a file


@contextmanager
def opened(path: Path) -> Iterator["Hdf5Arrays"]:
    """Errors: RecordedError, also for what h5py raises on damaged files."""
    try:
        import h5py
    except ImportError as error:
        raise RecordedError("HDF5 files need h5py: pip install worldmodel[recordings]") from error
    try:
        with files.opened(path, follow=True), h5py.File(path, "r") as file:  # a regular file, and not all holes
            yield Hdf5Arrays(file)
    except RecordedError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        plugin = "filter" in reason or "plugin" in reason
        hint = "its compression is not built in: pip install hdf5plugin" if plugin else "copy or record it again"
        raise RecordedError(f"damaged, or no HDF5 file ({reason}): {hint}") from error


class Hdf5Arrays:
    def __init__(self, file: Any) -> None:
        self.file = file
        self.names = list(datasets(file))

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        if name not in self.names:
            raise RecordedError(f"it has no array '{name}'")
        found = self.file[name]
        check_kind(name, found.dtype)
        if found.shape is None:
            raise RecordedError(f"'{name}' is empty")
        return tuple(found.shape), found.dtype

    def load(self, name: str, limit: int) -> np.ndarray:
        shape, _ = self.header(name)
        self.check_size(name, shape, limit)
        loaded: np.ndarray = self.file[name][()]
        return loaded

    def rows(self, name: str, limit: int) -> "Hdf5Rows":
        self.header(name)
        return Hdf5Rows(self, name, limit)

    def check_size(self, name: str, shape: tuple[int, ...], limit: int) -> None:
        """Of what is read, and of a stored block, which HDF5 unpacks as a whole."""
        found = self.file[name]
        for part in (shape, found.chunks or ()):
            if math.prod(part) * found.dtype.itemsize > max(limit, 1 << 20):
                raise too_large(name, math.prod(part) * found.dtype.itemsize, limit)


class Hdf5Rows:
    def __init__(self, arrays: Hdf5Arrays, name: str, limit: int) -> None:
        self.arrays, self.name, self.limit, self.at = arrays, name, limit, 0

    def read(self, count: int) -> np.ndarray:
        found = self.arrays.file[self.name]
        self.arrays.check_size(self.name, (count, *found.shape[1:]), self.limit)
        self.at += count
        rows: np.ndarray = found[self.at - count : self.at]
        return rows

    def close(self) -> None:
        pass


def datasets(file: Any) -> list[str]:
    """The names of all datasets, those in groups with their path. Errors: RecordedError, for what lies elsewhere."""
    import h5py

    names: list[str] = []

    def fault(name: str, link: Any) -> str | None:
        if not isinstance(link, h5py.HardLink):
            where = " to another file" if isinstance(link, h5py.ExternalLink) else ""
            return f"'{name}' is a link{where}: only what lies in a file itself is read. Copy it there"
        names.append(name)
        return f"it holds more than {MOST:,} names" if len(names) > MOST else None

    wrong = file.visititems_links(fault)  # every group once, also if one contains itself; ends at the first fault
    if wrong:
        raise RecordedError(wrong)
    found = [name for name in names if isinstance(file[name], h5py.Dataset)]
    for name in found:
        if file[name].external or file[name].is_virtual:
            raise RecordedError(f"'{name}' lies in another file, which is never read. Copy it into this one")
    return found
