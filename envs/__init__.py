"""The world: environments with images, all with the same face. Adding one is one file here and one config."""

import ast
import importlib
from pathlib import Path

from envs.face import Config
from envs.guard import EnvError
from envs.vector import Vector  # before `def vector`, which then takes the module's name here

__all__ = ["Config", "EnvError", "Vector", "names", "vector"]


def names() -> list[str]:
    """The choices for `env.name`: the files of this folder that define `build`. None is imported."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if _builds(path))


def vector(config: Config) -> Vector:
    """The environments of a config. Errors: EnvError."""
    if config.name not in names():
        raise EnvError(f"env.name: no '{config.name}' in envs/; there are {', '.join(names())}")
    return Vector(config, importlib.import_module(f"envs.{config.name}").build)


def _builds(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in tree.body)
