"""From what was asked to the checked config of one run: a new one, or one that exists and brings its own. Pure: nothing
is written, and Hydra is not known here.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.configuration.components import nearest
from training.configuration.config import Config, check
from training.configuration.idle_keys import idle_keys
from training.configuration.plain import differences, shown
from training.configuration.size import with_size
from training.run_folder.run import Run, RunError
from training.run_folder.run_name import LONGEST_NAME, made_from, runs_beside
from worldmodel.base import ConfigError

WHICH = ("run", "runs", "plugins", "resume", "skip_damaged")  # it is
MAY_CHANGE = (  # when a run is resumed
    *WHICH,
    "train.env_steps",
    "train.keep_checkpoints",
    "agent.device",
    "agent.compile",
    "agent.threads",
    "replay.storage",
    "replay.memory_gb",
    "ray",
)
Plain = dict[str, Any]
# overrides -> values, the chosen files, and the keys that were given
Compose = Callable[[Sequence[str]], tuple[Plain, Mapping[str, str], Sequence[str]]]


def resolve(overrides: Sequence[str], compose: Compose) -> Config:
    """The config of a run. Errors: ConfigError, RunError."""
    typed, overrides = overrides, with_size(overrides, compose)
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    if "data" in keys and "exp" not in keys:
        overrides = [*overrides, "exp=offline"]
    plain, choices, given = compose(overrides)
    if "env.wrappers" in keys:  # who types a wrapper's name trusts its package
        plain["plugins"] = with_wrappers(plain["plugins"], plain["env"])
    plain["run"] = run_name(plain["run"], choices["exp"], typed)
    folder = Path(str(plain["runs"])) / plain["run"]
    stored = Run.read(folder) if Run.exists(folder) else None
    refuse_other_than_asked(plain, folder, stored)
    if plain["model_from"] is not None:
        source = (stored or Run.read(Path(str(plain["model_from"])))).config
        repeat = source["env"].get("action_repeat") if isinstance(source["env"], dict) else None
        if isinstance(repeat, int) and not {"env", "env.action_repeat"}.intersection(keys):
            # What configs compute from an action repeat is about that of the source.
            again, *_ = compose([*overrides, f"++env.action_repeat={repeat}"])
            plain = again | {key: plain[key] for key in ("plugins", "run")}
        taken = ("model", "env") if source["env"] or "env" in keys else ("model",)
        plain = overlay(plain | {key: source[key] for key in ("model", "env")}, plain, keys, taken)
    elif plain["data"] is not None and "env" not in keys:
        plain["env"] = None
        refuse_env_keys(overrides, plain)
    if stored:
        stored.require_plugins(plain["plugins"])
        if "exp" not in keys:
            asked = [*keys, "run", "runs", "resume", "skip_damaged", "plugins"]
            plain = overlay(stored.config, plain, asked, (*stored.config, *(key.partition(".")[0] for key in keys)))
        config = check(plain)  # first: a key that does not exist is no change
        refuse_changes(stored, plain)
        return dataclasses.replace(config, changes=tuple(word for word in typed if changes_a_resumed_run(word)))
    config = dataclasses.replace(check(plain), asked=tuple(given), recipe=described(plain, choices, keys, folder))
    idle = idle_keys(config)
    if idle:
        raise ConfigError(idle)
    return config


def changes_a_resumed_run(word: str) -> bool:
    """Whether a word is more than which run it is: config.yaml keeps what the run began with, so it has to be typed
    again.
    """
    key = word.lstrip("+").partition("=")[0]
    return key not in WHICH and may_change(key)


def may_change(key: str) -> bool:
    """Whether a resumed run may be given another value of this key."""
    return key in MAY_CHANGE or key.partition(".")[0] in MAY_CHANGE


def described(plain: Plain, choices: Mapping[str, str], keys: Sequence[str], folder: Path) -> str:
    """What a new run begins with, for people to read; and whether its name is much like another run's."""
    words = [f"exp={choices['exp']}{'' if 'exp' in keys else ' (the default)'}"]
    source = plain["model_from"]
    words += [f"model and environment of {source}"] if source else [f"model={choices['model']}"]
    words += [] if source else [f"env={choices['env']}" if plain["env"] else "no environment"]
    hint = nearest(folder.name, runs_beside(folder)) if "run" in keys else ""
    return ", ".join([*words, f"actor={choices['actor']}"]) + hint


def refuse_other_than_asked(plain: Plain, folder: Path, stored: Run | None) -> None:
    """Errors: RunError, if `resume` asks for a run that does not exist, or for a new one where one does."""
    if stored and plain["resume"] is False:
        raise RunError(f"{folder} exists, and resume=false asks for a new run: to go on with it, {stored.command()}")
    if not stored and (plain["resume"] is True or plain["skip_damaged"] is True):
        key = "resume" if plain["resume"] is True else "skip_damaged"
        known = runs_beside(folder)
        there = f"{folder.parent} holds {', '.join(known)}" if known else f"there is no run in {folder.parent}"
        raise RunError(f"{folder} is not a run to go on with, as {key}=true asks: {there}{nearest(folder.name, known)}")


def with_wrappers(plugins: Any, env: Any) -> Any:
    """The plugins, and the packages of the environment's wrappers."""
    wrappers = env.get("wrappers") if isinstance(env, dict) else None
    if not isinstance(plugins, list) or not isinstance(wrappers, list):
        return plugins  # config.check will say it
    packages = [str(name).partition(":")[0].partition(".")[0] for name in wrappers]
    return [*plugins, *dict.fromkeys(name for name in packages if name not in plugins)]


def refuse_env_keys(overrides: Sequence[str], plain: Plain) -> None:
    """Errors: ConfigError, if keys of an environment are given and there is none; with all other mistakes."""
    lines = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in ("env.size", "env.gray"):
            lines.append(
                f"{key}: there is no environment. Images of recordings: {key.replace('env.', 'data_')}={value}"
            )
        elif key.startswith("env."):
            lines.append(f"{key}: recorded episodes need no environment: leave it out, or choose one by env=...")
    if lines:
        try:
            check(plain)
        except ConfigError as error:
            lines += error.lines
        raise ConfigError(lines)


def run_name(name: Any, recipe: str, overrides: Sequence[str]) -> str:
    """As given, or made from the overrides. Errors: ConfigError."""
    if name is None:
        return made_from(recipe, overrides)
    if len(str(name)) > LONGEST_NAME:
        raise ConfigError([f"run: the name has {len(str(name))} letters; choose one of at most {LONGEST_NAME}"])
    return str(name)


def overlay(base: Plain, asked: Plain, keys: Sequence[str], sections: Sequence[str]) -> Plain:
    """The base with the asked values of the dotted keys that lie in some sections (or are at the root)."""
    result = dict(base)
    for key in keys:
        *path, last = key.split(".")
        if (path or [last])[0] not in sections and path:
            continue
        here, there = result, asked
        for section in path:
            inner = here.get(section)
            here[section] = here = dict(inner) if isinstance(inner, dict) else {}
            there = there.get(section) or {}
        if last in there:
            here[last] = there[last]
    return result


def refuse_changes(stored: Run, plain: Plain) -> None:
    """Errors: ConfigError, if a run that exists is asked for with other values than it has."""
    changed = [
        f"{path}: the run has {shown(old)}, you ask for {shown(new)}"
        for path, old, new in differences(stored.config, plain)
        if not may_change(path)
    ]
    if changed:
        hint = f"to go on with the run as it is: {stored.command()}; or choose another name with run=..."
        raise ConfigError([*changed, hint])


def model_differences(config: Config) -> ConfigError | None:
    """What to say when the weights of model_from do not fit the model that was asked for, if another was asked for."""
    source = config.root.model_from
    found = differences(Run.read(Path(str(source))).config["model"], config.plain["model"])
    lines = [f"model.{path}: {source} has {shown(old)}, you ask for {shown(new)}" for path, old, new in found]
    if not lines:
        return None
    return ConfigError([*lines, "model_from: the trained model must stay as it is: leave these out"])
