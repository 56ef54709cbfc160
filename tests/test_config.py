"""Configs: every recipe is valid, PlaNet's numbers are the published ones, and every mistake is named before anything
starts.
"""

import copy
import random
import string
from pathlib import Path
from typing import Any

import pytest
import runs
import yaml

import envs
import train
from agents import device
from training import build
from training.configuration import components
from training.configuration.command_line import check_words
from training.configuration.components import ROOMS, ROOT, find, names
from training.configuration.config import SECTIONS, RootConfig, check
from worldmodel.base import ConfigError, StrictConfig

CONFIGS = ROOT / "configs"
GROUPS = ("exp", *ROOMS)
NAMES = {group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) for group in GROUPS}
ACTORS = ", ".join(names("actor"))
NEEDS = {"goal": ["objective.image=goal.png"]}  # what has no default
OPTIONS = [(group, name) for group in ROOMS for name in NAMES[group]]

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
    "train": {
        "env_steps": 1_000_000, "prefill": 5, "ratio": None,
        "learn": {"mode": "alternate", "max_staleness": 100, "model": {"updates": 100}},
        "collect": {"unit": "episodes", "per_round": 1, "mode": "sync", "workers": 1, "max_staleness": 100},
    },
    "replay": {"batch_size": 50, "batch_length": 50},
    "agent": {
        "optimizers": {"model": {"kind": "adam_tf", "learning_rate": 1e-3, "eps": 1e-4, "max_grad_norm": 1000.0}},
    },
    "model": {
        "deter": 200, "stoch": 30, "hidden": 200, "min_std": 0.1, "depths": [32, 64, 128, 256], "kernels": [5, 5, 6, 6],
        "reward_units": 300, "reward_layers": 3, "bit_depth": 5, "dequantise": True, "normalise": False,
        "free_nats": 3.0, "overshooting": 1, "image_weight": 1.0, "reward_weight": 10.0, "reward_divisor": 1.0,
        "kl_weight": 1.0, "continue_weight": 0.0,
    },
    "actor": {
        "name": "cem", "horizon": 12, "iterations": 10, "candidates": 1000, "elites": 100, "init_std": 1.0,
        "min_std": 0.0, "momentum": 0.0, "warm_start": False, "choose": "mean", "exploration_noise": 0.3,
    },
    "env": {"size": (64, 64), "gray": False, "time_limit": None},
}  # fmt: skip


def test_every_file_belongs_to_a_group_that_is_tested() -> None:
    known = {CONFIGS / "train.yaml", CONFIGS / "sizes.yaml"} | {
        CONFIGS / group / f"{name}.yaml" for group in NAMES for name in NAMES[group]
    }
    assert set(CONFIGS.rglob("*.yaml")) == known
    assert all(isinstance(yaml.safe_load(path.read_text("utf8")), dict) for path in known)


@pytest.mark.parametrize("exp", NAMES["exp"])
def test_every_recipe_passes_the_check(exp: str, tmp_path: Path) -> None:
    checked = runs.composed(f"exp={exp}", f"runs={tmp_path}")
    assert set(checked.plain) == {*RootConfig.model_fields, *SECTIONS, *ROOMS}
    assert checked.env is None or checked.model.image_size_error(checked.env.size) is None


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_passes_the_check(group: str, name: str, tmp_path: Path) -> None:
    checked = runs.composed(
        "exp=planet", "env.size=[64,64]", f"{group}={name}", *NEEDS.get(name, []), f"runs={tmp_path}"
    )
    chosen = getattr(checked, group).name
    assert chosen == component(group, name)  # several sizes and worlds may be one component's
    assert chosen in names(group)


def component(group: str, name: str) -> str:
    """The name in a file, or in the one that it starts from."""
    values = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text("utf8"))
    return str(values["name"]) if "name" in values else component(group, values["defaults"][0])


@pytest.mark.parametrize("group", ROOMS)
def test_a_file_of_a_size_is_named_after_its_component(group: str) -> None:
    for name in NAMES[group]:
        chosen = component(group, name)
        assert name == chosen or name.startswith(f"{chosen}_") or (group, name) == ("env", "pendulum")


def test_every_component_has_a_config_of_its_name() -> None:
    for group in ("env", "model", "objective"):
        assert set(names(group)) <= set(NAMES[group])
    assert set(names("actor")) <= {*NAMES["actor"], *NAMES["explorer"]}
    assert names("explorer") == names("actor")


@pytest.mark.parametrize("task", REPEATS)
def test_planet_is_as_published(task: str, tmp_path: Path) -> None:
    checked = runs.composed("exp=planet", "env=dmc", f"env.task={task}", f"runs={tmp_path}")
    assert checked.env.action_repeat == REPEATS[task]
    for section, wanted in PLANET.items():
        found = getattr(checked, section).model_dump(exclude_unset=True)
        if section == "agent":  # an actor that learns by gradient would have one, too
            found["optimizers"] = {"model": found["optimizers"]["model"]}
        assert {key: found[key] for key in wanted} == wanted


def test_the_published_action_repeat_can_be_overridden(tmp_path: Path) -> None:
    words = ("exp=planet", "env=dmc", f"runs={tmp_path}")
    assert runs.composed(*words, "env.task=cup_catch").env.action_repeat == 4
    assert runs.composed(*words, "env.task=hopper_hop").env.action_repeat == 2
    assert runs.composed(*words, "env.task=cartpole_swingup", "env.action_repeat=3").env.action_repeat == 3


# ---- the command line ----


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """Exit code and lines of stderr of train.py, which must not have begun to build anything."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("an environment or a device was started")

    for module, name in ((envs, "vector"), (build, "build_agent"), (device, "choose_device")):
        monkeypatch.setattr(module, name, started)
    code = train.main(words)
    return code, capsys.readouterr().err.splitlines()


def test_all_mistakes_at_once_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["train.env_stepz=5", "actor.candidate=5", "env.size=big", "train.keep_checkpoints=1"]
    words += ["replay.batch_length=99", "replay.capacity=50", "seed=-1", "sed=3"]
    code, lines = ended(monkeypatch, capsys, "exp=smoke", f"runs={tmp_path}", *words)
    assert code == 2
    assert all(line.startswith("error: ") for line in lines)
    wanted = {
        "train.env_stepz: there is no such key; did you mean 'env_steps'?",
        "actor.candidate: there is no such key; did you mean 'candidates'?",
        "env.size: ",
        "train.keep_checkpoints: ",
        "replay: batch_length is 99 but capacity only 50 rows",
        "seed: ",
        "sed: there is no such key; did you mean 'seed'?",
    }
    assert len(lines) == len(wanted)
    assert all(any(line.startswith(f"error: {beginning}") for line in lines) for beginning in wanted)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("actor=cen", f"actor: there is no 'cen'; choose from {', '.join(NAMES['actor'])}; did you mean 'cem'?"),
        ("exp=../smoke", "exp: there is no '../smoke'"),
        ("actor.name=os", f"actor.name: 'os' is not one of {ACTORS}"),
        ("actor.elites=50", "actor: elites is 50 but there are only 20 candidates"),
        ("model.kernels=[6]", "model: depths has 2 layers but kernels has 1"),
        ("model.depths=[0,8]", "model.depths.0: "),
        ("env.size=[8,8]", "env.size: images of 8x8 pixels are too small"),
        ("train=5", "train: a section with keys is wanted, not 5"),
        ("env.id=CartPole-v1", "env.id: there is no such key; env=atari, env=gym have it"),
        ("actor.temperature=2", "actor.temperature: there is no such key; actor=evolution has it"),
        ("env_steps=5", "env_steps: there is no such key; did you mean 'train.env_steps'?"),
        ("agent.batch_size=5", "agent.batch_size: there is no such key; did you mean 'replay.batch_size'?"),
        ("train.env_steps={", "train.env_steps: input should be a valid integer"),
        ("env.size=(3,4", "env.size: "),
        ("model.depths={a: (}", "model.depths: "),
        ("train.learn=[1]", "train.learn: '[1]' cannot take the place of what stands there"),
        ("env.size.a=3", "a key names something inside a value that has none"),
        ("data=", "data: string should have at least 1 character"),
        ("resume=yes", "resume: input should be a valid boolean"),
        ("env.size=${oc.env:NOT_THERE}", "env.size: "),
        ("run=a/b", "run: 'a/b' cannot be a run's name: it has letters, digits"),
        ("run=..", "run: '..' cannot be a run's name"),
        ("env.size=16", "env.size: two numbers in brackets are wanted, env.size=[64,64]"),
        ("env.size=[16]", "env.size: two numbers in brackets are wanted, env.size=[64,64]"),
    ],
)
def test_a_mistake_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, word: str, message: str
) -> None:
    code, lines = ended(monkeypatch, capsys, "exp=smoke", f"runs={tmp_path}", word)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"error: {message}")


# ---- mutations ----

ANY_NUMBER = {"camera"}  # -1 is a camera
ANY_WORD = {"data", "model_from"}  # a folder
ANY_LIST = {"plugins"}
ALPHABET = string.ascii_lowercase + "_"


def sections(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The mappings of a config by name; "" is the top."""
    return {"": raw} | {key: value for key, value in raw.items() if isinstance(value, dict)}


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
        dict(runs.composed("exp=smoke", f"runs={tmp_path}").plain),
        runs.composed("exp=planet", "env=dmc", f"runs={tmp_path}").plain,
        runs.composed("exp=quickstart", f"runs={tmp_path}").plain,
    ]
    right = typos = 0
    for number in range(260):
        raw = copy.deepcopy(bases[number % len(bases)])
        kind = kinds[number % len(kinds)]
        named, wanted = mutate(raw, kind, rng)
        try:
            check(raw)
        except ConfigError as error:
            assert named[:30] in str(error), (kind, named, str(error)[:300])  # long names are shown cut
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
        check(raw)


def test_a_message_is_one_line_and_short_whatever_was_given(tmp_path: Path) -> None:
    raw = dict(runs.composed("exp=smoke", f"runs={tmp_path}").plain)
    raw["seed"] = "line\nline\n" * 1000
    with pytest.raises(ConfigError) as caught:
        check(raw)
    assert len(caught.value.lines) == len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


NO_COMPONENTS = ["os", "../x", "base", "agent", "__init__", "evaluation", "cem.py", "cem\n", "", "a" * 10**6]
NO_COMPONENTS += [None, 7, ["cem"], {"cem": 1}]  # type: ignore[list-item]


@pytest.mark.parametrize("name", NO_COMPONENTS, ids=lambda name: repr(name)[:20])
def test_names_reach_no_other_code(monkeypatch: pytest.MonkeyPatch, name: object) -> None:
    def imported(what: str, *_: Any) -> None:
        raise AssertionError(f"{what} was imported")

    monkeypatch.setattr(components.importlib, "import_module", imported)
    for section in ROOMS:
        with pytest.raises(ConfigError, match="is not one of"):
            find(section, name)


def test_sections_are_frozen_and_have_no_defaults(tmp_path: Path) -> None:
    checked = runs.composed("exp=smoke", f"runs={tmp_path}")
    sections = [checked.root, *(getattr(checked, name) for name in (*SECTIONS, *ROOMS))]
    for section in sections:
        assert isinstance(section, StrictConfig) or section is checked.env  # envs/ knows no other room
        assert section.model_config["frozen"] and section.model_config["extra"] == "forbid"
        later = {"fit", "wrappers"} if section is checked.env else set()  # the env configs of plugins may be older
        fields = type(section).model_fields
        assert all(field.is_required() for name, field in fields.items() if name not in later)


@pytest.mark.parametrize("word", ["foo", "--seed", "~actor", "=3", "env=dot,gym"])
def test_what_hydra_cannot_read_is_told_in_a_line(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_words([word], sweep=False)
    assert len(caught.value.lines) == 1 and caught.value.lines[0].startswith(word)


def test_a_name_is_never_longer_than_a_file_system_takes(tmp_path: Path) -> None:
    many = [f"train.report_every={number}" for number in range(10**9, 10**9 + 20)]
    found = [runs.composed(f"runs={tmp_path}", *given).root.run for given in (many, many, [*many, "seed=1"])]
    assert found[0] == found[1] != found[2] and max(map(len, found)) == 200
    with pytest.raises(ConfigError, match="run: the name has 300 letters; choose one of at most 200"):
        runs.composed(f"runs={tmp_path}", "run=" + "a" * 300)
