"""Cleaning up costs no finished work: what fails in it is told, and that is all."""

from training.attempts import told
from training.progress import console


def close(*what: object) -> None:
    """Close those that are not None."""
    for thing in what:
        try:
            if thing is not None:
                thing.close()  # type: ignore[attr-defined]
        except Exception as error:
            console.print(f"warning: closing the {type(thing).__name__.lower()} failed: {told(error)}")
