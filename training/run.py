"""A run's folder: config, metrics, checkpoints, replay, pictures. It is what one trains, resumes, evaluates and shares.

config.yaml  run.json  metrics.jsonl  events.out.*  evaluation.json  curve.png  dream.gif
checkpoints/step-<env steps>-<updates>-<evaluations>/   replay/<digest>.npz   validation/   videos/
"""

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml
from torch import Tensor

from training import checkpoint
from training.checkpoint import Checkpoint
from training.components import ROOT, nearest
from training.legacy import upgrade_config, upgrade_spec
from training.metrics import Metrics
from worldmodel.base import Spec
from worldmodel.replay.buffer import Replay
from worldmodel.replay.episodes import Episode, read_chunk

PACKAGES = ("torch", "numpy", "gymnasium", "worldmodel")
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class RunError(RuntimeError):
    """What is wrong with a run's folder, and what to do."""


class Run:
    """Create or read one with `Run.create` and `Run.read`; hold it with `lock` before writing into it."""

    def __init__(self, folder: Path, config: dict[str, Any], info: dict[str, Any]) -> None:
        self.folder, self.config, self.info = folder, config, info
        spec = upgrade_spec(info["spec"])
        self.spec = Spec(tuple(spec["image_shape"]), spec["action_dim"], spec["discrete"])
        self.checkpoints, self.replay = folder / "checkpoints", folder / "replay"
        self.metrics = Metrics(folder)
        self.validation = folder / ("held_out" if (folder / "held_out").is_dir() else "validation")
        self.lock_file: IO[str] | None = None

    # ---- the folder ----

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / "run.json").exists()

    @staticmethod
    def create(
        folder: Path, config: dict[str, Any], spec: Spec, device: str, initial_rows: int = 0, threads: int | None = None
    ) -> "Run":
        """A new run, locked; initial_rows are in replay at its start. run.json is written last: a folder
        without it is no run. Errors: RunError, if another process is at it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        info = {
            "spec": spec._asdict(),
            "seed": config["seed"],
            "initial_rows": initial_rows,
            "plugins": config["plugins"],
            "device": device,
            "threads": threads,
            "commit": commit(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "command": " ".join(sys.argv),
        }
        if any((folder / "checkpoints").glob("step-*")) and not Run.exists(folder):
            raise RunError(
                f"{folder} holds checkpoints, but no run.json: restore that from a copy, or choose another run=..."
            )
        run = Run(folder, config, info).lock()
        if Run.exists(folder):
            run.close()
            raise RunError(f"{folder} has just been begun by another process: give the same command again to go on")
        replace(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        replace(folder / "run.json", json.dumps(info, indent=2))
        return run

    @staticmethod
    def read(folder: Path) -> "Run":
        """Errors: RunError."""
        if not Run.exists(folder):
            known = [path.parent.name for path in folder.parent.glob("*/run.json")]
            there = f"; runs beside it: {', '.join(sorted(known))}{nearest(folder.name, known)}" if known else ""
            raise RunError(f"{folder} is not a run: it has no run.json{there}")
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text("utf8"))
            info = json.loads((folder / "run.json").read_text("utf8"))
            if not isinstance(config, dict):
                raise ValueError("config.yaml is not a mapping")
            return Run(folder, upgrade_config(config), info)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise RunError(f"{folder} is damaged: {error}") from error

    def require_plugins(self, plugins: Any) -> None:
        """A run cannot name code: who loads it says which packages its components may come from. Errors: RunError."""
        missing = [str(name) for name in self.info.get("plugins", []) if name not in plugins]
        if missing:
            raise RunError(
                f"{self.folder} was trained with components of {', '.join(missing)}: if you trust that, name it, "
                f"plugins=[{','.join(missing)}] on the command line or in the call"
            )

    def command(self, *changes: str) -> str:
        """What to type to go on with this run."""
        words = [f"run={self.folder.name}"]
        if self.folder.parent != Path("runs"):
            words.append(f"runs={self.folder.parent}")
        if self.info.get("plugins"):
            words.append(f"plugins=[{','.join(self.info['plugins'])}]")
        return shlex.join(["python", "train.py", *words, *changes])

    def lock(self) -> "Run":
        """Become the only writer. The system releases the lock when the process ends, however. Errors: RunError."""
        path = self.folder / "lock"
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
        except OSError as error:
            raise RunError(f"{path} cannot be opened to hold the run: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                holder = file.read().strip() or "another process"
            if error.errno in NO_LOCKS:
                raise RunError(f"{self.folder}: this disk has no file locks ({error.strerror}): use another") from error
            raise RunError(f"{self.folder} is being trained by {holder}") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self.lock_file = file
        return self

    def close(self) -> None:
        self.metrics.close()
        if self.lock_file:
            self.lock_file.close()

    # ---- checkpoints ----

    def save(
        self, name: str, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], replay: Replay, keep: int
    ) -> None:
        """Replay's new chunks, then the checkpoint that lists them; then files that are not listed are deleted."""
        chunks = replay.save(self.replay)
        checkpoint.sync(self.replay)
        state = {**state, "metrics_bytes": self.metrics.size(), "event_bytes": self.metrics.tensorboard.sizes()}
        checkpoint.write(self.checkpoints, name, tensors, state, chunks)
        checkpoint.prune(self.checkpoints, keep)
        self.forget_chunks()

    def forget_chunks(self) -> None:
        """Delete the chunks that no kept checkpoint lists: evicted ones, and what interrupted saves have left."""
        listed: set[str] = set()
        for name in checkpoint.names(self.checkpoints):
            try:
                manifest = json.loads((self.checkpoints / name / checkpoint.MANIFEST).read_bytes())
                listed |= {digest for digest, *_ in manifest["chunks"]}
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
        raise RunError(f"{self.folder} has no complete checkpoint to load; train it: {self.command()}")

    def episodes(self, checkpoint: Checkpoint) -> Iterator[Episode]:
        """The episodes in a checkpoint's replay, one by one. Errors: DamagedChunk."""
        return (read_chunk(self.replay / f"{chunk.digest}.npz", chunk, self.spec) for chunk in checkpoint.chunks)


def replace(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    checkpoint.write_synced(temporary, text.encode())
    temporary.replace(path)


def commit() -> str | None:
    """The code's commit, with a '+' if it was changed since; without a repository what WORLDMODEL_COMMIT says."""

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
