"""The worked examples of docs/adding_parts.md, run as they stand there in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = ["train.steps=100", "train.learn.model.updates=2", "train.eval_episodes=1", "replay.batch=2", "replay.length=8"]
SMALL_PLANNER = ["actor.horizon=3", "actor.iterations=1", "actor.candidates=10", "actor.elites=2"]


def examples() -> dict[str, str]:
    text = (ROOT / "docs" / "adding_parts.md").read_text()
    return dict(
        re.findall(r"^`((?:envs|agents|worldmodel|configs)/\S+)`\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the examples' files in it."""
    folder = tmp_path_factory.mktemp("project")
    for room in ("envs", "agents", "worldmodel", "configs"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    for name, content in examples().items():
        assert not (folder / name).exists(), f"{name} is a real file already: the example needs another name"
        (folder / name).write_text(content)
    return folder


def train(folder: Path, *words: str) -> str:
    command = [sys.executable, "train.py", *words, *TINY]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_examples_are_found() -> None:
    assert sorted(examples()) == [
        "agents/greedy.py",
        "configs/actor/greedy.yaml",
        "configs/env/light.yaml",
        "configs/model/markov.yaml",
        "envs/light.py",
        "worldmodel/markov.py",
    ]


@pytest.mark.slow
def test_the_environment_and_the_actor_train(copy: Path) -> None:
    assert "finished" in train(copy, "exp=smoke", "env=light", "actor=greedy", "run=light")


@pytest.mark.slow
def test_the_world_model_trains(copy: Path) -> None:
    assert "finished" in train(copy, "exp=planet", "env=dot", "model=markov", "run=markov", *SMALL_PLANNER)
