"""The worked examples of docs/adding_components.md, run as they stand there in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import runs

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "train.env_steps=100", "train.learn.model.updates=2", "train.eval_episodes=1", "replay.batch_size=2",
    "replay.batch_length=8",
]  # fmt: skip
FILES = [
    "agents/objectives/gentle.py", "agents/planners/greedy.py", "configs/actor/greedy.yaml", "configs/env/light.yaml",
    "configs/model/markov.yaml", "configs/objective/gentle.yaml", "envs/suites/light.py", "my_package/__init__.py",
    "my_package/configs/explorer/sticky.yaml", "my_package/sticky.py", "worldmodel/models/markov.py",
]  # fmt: skip


def examples() -> dict[str, str]:
    text = (ROOT / "docs" / "adding_components.md").read_text()
    places = "envs|agents|worldmodel|configs|my_package"
    return dict(re.findall(rf"^`((?:{places})/\S+)`\n+```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the examples' files in it."""
    folder = tmp_path_factory.mktemp("project")
    for room in ("envs", "agents", "worldmodel", "training", "configs"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for entry in ("train.py", "evaluate.py"):
        shutil.copy(ROOT / entry, folder)
    for name, content in examples().items():
        assert not (folder / name).exists(), f"{name} is a real file already: the example needs another name"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def python(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=runs.HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(folder: Path, *words: str) -> str:
    return python(folder, "train.py", *words, *TINY)


def test_all_examples_are_found() -> None:
    assert sorted(examples()) == FILES


@pytest.mark.slow
def test_the_environment_and_the_actor_train(copy: Path) -> None:
    assert "finished" in train(copy, "exp=smoke", "env=light", "actor=greedy", "run=light")


@pytest.mark.slow
def test_the_world_model_and_the_objective_train(copy: Path) -> None:
    words = ("exp=smoke", "model=markov", "objective=gentle", "objective.action_cost=0.5", "run=markov")
    assert "finished" in train(copy, *words)


@pytest.mark.slow
def test_the_plugin_trains_and_is_named_again(copy: Path) -> None:
    assert "finished" in train(copy, "exp=smoke", "explorer=sticky", "plugins=my_package", "run=sticky")
    python(copy, "train.py", "run=sticky", "plugins=my_package", "train.env_steps=150")
    python(copy, "evaluate.py", "runs/sticky", "--plugins", "my_package", "--episodes", "1")
