"""Finds a component by its name in the config: the one place where names become modules.

A component is one file that defines `Config` and `build`; the file's name is its name in the config. It lies in one of
our rooms or in a plugin: a package that the user has named on the command line or in a call. No config, shared or
edited, can name other code.
"""

import difflib
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from envs.errors import told
from training.configuration.plain import shown
from worldmodel.base import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
ACTORS = ("agents.planners", "agents.controllers", "agents.explorers")
ROOMS = {  # by the section of the config
    "env": ("envs.suites",),
    "model": ("worldmodel.models",),
    "actor": ACTORS,
    "explorer": ACTORS,
    "objective": ("agents.objectives",),
}


def names(section: str, plugins: Sequence[str] = ()) -> list[str]:
    """The names to choose from in a section. None is imported."""
    return sorted(locations(section, tuple(plugins)))


def find(section: str, name: object, plugins: Sequence[str] = ()) -> ModuleType:
    """The module that a name stands for, imported now. Errors: ConfigError."""
    known = locations(section, tuple(plugins))
    if not isinstance(name, str) or name not in known:
        close = nearest(name, known) if isinstance(name, str) else ""
        unbuilt = [f"{package}.{name}" for package in plugins for file in files(package) if file.stem == name]
        if unbuilt:
            raise ConfigError([f"{section}.name: {unbuilt[0]} has no function build, which makes it of its Config"])
        hint = f"{close}; one of your own package needs plugins=<package>"
        raise ConfigError([f"{section}.name: {shown(name)} is not one of {', '.join(sorted(known))}{hint}"])
    try:
        module = importlib.import_module(known[name])
    except Exception as error:  # of a package of the user's own, or a library that is missing
        raise ConfigError([f"{section}.name: {known[name]} cannot be imported: {told(error)}"]) from error
    if not isinstance(getattr(module, "Config", None), type):
        raise ConfigError([f"{section}.name: {known[name]} has no class Config, which says what its keys are"])
    return module


def build(section: str, name: object, plugins: Sequence[str], *arguments: Any) -> Any:
    """What a component's `build` makes. Errors: ConfigError, for whatever a plugin's raises; of ours they are bugs."""
    module = find(section, name, plugins)
    try:
        return module.build(*arguments)
    except (ConfigError, MemoryError):
        raise
    except Exception as error:
        if module.__name__.rpartition(".")[0] not in plugins:
            raise
        raise ConfigError([f"{section}.name: {module.__name__} cannot be built: {told(error)}"]) from error


@functools.cache
def locations(section: str, plugins: tuple[str, ...]) -> dict[str, str]:
    """Name -> dotted module. Errors: ConfigError, for a plugin that is not there, or has a name that is taken."""
    found: dict[str, str] = {}
    for package in (*ROOMS[section], *plugins):
        for file in files(package):
            if re.search(r"^def build\(", file.read_text("utf8", "replace"), re.MULTILINE):
                module = f"{package}.{file.stem}"
                if found.setdefault(file.stem, module) != module:
                    raise ConfigError(
                        [f"plugins: {module} has the name of {found[file.stem]}: rename its file and config"]
                    )
    return found


def files(package: str) -> list[Path]:
    """The files of a package."""
    return sorted(file for folder in folders(package) for file in folder.glob("*.py") if file.stem != "__init__")


def folders(package: str) -> list[Path]:
    """Where a package lies; nowhere, if it is a single file. Errors: ConfigError."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError([f"plugins: {package} cannot be imported: {error}"]) from error
    if spec is not None and spec.submodule_search_locations is None and "." not in package:
        return []  # one file: it may hold wrappers of environments, but no components
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError([f"plugins: there is no package {package!r} on Python's path: install it, or set PYTHONPATH"])
    return [Path(folder) for folder in spec.submodule_search_locations]


def config_folders(plugins: Sequence[str]) -> list[Path]:
    """The folders configs/ of plugins, for Hydra: <package>/configs/<section>/<name>.yaml."""
    found = [folder / "configs" for package in plugins for folder in folders(package)]
    taken = {str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*/*.yaml")}
    for folder in found:  # Hydra would take the first one, and say nothing
        own = {str(path.relative_to(folder)): path for path in folder.glob("*/*.yaml")}
        lines = [f"plugins: {path} has the name of a file of ours, configs/{name}: rename it"
                 for name, path in own.items() if name in taken]  # fmt: skip
        if lines:
            raise ConfigError(sorted(lines))
        taken |= own.keys()
    return [folder for folder in found if folder.is_dir()]


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' when something known is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
