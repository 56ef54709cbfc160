"""Digests of mutants that are made right, so that what the mutants hold is reached."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np


def store(path: Path, content: bytes, rng: random.Random, sign: bool = False) -> None:
    """Write a file; half of the times, in a checkpoint, with its digest."""
    path.write_bytes(content)
    manifest = path.parent / "MANIFEST.json"
    if path != manifest and manifest.is_file() and (sign or rng.random() < 0.5):
        listed = json.loads(manifest.read_bytes())
        listed["files"][path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest.write_text(json.dumps(listed))


def sign_agent_or_store(path: Path, content: bytes, rng: random.Random) -> None:
    from training.run_folder import agent_file

    if path.suffix == agent_file.SUFFIX:
        digest = agent_file.digest(content).encode()
        content = agent_file.DIGEST.sub(b'"sha256":"' + digest + b'"', content, count=1)
    store(path, content, rng, sign=rng.random() < 0.8)


def sign_chunk(path: Path, content: bytes, arrays: dict[str, np.ndarray], rng: random.Random) -> None:
    """A chunk under its right name, in all manifests."""
    path.write_bytes(content)
    checkpoints = path.parent.parent / "checkpoints"
    if not checkpoints.is_dir() or rng.random() < 0.2:
        return
    from worldmodel.replay.episodes import Episode

    fields = [arrays.get(name, np.zeros(0)) for name in Episode._fields]
    digest = Episode(*fields).digest()
    rows = len(arrays["reward"]) if "reward" in arrays and arrays["reward"].ndim else 1
    shutil.move(path, path.with_name(f"{digest}.npz"))
    for manifest in checkpoints.glob("*/MANIFEST.json"):
        listed = json.loads(manifest.read_bytes())
        listed["chunks"] = [
            [digest, rows, *place] if old == path.stem else [old, many, *place]
            for old, many, *place in listed["chunks"]
        ]
        manifest.write_text(json.dumps(listed))
