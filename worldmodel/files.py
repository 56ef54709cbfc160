"""Files of a folder that may come from somebody else, such as a run's: nothing is followed out of it.

Only regular files are read, and no larger ones than expected. A link, a pipe, a device or a folder in a file's place is
refused when it is read or appended to, and replaced (all but a folder) when the file is written: what a link leads to
is neither read, written, truncated nor deleted. What is written is complete or absent.

Folders inside must be folders: `check_folder` where one is entered. The outermost folder, a run's own, may be a link by
its owner's choice.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NO_LINKS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # and a pipe without a writer is not waited for
LARGE, SPARSE = 64 << 20, 100  # of a file of more bytes at least 1/SPARSE must be there; the rest are holes


# ---- reading ----


def opened(path: Path, limit: int | None = None, follow: bool = False) -> BinaryIO:
    """A file, to be read. limit: bytes that it may have at most. follow: through links, which the user has made.
    Errors: OSError, with what is wrong as its strerror.
    """
    return checked(path, os.O_RDONLY | (NO_LINKS & ~os.O_NOFOLLOW if follow else NO_LINKS), "rb", limit)


def read(path: Path, limit: int) -> bytes:
    """The whole content of a file. Errors: OSError."""
    with opened(path, limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # no more, although it may grow meanwhile


def checked(path: Path, flags: int, mode: str, limit: int | None = None, alone: bool = False) -> BinaryIO:
    """os.open, if it is a regular file. alone: and has no other name. Errors: OSError."""
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise refused(path, "it is a link, and nothing is followed out of a run's folder") from error
        if error.errno == errno.ENXIO:
            raise refused(path, "it is not a regular file") from error
        raise
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise refused(path, "it is not a regular file")
        if limit is not None and found.st_size > limit:
            raise refused(path, f"it has {found.st_size:,} bytes, more than the {limit:,} that are expected")
        if found.st_size > LARGE and found.st_blocks * 512 < found.st_size // SPARSE:
            raise refused(path, f"it has {found.st_size:,} bytes, nearly all of them holes")
        if alone and found.st_nlink > 1:
            raise refused(path, "it has other names (hard links), which would change with it")
        return os.fdopen(number, mode)  # type: ignore[return-value]
    except BaseException:
        os.close(number)
        raise


def refused(path: Path, why: str) -> OSError:
    return OSError(errno.EPERM, why, str(path))


# ---- writing ----


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """What is written inside becomes the file when it is over; if it fails, all stays as it was. Errors: OSError."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with created(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """A file is the old one or the new one, whenever the process is killed. Errors: OSError."""
    with replacing(path) as file:
        file.write(content)


def created(path: Path) -> BinaryIO:
    """A new file, whatever had its name. Errors: OSError."""
    remove(path)
    return checked(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS, "wb")


def appended(path: Path) -> BinaryIO:
    """A file, made if there is none, to be written on at its end. Errors: OSError."""
    return checked(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_LINKS, "ab", alone=True)


def make_own(path: Path) -> bool:
    """Before a file is changed where it is: its other names (hard links) keep what they have; a link or a pipe in its
    place goes. Whether it is there then. Errors: OSError.
    """
    if not os.path.lexists(path):
        return False
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        path.unlink()
        return False
    if found.st_nlink > 1:
        with opened(path) as old, replacing(path) as new:
            shutil.copyfileobj(old, new)
    return True


def truncate(path: Path, size: int) -> None:
    """Cut a file that is longer. Errors: OSError."""
    with appended(path) as file:
        if os.fstat(file.fileno()).st_size > size:
            file.truncate(size)


# ---- folders ----


def is_folder(path: Path) -> bool:
    """Whether there is a folder; a link to one is none."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def check_folder(path: Path) -> None:
    """Errors: OSError, if something else is there: a link to a folder, a file. Nothing there is well."""
    if os.path.islink(path):
        raise refused(path, "it is a link, and nothing is followed out of a run's folder: move the folder itself there")
    if os.path.lexists(path) and not is_folder(path):
        raise refused(path, "it is not a folder")


def make_folder(path: Path) -> None:
    """A folder, if there is none. Errors: OSError."""
    check_folder(path)
    path.mkdir(exist_ok=True)


def entries(path: Path) -> list[str]:
    """The names in a folder, in order; none, if there is no such folder. Errors: OSError."""
    check_folder(path)
    return sorted(os.listdir(path)) if is_folder(path) else []


def remove(path: Path) -> None:
    """A file, a link but not what it leads to, or a folder and what is in it. Errors: OSError."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
