"""The whole config of a run, checked: every mistake at once, one line each, with the nearest valid key.

Numbers live in configs/, types in the frozen `Config` above the class that uses the section.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from agents import agent
from training import schedule
from training.configuration.components import ROOMS, find, nearest
from training.configuration.known_keys import elsewhere
from training.configuration.plain import cut, shown
from training.distributed.config import RayConfig
from worldmodel.base import ConfigError, StrictConfig
from worldmodel.replay.buffer import ReplayConfig
from worldmodel.replay.layouts import LAYOUTS

SECTIONS: dict[str, type[BaseModel]] = {
    "train": schedule.Config,
    "replay": ReplayConfig,
    "agent": agent.Config,
    "ray": RayConfig,
}


Side = Annotated[int, Field(ge=4, le=1024)]  # pixels


class RootConfig(StrictConfig):
    """The keys that are in no section."""

    seed: int = Field(ge=0, lt=2**31)
    run: str = Field(max_length=255, pattern=r"^[\w,=+-][\w.,=+-]*$")  # a folder's name, never . or ..
    runs: str = Field(min_length=1, max_length=4096)
    # True: refuse to begin a run; False: refuse to go on with one; None: whichever it is
    resume: bool | None = Field(strict=True)
    # resume although replay chunks are damaged: continue without those episodes
    skip_damaged: bool = Field(strict=True)
    data: str | None = Field(min_length=1, max_length=4096)  # a folder of recorded episodes to learn from
    data_layout: str | None  # which row their actions belong to: a name in worldmodel/replay/layouts.py; None: by marks
    data_size: tuple[Side, Side] | None  # (Y, X) that their images are resized to; None: as recorded
    data_gray: bool  # one channel instead of three
    model_from: str | None = Field(min_length=1, max_length=4096)  # a run whose trained model and episodes are taken
    keep_episodes: bool = Field(strict=True)  # of model_from, also if they are of another environment
    plugins: list[str] = Field(max_length=100)  # the user's own packages that components may come from

    @field_validator("run", "data", "model_from", mode="before")
    @classmethod
    def text(cls, value: Any) -> Any:
        """Job numbers and the like are names, too."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("data_layout")
    @classmethod
    def known(cls, value: str | None) -> str | None:
        if value is not None and value not in LAYOUTS:
            raise ValueError(f"choose one of {', '.join(LAYOUTS)}{nearest(value, list(LAYOUTS))}")
        return value

    @model_validator(mode="after")
    def agree(self) -> "RootConfig":
        if self.data is None and (self.data_layout or self.data_size or self.data_gray):
            raise ValueError("data_layout, data_size, data_gray: there are no recordings: name some, data=...")
        if self.keep_episodes and (self.model_from is None or self.data is not None):
            raise ValueError("keep_episodes is for the episodes of model_from=... without data=...: leave it out")
        return self


@dataclasses.dataclass(frozen=True)
class Config:
    """Checked sections; each goes to the one who needs it."""

    root: RootConfig
    train: schedule.Config
    replay: ReplayConfig
    agent: agent.Config
    ray: RayConfig
    env: Any  # None: there is no environment
    model: Any
    objective: Any
    actor: Any
    explorer: Any
    plain: dict[str, Any]  # the same as plain values, as config.yaml has them
    asked: tuple[str, ...] = ()  # the keys that were given for a new run
    recipe: str = ""  # what a new run begins with, for people to read
    # words that a resumed run was given besides which it is; config.yaml has none of them
    changes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.root.runs) / self.root.run


def check(plain: dict[str, Any]) -> Config:
    """The whole config. Errors: ConfigError, with all mistakes."""
    lines: list[str] = []
    if not isinstance(plain, Mapping):
        raise ConfigError([f"a config is a mapping of sections, not {type(plain).__name__}"])
    sections = [*SECTIONS, *ROOMS]
    checked: dict[str, Any] = {}
    try:
        checked["root"] = RootConfig.model_validate({key: plain[key] for key in plain if key not in sections})
    except ValidationError as error:
        named = plain.get("plugins")
        plugins = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        lines += [describe("", RootConfig, mistake, sections, plugins) for mistake in error.errors()]
    plugins = checked["root"].plugins if "root" in checked else []
    for section in sections:
        if section == "env" and section in plain and plain[section] is None:
            checked[section] = None
            continue
        try:
            checked[section] = check_section(section, plain, plugins)
        except ConfigError as error:
            lines += error.lines
    if lines:
        raise ConfigError(lines)
    config = Config(**checked, plain=dict(plain))
    strange = [name for name in getattr(config.env, "wrappers", []) if not within_plugins(name, plugins)]
    if strange:
        raise ConfigError([
            f"env.wrappers: {name}: its package is not among plugins, and so is not imported: if you trust it, name "
            f"it, plugins=[{name.partition(':')[0]}]" for name in strange
        ])  # fmt: skip
    wrong = config.model.image_size_error(config.env.size) if config.env else None
    if wrong:
        raise ConfigError([f"env.size: {wrong}"])
    return config


def within_plugins(wrapper: str, plugins: Sequence[str]) -> bool:
    """Whether a wrapper, module:Name, lies in a package that the user has named."""
    module = wrapper.partition(":")[0]
    return any(module == package or module.startswith(f"{package}.") for package in plugins)


def check_section(section: str, plain: Mapping[str, Any], plugins: Sequence[str] = ()) -> Any:
    """One section of a config. Errors: ConfigError, with all of its mistakes."""
    if section not in plain:
        raise ConfigError([f"{section}: missing"])
    values = plain[section]
    if not isinstance(values, Mapping):
        raise ConfigError([f"{section}: a section with keys is wanted, not {shown(values)}"])
    if section in ROOMS and "name" not in values:
        close = difflib.get_close_matches("name", map(str, values), n=1, cutoff=0.75)
        hints = [f"{section}.{word}: there is no such key; did you mean 'name'?" for word in close]
        raise ConfigError(hints or [f"{section}.name: missing"])
    model = find(section, values["name"], plugins).Config if section in ROOMS else SECTIONS[section]
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [describe(section, model, mistake, plugins=plugins) for mistake in error.errors()]
        raise ConfigError([*lines, *contradictions(section, model, values)]) from error


def contradictions(section: str, model: type[BaseModel], values: Mapping[Any, Any]) -> list[str]:
    """Pairs that disagree, which pydantic does not look at while there are unknown keys."""
    known = {key: value for key, value in values.items() if key in model.model_fields}
    if len(known) == len(values):
        return []
    try:
        model.model_validate(known)
    except ValidationError as error:
        return [describe(section, model, mistake) for mistake in error.errors() if not mistake["loc"]]
    return []


def describe(
    section: str, model: type[BaseModel], mistake: Any, others: Iterable[str] = (), plugins: Sequence[str] = ()
) -> str:
    """One line for one of pydantic's mistakes: path, what is wrong, what was given."""
    path = cut(".".join([section, *(str(step) for step in mistake["loc"])]).lstrip("."), 200)
    if mistake["type"] == "extra_forbidden":
        last, known = str(mistake["loc"][-1]), [*model.model_fields, *others]
        hint = elsewhere(section, last, SECTIONS, plugins) if len(mistake["loc"]) == 1 else ""
        return f"{path}: {renamed(path) or 'there is no such key' + (hint or nearest(last, known))}"
    if mistake["type"] == "tuple_type" or (mistake["type"] == "missing" and isinstance(mistake["loc"][-1], int)):
        whole = path.rstrip(".0123456789")
        return f"{whole}: two numbers in brackets are wanted, {whole}=[64,64]"
    if mistake["type"] == "model_type" and path.startswith("train.learn."):
        hint = nearest(str(mistake["loc"][-1]), schedule.Learn.model_fields)
        return f"{path}: a stage with keys is wanted, not {shown(mistake['input'])}{hint}"
    if mistake["type"] == "missing":
        return f"{path}: missing"
    if mistake["type"] == "string_pattern_mismatch" and path == "run":
        return (
            f"run: {shown(mistake['input'])} cannot be a run's name: it has letters, digits and _ , = + - or, not at "
            "its beginning, points; the folder of all runs is runs=..."
        )
    if mistake["type"] == "value_error" and not mistake["loc"]:
        return f"{section}: {mistake['ctx']['error']}".removeprefix(": ")
    if mistake["type"] == "value_error":
        return f"{path}: {mistake['ctx']['error']}, not {shown(mistake['input'])}"
    return f"{path}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}, not {shown(mistake['input'])}"


def renamed(path: str) -> str:
    """What to say of a key that had another name before."""
    from training.configuration.legacy import RENAMED_KEYS, RENAMED_STAGE_KEYS

    new = RENAMED_KEYS.get(path)
    words = path.split(".")
    if words[:2] == ["train", "learn"] and len(words) == 4:
        new = RENAMED_STAGE_KEYS.get(words[3], "").format(words[2])
    return f"is {new} now" if new else ""
