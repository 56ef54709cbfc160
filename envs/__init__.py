"""The world: environments with images, all with the same face. Adding one is one file here and one config."""

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

from envs.face import Config
from envs.guard import EnvError
from envs.vector import Vector  # before `def vector`, which then takes the module's name here

__all__ = ["Config", "EnvError", "Vector", "make", "names", "vector"]


def names() -> list[str]:
    """The choices for `env.name`: the files of this folder that define `build`. None is imported."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if _builds(path))


def vector(config: Config) -> Vector:
    """The environments of a config. Errors: EnvError."""
    if config.name not in names():
        raise EnvError(f"env.name: no '{config.name}' in envs/; there are {', '.join(names())}")
    return Vector(config, importlib.import_module(f"envs.{config.name}").build)


def make(section: Mapping[str, Any]) -> gymnasium.Env:
    """One environment from a config's plain values, with the fixed face: an ordinary Gymnasium environment.

    For a trained agent's own: envs.make(agent.env). Errors: EnvError; pydantic's for wrong values."""
    name = section.get("name")
    if name not in names():
        raise EnvError(f"env.name: no {name!r} in envs/; there are {', '.join(names())}")
    module = importlib.import_module(f"envs.{name}")
    env: gymnasium.Env = module.build(module.Config(**section))
    return env


def _builds(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in tree.body)
