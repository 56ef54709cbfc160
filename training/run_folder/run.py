"""A run's folder: config, metrics, checkpoints, replay, pictures. It is what one trains, resumes, evaluates and shares.

config.yaml  run.json  metrics.jsonl  events.out.*  evaluation.json  curve.png  dream.png
checkpoints/step-<env steps>-<updates>-<evaluations>/   replay/<digest>.npz   validation/   videos/
"""

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from torch import Tensor

from training.configuration import hints
from training.configuration.legacy import upgrade_config, upgrade_spec
from training.configuration.plain import LARGEST_CONFIG, cut, differences, read_json, read_yaml, shown
from training.data_parallel.world import world
from training.run_folder import checkpoint, lock, versions
from training.run_folder.checkpoint import Checkpoint
from training.run_folder.lock import RunError
from training.run_folder.metrics import Metrics
from training.run_folder.rotation import Rotation
from training.run_folder.run_name import not_a_run
from training.run_folder.stored import check_info
from worldmodel import files
from worldmodel.base import ConfigError, Spec
from worldmodel.replay.buffer import Replay
from worldmodel.replay.episodes import Episode, by_episode, joined, read_chunk

FOLDERS = ("checkpoints", "replay", "validation", "held_out", "videos")  # that a run may have inside

PARSED: dict[str, Callable[[bytes], Any]] = {
    "config.yaml": read_yaml,
    "run.json": lambda content: check_info(read_json(content)),
}

__all__ = ["Run", "RunError"]


class Run:
    """Create or read one with `Run.create` and `Run.read`; hold it with `lock` before writing into it."""

    def __init__(self, folder: Path, config: dict[str, Any], info: dict[str, Any]) -> None:
        self.folder, self.config, self.info = folder, config, info
        spec = upgrade_spec(info["spec"])
        self.spec = Spec(tuple(spec["image_shape"]), spec["action_dim"], spec["discrete"])
        self.checkpoints, self.replay = folder / "checkpoints", folder / "replay"
        self.metrics = Metrics(folder)
        self.validation = folder / ("held_out" if (folder / "held_out").is_dir() else "validation")
        self.written: dict[str, bytes] = {}  # config.yaml and run.json, as they are
        self.rotation = Rotation(self.checkpoints, self.replay)
        self.lock_file: BinaryIO | None = None

    # ---- the folder ----

    @staticmethod
    def exists(folder: Path) -> bool:
        return os.path.lexists(folder / "run.json")

    @staticmethod
    def create(
        folder: Path,
        config: dict[str, Any],
        spec: Spec,
        device: str,
        initial_rows: int = 0,
        threads: int | None = None,
        precision: str | None = None,
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
            "precision": precision,
            "threads": threads,
            "processes": world().size,
            **versions.made_with(),
        }
        check_not_lost(folder)
        run = Run(folder, config, info).lock()
        if Run.exists(folder):
            run.close()
            raise RunError(f"{folder} has just been begun by another process: give the same command again to go on")
        run.written["config.yaml"] = yaml.safe_dump(config, sort_keys=False).encode()
        run.written["run.json"] = json.dumps(info, indent=2).encode()
        files.make_folder(run.checkpoints)
        for name, content in run.written.items():
            files.write(folder / name, content)
        return run

    @staticmethod
    def read(folder: Path) -> "Run":
        """Errors: RunError."""
        if not Run.exists(folder) or os.path.lexists(folder / checkpoint.MANIFEST):
            raise RunError(not_a_run(folder))
        name = ""
        try:
            check_inside(folder)
            written = {name: files.read(folder / name, LARGEST_CONFIG) for name in PARSED}
            values = {}
            for name, content in written.items():
                values[name] = PARSED[name](content)
            config = values["config.yaml"]
            if not isinstance(config, dict):
                raise ValueError("config.yaml is not a mapping")
            run = Run(folder, upgrade_config(config), values["run.json"])
        except OSError as error:
            place = Path(str(error.filename)).name
            raise RunError(f"{folder} is damaged: {place}: {error.strerror}{copies(folder, place)}") from error
        except Exception as error:  # plain data of any form
            raise RunError(f"{folder} is damaged: {name}: {cut(str(error), 300)}{copies(folder, name)}") from error
        run.written = written
        return run

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
        return hints.to_go_on(self.folder, self.info.get("plugins"), *changes)

    def evaluation(self, *options: str) -> str:
        """What to type to evaluate it."""
        return hints.to_evaluate(self.folder, self.info.get("plugins"), *options)

    def lock(self) -> "Run":
        """Become the only writer. Errors: RunError."""
        self.lock_file = lock.acquire(self.folder)
        return self

    def close(self) -> None:
        self.metrics.close()
        if self.lock_file:
            self.lock_file.close()

    # ---- checkpoints ----

    def save(
        self, name: str, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], replay: Replay, keep: int
    ) -> None:
        """Replay's new chunks, then the checkpoint that lists them; then files that are not listed are deleted. Errors:
        RunError, OSError.
        """
        lock.check_still_there(self.folder, self.lock_file)
        chunks = replay.save(self.replay)
        checkpoint.sync(self.replay)
        state = {**state, "metrics_bytes": self.metrics.size(), "event_bytes": self.metrics.tensorboard.sizes()}
        self.rotation.rotate(checkpoint.write(self.checkpoints, name, tensors, state, chunks, self.written), keep)

    def verified(self, report: Any = print) -> Iterator[Checkpoint]:
        """The complete checkpoints, newest first. Every damaged one is reported, never passed over in silence."""
        tried: set[str] = set()
        while names := [name for name in checkpoint.names(self.checkpoints) if name not in tried]:
            tried.add(names[0])
            try:
                yield checkpoint.verify(self.checkpoints / names[0])
            except checkpoint.Damaged as error:
                older = f"falling back to {names[1]}" if len(names) > 1 else "there is none before it"
                if (self.checkpoints / names[0]).exists():  # else training has gone on, and deleted it
                    report(f"damaged checkpoint: {error}; {older}")

    def newest(self, report: Any = print) -> Checkpoint:
        """The newest checkpoint that verifies."""
        for found in self.verified(report):
            return found
        raise RunError(f"{self.folder} has no complete checkpoint to load; train it: {self.command()}")

    def edited(self, checkpoint: Checkpoint) -> list[str]:
        """What to say if config.yaml or run.json are not as they were when a checkpoint was written."""
        lines = []
        for name in [name for name in PARSED if name in checkpoint.manifest["files"] and name in self.written]:
            before = checkpoint.read(name)
            try:
                same = before == self.written[name]
                changes = [] if same else differences(*map(PARSED[name], (before, self.written[name])))
            except ValueError as error:
                lines.append(f"{name} in {checkpoint.folder.name} cannot be read: {error}")
                continue
            if changes:
                what = "; ".join(f"{key}: {shown(old)} then, {shown(new)} now" for key, old, new in changes[:5])
                copy = shlex.join(["cp", str(checkpoint.folder / name), str(self.folder / name)])
                more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
                lines.append(f"{name} was changed since {checkpoint.folder.name} ({what}{more}); to undo that: {copy}")
        return lines

    def episodes(self, checkpoint: Checkpoint) -> Iterator[Episode]:
        """The episodes in a checkpoint's replay, one by one, whole ones (by_episode). Errors: DamagedChunk."""
        for chunks in by_episode(checkpoint.chunks):
            yield joined([read_chunk(self.replay / f"{chunk.digest}.npz", chunk, self.spec) for chunk in chunks])


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Around what is made of a run's content: whatever goes wrong with it is a RunError, in one line. A config's
    mistakes are told as such.
    """
    try:
        yield
    except (RunError, ConfigError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(cut(str(error), 300).split()) or type(error).__name__
        raise RunError(f"{what} cannot be used: {reason}") from error


def check_inside(folder: Path) -> None:
    """Errors: OSError, if a part of a run's folder leads out of it."""
    for name in FOLDERS:
        files.check_folder(folder / name)
    for name in ("validation", "held_out"):  # whose files are read as any recorded episodes are
        for file in [file for file in files.entries(folder / name) if file.endswith(".npz")]:
            files.opened(folder / name / file).close()


def check_not_lost(folder: Path) -> None:
    """Errors: RunError, if there was a run whose run.json is gone: it must not be begun anew over what is left."""
    left = [name for name in ("checkpoints", "replay", "metrics.jsonl") if os.path.lexists(folder / name)]
    if left == ["checkpoints"] and not checkpoint.names(folder / "checkpoints"):
        left = []  # an empty folder of a run that was killed as it began
    if left and not Run.exists(folder):
        copy = copies(folder, "run.json") or ": restore that from a copy, or choose another run=..."
        raise RunError(f"{folder} holds {' and '.join(left)}, but no run.json{copy}")


def copies(folder: Path, name: str) -> str:
    """How to restore a file of a run from the copy in its newest checkpoint that has one."""
    with contextlib.suppress(OSError):
        for checkpoint_name in checkpoint.names(folder / "checkpoints"):
            path = folder / "checkpoints" / checkpoint_name / name
            if name and path.is_file():
                return f"; there is a copy: {shlex.join(['cp', str(path), str(folder / name)])}"
    return ""
