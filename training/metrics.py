"""What a run logs: one line per report in metrics.jsonl, and the same in TensorBoard."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from training.tensorboard import TensorBoard


class Metrics:
    def __init__(self, folder: Path) -> None:
        self.path, self.tensorboard = folder / "metrics.jsonl", TensorBoard(folder)

    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, size: int, event_bytes: Mapping[str, int] | None, step: int) -> None:
        """Forget what was logged after the checkpoint that is being resumed, so that curves do not overlap."""
        if self.size() > size:
            os.truncate(self.path, size)
        self.tensorboard.rewind(event_bytes, step)

    def log(self, step: int, updates: int, values: Mapping[str, float]) -> None:
        """One line, and the same in TensorBoard."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "updates": updates, **values}) + "\n")
        self.tensorboard.scalars(step, updates, values)

    def history(self) -> list[dict[str, float]]:
        """All that was logged."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def close(self) -> None:
        self.tensorboard.close()
