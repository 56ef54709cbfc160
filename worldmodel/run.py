"""A run's folder: config, metrics, checkpoints, replay, pictures. It is what one trains, resumes, evaluates and shares.

config.yaml  run.json  metrics.jsonl  events.out.*  evaluation.json  curve.png  dream.gif
checkpoints/step-<env steps>-<updates>-<evaluations>/   replay/<digest>.npz   held_out/   videos/   by_updates/
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from worldmodel import checkpoint
from worldmodel.base import Spec
from worldmodel.checkpoint import Checkpoint
from worldmodel.config import ROOT, nearest
from worldmodel.replay import Episode, Replay, read_chunk

PACKAGES = ("torch", "numpy", "gymnasium", "worldmodel")
# Keys that came later, by section, with the values that change nothing in runs that were written before.
LATER: dict[str, dict[str, Any]] = {
    "agent": {"compile": "auto"},
    "replay": {"storage": "auto", "memory_gb": None},
    "train": {"collect": "sync"},
}


class RunError(RuntimeError):
    """What is wrong with a run's folder, and what to do."""


class Run:
    """Create or read one with `Run.create` and `Run.read`; hold it with `lock` before writing into it."""

    def __init__(self, folder: Path, config: dict[str, Any], info: dict[str, Any]) -> None:
        self.folder, self.config, self.info = folder, config, info
        spec = info["spec"]
        self.spec = Spec(tuple(spec["image"]), spec["action"], spec["discrete"])
        self.checkpoints, self.replay = folder / "checkpoints", folder / "replay"
        self.held: IO[str] | None = None
        self.boards: list[SummaryWriter] = []

    # ---- the folder ----

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / "run.json").exists()

    @staticmethod
    def create(folder: Path, config: dict[str, Any], spec: Spec, device: str, given_rows: int = 0) -> "Run":
        """A new run; given_rows are in replay at its start. run.json is written last: only with it is it a run."""
        folder.mkdir(parents=True, exist_ok=True)
        info = {
            "spec": spec._asdict(),
            "seed": config["seed"],
            "given_rows": given_rows,
            "device": device,
            "commit": commit(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "command": " ".join(sys.argv),
        }
        replace(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        replace(folder / "run.json", json.dumps(info, indent=2))
        return Run(folder, config, info)

    @staticmethod
    def read(folder: Path) -> "Run":
        if not Run.exists(folder):
            known = [path.parent.name for path in folder.parent.glob("*/run.json")]
            there = f"; runs beside it: {', '.join(sorted(known))}{nearest(folder.name, known)}" if known else ""
            raise RunError(f"{folder} is not a run: it has no run.json{there}")
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text("utf8"))
            info = json.loads((folder / "run.json").read_text("utf8"))
            if not isinstance(config, dict):
                raise ValueError("config.yaml is not a mapping")
            for section, values in LATER.items():
                if isinstance(config.get(section), dict):
                    config[section] |= {key: value for key, value in values.items() if key not in config[section]}
            return Run(folder, config, info)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise RunError(f"{folder} is damaged: {error}") from error

    def lock(self) -> "Run":
        """Become the only writer. The lock goes with the process, however it ends."""
        file = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                file.seek(0)
                holder = file.read().strip() or "another process"
            raise RunError(f"{self.folder} is being trained by {holder}") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self.held = file
        return self

    def close(self) -> None:
        for board in self.boards:
            board.close()
        if self.held:
            self.held.close()

    # ---- checkpoints ----

    def save(
        self, name: str, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], replay: Replay, keep: int
    ) -> None:
        """Replay's new chunks first, then the checkpoint that lists them; then what nobody needs any more goes."""
        chunks = replay.save(self.replay)
        checkpoint.sync(self.replay)
        state = {**state, "metrics_bytes": self.metrics_bytes()}
        checkpoint.write(self.checkpoints, name, tensors, state, chunks)
        checkpoint.prune(self.checkpoints, keep)
        self.forget_chunks()

    def forget_chunks(self) -> None:
        """Delete the chunks that no kept checkpoint lists: evicted ones, and what interrupted saves have left."""
        listed: set[str] = set()
        for name in checkpoint.names(self.checkpoints):
            try:
                manifest = json.loads((self.checkpoints / name / checkpoint.MANIFEST).read_bytes())
                listed |= {digest for digest, _ in manifest["chunks"]}
            except (OSError, ValueError, KeyError, TypeError):
                return  # a damaged manifest may be mended by hand: delete nothing
        for path in self.replay.iterdir():
            if path.suffix != ".npz" or path.stem not in listed:
                path.unlink()

    def verified(self, report: Any = print) -> Iterator[Checkpoint]:
        """The complete checkpoints, newest first. Every damaged one is reported, never passed over in silence."""
        names = checkpoint.names(self.checkpoints)
        for name, older in zip(names, [*names[1:], None], strict=False):
            try:
                yield checkpoint.verify(self.checkpoints / name)
            except checkpoint.Damaged as error:
                report(
                    f"damaged checkpoint: {error}; {f'falling back to {older}' if older else 'there is none before it'}"
                )

    def newest(self, report: Any = print) -> Checkpoint:
        """The newest checkpoint that verifies."""
        for found in self.verified(report):
            return found
        raise RunError(
            f"{self.folder} has no complete checkpoint to load; train it: python train.py run={self.folder.name}"
        )

    def episodes(self, checkpoint: Checkpoint) -> Iterator[Episode]:
        """The episodes in a checkpoint's replay, one by one. Errors: DamagedChunk."""
        return (read_chunk(self.replay / f"{chunk.digest}.npz", chunk, self.spec) for chunk in checkpoint.chunks)

    # ---- metrics ----

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def metrics_bytes(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def rewind(self, size: int, step: int, updates: int) -> None:
        """Forget the metrics logged after the checkpoint that is being resumed, so that curves do not overlap."""
        if self.metrics_bytes() > size:
            os.truncate(self.metrics, size)
        self.open(step + 1, updates + 1)

    def open(self, step: int | None = None, updates: int | None = None) -> None:
        """TensorBoard's files: curves over env steps, and beside them, in a run of their own, over updates."""
        self.boards = [
            SummaryWriter(str(folder), purge_step=purge, flush_secs=10)
            for folder, purge in ((self.folder, step), (self.folder / "by_updates", updates))
        ]

    def log(self, step: int, updates: int, values: Mapping[str, float]) -> None:
        """One line in metrics.jsonl and two points per value in TensorBoard: at an env step, and at an update."""
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "updates": updates, **values}) + "\n")
        for board, x in zip(self.writers(), (step, updates), strict=True):
            for name, value in values.items():
                board.add_scalar(name, value, x)

    def history(self) -> list[dict[str, float]]:
        """All that was logged."""
        return [json.loads(line) for line in self.metrics.read_text().splitlines()] if self.metrics.exists() else []

    def writers(self) -> list[SummaryWriter]:
        """TensorBoard's files: what is drawn over env steps, and over updates."""
        if not self.boards:
            self.open()
        return self.boards


def replace(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    checkpoint.write_synced(temporary, text.encode())
    temporary.replace(path)


def commit() -> str | None:
    """The code's commit, with a '+' if it was changed since; on a machine without the repository what is said there."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("WORLDMODEL_COMMIT")  # benchmarks/gpu.sh


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The keys in which two configs differ: (path, old value, new value)."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [(path, old, new)]
    keys = [*old, *(key for key in new if key not in old)]
    inside = (differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key)) for key in keys)
    return [difference for found in inside for difference in found]
