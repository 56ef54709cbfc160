"""Checkpoints that are complete or absent: written aside, synced, listed with their digests, then renamed into place.

    step-<env steps>-<updates>-<evaluations>/  model, actor, optim, rng .safetensors, state.json, the run's config.yaml
                                               and run.json, MANIFEST.json (sizes, sha256, chunks)

The newest folder whose manifest verifies is the one that loads. Nothing here is ever read with pickle.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import Tensor

from training.configuration.legacy import upgrade_tensors
from training.configuration.plain import cut, read_json, shown
from training.run_folder.stored import check_state
from training.run_folder.tensors import read_tensors
from worldmodel import files
from worldmodel.replay.episodes import Chunk
from worldmodel.replay.storage import available_memory

FORMAT = 1
MANIFEST = "MANIFEST.json"
LARGEST_JSON = 64 << 20
LARGEST_STATE = 4 << 20
MOST_ROWS = 10**10  # of a chunk: as many as replay.capacity may be
NAME = re.compile(r"step-\d+(-\d+)*")
FILES = {"model.safetensors", "actor.safetensors", "optim.safetensors", "rng.safetensors", "state.json"}


class Damaged(OSError):
    """A checkpoint that is incomplete or not what its manifest says."""


class Checkpoint(NamedTuple):
    """A verified checkpoint's folder and manifest."""

    folder: Path
    manifest: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The content of <name>.safetensors; verified again, since this is the moment that counts."""
        if f"{name}.safetensors" not in self.manifest["files"]:
            raise Damaged(f"{self.folder.name}/{MANIFEST} does not list {name}.safetensors")
        try:
            return upgrade_tensors(name, read_tensors(self.read(f"{name}.safetensors")))
        except ValueError as error:
            raise Damaged(f"{self.folder.name}/{name}.safetensors: {error}") from error

    @property
    def state(self) -> dict[str, Any]:
        """Counters and the like."""
        try:
            return check_state(read_json(self.read("state.json"), LARGEST_STATE))
        except ValueError as error:
            raise Damaged(f"{self.folder.name}/state.json: {error}") from error

    @property
    def chunks(self) -> list[Chunk]:
        return [Chunk(*chunk) for chunk in self.manifest["chunks"]]

    def read(self, name: str) -> bytes:
        """Errors: Damaged; MemoryError, if it cannot be read here and now: an older one must not be taken for that."""
        listed, limit = self.manifest["files"][name], available_memory() // 2
        try:
            if min(listed["bytes"], (self.folder / name).stat().st_size) > limit:
                raise MemoryError(
                    f"memory: {self.folder / name} has {listed['bytes']:,} bytes; {limit:,} are half of what is free"
                )
            content = files.read(self.folder / name, listed["bytes"])
        except OSError as error:
            raise Damaged(f"{self.folder.name}/{name} cannot be read: {error.strerror}") from error
        if len(content) != listed["bytes"]:
            raise Damaged(f"{self.folder.name}/{name} has {len(content)} bytes, not {listed['bytes']}")
        if hashlib.sha256(content).hexdigest() != listed["sha256"]:
            raise Damaged(f"{self.folder.name}/{name} does not match its digest")
        return content


def write(
    root: Path,
    name: str,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    chunks: list[Chunk],
    copies: Mapping[str, bytes],
) -> Checkpoint:
    """Write the checkpoint `name` below root. A failure on the way (full disk, kill) leaves what was there before.
    copies: other files that belong to it.
    """
    final, temporary = root / name, root / f"{name}.tmp-{os.getpid()}"
    with contextlib.suppress(Damaged, MemoryError):  # one that a resumed run comes by again stays, if it can be loaded
        found = verify(final)
        if found.chunks == chunks:
            return found
    files.make_folder(root)
    files.remove(temporary)
    temporary.mkdir()
    written = 0
    try:
        listed = {}
        for file, content in (*serialised(tensors, state), *copies.items()):
            listed[file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            write_synced(temporary / file, content)
            written += len(content)
        manifest = {"format": FORMAT, "files": listed, "chunks": [list(chunk) for chunk in chunks]}
        write_synced(temporary / MANIFEST, json.dumps(manifest).encode())
        sync(temporary)
        files.remove(final)
        temporary.rename(final)
        sync(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(root).free
        raise OSError(
            error.errno,
            f"the checkpoint was not saved, {error.strerror}: {written:,} bytes were written and {free:,} are free; "
            "the previous checkpoint is untouched",
            str(final),
        ) from error
    return Checkpoint(final, manifest)


def serialised(tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The files of a checkpoint, one after the other."""
    for name, group in tensors.items():
        yield f"{name}.safetensors", save({key: value.detach().cpu().contiguous() for key, value in group.items()})
    yield "state.json", json.dumps(state).encode()


def write_synced(path: Path, content: bytes) -> None:
    with files.created(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Make a folder's entries durable."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def names(root: Path) -> list[str]:
    """The checkpoints below root, newest first, verified or not; empty folders and links are none."""
    found = [name for name in files.entries(root) if NAME.fullmatch(name)]
    found = [name for name in found if files.is_folder(root / name) and files.entries(root / name)]
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)], reverse=True)


def verify(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, every byte checked. Replay chunks are checked when they load. Errors: Damaged;
    MemoryError.
    """
    try:
        files.check_folder(folder)
        manifest = read_json(files.read(folder / MANIFEST, LARGEST_JSON), LARGEST_JSON)
        if manifest["format"] != FORMAT:
            raise Damaged(f"{folder.name} has format {shown(manifest['format'])}, this version reads {FORMAT}")
        checkpoint = Checkpoint(folder, manifest)
        absent = FILES - set(manifest["files"])
        if absent:
            raise Damaged(f"{folder.name}/{MANIFEST} does not list {', '.join(sorted(absent))}")
        for name in manifest["files"]:
            if Path(name).name != name:
                raise Damaged(f"{folder.name}/{MANIFEST} lists {shown(name)}, which is not a plain file name")
            if name.endswith(".safetensors"):
                checkpoint.tensors(name.removesuffix(".safetensors"))
            else:
                checkpoint.read(name)
        checkpoint.state  # noqa: B018  # is checked
        for digest, rows, *place in manifest["chunks"]:
            sound = isinstance(rows, int) and 0 < rows <= MOST_ROWS and len(digest) == 64 and int(digest, 16) >= 0
            stream, continuation = place or (0, False)
            if not (sound and isinstance(stream, int) and stream >= 0 and isinstance(continuation, bool)):
                raise Damaged(f"{folder.name}/{MANIFEST} lists a replay chunk {shown([digest, rows, *place])}")
    except (Damaged, MemoryError):
        raise
    except Exception as error:  # a manifest may be anything
        raise Damaged(f"{folder.name} is damaged: {type(error).__name__} {cut(str(error), 300)}") from error
    return checkpoint
