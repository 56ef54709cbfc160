"""A trained model goes on in another environment: the model is taken, episodes of another task only if asked for."""

import re
import shutil
from pathlib import Path

import pytest
import runs
import torch

from training.run_folder import checkpoint
from training.run_folder.run import Run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    assert runs.go(folder) == 0
    return folder / "r"


def begun(folder: Path, source: Path, *words: str) -> checkpoint.Checkpoint:
    """What a run is saved as that is stopped before it collects."""
    assert runs.go(folder, f"model_from={source}", *words, stop=runs.StopAt(1)) == 143
    return Run.read(folder / "r").newest()


def test_episodes_of_another_task_are_left_out_unless_asked_for(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = Run.read(source).newest()
    cases: list[tuple[list[str], bool, str]] = [
        (["env.num_envs=2", "env.time_limit=7"], True, ""),
        (["env.action_repeat=3"], False, "was trained in another environment (env.action_repeat: 1 there, 3 here)"),
        (["env.action_repeat=3", "keep_episodes=true"], True, ""),
    ]
    for number, (words, kept, said) in enumerate(cases):
        capsys.readouterr()
        mine = begun(tmp_path / str(number), source, *words)
        out = " ".join(capsys.readouterr().out.split())
        assert len(mine.chunks) == (len(theirs.chunks) if kept else 0)
        assert said in out and ("keep_episodes=true takes them, too" in out) == bool(said)
        weights = (found.tensors("model") for found in (mine, theirs))
        one, other = weights
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert runs.go(tmp_path / "1", recipe=[]) == 0  # goes on by its name alone, and collects its own
    assert Run.read(tmp_path / "1" / "r").newest().chunks


def test_what_is_computed_from_the_action_repeat_is_about_the_sources(tmp_path: Path) -> None:
    assert runs.go(tmp_path, "env.action_repeat=4") == 0
    words = ["exp=dreamer_small", f"runs={tmp_path}", "run=new", f"model_from={tmp_path / 'r'}"]
    for more, steps in (([], 240_000), (["env.time_limit=7"], 240_000), (["env.action_repeat=8"], 480_000)):
        found = runs.composed(*words, "model=rssm_tiny", *more)
        assert found.train.env_steps == steps == 60_000 * found.env.action_repeat


def test_an_action_repeat_that_is_no_number_is_not_composed(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(source, tmp_path / "source")
    path = tmp_path / "source" / "config.yaml"
    for wrong in ("action_repeat: ${oc.env:HOME}", "unknown: 1"):
        path.write_text(re.sub("action_repeat: 1", wrong, (source / "config.yaml").read_text()))
        assert runs.go(tmp_path, f"model_from={tmp_path / 'source'}") != 0
        assert "env." in capsys.readouterr().err


def test_episodes_are_kept_only_where_there_are_some(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^keep_episodes is for the episodes of model_from=\.\.\."):
        runs.composed("exp=smoke", f"runs={tmp_path}", "keep_episodes=true")


def test_weights_that_are_none_are_not_taken(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = Run.read(source).newest()
    tensors = {name: newest.tensors(name) for name in ("model", "actor", "optim", "rng")}
    tensors["model"]["input_proj.weight"][0, 0] = float("nan")
    checkpoint.write(source / "checkpoints", "step-99999999", tensors, newest.state, newest.chunks, {})
    assert runs.go(tmp_path, f"model_from={source}") == 1
    assert "its model cannot be taken: model: input_proj.weight holds numbers that are not finite" in (
        " ".join(capsys.readouterr().err.split())
    )
