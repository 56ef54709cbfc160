"""What a run logs: one line per report in metrics.jsonl, and the same in TensorBoard's files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from training import pictures


class Metrics:
    """Curves over env steps, and in a TensorBoard run of their own, by_updates, over updates."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "metrics.jsonl"
        self.event_writers: list[SummaryWriter] = []

    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, size: int, step: int, updates: int) -> None:
        """Forget what was logged after the checkpoint that is being resumed, so that curves do not overlap."""
        if self.size() > size:
            os.truncate(self.path, size)
        self.open(step + 1, updates + 1)

    def open(self, step: int | None = None, updates: int | None = None) -> None:
        """Points from these steps on are replaced."""
        self.event_writers = [
            SummaryWriter(str(folder), purge_step=purge, flush_secs=10)
            for folder, purge in ((self.folder, step), (self.folder / "by_updates", updates))
        ]

    def log(self, step: int, updates: int, values: Mapping[str, float]) -> None:
        """One line, and two points per value: at an env step, and at an update."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "updates": updates, **values}) + "\n")
        for writer, x in zip(self.writers(), (step, updates), strict=True):
            for name, value in values.items():
                writer.add_scalar(name, value, x)

    def show(self, name: str, animation: bytes, step: int, updates: int) -> None:
        """An animated picture, at an env step and at an update."""
        for writer, x in zip(self.writers(), (step, updates), strict=True):
            pictures.show(writer, name, animation, x)

    def history(self) -> list[dict[str, float]]:
        """All that was logged."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def writers(self) -> list[SummaryWriter]:
        """TensorBoard's files: what is drawn over env steps, and over updates."""
        if not self.event_writers:
            self.open()
        return self.event_writers

    def close(self) -> None:
        for writer in self.event_writers:
            writer.close()
