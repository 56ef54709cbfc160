"""Who writes into a run's folder holds its lock first. Nothing here needs torch: who comes second is told at once."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import BinaryIO

from worldmodel import files

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
LONGEST = 4096  # bytes of what a holder says of itself


class RunError(RuntimeError):
    """What is wrong with a run's folder, and what to do."""


def acquire(folder: Path) -> BinaryIO:
    """The lock of a run, held until it is closed; the system closes it when the process ends, however. Errors:
    RunError.
    """
    # alone: what is emptied would be emptied under its other names, too.
    file = take(folder, fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT, "r+b", alone=True)
    os.ftruncate(file.fileno(), 0)
    os.pwrite(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return file


def refuse_if_held(folder: Path) -> None:
    """Errors: RunError, if another process holds the lock. Nothing is written."""
    if os.path.lexists(folder / "lock"):
        take(folder, fcntl.LOCK_SH, os.O_RDONLY, "rb", alone=False).close()


def check_still_there(folder: Path, file: BinaryIO | None) -> None:
    """Errors: RunError, if the folder was moved or deleted since: what is written then would begin half a run, without
    config and episodes, where nobody holds the lock."""
    if file is None:
        return
    try:
        there = os.path.samestat(os.stat(folder / "lock", follow_symlinks=False), os.fstat(file.fileno()))
    except FileNotFoundError:
        there = False
    if not there:
        raise RunError(
            f"{folder} was moved or deleted while it was trained (its file lock is gone or another): delete what is "
            f"left there, move the run back, and the same command goes on from its last checkpoint"
        )


def take(folder: Path, kind: int, flags: int, mode: str, alone: bool) -> BinaryIO:
    path = folder / "lock"
    try:
        file = files.checked(path, flags | files.NO_LINKS, mode, LONGEST, alone)
    except OSError as error:
        raise RunError(f"{path} cannot be opened to hold the run: {error.strerror}") from error
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        with file:
            holder = os.pread(file.fileno(), LONGEST, 0).decode("utf8", "replace").strip() or "another process"
        if error.errno in NO_LOCKS:
            raise RunError(f"{folder}: this disk has no file locks ({error.strerror}): use another") from error
        raise RunError(f"{folder} is being trained by {holder}") from error
    return file
