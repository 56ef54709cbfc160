"""A run's name: as given, or made from what was asked for. Nothing here needs torch."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

LONGEST_NAME = 200  # of a run; file systems take 255 bytes
NOT_IN_NAME = ("run=", "runs=", "exp=", "resume=", "skip_damaged=", "plugins=")  # of overrides, in a run's name


def made_from(recipe: str, overrides: Sequence[str]) -> str:
    """The same overrides give the same name, for it is how a run is found again."""
    words = [word.lstrip("+") for word in overrides]
    words = [word for word in words if not word.startswith(NOT_IN_NAME)]
    name = re.sub(r"[^\w.,=+-]", "_", "-".join([recipe, *words]))
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def runs_beside(folder: Path) -> list[str]:
    """The names of the runs in the same folder."""
    return sorted(path.parent.name for path in folder.parent.glob("*/run.json"))


def not_a_run(folder: Path) -> str:
    """Why this path is no run's folder, and which ones are near."""
    from training.configuration.components import nearest  # which load torch
    from training.run_folder.checkpoint import MANIFEST

    if folder.is_file():  # such as an agent's file, where a run is asked for
        why = "it is a file; a run's folder is wanted, such as runs/cartpole1"
    elif os.path.lexists(folder / MANIFEST):
        return f"{folder} is a checkpoint: name its run, {folder.parent.parent}"
    else:
        why = "it has no run.json" if folder.is_dir() else "there is no such folder"
    known = runs_beside(folder)
    there = f"; runs beside it: {', '.join(known)}{nearest(folder.name, known)}" if known else ""
    return f"{folder} is not a run: {why}{there}"
