"""Which code, libraries and processor a run was made with."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

import torch

from training.configuration.components import ROOT

PACKAGES = ("torch", "numpy", "gymnasium", "worldmodel")


def made_with() -> dict[str, Any]:
    """What run.json says of it."""
    return {
        "processor": processor(),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": packages(),
        "command": " ".join(sys.argv),
    }


def commit() -> str | None:
    """The code's commit, with a '+' if it was changed since. WORLDMODEL_COMMIT says it where there is no repository, or
    an older one (benchmarks/gpu.sh).
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    if "WORLDMODEL_COMMIT" in os.environ:
        return os.environ["WORLDMODEL_COMMIT"]
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def packages() -> dict[str, str | None]:
    """Versions of what results depend on; None: it is not installed."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def processor() -> str:
    """The instructions that sums on a CPU are computed with, such as `x86_64 AVX512`: others round differently."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
