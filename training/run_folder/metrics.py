"""What a run logs: one line per report in metrics.jsonl, the same in TensorBoard, and pictures."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from training.reporting import pictures
from training.reporting.history import History, Row, rows
from training.reporting.progress import console
from training.reporting.tensorboard import TensorBoard
from training.run_folder.attempts import Attempts
from worldmodel import files


class Metrics:
    """Nothing here raises because a log is damaged, or cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "metrics.jsonl"
        self.attempt = Attempts(folder)
        self.tensorboard = TensorBoard(folder, self.attempt)
        self.drawn = History(pictures.DRAWN)

    def size(self) -> int:
        """Bytes."""
        return os.lstat(self.path).st_size if os.path.lexists(self.path) else 0

    def rewind(self, size: int, event_bytes: Mapping[str, int] | None, step: int) -> None:
        """Forget what was logged after the checkpoint that is being resumed, so that curves do not overlap."""
        self.drawn, unreadable = History(pictures.DRAWN), 0
        with self.attempt("metrics.jsonl"):
            if files.make_own(self.path):
                files.truncate(self.path, size)
                for row in rows(self.path):
                    unreadable += not row
                    self.drawn.add(row)
        if unreadable:
            console.print(f"warning: {self.path}: {unreadable} lines cannot be read, and are left out")
        self.tensorboard.rewind(event_bytes, step)

    def log(self, step: int, updates: int, values: Mapping[str, float]) -> None:
        """One line, and the same in TensorBoard."""
        row = {"step": step, "updates": updates, **values}
        self.drawn.add(row)
        with self.attempt("metrics.jsonl"), files.appended(self.path) as file:
            file.write(f"{json.dumps(row)}\n".encode())
        self.tensorboard.scalars(step, updates, values)

    def picture(self, name: str, content: bytes, step: int, updates: int) -> None:
        """A PNG, animated or not, in the run's folder, and in TensorBoard."""
        with self.attempt(f"{name}.png"):
            files.write(self.folder / f"{name}.png", content)
            files.remove(self.folder / f"{name}.gif")  # of earlier versions
        self.tensorboard.picture(name, content, step, updates)

    def draw_curves(self) -> None:
        """Into the run's folder."""
        with self.attempt("the pictures of the curves"):
            pictures.curves(self.folder, self.drawn.rows())

    def history(self) -> list[Row]:
        """All that was logged. For whom memory does not matter."""
        return [row for row in rows(self.path) if row] if self.path.exists() else []

    def close(self) -> None:
        self.attempt.sum_up()
