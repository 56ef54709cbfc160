"""Commands that are printed are run as they stand, where they were printed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import runs
import tiny
from test_plugins import CHOSEN, RECIPE, write_package

import evaluate
import train
from envs import check
from training.configuration import hints
from training.configuration.components import ROOT
from training.run_folder.run import Run
from worldmodel.replay import check as replay_check
from worldmodel.replay.episodes import write_chunk

FEW = [*runs.TINY, "train.env_steps=15", "train.eval_every=100", "train.save_every=100"]


def pasted(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    words: dict[str, object] = {"shell": True, "capture_output": True, "text": True, "timeout": runs.HANG}
    return subprocess.run(command, cwd=folder, env=own | environment, **words)  # type: ignore[call-overload]


def started(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """train.py, in a folder that is not the project's."""
    command = shlex.join([sys.executable, str(ROOT / "train.py"), *words])
    return pasted(command, folder, **environment)


def command_in(text: str, entry: str) -> str:
    """The command line of an entry that a text holds."""
    found = re.search(rf"(PYTHONPATH=\S+ )?\S*python\S* \S*{entry} .*$", text, re.MULTILINE)
    assert found, text
    return found[0]


@pytest.mark.slow
def test_what_is_printed_in_another_folder_is_run_there(tmp_path: Path) -> None:
    """A stop, the way on, the evaluation; a folder of odd name, components and an environment of one's own."""
    write_package(tmp_path)
    (tmp_path / "my_envs.py").write_text(MY_ENVS)
    place = "it's, (mine)=~"
    words = [*RECIPE, *CHOSEN, "train.env_steps=10", "env=gym", "env.id=my_envs:Mine-v0", "env.size=[16,16]"]
    words = [word for word in words if not word.startswith("env.time_limit")]
    command = shlex.join([sys.executable, str(ROOT / "train.py"), *words, f"runs={place}", "run=4711"])
    first = pasted(command, tmp_path)
    assert first.returncode == 0, first.stderr
    assert "4711 is a new run: exp=smoke, model=rssm_tiny, env=gym, actor=constant" in first.stdout
    evaluated = pasted(command_in(first.stdout, "evaluate.py").replace("--episodes 20", "--episodes 1"), tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert (tmp_path / place / "4711" / "evaluation.json").exists()
    refused = pasted(f"{command} seed=7", tmp_path)
    assert refused.returncode == 2
    again = command_in(refused.stderr, "train.py").partition(";")[0]
    done = pasted(f"{again} train.env_steps=20", tmp_path)
    assert done.returncode == 0, done.stderr
    assert runs.digests(tmp_path / place / "4711")["env_steps"] == 20
    gone = pasted(again.replace("run=4711", "run=4712"), tmp_path)  # a hint never begins another run
    assert gone.returncode == 1 and "is not a run to go on with, as resume=true asks" in gone.stderr
    assert not (tmp_path / place / "4712").exists()


MY_ENVS = """
import gymnasium, numpy as np

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}

gymnasium.register("Mine-v0", Mine, max_episode_steps=5)
"""


def test_python_and_paths_as_one_would_type_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    own = Path(sys.executable)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(shutil, "which", lambda _: str(own.with_name("python")))
    assert hints.command("train.py", "run=a b") == "python train.py 'run=a b'"
    monkeypatch.setattr(shutil, "which", lambda _: "/somewhere/else/python")
    monkeypatch.setattr(sys, "executable", str(ROOT / "x" / "bin" / "python"))
    assert hints.command("evaluate.py", "runs/a") == "x/bin/python evaluate.py runs/a"
    monkeypatch.chdir(tmp_path)
    assert hints.command("train.py").split() == [str(ROOT / "x" / "bin" / "python"), str(ROOT / "train.py")]
    monkeypatch.setenv("PYTHONPATH", "my envs:b")
    assert hints.command("-m envs.check", "A-v0").startswith("PYTHONPATH='my envs:b' ")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert str(ROOT / "train.py") in hints.command("train.py")


def test_what_several_values_need_is_a_sweep_that_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert train.main([*FEW, f"runs={tmp_path}", "run=a", "seed=1,2"]) == 2
    command = command_in(capsys.readouterr().err, "train.py")
    assert " -m " in command and "run=a" not in command and "seed=1,2" in command and f"runs={tmp_path}" in command


@pytest.mark.slow
def test_the_members_of_a_sweep_that_failed_are_told_as_they_are_run_again(tmp_path: Path) -> None:
    done = started("-m", *FEW, f"runs={tmp_path / 'it is'}", "actor.elites=2,50", "seed=1", folder=tmp_path)
    assert done.returncode == 2 and "1 of 2 runs of the sweep failed:" in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("  exit code 2: ")
    again = pasted(command_in(line, "train.py"), tmp_path)
    assert again.returncode == 2 and "elites is 50" in again.stderr


# ---- beginning and going on ----


def test_a_name_that_is_no_run_begins_one_and_says_with_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*FEW, f"runs={tmp_path}", "run=pendulum1"]) == 0
    capsys.readouterr()
    assert train.main([*FEW, f"runs={tmp_path}", "run=pendulum2"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'pendulum2'} is a new run: exp=smoke, model=rssm_tiny, env=dot, actor=cem_tiny" in said
    assert "did you mean 'pendulum1'?" in said
    assert train.main([f"runs={tmp_path}", "run=pendulum2", "train.env_steps=20"]) == 0
    assert "is a new run" not in capsys.readouterr().out


def test_the_default_recipe_is_told_as_that(tmp_path: Path) -> None:
    config = runs.composed(f"runs={tmp_path}", "run=E")
    assert config.recipe == "exp=quickstart (the default), model=rssm_small, env=pendulum, actor=cem_small"


@pytest.mark.parametrize("key", ["resume=true", "skip_damaged=true"])
def test_what_is_for_going_on_begins_nothing(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("{}")
    assert train.main([*FEW, f"runs={tmp_path}", "run=minn", key]) == 1
    said = capsys.readouterr().err
    assert f"minn is not a run to go on with, as {key} asks: {tmp_path} holds mine; did you mean 'mine'?" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_resume_false_leaves_a_run_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FEW, f"runs={tmp_path}", "run=r"]
    assert train.main([*words, "resume=false"]) == 0
    before = runs.digests(tmp_path / "r")
    assert train.main([*words, "resume=false", "train.env_steps=20"]) == 1
    assert "exists, and resume=false asks for a new run" in capsys.readouterr().err
    assert runs.digests(tmp_path / "r") == before
    assert train.main([*words, "resume=true", "train.env_steps=20"]) == 0
    assert train.main([*words, "resume=yes"]) == 2  # neither true nor false
    assert evaluate.main([str(tmp_path / "r"), "--episodes", "1", "--device", "cpu"]) == 0


def test_what_a_resumed_run_was_given_has_to_be_typed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """config.yaml keeps what a run began with: without the words the run would be finished at once."""
    assert runs.go(tmp_path) == 0
    words = ["train.env_steps=4000", "agent.threads=1", "resume=true"]
    assert runs.go(tmp_path, *words, recipe=[], stop=runs.StopAt(3)) == 143
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(f"run=r runs={tmp_path} resume=true train.env_steps=4000 agent.threads=1")


def test_brackets_in_a_command_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not taken for a style."""
    from training.reporting.progress import console

    run = Run(tmp_path / "r", {}, {"spec": {"image_shape": [1, 8, 8], "action_dim": 1, "discrete": False},
                                   "plugins": ["mine", "bold"]})  # fmt: skip
    console.print(f"To go on: {run.command()} :warning:")
    assert "'plugins=[mine,bold]'" in capsys.readouterr().out
    assert run.command("seed=1").endswith(" resume=true seed=1")  # it never begins another run
    assert run.evaluation().endswith(" --plugins mine,bold")


def test_what_envs_check_prints_gives_the_environment_that_was_checked(tmp_path: Path) -> None:
    kwargs = {"map": "/a,b (c)", "n": 1, "text": "1", "deep": {"x": [None, True]}}
    asked = {"id": "A-v0", "kwargs": kwargs, "size": (32, 48), "gray": True, "action_repeat": 2, "image": "a/rgb"}
    config = runs.composed("exp=smoke", "env=gym", f"runs={tmp_path}").env.model_copy(update=asked)
    words = shlex.split(check.words(config))
    assert runs.composed("exp=smoke", *words, f"runs={tmp_path}").env == config


def test_what_the_check_of_recordings_prints_can_be_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "it's, (data)"
    data.mkdir()
    for number in range(2):
        write_chunk(data / f"{number}.npz", tiny.episode(5, tiny.DISCRETE))
    assert replay_check.main([str(data), "--layout", "action_led_to_image"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("to learn"))
    python, entry, *words = shlex.split(line.removeprefix("to learn"))
    assert python == "python" and (ROOT / entry).samefile(ROOT / "train.py")
    assert runs.composed(*words, f"runs={tmp_path}").root.data == str(data)
