"""Cleaning up costs no finished work: what fails in it is told, and that is all."""

from training.reporting.progress import console
from training.run_folder.attempts import told


def close(*what: object) -> None:
    """Close those that are not None."""
    for thing in what:
        try:
            if thing is not None:
                thing.close()  # type: ignore[attr-defined]
        except Exception as error:
            console.print(f"warning: closing the {type(thing).__name__.lower()} failed: {told(error)}")
