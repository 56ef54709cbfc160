"""Checks a composed config: every mistake at once, one line each, with the nearest valid key; and finds parts by name.

A part is one file of a room that defines `Config` and `build`. Its file name is its name in the config, and names are
only looked up among those files: no config, shared or edited, can name other code.
"""

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

Kinds: TypeAlias = Mapping[str, type[BaseModel] | str]  # for each section its model, or the room of its part
ROOT = Path(__file__).resolve().parent.parent


class Section(BaseModel):
    """A frozen, checked part of the config. Subclasses stand above what they feed, without defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class ModelConfig(Section):
    """What train.py asks of every world model's Config."""

    name: str

    def fits(self, size: Sequence[int]) -> str | None:
        """What is wrong with images of this size (Y, X), if anything."""
        return None


class ConfigError(ValueError):
    """What is wrong with a config, one line per mistake."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


def parts(room: str) -> list[str]:
    """The names to choose from in a room ('worldmodel', 'agents', 'envs'): its files that define build()."""
    files = sorted(file for file in (ROOT / room).glob("*.py") if file.stem != "__init__")
    return [file.stem for file in files if re.search(r"^def build\(", file.read_text("utf8"), re.MULTILINE)]


def part(room: str, name: object) -> ModuleType:
    """The module that a name stands for. Imported only when chosen."""
    known = parts(room)
    if name not in known:
        raise ConfigError([f"{shown(name)} is not one of {', '.join(known)}{nearest(str(name), known)}"])
    return importlib.import_module(f"{room}.{name}")


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' when something known is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check(raw: Any, kinds: Kinds, top: type[BaseModel] | None = None) -> dict[str, Any]:
    """Turn the raw config into checked sections. kinds: for each key its model, or the room whose part `name` chooses;
    top: the model of the plain values beside the sections, which are returned as section 'top'.

    Raises ConfigError with all mistakes.
    """
    lines: list[str] = []
    checked: dict[str, Any] = {}
    if not isinstance(raw, Mapping):
        raise ConfigError([f"a config is a mapping of sections, not {type(raw).__name__}"])
    plain = {key: raw[key] for key in raw if key not in kinds}
    if top is None:
        lines += [f"{key}: there is no such key{nearest(str(key), kinds)}" for key in plain]
    else:
        try:
            checked["top"] = top.model_validate(plain)
        except ValidationError as error:
            lines += [describe("", top, mistake, kinds) for mistake in error.errors()]
    for key, kind in kinds.items():
        if key not in raw:
            lines.append(f"{key}: missing")
            continue
        if not isinstance(raw[key], Mapping):
            lines.append(f"{key}: a section with keys is wanted, not {shown(raw[key])}")
            continue
        if isinstance(kind, str) and "name" not in raw[key]:
            wrong = difflib.get_close_matches("name", map(str, raw[key]), n=1, cutoff=0.75)
            lines += [f"{key}.{word}: there is no such key; did you mean 'name'?" for word in wrong] or [
                f"{key}.name: missing"
            ]
            continue
        try:
            model = part(kind, raw[key].get("name")).Config if isinstance(kind, str) else kind
        except ConfigError as error:
            lines.append(f"{key}.name: {error}")
            continue
        try:
            checked[key] = model.model_validate(dict(raw[key]))
        except ValidationError as error:
            lines += [describe(key, model, mistake) for mistake in error.errors()]
            lines += contradictions(key, model, raw[key])
    if lines:
        raise ConfigError(lines)
    return checked


def contradictions(section: str, model: type[BaseModel], raw: Mapping[Any, Any]) -> list[str]:
    """Pairs that disagree, which pydantic does not look at while there are unknown keys."""
    known = {key: value for key, value in raw.items() if key in model.model_fields}
    if len(known) == len(raw):
        return []
    try:
        model.model_validate(known)
    except ValidationError as error:
        return [describe(section, model, mistake) for mistake in error.errors() if not mistake["loc"]]
    return []


def describe(section: str, model: type[BaseModel], mistake: Any, others: Iterable[str] = ()) -> str:
    """One line for one of pydantic's mistakes: path, what is wrong, what was given."""
    path = ".".join([section, *(str(step) for step in mistake["loc"])]).lstrip(".")
    if mistake["type"] == "extra_forbidden":
        return f"{path}: there is no such key{nearest(str(mistake['loc'][-1]), [*model.model_fields, *others])}"
    if mistake["type"] == "missing":
        return f"{path}: missing"
    if mistake["type"] == "value_error" and not mistake["loc"]:
        return f"{section}: {mistake['ctx']['error']}"
    return f"{path}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}, not {shown(mistake['input'])}"


def shown(value: object) -> str:
    """What was given, cut so that a message stays one line."""
    given = repr(value)
    return given if len(given) < 60 else given[:57] + "..."
