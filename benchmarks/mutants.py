"""Mutants of files that a stranger may send: damaged bytes, links, other types and shapes, and what was signed again.

`mutate(folder, rng)` changes something in a folder that holds a run, recordings or an agent's file, and says what. Half
of what is changed inside a checkpoint gets its digest made right, so that its content is reached.
"""

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.mutants_digests import store
from benchmarks.mutants_of_content import about_changed, arrays_changed, plain_changed, tensors_changed


def mutate(folder: Path, rng: random.Random, outside: Path) -> str:
    """One change, now and then three. What was done."""
    done = []
    for _ in range(3 if rng.random() < 0.1 else 1):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        groups: dict[str, list[Path]] = {}  # of a kind, the newest last
        for file in files:
            if file.name != "lock" and "events" not in file.name:
                groups.setdefault(
                    "npz" if file.suffix == ".npz" else str(file.relative_to(folder).parts[0::2]), []
                ).append(file)
        if not groups:
            break
        group = groups[rng.choice(sorted(groups))]
        path = group[-1] if rng.random() < 0.7 and group[-1].suffix != ".npz" else rng.choice(group)
        change = rng.choice([*changes(path), replaced if rng.random() < 0.3 else bytes_changed])
        with contextlib.suppress(Exception):  # what was damaged before, so that it cannot be changed so, stays
            done.append(f"{path.relative_to(folder)}: {change(path, rng, outside)}")
    return "; ".join(done)


def changes(path: Path) -> list[Callable[[Path, random.Random, Path], str]]:
    """What can be done to a file besides damage, by its kind."""
    kinds: dict[str, list[Any]] = {
        ".json": [plain_changed] * 4, ".jsonl": [], ".yaml": [plain_changed] * 4, ".safetensors": [tensors_changed] * 4,
        ".agent": [tensors_changed, about_changed, about_changed], ".npz": [arrays_changed] * 4,
    }  # fmt: skip
    return kinds.get(path.suffix, [])


def bytes_changed(path: Path, rng: random.Random, outside: Path) -> str:
    content, kind = bytearray(path.read_bytes()), rng.randrange(7)
    at = rng.randrange(len(content) or 1)
    if kind == 0:
        del content[at:]
    elif kind == 1:
        content += rng.randbytes(rng.choice([1, 100]))
    elif kind == 2:
        content[at : at + 16] = bytes(16)
    elif kind == 3:
        content[at : at + 64] = rng.randbytes(64)
    elif kind == 4:
        del content[at : at + rng.choice([1, 8, 100])]
    else:
        for _ in range(rng.choice([1, 8])):
            if content:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    store(path, bytes(content), rng)
    return f"bytes ({kind})"


def replaced(path: Path, rng: random.Random, outside: Path) -> str:
    """By a link, a pipe, a folder, another file, or nothing."""
    kind = rng.choice(["gone", "link", "link to a folder", "dangling link", "pipe", "folder", "sparse", "other"])
    other = rng.choice([one for one in sorted(path.parent.iterdir()) if one.is_file()]).read_bytes()
    path.unlink()
    if kind == "link":
        path.symlink_to(outside / "victim")
    elif kind == "link to a folder":
        path.symlink_to(outside)
    elif kind == "dangling link":
        path.symlink_to(outside / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind == "other":
        store(path, other, rng)
    return kind
