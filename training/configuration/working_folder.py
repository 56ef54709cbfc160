"""Modules of the user's own that lie in the working folder. Nothing here needs torch."""

import importlib.util
import os
import sys
from collections.abc import Iterable

WORKING_FOLDER: list[str] = []  # from which the user's own modules come, if they do


def use_working_folder(modules: Iterable[str]) -> None:
    """Let modules that the user names on the command line lie in the working folder, as `python -m` does; last on the
    path, so that it hides nothing. What a loaded run names is not looked for there.
    """
    missing = [top for top in {module.partition(".")[0] for module in modules} if not found_on_path(top)]
    if missing:
        sys.path.append(os.getcwd())
        if any(map(found_on_path, missing)):
            WORKING_FOLDER[:] = sys.path[-1:]
        else:
            sys.path.pop()


def found_on_path(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def from_working_folder() -> bool:
    """Whether modules of the user's own come from there, which is else not on Python's path."""
    return bool(WORKING_FOLDER)
