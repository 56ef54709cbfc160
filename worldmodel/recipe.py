"""What a recipe (configs/exp/) says of chosen worlds and parts, laid on a composed config. Plain dicts, before Hydra's
`${...}` are resolved. The command line, whose keys are `said`, always wins.
"""

from collections.abc import Sequence
from typing import Any

from worldmodel.config import nearest, part, parts


def fit(raw: dict[str, Any], world: str, said: Sequence[str]) -> None:
    """Lay on what the recipe says of the chosen environment (its section `worlds`, by the name `world` of the file in
    configs/env/) and of the chosen parts (`parts`, by their names). `worlds` goes; `parts` stays, so that evaluate.py
    can give other actors theirs.
    """
    elsewhere = (raw.get("data") or raw.get("model_from")) and "env" not in said  # not the recipe's own world
    worlds, given = raw.pop("worlds", None) or {}, raw.get("parts") or {}
    values = dict({} if elsewhere else worlds.get(world) or {})
    merge(given, values.pop("parts", {}))
    if "actor@explorer" in said:
        values.pop("explorer", None)
    lay(raw, values, said)
    for section in ("env", "model", "actor"):
        if isinstance(raw.get(section), dict):
            lay(raw[section], given.get(raw[section].get("name")) or {}, said, f"{section}.")
    raw["parts"] = given


def lay(target: dict[str, Any], values: dict[str, Any], said: Sequence[str], path: str = "") -> None:
    """Write values into a section, key by key, except those that the command line gave."""
    if "name" in values and values["name"] != target.get("name"):
        for key in [key for key in target if f"{path}{key}" not in said]:  # another part: the old one's values go
            del target[key]
    for key, value in values.items():
        if f"{path}{key}" in said and (path or not isinstance(value, dict)):
            continue  # at the top env=... does not give a section but names a file, on which values are laid
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            lay(target[key], value, said, f"{path}{key}.")
        else:
            target[key] = value


def merge(target: dict[str, Any], values: dict[str, Any]) -> None:
    """Write nested values over others."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def laid_on(stored: dict[str, Any], composed: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The stored config with the composed values of some dotted keys."""
    result = dict(stored)
    for key in keys:
        *sections, last = key.split(".")
        here, there = result, composed
        for section in sections:
            here[section] = here = dict(inside(here, section))
            there = inside(there, section)
        here[last] = there.get(last)
    return result


def inside(values: dict[str, Any], key: str) -> dict[str, Any]:
    """A section's values; none if there is no such section."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def known(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A recipe's values for parts, if all of them are there. Errors: ValueError, with the nearest name."""
    rooms = {name: room for room in ("worldmodel", "agents", "envs") for name in parts(room)}
    for name, given in values.items():
        if name not in rooms:
            raise ValueError(f"there is no part {name!r}{nearest(name, rooms)}")
        if rooms[name] == "envs":
            continue  # to know their keys simulators would have to be imported, which takes seconds
        keys = part(rooms[name], name).Config.model_fields
        for key in given:
            if key not in keys:
                raise ValueError(f"{name} has no key {key!r}{nearest(key, keys)}")
    return values
