"""The command line, through Hydra: overrides to plain values, and sweeps. No other file imports Hydra."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from training.components import ROOT, config_folders, nearest
from training.config import Config
from training.resolve import resolve
from worldmodel.base import ConfigError

CONFIGS = ROOT / "configs"
SWEEP = ("-m", "--multirun")
TEXT = (
    "run",
    "runs",
    "data",
    "model_from",
    "objective.image",
)  # values that are taken as they are


def parse(overrides: Sequence[str]) -> Config:
    """The checked config of one run. Errors: ConfigError, with all mistakes; RunError."""
    check_words(overrides, sweep=False)
    return resolve(overrides, compose)


def compose(overrides: Sequence[str]) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The plain values of configs/ with overrides, and which files were chosen. Errors: ConfigError."""
    folders = [f"file://{folder}" for folder in config_folders(plugins_of(overrides))]
    search = [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
    try:
        with hydra_context():
            composed = hydra.compose("train", [*search, *map(as_hydra_reads, overrides)], return_hydra_config=True)
            choices = dict(composed.hydra.runtime.choices)
            with open_dict(composed):
                del composed["hydra"]
            plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key or 'config'}: {str(error).splitlines()[0]}"]) from error
    except HydraException as error:
        raise ConfigError([str(error).splitlines()[0]]) from error
    return plain, choices


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
    check_words(overrides, sweep=False)
    plain, _ = compose([f"{group}={name}", *overrides, f"plugins=[{','.join(plugins)}]"])
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


def plugins_of(overrides: Sequence[str]) -> list[str]:
    """plugins=a or plugins=[a,b]."""
    values = [word.partition("=")[2] for word in overrides if word.lstrip("+").startswith("plugins=")]
    return [name.strip() for name in values[-1].strip("[]").split(",") if name.strip()] if values else []


def as_hydra_reads(override: str) -> str:
    """Plain keys are forced in, so that our check sees, and lists, all that are wrong; text is quoted."""
    key, _, value = override.lstrip("+").partition("=")
    if key == "plugins" and not value.startswith("["):
        return f"++plugins=[{value}]"
    if key in TEXT and value not in ("null", "") and value[0] not in "'\"":
        return f"++{key}='{escaped(value)}'"
    plain = re.match(r"[A-Za-z]", override) and not choices_of(key) and not key.startswith("hydra")
    return f"++{override}" if plain else override


def choices_of(key: str, folders: Sequence[Path] = ()) -> list[str]:
    """The files to choose from, if a key is a folder of configs/; and in the same folder of plugins' configs."""
    ours = [path.stem for path in (CONFIGS / key).glob("*.yaml")] if key.isidentifier() else []
    return sorted({*ours, *(path.stem for folder in folders if ours for path in (folder / key).glob("*.yaml"))})


def check_words(arguments: Sequence[str], sweep: bool) -> None:
    """Errors: ConfigError, for all words that Hydra could not read or would misread."""
    lines = []
    folders = config_folders(plugins_of(arguments))
    for argument in arguments:
        key, equals, value = argument.lstrip("+").partition("=")
        if argument.startswith("-") or (key in TEXT and equals):
            continue
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            lines.append(f"{argument}: not of the form key=value ({str(error).splitlines()[0]})")
            continue
        if override.is_sweep_override() and not sweep:
            lines.append(f"{argument}: several values are a sweep, which needs -m: python train.py -m {argument}")
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


def is_sweep(arguments: Sequence[str]) -> bool:
    return any(argument in SWEEP for argument in arguments)


def sweep(arguments: Sequence[str], run: Callable[[Sequence[str]], int]) -> int:
    """Run every member of a sweep; one that fails does not stop the others. The first exit code that is not 0. Errors:
    ConfigError, before any has begun.
    """
    check_words(arguments, sweep=True)
    if any(word.lstrip("+").startswith("run=") for word in arguments):
        raise ConfigError(["run: the members of a sweep cannot share a name: leave it out, each makes its own"])
    ended: list[tuple[str, int]] = []

    def member(_: DictConfig) -> None:
        overrides: list[str] = list(HydraConfig.get().overrides.task)
        words = [word.lstrip("+") for word in overrides]
        ended.append((" ".join(words), run([unquoted(word) for word in words])))

    sys.argv[1:] = [word if word.startswith("-") else as_hydra_reads(word) for word in arguments]
    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(member)()
    failed = [(words, code) for words, code in ended if code]
    if failed:
        print(f"{len(failed)} of {len(ended)} runs of the sweep failed:", file=sys.stderr)
        for words, code in failed:
            print(f"  {words} (exit code {code})", file=sys.stderr)
    return failed[0][1] if failed else 0


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
