"""Console output during training: lines that stay, and a progress bar."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from envs.errors import told


class Output:
    """Standard output. A terminal that was closed is like a closed pipe; a log that cannot be written, on a full disk,
    is no reason to stop.
    """

    @property
    def stream(self) -> Any:
        """While there is a bar, rich puts itself in the place of sys.stdout; its own lines go to what was there."""
        return getattr(sys.stdout, "rich_proxied_file", sys.stdout)

    @property
    def rich_proxied_file(self) -> "Output":
        """Where rich writes: here, not past us."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.tried(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self.tried(self.stream.flush)

    def tried(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO):
                raise BrokenPipeError(*error.args) from error


class QuietEnd(Console):
    """Who closes the pipe, as `| head` does, wants no more: the program ends, everything is saved, nothing is said."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in its buffer
        raise SystemExit(128 + signal.SIGPIPE)


# no markup: [x] in a command is no style
console = QuietEnd(file=Output(), highlight=False, markup=False, emoji=False, soft_wrap=True)  # type: ignore[arg-type]


# What to do about what the operating system says.
ADVICE = {
    errno.EACCES: "see who may read and write it, or choose another place",
    errno.EPERM: "see who may read and write it, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "see whether the path is right",
    errno.ENOTDIR: "a part of that path is a file: choose another place",
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within your quota",
}


def described(error: object) -> str:
    """What went wrong; of the operating system's errors with the file and what to do. Never empty."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror, ADVICE.get(error.errno or 0)) if part)
    return str(error) if str(error).strip() else told(error) if isinstance(error, BaseException) else "(no message)"


def print_error(error: object) -> None:
    """One line or several to stderr."""
    for line in described(error).splitlines():
        print(f"error: {line}", file=sys.stderr)


class ProgressBar:
    """A progress bar over env steps, or over a long stage of learning, with the newest return and losses, and the time
    left.
    """

    def __init__(self, total: int, done: int) -> None:
        columns = (BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        self.progress = Progress(
            *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console, transient=True
        )
        self.task = self.progress.add_task("", total=total, completed=done, text="")
        self.newest: dict[str, str] = {}

    def __enter__(self) -> "ProgressBar":
        if console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if console.is_terminal:
            self.progress.stop()

    def update(self, done: int, total: int, **newest: str) -> None:
        self.newest |= newest
        self.progress.update(self.task, completed=done, total=total, text=", ".join(self.newest.values()))
