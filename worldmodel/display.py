"""What a person sees while it trains: lines that stay, and a progress bar. Also the signals that ask it to stop."""

import signal
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)


class Bar:
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

    def __enter__(self) -> "Bar":
        if console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def update(self, done: int, total: int, **newest: str) -> None:
        self.newest |= newest
        self.progress.update(self.task, completed=done, total=total, text=", ".join(self.newest.values()))


class Stop:
    """Notes SIGINT and SIGTERM; the loop asks `stop()` at its safe points. A third signal ends the program at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.count = 0

    def __enter__(self) -> "Stop":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, _: FrameType | None) -> None:
        self.signal, self.count = number, self.count + 1
        if self.count > 2:
            raise SystemExit(128 + number)

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.signal or 0)
