"""What a program does before torch is loaded, which takes seconds."""

import sys
from collections.abc import Sequence
from pathlib import Path

from training.data_parallel.world import world
from training.run_folder import lock, run_name
from training.signals import leave_quietly_on_ctrl_c

RUNS, RECIPE, OFFLINE = "runs", "quickstart", "offline"  # what configs/train.yaml has, and exp= with data=


def begin(arguments: Sequence[str] = ()) -> None:
    """From now on Ctrl-C ends it without a traceback. arguments: of train.py, which ends here with an error if another
    process trains the run.
    """
    leave_quietly_on_ctrl_c()
    folder = asked_folder(arguments) if world().rank == 0 else None  # which holds the run for the others
    if folder:
        try:
            lock.refuse_if_held(folder)
        except lock.RunError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None


def asked_folder(arguments: Sequence[str]) -> Path | None:
    """The folder of the run that a command line is about, if it is about one; training/configuration/resolve.py
    decides, and any mistake here only means that the run is refused later.
    """
    if not arguments or any(word.startswith("-") for word in arguments):
        return None  # a sweep
    given = {key: value for key, _, value in (word.lstrip("+").partition("=") for word in arguments)}
    recipe = given.get("exp", OFFLINE if "data" in given else RECIPE)
    name = given.get("run") or run_name.made_from(recipe, arguments)
    return Path(given.get("runs", RUNS)).expanduser() / name
