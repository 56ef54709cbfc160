"""The command line, through Hydra: overrides to plain values, and sweeps. No other file imports Hydra."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from training.configuration import hints
from training.configuration.components import CONFIGS, ROOMS, config_folders, nearest
from training.configuration.config import Config
from training.configuration.plain import shown
from training.configuration.resolve import resolve
from training.configuration.words import (
    TEXT,
    WORD,
    escaped,
    in_hydra_grammar,
    modules_named,
    plugins_of,
    with_home,
)
from training.configuration.working_folder import use_working_folder
from worldmodel.base import ConfigError

# For configs: ${mul:100000,${env.action_repeat}} are the env steps of 100,000 decisions, ${div:...} is the way back. By
# 0 it is nan, which no key takes: a repeat of 0 is refused by its own name.
OmegaConf.register_new_resolver("mul", lambda *factors: math.prod(map(int, factors)), replace=True)
OmegaConf.register_new_resolver("div", lambda a, b: int(a) // int(b) if int(b) else math.nan, replace=True)

SWEEP = ("-m", "--multirun")
GROUPS = ("exp", *ROOMS)


def parse(overrides: Sequence[str]) -> Config:
    """The checked config of one run. Errors: ConfigError, with all mistakes; RunError."""
    use_working_folder(modules_named(overrides))
    check_words(overrides, sweep=False)
    return resolve([with_home(word) for word in overrides], compose)


def compose(overrides: Sequence[str]) -> tuple[dict[str, Any], Mapping[str, str], list[str]]:
    """The plain values of configs/ with overrides, which files were chosen, and the keys that were given. Errors:
    ConfigError.
    """
    words = [as_hydra_reads(word) for word in overrides]
    folders = [f"file://{folder}" for folder in config_folders(plugins_of(overrides))]
    search = [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
    try:
        with hydra_context():
            given = [key for word in words for key in keys_given(word)]
            composed = hydra.compose("train", [*search, *words], return_hydra_config=True)
            choices = dict(composed.hydra.runtime.choices)
            with open_dict(composed):
                del composed["hydra"]
            plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key or 'config'}: {str(error).splitlines()[0]}"]) from error
    except (HydraException, ValueError, TypeError) as error:
        raise ConfigError([misfit(error, words)]) from error
    return plain, choices, given


def misfit(error: Exception, words: Sequence[str]) -> str:
    """What Hydra could not put together, in words: it says neither which key it was, nor what is there."""
    said = str(error).splitlines()[0]
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if said.endswith(f" {word}"):
            return f"{key}: {shown(value)} cannot take the place of what stands there"
        if said.startswith(f"Could not override '{key}'"):
            return f"{key}: there is no such key"
    return said if isinstance(error, HydraException) else f"a key names something inside a value that has none ({said})"


def keys_given(word: str) -> Iterator[str]:
    """The keys that an override sets to something: one, or those in its mapping. Errors: HydraException."""
    override = OverridesParser.create().parse_override(word)
    pairs = [(override.key_or_group, override.value())]
    while pairs:
        key, value = pairs.pop()
        if isinstance(value, Mapping):
            pairs += [(f"{key}.{inner}", below) for inner, below in value.items()]
        elif value is not None:
            yield key


def component_section(
    groups: Sequence[str], name: str, overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """The plain values of configs/<group>/<name>.yaml, of the first group that has it, with overrides of its section.
    Errors: ConfigError.
    """
    folders = config_folders(plugins)
    known = [choice for group in groups for choice in choices_of(group, folders)]
    group = next((group for group in groups if name in choices_of(group, folders)), None)
    if group is None:
        asked = "--actor" if "actor" in groups else groups[0]
        raise ConfigError([f"{asked}: {name!r} is not one of {', '.join(known)}{nearest(name, known)}"])
    check_words(overrides, sweep=None)
    plain, *_ = compose([f"{group}={name}", *overrides, f"plugins=[{','.join(plugins)}]"])
    section: dict[str, Any] = plain[group]
    return section


@contextlib.contextmanager
def hydra_context() -> Iterator[None]:
    """Hydra's global state: the sweep's, if there is one, else one for the moment."""
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield


def as_hydra_reads(override: str) -> str:
    """Plain keys are forced in, so that our check sees, and lists, all that are wrong; text is quoted, and so is
    what Hydra's grammar does not know.
    """
    override = override.lstrip("+")
    key, _, value = override.partition("=")
    if key == "plugins" and not value.startswith("["):
        return f"++plugins=[{value}]"
    if key in TEXT and value not in ("null", "") and value[0] not in "'\"":
        return f"++{key}='{escaped(value)}'"
    if not readable(override):
        return f"++{key}={in_hydra_grammar(value)}"
    plain = re.match(r"[A-Za-z]", override) and not choices_of(key) and not key.startswith("hydra")
    return f"++{override}" if plain else override


def choices_of(key: str, folders: Sequence[Path] = ()) -> list[str]:
    """The files to choose from, if a key is a folder of configs/; and in the same folder of plugins' configs."""
    ours = [path.stem for path in (CONFIGS / key).glob("*.yaml")] if key.isidentifier() else []
    return sorted({*ours, *(path.stem for folder in folders if ours for path in (folder / key).glob("*.yaml"))})


def readable(override: str) -> bool:
    """Whether Hydra's grammar knows it."""
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def check_words(arguments: Sequence[str], sweep: bool | None) -> None:
    """Errors: ConfigError, for all words that Hydra could not read or would misread. sweep: whether words may have
    several values; None: there are no sweeps here.
    """
    lines = []
    folders = config_folders(plugins_of(arguments))
    for argument in arguments:
        key, equals, value = argument.lstrip("+").partition("=")
        if argument in SWEEP or (key in TEXT and equals):
            continue
        if not WORD.match(argument):
            lines.append(
                f"{argument}: not of the form key=value; all that can be chosen: {hints.command('train.py', '--help')}"
            )
            continue
        if not sweep and readable(argument) and OverridesParser.create().parse_override(argument).is_sweep_override():
            lines.append(f"{argument}: {several_values(arguments) if sweep is False else 'give one value here'}")
        if not sweep and key.startswith("hydra"):
            lines.append(f"{key}: it is for sweeps, which need -m")
        if "@" in key:  # earlier versions' actor@explorer
            lines.append(f"{key}: a component is chosen by its section alone: {key.partition('@')[2]}={value}")
        known = choices_of(key, folders)
        if known and not key.startswith("hydra"):
            wrong = [name for name in value.split(",") if name not in known]
            lines += [
                f"{key}: there is no {name!r}; choose from {', '.join(known)}{nearest(name, known)}" for name in wrong
            ]
    if lines:
        raise ConfigError(lines)


def several_values(arguments: Sequence[str]) -> str:
    words = [word for word in arguments if not word.lstrip("+").startswith("run=")]  # the members cannot share a name
    return f"several values are a sweep, which needs -m: {hints.command('train.py', '-m', *words)}"


def usage() -> str:
    """All recipes and components that can be chosen."""
    choices = [f"  {group}={', '.join(choices_of(group))}" for group in GROUPS]
    keys = f"All keys that are in no component's file: {hints.here(CONFIGS / 'train.yaml')}. A sweep: -m seed=0,1,2"
    return "\n".join(["usage: python train.py [-m] key=value ...", *choices, keys])


def is_sweep(arguments: Sequence[str]) -> bool:
    return any(argument in SWEEP for argument in arguments)
