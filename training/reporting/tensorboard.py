"""A run in TensorBoard: one entry, that opens on what matters.

TensorBoard sorts groups of tags by their names, opens the first two, and shows twelve cards of each. So evaluations
come first, then what is learned, then the same over updates, and bookkeeping last:

    evaluate/       the return, films (evaluate/rollout/), and what planner or critic had expected (evaluate/value...)
    learn/          losses and statistics of every part; learn/dream/: errors of dreams by horizon
    over_updates/   the curves of both over updates
    run/            collecting, actions, counters, seconds, rates

The step is env steps, action repeat included; for a run that never collects it is updates.
"""

import contextlib
import io
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import histogram, hparams, scalar, text

from training.run_folder.attempts import Attempts
from worldmodel import files

EXPECTED = {f"evaluate/{name}": f"evaluate/value/{name}" for name in
            ("planned_return", "obtained_return", "planned_minus_obtained")}  # fmt: skip
ASIDE = ("evaluate/act_ms", "evaluate/ci95", "evaluate/episode_length")
NAME = "TensorBoard's files"  # in messages
SCORES = ("evaluate/return", "learn/dream/image_mse_05")  # beside the hyper-parameters: their last values


class EventFile:
    """One file of events. What is added is in it after flush(), or not at all. (torch's SummaryWriter writes in a
    thread: where the folder is gone or the disk full, that prints a traceback, and a later call raises.)
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Nothing is written yet. purge_step: readers forget what earlier files say from there on."""
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        self.path = folder / name  # TensorBoard reads them in the order of their names
        self.pending = io.BytesIO()
        self.record(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            self.record(Event(session_log=SessionLog(status=SessionLog.START), step=purge_step))

    def add(self, summary: Summary, x: int) -> None:
        self.record(Event(summary=summary, step=int(x)))

    def record(self, event: Event) -> None:
        event.wall_time = time.time()
        RecordWriter(self.pending).write(event.SerializeToString())

    def flush(self) -> None:
        """By its name, as files may be moved, restored or cut while a run goes on. Errors: OSError; then what was added
        is dropped.
        """
        content, self.pending = self.pending.getvalue(), io.BytesIO()
        size = None
        try:
            with files.appended(self.path) as file:
                size = os.fstat(file.fileno()).st_size
                file.write(content)
        except BaseException:
            if size:
                files.truncate(self.path, size)  # readers end at half a record
            elif size == 0:
                files.remove(self.path)
            raise


class TensorBoard:
    """Its files in a run's folder. One is made when something is written; if that fails, a new one the next time."""

    def __init__(self, folder: Path, attempt: Attempts) -> None:
        self.folder, self.attempt = folder, attempt
        self.over_updates = False  # whether the step is updates
        self.events: EventFile | None = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What is added inside is in the file at the end. What fails is counted."""
        with self.attempt(NAME):
            if self.events and not self.events.path.exists():  # deleted, or the folder was moved
                self.events = None
            try:
                yield
            finally:
                events, self.events = self.events, None  # given up, if what follows fails
                if events:
                    events.flush()
                self.events = events

    # ---- resuming ----

    def sizes(self) -> dict[str, int] | None:
        """The bytes of every file, for a checkpoint. None, if that is not known."""
        found = None
        with self.writing():
            found = {path.name: path.stat().st_size for path in self.files()}
        return found

    def rewind(self, sizes: Mapping[str, int] | None, step: int) -> None:
        """Forget what was written after the checkpoint that is being resumed. (Steps cannot tell: there are two axes.)
        sizes: None in checkpoints of earlier versions, whose points after a step are replaced.
        """
        self.events = None
        with self.writing():
            if sizes is None:
                self.events = EventFile(self.folder, step + 1)
                return
            for path in self.files():
                if path.name not in sizes:
                    path.unlink()
                elif files.make_own(path):
                    files.truncate(path, sizes[path.name])

    def files(self) -> list[Path]:
        return [path for path in self.folder.glob("events.out.tfevents.*") if path.is_file() and not path.is_symlink()]

    # ---- writing ----

    def scalars(self, step: int, updates: int, values: Mapping[str, float]) -> None:
        with self.writing():
            for name, value in values.items():
                tag = tag_of(name)
                self.add(scalar(tag, value), self.x(step, updates))
                if not (self.over_updates or tag.startswith("run/")):
                    self.add(scalar(f"over_updates/{tag}", value), updates)

    def histogram(self, tag: str, values: np.ndarray, edges: np.ndarray, step: int, updates: int) -> None:
        """How often values lie between edges."""
        with self.writing():
            self.add(histogram(tag, values, edges), self.x(step, updates))

    def picture(self, name: str, content: bytes, step: int, updates: int) -> None:
        """A PNG or GIF, animated or not, as it is."""
        with self.writing():
            width, height = Image.open(io.BytesIO(content)).size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
            self.add(Summary(value=[Summary.Value(tag=f"evaluate/rollout/{name}", image=image)]), self.x(step, updates))

    def describe(self, config: Mapping[str, Any], step: int, updates: int) -> None:
        """The config as text, and the hyper-parameters, with the final score in TensorBoard's table of them."""
        with self.writing():
            lines = yaml.safe_dump(dict(config), sort_keys=False).splitlines()
            self.add(text("config", "\n".join(f"    {line}" for line in lines)), self.x(step, updates))
            for summary in hparams(leaves(config), dict.fromkeys(SCORES, 0.0)):  # which only names the scores
                self.add(summary, 0)

    def add(self, summary: Summary, x: int) -> None:
        self.events = self.events or EventFile(self.folder)
        self.events.add(summary, x)

    def x(self, step: int, updates: int) -> int:
        return updates if self.over_updates else step


def tag_of(name: str) -> str:
    """The tag of a metric."""
    if name.startswith("dream/"):
        return f"learn/{name}"
    if name.startswith(("evaluate/", "learn/")) and name not in ASIDE:
        return EXPECTED.get(name, name)
    return f"run/{name}"


def leaves(config: Mapping[str, Any], path: str = "") -> dict[str, str | int | float]:
    """Hyper-parameters by their paths, agent.optimizers.model.learning_rate; what is no number as text."""
    found: dict[str, str | int | float] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{path}{key}.")
        elif value is not None:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            found[f"{path}{key}"] = value if number else str(value)
    return found
