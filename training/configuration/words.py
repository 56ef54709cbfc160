"""Words of the command line, key=value: what they name, and how to write them so that Hydra takes them as they are."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

PATHS = ("runs", "data", "model_from", "objective.image")
TEXT = ("run", *PATHS)  # values that are taken as they are
WORD = re.compile(r"\+{0,2}[A-Za-z_][\w/@-]*(\.[\w/@-]+)*=", re.ASCII)  # how an override begins


def plugins_of(overrides: Sequence[str]) -> list[str]:
    """plugins=a or plugins=[a,b]."""
    values = [word.partition("=")[2] for word in overrides if word.lstrip("+").startswith("plugins=")]
    return [name.strip() for name in values[-1].strip("[]").split(",") if name.strip()] if values else []


def modules_named(overrides: Sequence[str]) -> list[str]:
    """The modules of the user's own that a command line names: plugins=a, and env.id=b:Name-v0 and the like."""
    values = [word.partition("=")[2] for word in overrides if word.lstrip("+").startswith("env.")]
    return [*plugins_of(overrides), *(name for value in values for name in re.findall(r"([A-Za-z_][\w.]*):", value))]


def with_home(word: str) -> str:
    """A path that begins with ~, which not every shell replaces."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{os.path.expanduser(value)}" if key.lstrip("+") in PATHS else word


def in_hydra_grammar(text: str) -> str:
    """A value as Hydra can read it: a mapping or list in JSON or YAML, else text."""
    try:
        return written(yaml.safe_load(text)) if text[:1] in ("{", "[") else written(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return written(text)


def written(value: Any) -> str:
    """In Hydra's grammar. Errors: ValueError, for keys that it cannot have."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) and re.fullmatch(r"\w[\w-]*", key, re.ASCII) for key in value):
            raise ValueError(f"keys {list(value)}")
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return f"'{escaped(value)}'" if isinstance(value, str) else json.dumps(value, default=str)


def escaped(text: str) -> str:
    """Text for Hydra's quotes: backslashes count before a quote and at the end only."""
    return re.sub(r"\\+$", r"\g<0>\g<0>", re.sub(r"(\\*)'", r"\1\1\\'", text))


def unquoted(word: str) -> str:
    """A word as Hydra gives it back, without the quotes around its text."""
    key, equals, value = word.partition("=")
    if key in TEXT and len(value) > 1 and value[0] == value[-1] == "'":
        text = re.sub(r"(\\+)'", lambda found: "\\" * (len(found[1]) // 2) + "'", value[1:-1])
        return key + equals + re.sub(r"\\+$", lambda found: "\\" * (len(found[0]) // 2), text)
    return word


def as_typed(words: Iterable[str]) -> list[str]:
    """Words as Hydra has them, the way somebody would type them."""
    return [unquoted(word.lstrip("+")) for word in words]
