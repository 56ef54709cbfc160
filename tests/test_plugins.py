"""Components in a package of the user's own: named on the command line or in the call, never by a loaded file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import runs

import agents
import evaluate
import train
from training.configuration import components, working_folder
from training.configuration.components import ROOT
from training.run_folder.run import Run, RunError
from worldmodel.base import ConfigError

PACKAGE = "its_own_actors"
ACTOR = '''"""Always the same action."""

from typing import NamedTuple

import torch

from agents.base import Actor, no_plan
from worldmodel.base import StrictConfig


class Config(StrictConfig):
    name: str
    value: float


class Carry(NamedTuple):
    rows: torch.Tensor


class Constant(Actor):
    def __init__(self, config, model, spec, objective):
        super().__init__(model, spec, objective)
        self.value = config.value

    def initial(self, n):
        return Carry(torch.zeros(n, 0))

    def act(self, state, carry, mode, generator=None):
        action = torch.full((len(carry.rows), self.spec.action_dim), self.value, device=carry.rows.device)
        return action, carry, no_plan(len(action), self.spec, action.device)


def build(config, model, spec, objective):
    return Constant(config, model, spec, objective)
'''
NAMED = f"plugins={PACKAGE}"
CHOSEN = ["actor=constant", NAMED, "train.env_steps=20", "train.eval_every=100"]
RECIPE = [word for word in runs.TINY if not word.startswith("actor.")]


def write_package(folder: Path, name: str = PACKAGE) -> Path:
    """A package with an actor, and its config."""
    package = folder / name
    (package / "configs" / "actor").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "constant.py").write_text(ACTOR)
    (package / "configs" / "actor" / "constant.yaml").write_text("name: constant\nvalue: 0.25\n")
    return package


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test imports or finds is forgotten after it."""
    components.locations.cache_clear()
    yield
    components.locations.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package, on Python's path."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return write_package(tmp_path / "site")


@pytest.fixture
def trained(package: Path, tmp_path: Path) -> Path:
    assert runs.go(tmp_path, *CHOSEN, recipe=RECIPE) == 0
    return tmp_path / "r"


def imported() -> set[str]:
    """What of the package this process has imported."""
    return {name for name in sys.modules if name.partition(".")[0] == PACKAGE} - {PACKAGE}


def test_it_trains_and_is_recorded(trained: Path) -> None:
    info = json.loads((trained / "run.json").read_text())
    assert info["plugins"] == [PACKAGE]
    config = Run.read(trained).config
    assert (config["plugins"], config["actor"]) == ([PACKAGE], {"name": "constant", "value": 0.25})
    assert runs.digests(trained)["env_steps"] == 20


def test_it_is_found_on_pythonpath(tmp_path: Path) -> None:
    write_package(tmp_path / "site")
    words = runs.command(*CHOSEN, "actor.value=0.5", folder=tmp_path, recipe=RECIPE)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=runs.HANG)
    assert done.returncode == 0, done.stderr
    assert Run.read(tmp_path / "r").config["actor"] == {"name": "constant", "value": 0.5}


def test_it_goes_on_when_it_is_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.read(trained)
    assert NAMED.replace("=", "=[") + "]" in run.command()
    assert runs.go(trained.parent, "train.env_steps=30", NAMED, recipe=[]) == 0
    assert runs.go(trained.parent, *CHOSEN, "train.env_steps=40", recipe=RECIPE) == 0
    assert runs.go(trained.parent, f"plugins=[{PACKAGE}]", "train.env_steps=45", recipe=[]) == 0
    assert runs.digests(trained)["env_steps"] == 45
    assert evaluate.main([str(trained), "--episodes", "1", "--device", "cpu", "--plugins", PACKAGE]) == 0
    assert json.loads((trained / "evaluation.json").read_text())["actor"] == "constant"
    agent = agents.load(trained, "cpu", plugins=[PACKAGE])
    assert type(agent.actor).__name__ == "Constant"


def test_a_trained_model_may_get_a_plugin_s_actor(package: Path, tmp_path: Path) -> None:
    assert runs.go(tmp_path, "train.env_steps=20", "train.eval_every=100") == 0
    words = ["--episodes", "1", "--device", "cpu", "--plugins", PACKAGE, "--actor", "constant"]
    assert evaluate.main([str(tmp_path / "r"), *words]) == 0
    assert evaluate.main([str(tmp_path / "r"), *words, "actor.value=0.5"]) == 0
    assert json.loads((tmp_path / "r" / "evaluation.json").read_text())["overrides"] == ["actor.value=0.5"]


def test_its_actor_may_be_changed_when_evaluated(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(trained), "--episodes", "1", "--device", "cpu", "--plugins", PACKAGE]
    assert evaluate.main([*words, "actor.value=0.5"]) == 0
    assert evaluate.main([*words, "actor.valu=0.5"]) == 2
    assert "error: actor.valu: there is no such key; did you mean 'value'?" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["resume", "recipe", "evaluate", "load", "model_from"])
def test_without_its_name_nothing_is_imported_and_the_message_says_which(
    trained: Path, how: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    components.locations.cache_clear()
    capsys.readouterr()
    code = 1
    if how == "resume":
        code = train.main(["run=r", f"runs={trained.parent}"])
    elif how == "recipe":
        code = train.main([*runs.TINY, "run=r", f"runs={trained.parent}"])
    elif how == "evaluate":
        code = evaluate.main([str(trained), "--episodes", "1"])
    elif how == "model_from":
        code = train.main(["exp=dream_control", f"model_from={trained}", "run=other", f"runs={tmp_path}"])
    else:
        with pytest.raises(RunError) as caught:
            agents.load(trained)
        print(f"error: {caught.value}", file=sys.stderr)
    said = capsys.readouterr().err
    assert code == 1
    assert f"was trained with components of {PACKAGE}" in said and f"plugins=[{PACKAGE}]" in said
    assert not imported() and PACKAGE not in sys.modules


def test_a_run_cannot_name_code(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor by an edited config.yaml or run.json, whatever is on Python's path."""
    other = trained.parent / "edited"
    for record in (True, False):
        shutil.copytree(trained, other)
        if record:  # run.json says that no plugin is needed
            info = json.loads((other / "run.json").read_text())
            (other / "run.json").write_text(json.dumps(info | {"plugins": []}))
        else:
            text = (other / "config.yaml").read_text().replace("name: constant", f"name: {PACKAGE}.constant")
            (other / "config.yaml").write_text(text)
            info = json.loads((other / "run.json").read_text())
            (other / "run.json").write_text(json.dumps(info | {"plugins": []}))
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
        components.locations.cache_clear()
        with pytest.raises(ConfigError, match="is not one of"):
            agents.load(other, "cpu")
        assert evaluate.main([str(other), "--episodes", "1"]) == 2
        assert train.main(["run=edited", f"runs={trained.parent}"]) == 2
        assert not imported()
        shutil.rmtree(other)
    assert "actor.name: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("plugins=not_there_at_all", "plugins: there is no package 'not_there_at_all' on Python's path"),
        ("plugins=json.decoder", "plugins: there is no package 'json.decoder'"),
        ("plugins=../x", "plugins: "),
        ("plugins=a-b", "plugins: there is no package 'a-b'"),
    ],
)
def test_a_mistake_in_plugins_is_named(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train.main(["exp=smoke", word, f"runs={tmp_path}"])
    said = capsys.readouterr().err
    assert code == 2 and said.startswith(f"error: {message}") and said.count("\n") == 1, said


def test_a_name_that_is_not_there_is_told_with_the_plugins_names(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["exp=smoke", NAMED, "actor=constan", f"runs={tmp_path}"]) == 2
    assert "did you mean 'constant'?" in capsys.readouterr().err
    assert train.main(["exp=smoke", "actor=constant", f"runs={tmp_path}"]) == 2
    assert "actor: there is no 'constant'; choose from cem" in capsys.readouterr().err


WRAPPER = """import gymnasium

print("the wrapper's module is imported")


class Half(gymnasium.RewardWrapper):
    def reward(self, reward):
        return reward / 2
"""


def test_a_wrapper_is_imported_only_if_its_package_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line its name is enough. A run that names one names no code: who loads it says its package."""
    (tmp_path / f"{PACKAGE}.py").write_text(WRAPPER)  # a module is enough
    monkeypatch.syspath_prepend(tmp_path)
    words = ["train.env_steps=10", "train.eval_every=100", f"env.wrappers=[{PACKAGE}:Half]"]
    assert runs.go(tmp_path, *words) == 0
    assert "is imported" in capsys.readouterr().out
    run = tmp_path / "r"
    info = json.loads((run / "run.json").read_text())
    assert info["plugins"] == [PACKAGE]
    del sys.modules[PACKAGE]

    with pytest.raises(RunError, match=PACKAGE):
        agents.load(run, device="cpu")
    (run / "run.json").write_text(json.dumps(info | {"plugins": []}))  # a stranger's run
    for call in (lambda: agents.load(run, device="cpu"), lambda: runs.composed(f"runs={tmp_path}", "run=r")):
        with pytest.raises(ConfigError, match=rf"env\.wrappers: {PACKAGE}:Half: its package is not among plugins"):
            call()
    assert PACKAGE not in sys.modules and "is imported" not in capsys.readouterr().out
    assert agents.load(run, device="cpu", plugins=[PACKAGE]).env.wrappers == [f"{PACKAGE}:Half"]
    assert evaluate.main([str(run), "--episodes", "1", "--device", "cpu", "--plugins", PACKAGE]) == 0
    assert "is imported" in capsys.readouterr().out


def test_a_plugin_s_name_that_is_taken_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be passed over in silence: whoever typed it expects their own."""
    (package / "constant.py").rename(package / "cem.py")
    assert train.main(["exp=smoke", NAMED, f"runs={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert f"error: plugins: {PACKAGE}.cem has the name of agents.planners.cem: rename its file and config" in said
    (package / "cem.py").rename(package / "constant.py")
    (package / "configs" / "actor" / "cem_tiny.yaml").write_text("name: constant\nvalue: 1\n")
    assert train.main(["exp=smoke", NAMED, f"runs={tmp_path / 'runs'}"]) == 2
    assert "cem_tiny.yaml has the name of a file of ours, configs/actor/cem_tiny.yaml" in capsys.readouterr().err
    (package / "configs" / "actor" / "cem_tiny.yaml").unlink()
    components.locations.cache_clear()
    write_package(tmp_path / "site", "another_of_them")
    assert train.main(["exp=smoke", f"plugins=[{PACKAGE},another_of_them]", f"runs={tmp_path / 'runs'}"]) == 2
    assert "constant.yaml has the name of a file" in capsys.readouterr().err
    assert not imported()


def test_a_plugin_may_lie_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it is typed, as `python -m` finds modules there; last on the path, so that it hides nothing."""
    write_package(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(working_folder, "WORKING_FOLDER", [])
    working_folder.use_working_folder(["json", "not_there_at_all"])
    assert str(tmp_path / "here") not in sys.path and not working_folder.WORKING_FOLDER
    assert runs.go(tmp_path, *CHOSEN, recipe=RECIPE) == 0
    assert sys.path[-1] == str(tmp_path / "here")
    assert "PYTHONPATH=" in Run.read(tmp_path / "r").command()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_here\n", "cannot be imported: ModuleNotFoundError: No module named 'nothing_here'"),
        ("assert 1 == 2\n", "cannot be imported: AssertionError: in <module>"),
        ("def build(*_): ...\n", "has no class Config, which says what its keys are"),
    ],
)
def test_a_component_that_cannot_be_imported_is_told(
    text: str, said: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "constant.py").write_text(text + "def build(*_): ...\n")
    assert train.main([*RECIPE, *CHOSEN, f"runs={tmp_path / 'runs'}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: actor.name: {PACKAGE}.constant {said}") and told.count("\n") == 1


def test_a_package_of_configs_alone_is_a_plugin(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = package.parent / "sizes_of_its_own"
    (folder / "configs" / "actor").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "configs" / "actor" / "cem_far.yaml").write_text("defaults: [cem_tiny, _self_]\nhorizon: 7\n")
    assert runs.composed("exp=smoke", f"plugins={folder.name}", "actor=cem_far").actor.horizon == 7


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (ACTOR.replace("def build(", "def construct("), "actor.name: its_own_actors.odd has no function build"),
        (ACTOR.replace("return Constant(", "return 1 / 0, Constant("),
         "actor.name: its_own_actors.odd cannot be built: ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_what_a_plugin_does_wrong_is_told_in_a_line(
    package: Path, source: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "odd.py").write_text(source)
    (package / "configs" / "actor" / "odd.yaml").write_text("name: odd\nvalue: 0.5\n")
    assert train.main([*RECIPE, "actor=odd", NAMED, "run=r", f"runs={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told and not (tmp_path / "r").exists()
