"""Which checkpoints and replay chunks of a run stay: the newest checkpoints that load, and all that they list."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from training.run_folder import checkpoint
from training.run_folder.checkpoint import Checkpoint, Damaged
from worldmodel import files

# The only names that are ever deleted: what we write, and what interrupted saves and rotations leave.
LEFTOVER = re.compile(rf"{checkpoint.NAME.pattern}\.tmp-(\d+|old)")
CHUNK = re.compile(r"[0-9a-f]{64}\.(npz|(npz\.)?tmp-\d+)")


class Rotation:
    """Of one run, by the process that writes into it."""

    def __init__(self, checkpoints: Path, replay: Path) -> None:
        self.checkpoints, self.replay = checkpoints, replay
        self.known: dict[str, tuple[Any, Checkpoint]] = {}  # verified ones: what their files look like, what they hold
        self.torn: set[str] = set()  # names of those that verify, but whose replay was found damaged

    def rotate(self, newest: Checkpoint, keep: int) -> None:
        """After `newest` was written: `keep` checkpoints stay, and their chunks."""
        self.torn.discard(newest.folder.name)  # its chunks were written again
        self.known[newest.folder.name] = signature(newest.folder), newest
        self.prune(keep)
        self.forget_chunks()

    def prune(self, keep: int) -> None:
        """Remove the checkpoints that are older than the newest `keep` sound ones. One that is damaged counts for
        nothing: it must not push out one that can be loaded.
        """
        there, sound = set(files.entries(self.replay)), 0
        for name in checkpoint.names(self.checkpoints):
            folder = self.checkpoints / name
            if sound < keep:
                sound += self.is_sound(folder, there)
                continue
            with contextlib.suppress(OSError):
                folder.rename(f"{folder}.tmp-old")  # a kill must not leave a half deleted one listed
        for name in files.entries(self.checkpoints):
            if LEFTOVER.fullmatch(name):
                with contextlib.suppress(OSError):
                    files.remove(self.checkpoints / name)

    def is_sound(self, folder: Path, there: set[str]) -> bool:
        """Whether a checkpoint verifies, and its chunks are there. Every byte is read once, and again if a file has
        changed since.
        """
        seen, found = self.known.get(folder.name, (None, None))
        if found is None or seen != signature(folder):
            try:
                found = checkpoint.verify(folder)
            except (Damaged, MemoryError):
                return False
            self.known[folder.name] = signature(folder), found
        return folder.name not in self.torn and all(f"{chunk.digest}.npz" in there for chunk in found.chunks)

    def forget_chunks(self) -> None:
        """Delete the chunks that no checkpoint lists: evicted ones, and what interrupted saves have left."""
        listed: set[str] = set()
        for name in checkpoint.names(self.checkpoints):
            try:
                path = self.checkpoints / name / checkpoint.MANIFEST
                manifest = json.loads(files.read(path, checkpoint.LARGEST_JSON))
                listed |= {digest for digest, *_ in manifest["chunks"]}
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                return  # a damaged manifest may be mended by hand: delete nothing
        for name in files.entries(self.replay):
            if CHUNK.fullmatch(name) and name.removesuffix(".npz") not in listed:
                with contextlib.suppress(OSError):  # a folder of that name
                    (self.replay / name).unlink()


def signature(folder: Path) -> list[tuple[str, int, int, int]]:
    """What changes when a file in a folder does."""
    found = [(name, os.lstat(folder / name)) for name in files.entries(folder)]
    return [(name, entry.st_ino, entry.st_size, entry.st_mtime_ns) for name, entry in found]
