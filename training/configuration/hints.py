"""Commands that are printed can be pasted where they were printed: the same Python and the same paths, whatever the
working folder is, quoted for a shell.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from training.configuration.working_folder import from_working_folder
from training.data_parallel.world import world
from training.shadowing import HOME


def command(entry: str, *words: str) -> str:
    """A command line. entry: train.py, evaluate.py, ..., or `-m <module>`."""
    script = entry.split() if entry.startswith("-m ") else [here(HOME / entry)]
    path = [*filter(None, [os.environ.get("PYTHONPATH")]), *(["."] if from_working_folder() else [])]
    before = f"PYTHONPATH={shlex.quote(os.pathsep.join(path))} " if path else ""
    return before + shlex.join([python(), *script, *words])


def to_go_on(run: Path, plugins: Sequence[str] | None, *changes: str) -> str:
    """What to type to go on with a run; where it is not there, no other begins."""
    words = [f"run={run.name}"] + ([] if run.parent == Path("runs") else [f"runs={run.parent}"])
    words += [f"plugins=[{','.join(plugins)}]"] if plugins else []
    found = world()
    if found.size == 1:
        return command("train.py", *words, "resume=true", *changes)
    nodes = [f"--nnodes={found.size // found.local_size}"] * (found.size > found.local_size)
    several = [*nodes, f"--nproc-per-node={found.local_size}", here(HOME / "train.py")]
    return command("-m torch.distributed.run", *several, *words, "resume=true", *changes)


def to_evaluate(run: Path, plugins: Sequence[str] | None, *options: str) -> str:
    return command("evaluate.py", str(run), *options, *(["--plugins", ",".join(plugins)] if plugins else []))


def python() -> str:
    """`python`, where a shell finds the one that runs this program by that name; else its path."""
    found = shutil.which("python")
    own = Path(sys.executable)
    if found and Path(found).parent.resolve() == own.parent.resolve():  # not the files: virtual environments share them
        return "python"
    return here(own)


def here(path: Path) -> str:
    """A path as seen from the working folder, if it lies in it."""
    try:
        folder = Path.cwd()
    except OSError:  # it was deleted
        return str(path)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
