"""Logs are not worth a run: what cannot be read or written of them is counted and told, and training goes on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from training.reporting.progress import console


class Attempts:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed: dict[str, int] = {}  # by what

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """What fails inside is told the first time."""
        try:
            yield
        except Exception as error:
            self.failed[what] = self.failed.get(what, 0) + 1
            if self.failed[what] == 1:
                console.print(f"warning: {self.folder}: {what} cannot be written, training goes on: {told(error)}")

    def sum_up(self) -> None:
        """How often it failed."""
        for what, count in self.failed.items():
            console.print(f"warning: {self.folder}: {what} could not be written, {count} times")
        self.failed = {}


def told(error: Exception) -> str:
    """An error in a few words."""
    return (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__} {error}".strip()
