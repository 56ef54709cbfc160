"""Console output during training: lines that stay, and a progress bar."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)


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
