"""Configs: every recipe is valid, PlaNet's numbers are the published ones, and every mistake is named before anything
starts.
"""

import copy
import random
import string
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import runs
import yaml

import envs
import train
from worldmodel import config
from worldmodel.config import ROOT, ConfigError, StrictConfig, check, part, parts

CONFIGS = ROOT / "configs"
GROUPS = ("exp", "env", "model", "actor")
NAMES = {group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) for group in GROUPS}
ACTORS = ", ".join(NAMES["actor"])
OPTIONS = [(group, name) for group in ("env", "model", "actor") for name in NAMES[group]]

# Hafner et al. 2019, appendix A, and the official release where the paper is silent.
REPEATS = {
    "cartpole_swingup": 8,
    "reacher_easy": 4,
    "cheetah_run": 4,
    "finger_spin": 2,
    "ball_in_cup_catch": 4,
    "walker_walk": 2,
}
PLANET = {
    "train": {"steps": 1_000_000, "seed_episodes": 5, "learn": {"model": {"updates": 100}}},
    "replay": {"batch": 50, "length": 50},
    "agent": {"learning_rate": 1e-3, "epsilon": 1e-4, "clip": 1000.0},
    "model": {
        "deter": 200, "stoch": 30, "hidden": 200, "min_std": 0.1, "depths": [32, 64, 128, 256], "kernels": [5, 5, 6, 6],
        "reward_units": 300, "reward_layers": 3, "bits": 5, "dequantise": True, "free_nats": 3.0, "overshooting": 1,
        "image_weight": 1.0, "reward_weight": 10.0, "reward_divisor": 1.0, "kl_weight": 1.0, "continue_weight": 0.0,
    },
    "actor": {
        "name": "cem", "horizon": 12, "iterations": 10, "candidates": 1000, "elites": 100, "init_std": 1.0,
        "min_std": 0.0, "momentum": 0.0, "warm_start": False, "choose": "mean", "noise": 0.3,
    },
    "env": {"size": (64, 64), "gray": False, "time_limit": None},
}  # fmt: skip


def test_every_file_belongs_to_a_group_that_is_tested() -> None:
    known = {CONFIGS / "train.yaml"} | {CONFIGS / group / f"{name}.yaml" for group in NAMES for name in NAMES[group]}
    assert set(CONFIGS.rglob("*.yaml")) == known
    assert all(isinstance(yaml.safe_load(path.read_text("utf8")), dict) for path in known)


@pytest.mark.parametrize("exp", NAMES["exp"])
def test_every_recipe_passes_the_check(exp: str, tmp_path: Path) -> None:
    _, checked = runs.composed(f"exp={exp}", f"runs={tmp_path}")
    assert set(checked) == {"top", *train.KINDS}
    assert checked["model"].fits(checked["env"].size) is None


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_passes_the_check(group: str, name: str, tmp_path: Path) -> None:
    _, checked = runs.composed("exp=planet", f"{group}={name}", f"runs={tmp_path}")
    assert checked[group].name == ("gym" if name == "pendulum" else name)  # several worlds may be one file's


def test_the_file_name_is_the_choice_is_the_part() -> None:
    for room, group in (("envs", "env"), ("worldmodel", "model"), ("agents", "actor")):
        assert parts(room) == [name for name in NAMES[group] if name != "pendulum"]  # which is one of gym's


@pytest.mark.parametrize("task", REPEATS)
def test_planet_is_as_published(task: str, tmp_path: Path) -> None:
    _, checked = runs.composed("exp=planet", "env=dmc", f"env.task={task}", f"runs={tmp_path}")
    assert checked["env"].action_repeat == REPEATS[task]
    for section, wanted in PLANET.items():
        found = checked[section].model_dump(exclude_unset=True)
        assert {key: found[key] for key in wanted} == wanted


def test_the_published_action_repeat_can_be_overridden(tmp_path: Path) -> None:
    words = ("exp=planet", "env=dmc", f"runs={tmp_path}")
    assert runs.composed(*words, "env.task=cup_catch")[1]["env"].action_repeat == 4
    assert runs.composed(*words, "env.task=hopper_hop")[1]["env"].action_repeat == 2
    assert runs.composed(*words, "env.task=cartpole_swingup", "env.action_repeat=3")[1]["env"].action_repeat == 3


# ---- the command line ----


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """Exit code and lines of stderr of train.py, which must not have begun to build anything."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("an environment or a device was started")

    for module, name in ((envs, "vector"), (train.agents, "build"), (train.agent, "choose_device")):
        monkeypatch.setattr(module, name, started)
    with pytest.raises(SystemExit) as end:
        try:
            plain = train.strict(list(words))
        except ConfigError as error:
            train.fail(error, 2)
        # As a script Hydra finds configs/ by itself; train is a module here.
        monkeypatch.setattr(sys, "argv", ["train.py", "--config-path", str(CONFIGS), *plain])
        train.main()
    return int(end.value.code or 0), capsys.readouterr().err.splitlines()


def test_all_mistakes_at_once_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = "train.stepz=5 actor.candidate=5 env.size=big train.keep=1 replay.length=99 replay.capacity=50".split()  # noqa: SIM905
    words += ["seed=-1", "sed=3"]
    began = time.perf_counter()
    code, lines = ended(monkeypatch, capsys, "exp=smoke", f"runs={tmp_path}", *words)
    assert time.perf_counter() - began < 2
    assert code == 2
    assert all(line.startswith("error: ") for line in lines)
    wanted = {
        "train.stepz: there is no such key; did you mean 'steps'?",
        "actor.candidate: there is no such key; did you mean 'candidates'?",
        "env.size: ",
        "train.keep: ",
        "replay: length is 99 but capacity only 50 rows",
        "seed: ",
        "sed: there is no such key; did you mean 'seed'?",
    }
    assert len(lines) == len(wanted)
    assert all(any(line.startswith(f"error: {beginning}") for line in lines) for beginning in wanted)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("actor=cen", f"actor: there is no 'cen'; choose from {ACTORS}; did you mean 'cem'?"),
        ("exp=../smoke", "exp: there is no '../smoke'"),
        ("actor.name=os", f"actor.name: 'os' is not one of {ACTORS}"),
        ("actor.elites=50", "actor: elites is 50 but there are only 20 candidates"),
        ("model.kernels=[6]", "model: depths has 2 layers but kernels has 1"),
        ("model.depths=[0,8]", "model.depths.0: "),
        ("env.size=[8,8]", "model.depths: images of 8x8 are too small"),
        ("train=5", "train: a section with keys is wanted, not 5"),
        ("env.size=${oc.env:NOT_THERE}", "env.size: "),
        ("run=a/b", "run: "),
        ("run=..", "run: "),
    ],
)
def test_a_mistake_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, word: str, message: str
) -> None:
    code, lines = ended(monkeypatch, capsys, "exp=smoke", f"runs={tmp_path}", word)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"error: {message}")


def test_a_recipe_cannot_name_a_part_or_a_key_that_is_not_there(tmp_path: Path) -> None:
    raw = runs.composed("exp=smoke", f"runs={tmp_path}")[0]
    assert raw["parts"]["shooting"] == {"horizon": 5, "candidates": 40}
    for values, message in (
        ({"shoting": {}}, "parts: value error, there is no part 'shoting'; did you mean 'shooting'?"),
        ({"shooting": {"candidate": 3}}, "shooting has no key 'candidate'; did you mean 'candidates'?"),
        ({"os": {}}, "there is no part 'os'"),
    ):
        with pytest.raises(ConfigError) as error:
            check(raw | {"parts": values}, train.KINDS, train.Top)
        assert message in str(error.value)


# ---- mutations ----

MODELS: dict[str, Any] = {"": train.Top} | {key: kind for key, kind in train.KINDS.items() if not isinstance(kind, str)}
ANY_NUMBER = {"camera"}  # -1 is a camera
ANY_WORD = {"data", "model_from"}  # a folder
ALPHABET = string.ascii_lowercase + "_"


def sections(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The mappings of a config by name; "" is the top."""
    return {"": raw} | {key: value for key, value in raw.items() if isinstance(value, dict) and key != "parts"}


def typo(key: str, rng: random.Random, distance: int) -> str:
    for _ in range(distance):
        at, letter = rng.randrange(len(key)), rng.choice(ALPHABET)
        key = rng.choice((key[:at] + letter + key[at:], key[:at] + letter + key[at + 1 :], key[:at] + key[at + 1 :]))
    return key


def mutate(raw: dict[str, Any], kind: str, rng: random.Random) -> tuple[str, str | None]:
    """Spoils one thing; returns what the message must name, and for a typo the right key."""
    place = sections(raw)[rng.choice(sorted(sections(raw)))]
    key = rng.choice(sorted(place))
    value = place[key]
    if kind == "typo":
        wrong = key
        while wrong in place or not wrong:
            wrong = typo(key, rng, 2 if len(key) > 5 and rng.random() < 0.5 else 1)
        place[wrong] = place.pop(key)
        return wrong, key
    if kind == "missing":
        del place[key]
        return key, None
    if kind == "type":
        nested = isinstance(value, list | dict)
        wrongs: list[Any] = ["rubbish", 7, None] if nested else [["a", {}], {"a": {"b": []}}]
        wrongs += ["rubbish"] if isinstance(value, bool | int | float) else []
        place[key] = rng.choice(wrongs)
        return key, None
    numbers = [(s, k) for s in sections(raw).values() for k, v in s.items() if type(v) in (int, float)]
    if kind == "range":
        place, key = rng.choice([(s, k) for s, k in numbers if k not in ANY_NUMBER])
        place[key] = rng.choice((-1, -(10**30), -0.5))
        return key, None
    if kind == "nan":
        place, key = rng.choice(numbers)
        place[key] = rng.choice((float("nan"), float("inf"), -float("inf")))
        return key, None
    if kind == "list":
        scalars = [(s, k) for s in sections(raw).values() for k, v in s.items() if not isinstance(v, dict | list)]
        place, key = rng.choice(scalars)
        place[key] = [place[key]] * rng.randrange(3)
        return key, None
    foreign = {
        "target": ("_target_", "os.system"),
        "huge": ("x" * 10_000, "y" * 1_000_000),
        "unicode": (rng.choice(("größe", "步", "\u202eabc", "naïve key")), "\U0001f4a5"),
        "nested": ("deep", nest(rng.randrange(1, 60), rng)),
    }
    wrong, rubbish = foreign[kind]
    if kind != "target" and rng.random() < 0.5 and not isinstance(value, str) and key not in ANY_WORD:
        place[key] = rubbish
        return key, None
    place[wrong] = rubbish
    return wrong, None


def nest(depth: int, rng: random.Random) -> Any:
    rubbish: Any = 0
    for _ in range(depth):
        rubbish = rng.choice(({"a": rubbish}, [rubbish, None]))
    return rubbish


def test_no_mutated_config_gets_through(tmp_path: Path) -> None:
    rng = random.Random(0)
    kinds = ["typo"] * 8 + ["type", "range", "nan", "missing", "list", "target", "huge", "unicode", "nested"] * 2
    bases = [
        runs.composed("exp=smoke", f"runs={tmp_path}")[0],
        runs.composed("exp=planet", "env=dmc", f"runs={tmp_path}")[0],
        runs.composed("exp=quickstart", f"runs={tmp_path}")[0],
    ]
    right = typos = 0
    for number in range(260):
        raw = copy.deepcopy(bases[number % len(bases)])
        kind = kinds[number % len(kinds)]
        named, wanted = mutate(raw, kind, rng)
        try:
            check(raw, train.KINDS, train.Top)
        except ConfigError as error:
            assert named in str(error), (kind, named, str(error)[:300])
            if wanted:
                typos += 1
                right += any(f"{named}: " in line and f"did you mean {wanted!r}?" in line for line in error.lines)
        else:
            raise AssertionError(f"{kind} of {named!r} was accepted")
    assert typos >= 60
    assert right / typos >= 0.95, f"{right} of {typos} typos"


@pytest.mark.parametrize("raw", [None, [], 7, "text", {}, {1: 2}, {None: []}, {"train": None}, {("a", "b"): {}}])
def test_rubbish_is_a_config_error(raw: Any) -> None:
    with pytest.raises(ConfigError):
        check(raw, train.KINDS, train.Top)


def test_a_message_is_one_line_and_short_whatever_was_given(tmp_path: Path) -> None:
    raw, _ = runs.composed("exp=smoke", f"runs={tmp_path}")
    raw["seed"] = "line\nline\n" * 1000
    with pytest.raises(ConfigError) as caught:
        check(raw, train.KINDS, train.Top)
    assert len(caught.value.lines) == len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


NO_PARTS = ["os", "../x", "base", "agent", "__init__", "evaluation", "cem.py", "cem\n", "", "a" * 10**6]
NO_PARTS += [None, 7, ["cem"], {"cem": 1}]  # type: ignore[list-item]


@pytest.mark.parametrize("name", NO_PARTS, ids=lambda name: repr(name)[:20])
def test_names_reach_no_other_code(monkeypatch: pytest.MonkeyPatch, name: object) -> None:
    def imported(what: str, *_: Any) -> None:
        raise AssertionError(f"{what} was imported")

    monkeypatch.setattr(config.importlib, "import_module", imported)
    for room in ("agents", "worldmodel", "envs"):
        with pytest.raises(ConfigError, match="is not one of"):
            part(room, name)


def test_sections_are_frozen_and_have_no_defaults(tmp_path: Path) -> None:
    _, checked = runs.composed("exp=smoke", f"runs={tmp_path}")
    for section in checked.values():
        assert section.model_config["frozen"] and section.model_config["extra"] == "forbid"
        assert all(field.is_required() for field in type(section).model_fields.values())
    assert all(issubclass(model, StrictConfig) for model in MODELS.values())


@pytest.mark.parametrize("word", ["foo", "train.steps={", "env=dot,gym"])
def test_what_hydra_cannot_read_is_told_in_a_line(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train.strict([word])
    assert len(caught.value.lines) == 1 and caught.value.lines[0].startswith(word)


def test_a_name_is_never_longer_than_a_file_system_takes(tmp_path: Path) -> None:
    many = [f"train.report_every={number}" for number in range(10**9, 10**9 + 20)]
    names = [runs.composed(f"runs={tmp_path}", *given)[0]["run"] for given in (many, many, [*many, "seed=1"])]
    assert names[0] == names[1] != names[2] and max(map(len, names)) == 200
    with pytest.raises(ConfigError, match="run: the name has 300 letters; choose one of at most 200"):
        runs.composed(f"runs={tmp_path}", "run=" + "a" * 300)
