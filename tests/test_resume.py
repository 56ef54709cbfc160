"""Resuming is exact: however a run was cut into pieces, it ends with the same bits."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import runs

from training.loop import loop, open_trainer
from training.run_folder import checkpoint
from training.run_folder.run import Run
from worldmodel.base import ConfigError
from worldmodel.replay.buffer import Replay, ReplayConfig

SAME = ("learn/", "collect/", "count/env_steps", "count/agent_steps", "count/episodes", "count/updates")


def state(run: Path) -> tuple[dict[str, Any], list[Any]]:
    """Everything in the newest checkpoint, and all that was logged about learning and collecting."""
    return runs.digests(run), [found for prefix in SAME for found in runs.logged(run, prefix)]


def no_overlap(run: Path) -> None:
    """Curves go forwards, and no metric stands twice at a step."""
    steps = [row["step"] for row in Run.read(run).metrics.history()]
    assert steps == sorted(steps)
    points = [
        (row["step"], row["updates"], name) for row in Run.read(run).metrics.history() for name in row if "/" in name
    ]
    assert len(points) == len(set(points))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run; copy it before changing it."""
    folder = tmp_path_factory.mktemp("whole")
    assert runs.go(folder) == 0
    return folder / "r"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2])
def test_twice_n_steps_are_n_and_n_more(tmp_path: Path, seed: int, count: int) -> None:
    words = (f"seed={seed}", f"env.num_envs={count}", "train.eval_every=100", "train.save_every=100")
    assert runs.go(tmp_path / "a", *words) == 0
    assert runs.go(tmp_path / "b", *words, "train.env_steps=30") == 0
    assert runs.digests(tmp_path / "b" / "r")["env_steps"] == 30
    assert runs.go(tmp_path / "b", *words) == 0
    assert state(tmp_path / "b" / "r") == state(tmp_path / "a" / "r")
    no_overlap(tmp_path / "b" / "r")


@pytest.mark.slow
def test_so_it_is_with_environments_in_workers(tmp_path: Path) -> None:
    words = ("env.num_envs=2", "env.vectorization_mode=async")
    assert runs.go(tmp_path / "a", "env.num_envs=2") == 0
    assert runs.go(tmp_path / "b", *words, "train.env_steps=30") == 0
    assert runs.go(tmp_path / "b", *words) == 0
    assert state(tmp_path / "b" / "r") == state(tmp_path / "a" / "r")


def test_seeds_differ(tmp_path: Path, whole: Path) -> None:
    assert runs.go(tmp_path, "seed=1") == 0
    assert runs.digests(tmp_path / "r")["replay"] != runs.digests(whole)["replay"]
    assert runs.logged(tmp_path / "r") != runs.logged(whole)


@pytest.mark.slow
def test_stopped_at_every_turn_it_ends_the_same(tmp_path: Path, whole: Path) -> None:
    """Stopped at every 6th question, which falls within collecting, learning and evaluating: 5 are needed for an
    episode.
    """
    codes = []
    while not codes or codes[-1]:
        codes.append(runs.go(tmp_path, stop=runs.StopAt(12)))
        assert codes[-1] in (0, 143) and len(codes) < 50
        no_overlap(tmp_path / "r")
    assert len(codes) > 5
    digests, learned = state(tmp_path / "r")
    assert (digests, learned) == state(whole)
    assert runs.logged(tmp_path / "r", "evaluate/return") == runs.logged(whole, "evaluate/return")
    assert runs.logged(tmp_path / "r", "dream/") == runs.logged(whole, "dream/")


# Questions: 1-5 and 6-10 the prefill, 11-12 learning, 13-17 an episode, 18-19 learning, ..., the last 5
# evaluating
@pytest.mark.parametrize("question", [1, 12, 15, 30])
def test_stopped_once_it_ends_the_same(tmp_path: Path, whole: Path, question: int) -> None:
    assert runs.go(tmp_path, stop=runs.StopAt(question)) == 143
    stopped = runs.digests(tmp_path / "r")
    assert stopped["env_steps"] % 5 == 0 and stopped["env_steps"] <= question
    assert runs.go(tmp_path) == 0
    assert state(tmp_path / "r") == state(whole)
    assert runs.logged(tmp_path / "r", "evaluate/return") == runs.logged(whole, "evaluate/return")
    no_overlap(tmp_path / "r")


def test_stopped_in_the_last_evaluation_it_is_made_up_for(tmp_path: Path, whole: Path) -> None:
    counting = runs.StopAt()
    assert runs.go(tmp_path / "count", stop=counting) == 0
    assert runs.go(tmp_path, stop=runs.StopAt(counting.asked - 2)) == 143
    assert runs.go(tmp_path) == 0
    for _ in range(2):
        digests, learned = state(tmp_path / "r")
        assert (digests, learned) == state(whole)
        assert runs.logged(tmp_path / "r", "evaluate/return") == runs.logged(whole, "evaluate/return")
        no_overlap(tmp_path / "r")
        assert runs.go(tmp_path) == 0


@pytest.mark.slow
def test_a_process_goes_on_where_another_one_stopped(tmp_path: Path, whole: Path) -> None:
    for steps in (30, 60):
        process = runs.process(f"train.env_steps={steps}", folder=tmp_path)
        out, err = process.communicate(timeout=runs.HANG)
        assert process.returncode == 0, err
        assert ("resumed from step-00000030" in out) == (steps == 60)
    assert runs.digests(tmp_path / "r") == runs.digests(whole)
    assert runs.logged(tmp_path / "r") == runs.logged(whole)


@pytest.mark.parametrize("inside", [False, True], ids=["before the first save", "inside it"])
def test_killed_before_the_first_checkpoint_it_begins_again(tmp_path: Path, whole: Path, inside: bool) -> None:
    shutil.copytree(whole, tmp_path / "r")
    for name in ("checkpoints", "replay"):
        shutil.rmtree(tmp_path / "r" / name)
    (tmp_path / "r" / "checkpoints").mkdir()
    if inside:
        (tmp_path / "r" / "checkpoints" / "step-00000015-00000004.tmp-1").mkdir()
    with (tmp_path / "r" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "learn/lo')  # torn by the kill
    assert runs.go(tmp_path) == 0
    assert state(tmp_path / "r") == state(whole)
    no_overlap(tmp_path / "r")


def test_a_finished_run_ends_at_once(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "r")
    names, metrics = checkpoint.names(whole / "checkpoints"), (whole / "metrics.jsonl").read_bytes()
    assert names[0].startswith("step-00000060")
    assert runs.go(tmp_path) == 0
    assert checkpoint.names(tmp_path / "r" / "checkpoints") == names
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == metrics
    assert "resumed from step-00000060" in capsys.readouterr().out


def test_more_steps_may_be_asked_for_without_repeating_the_rest(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "r")
    assert runs.go(tmp_path, "train.env_steps=70", recipe=[]) == 0  # not even exp=
    assert runs.digests(tmp_path / "r")["env_steps"] == 70
    assert Run.read(tmp_path / "r").config["model"]["deter"] == 8


def test_another_config_is_refused_naming_the_keys(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "r")
    for words in (["exp=smoke", *runs.TINY], []):
        with pytest.raises(ConfigError) as caught:
            runs.composed(
                *words, "run=r", f"runs={tmp_path}", "seed=5", "actor.exploration_noise=0.1", "train.env_steps=70"
            )
        first, second, hint = caught.value.lines
        assert first == "seed: the run has 0, you ask for 5"
        assert second == "actor.exploration_noise: the run has 0.3, you ask for 0.1"
        assert "run=" in hint


def test_a_renamed_or_moved_run_goes_on(tmp_path: Path, whole: Path) -> None:
    for number, words in enumerate(([], [*runs.TINY, "train.env_steps=70"])):
        folder = tmp_path / f"else where {number}"
        shutil.copytree(whole, folder / "other")
        trainer = open_trainer(
            runs.composed(*words, "run=other", f"runs={folder}", "train.env_steps=70"), lambda: False
        )
        loop(trainer)
        trainer.close()
        assert runs.digests(folder / "other")["env_steps"] == 70
        assert [path.name for path in folder.iterdir()] == ["other"]


# ---- damage ----


def test_a_damaged_newest_checkpoint_is_replaced_by_the_same(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "r")
    newest, older = checkpoint.names(whole / "checkpoints")
    os.truncate(tmp_path / "r" / "checkpoints" / newest / "model.safetensors", 100)
    assert runs.go(tmp_path) == 0
    out = capsys.readouterr().out
    assert f"damaged checkpoint: {newest}/model.safetensors has 100 bytes" in out
    assert f"falling back to {older}" in out and f"resumed from {older}" in out
    assert checkpoint.names(tmp_path / "r" / "checkpoints") == [newest, older]
    assert state(tmp_path / "r") == state(whole)
    no_overlap(tmp_path / "r")


def test_when_every_checkpoint_is_damaged_nothing_is_overwritten(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "r")
    for name in checkpoint.names(whole / "checkpoints"):
        os.truncate(tmp_path / "r" / "checkpoints" / name / "optim.safetensors", 0)
    before = sorted(tmp_path.rglob("*"))
    assert runs.go(tmp_path) == 1
    assert "restore one from a copy" in capsys.readouterr().err
    assert [path for path in before if not path.exists()] == []


def test_a_damaged_chunk_needs_skip_damaged(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "r")
    oldest = checkpoint.verify(whole / "checkpoints" / checkpoint.names(whole / "checkpoints")[0]).chunks[0]
    os.truncate(tmp_path / "r" / "replay" / f"{oldest.digest}.npz", 50)
    assert runs.go(tmp_path, "train.env_steps=70") == 1
    err = capsys.readouterr().err
    assert oldest.digest in err and f"python train.py run=r runs={tmp_path} resume=true skip_damaged=true" in err
    assert runs.go(tmp_path, "train.env_steps=70", "skip_damaged=true") == 0
    assert f"left out: replay chunk {oldest.digest}" in capsys.readouterr().out
    assert runs.go(tmp_path, "train.env_steps=75") == 0  # it is needed once
    assert runs.digests(tmp_path / "r")["env_steps"] == 75


def test_a_damaged_chunk_of_the_newest_checkpoint_is_made_again(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "r")
    folder = whole / "checkpoints"
    newest, older = (checkpoint.verify(folder / name) for name in checkpoint.names(folder))
    only = next(chunk for chunk in newest.chunks if chunk not in older.chunks)
    (tmp_path / "r" / "replay" / f"{only.digest}.npz").write_bytes(b"rubbish")
    assert runs.go(tmp_path) == 0
    assert f"resumed from {older.folder.name}" in capsys.readouterr().out
    assert state(tmp_path / "r") == state(whole)
    found = Run.read(tmp_path / "r")
    config = ReplayConfig(batch_size=2, batch_length=4, capacity=1000, storage="memory", memory_gb=None, context=False)
    Replay(config, found.spec).load(found.replay, found.newest().chunks)


# ---- two at once ----


def test_a_second_trainer_refuses_naming_the_first(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "r")
    first = Run.read(tmp_path / "r").lock()
    assert runs.go(tmp_path, "train.env_steps=70") == 1
    assert f"is being trained by process {os.getpid()} on " in capsys.readouterr().err
    assert runs.digests(tmp_path / "r") == runs.digests(whole)
    first.close()  # as the system does for a process that was killed
    assert runs.go(tmp_path, "train.env_steps=70") == 0


def test_there_is_room_for_episodes_that_end_at_once(tmp_path: Path) -> None:
    """However short the episodes turn out, two rows a decision at the most, nothing is evicted below the capacity."""
    config = runs.composed(*runs.TINY, "run=r", f"runs={tmp_path}")
    trainer = open_trainer(config, runs.SignalHandler())
    assert trainer.replay.capacity >= 2 * config.train.env_steps
    trainer.close()


def test_a_run_that_lost_its_checkpoints_does_not_begin_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.go(tmp_path, "train.env_steps=10") == 0
    logged = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    (tmp_path / "r" / "checkpoints").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert runs.go(tmp_path) == 1
    assert "checkpoints is gone: put it back from a copy" in capsys.readouterr().err
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == logged
    (tmp_path / "elsewhere").rename(tmp_path / "r" / "checkpoints")
    assert runs.go(tmp_path) == 0
