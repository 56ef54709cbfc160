"""Our rooms are top-level packages with plain names, so that a folder or module of the user's own may hide one. That is
said as what it is, instead of as an import that fails somewhere. Nothing here needs torch.
"""

import importlib.util
import sys
from pathlib import Path

ROOMS = ("agents", "envs", "training", "worldmodel")
HOME = Path(__file__).resolve().parent.parent


def refuse_shadows() -> None:
    """Errors: ImportError, if Python finds something else by the name of a room."""
    for room in ROOMS:
        place = found_at(room)
        if place is not None and not place.resolve().is_relative_to(HOME):
            raise ImportError(
                f"`{room}` is {place} here, which hides this project's own, {HOME / room}: rename yours, or start "
                "where Python does not find it first"
            )


def found_at(room: str) -> Path | None:
    """The file or folder that an import of a room gives."""
    module = sys.modules.get(room)
    spec = module.__spec__ if module else importlib.util.find_spec(room)
    places = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None
