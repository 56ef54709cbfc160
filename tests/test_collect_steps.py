"""train.collect.unit=steps, end to end: environments live on between rounds of learning, a ratio tells how much is
learned, and every interruption is exact.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import runs

from training import recordings, streams
from training.collecting import initial_data
from training.reporting import pictures
from training.run_folder import checkpoint
from training.run_folder.run import Run
from worldmodel.replay import recorded
from worldmodel.replay.episodes import read_chunk

# The prefill of 12 steps; then rounds of 4 steps, and an update of 2 x 4 rows for each of them. Episodes last 7 steps,
# so that most rounds end amid one.
STEPS = (
    *runs.TINY, "env.time_limit=7", "train.collect.unit=steps", "train.collect.per_round=4", "train.prefill=12",
    "train.ratio=2", "train.learn.model.updates=1", "train.env_steps=60", "train.report_every=4",
    "train.eval_every=1000", "train.save_every=1000",
)  # fmt: skip
SAME = ("learn/", "collect/", "evaluate/return")


@pytest.fixture(autouse=True)
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without curves, which take most of such a run's time."""
    monkeypatch.setattr(pictures, "curves", lambda *_: None)


def go(folder: Path, *words: str, stop: runs.SignalHandler | None = None) -> int:
    return runs.go(folder, *words, stop=stop, recipe=STEPS)


def newest(run: Path) -> checkpoint.Checkpoint:
    return Run.read(run).newest()


def rows(run: Path) -> list[bytes]:
    """All rows in replay, stream by stream: where a save cuts episodes into chunks is no difference."""
    found: dict[int, list[bytes]] = {}
    held = newest(run)
    for chunk in held.chunks:
        episode = read_chunk(run / "replay" / f"{chunk.digest}.npz", chunk, Run.read(run).spec)
        for row in range(len(episode.reward)):
            begins = row == 0 and not chunk.continuation
            content = b"".join(array[row].tobytes() for array in episode)
            found.setdefault(chunk.stream, []).append(bytes([begins]) + content)
    return [row for stream in sorted(found) for row in found[stream]]


def state(run: Path, prefixes: tuple[str, ...] = SAME) -> tuple[Any, ...]:
    digests = {
        key: value for key, value in runs.digests(run).items() if not key.startswith(("replay", "saved_", "evaluated_"))
    }
    held = newest(run)
    collector = {name: value.numpy().tobytes() for name, value in held.tensors("collector").items()}
    # An episode that ended in a round that was interrupted stands at the step of the interruption.
    logged = [
        (0 if prefix == "collect/" else step, name, value)
        for prefix in prefixes
        for step, name, value in runs.logged(run, prefix)
    ]
    return digests, rows(run), collector, held.state["collector"], logged


@pytest.fixture(scope="module", params=[1, 2], ids=["one environment", "two"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An undisturbed run, and how many environments it has."""
    folder, word = tmp_path_factory.mktemp("whole"), f"env.num_envs={request.param}"
    assert go(folder, word) == 0
    return folder / "r", word


def test_it_trains_as_much_as_the_ratio_asks_for(whole: tuple[Path, str]) -> None:
    run, word = whole
    found, count = runs.digests(run), int(word[-1])
    assert (found["env_steps"], found["agent_steps"], found["prefill_agent_steps"]) == (60, 60, 12)
    assert found["updates"] == (60 - 12) * 2 // (2 * 4)
    assert found["episodes"] == count * (60 // count // 7)  # the last ones are under way
    replayed = newest(run).chunks
    assert sum(chunk.rows for chunk in replayed) == 60 + count * -(-60 // count // 7)  # one more for each that began
    assert {chunk.stream for chunk in replayed} == set(range(count))
    losses = runs.logged(run, "learn/model/loss")
    assert [step for step, name, _ in losses if name == "learn/model/loss"] == [28, 44, 60]
    assert [length for *_, length in runs.logged(run, "collect/episode_length")] and all(
        length == 7 for *_, length in runs.logged(run, "collect/episode_length")
    )


# What an interruption may fall into: the prefill, amid a round of collecting, a round's end, learning, the end.
@pytest.mark.parametrize("question", [1, 5, 13, 17, 18, 20, 23, 40, 60])
def test_stopped_anywhere_it_ends_the_same(tmp_path: Path, whole: tuple[Path, str], question: int) -> None:
    run, word = whole
    assert go(tmp_path, word, stop=runs.StopAt(question)) in (0, 143)
    for _ in range(2):
        assert go(tmp_path, word) == 0
        assert state(tmp_path / "r") == state(run)


def test_twice_n_steps_are_n_and_n_more(tmp_path: Path, whole: tuple[Path, str]) -> None:
    run, word = whole
    prefixes = ("learn/", "collect/")  # at its first end it is evaluated, too
    assert go(tmp_path, word, "train.env_steps=36") == 0
    assert runs.digests(tmp_path / "r")["env_steps"] == 36
    assert go(tmp_path, word) == 0
    assert state(tmp_path / "r", prefixes) == state(run, prefixes)


def test_stopped_again_and_again_it_ends_the_same(tmp_path: Path, whole: tuple[Path, str]) -> None:
    run, word = whole
    pieces = 1
    while go(tmp_path, word, stop=runs.StopAt(9)) != 0:
        pieces += 1
        assert pieces < 60
    assert pieces > 4
    assert state(tmp_path / "r") == state(run)


def test_evaluations_and_saves_in_between_change_nothing(tmp_path: Path, whole: tuple[Path, str]) -> None:
    """Evaluation takes other environments than those in which episodes are under way."""
    run, word = whole
    words = ["train.eval_every=8", "train.save_every=4", "train.save_minutes=1e-9"]
    assert go(tmp_path, word, *words) == 0
    evaluated = [step for step, *_ in runs.logged(tmp_path / "r", "evaluate/return")]
    assert len(evaluated) > 4 and evaluated[-1] == 60
    prefixes = ("learn/", "collect/")
    assert state(tmp_path / "r", prefixes) == state(run, prefixes)


def test_whole_episodes_may_have_a_ratio_too(tmp_path: Path) -> None:
    words = [word for word in STEPS if not word.startswith("train.collect.per_round=")]  # it would do nothing
    words += ["train.collect.unit=episodes", "train.prefill=2"]
    assert runs.go(tmp_path / "a", recipe=words) == 0
    found = runs.digests(tmp_path / "a" / "r")
    assert found["prefill_agent_steps"] == 14
    assert found["updates"] == (found["agent_steps"] - 14) * 2 // 8
    assert runs.go(tmp_path / "b", recipe=words, stop=runs.StopAt(33)) == 143
    assert runs.go(tmp_path / "b", recipe=words) == 0
    assert runs.digests(tmp_path / "b" / "r") == runs.digests(tmp_path / "a" / "r")


def test_without_a_ratio_a_round_follows_every_so_many_steps(tmp_path: Path) -> None:
    assert go(tmp_path, "train.ratio=null", "train.learn.model.updates=2") == 0
    assert runs.digests(tmp_path / "r")["updates"] == 2 * (1 + (60 - 12) // 4)


def test_environments_that_do_not_repeat_themselves_are_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go(tmp_path, stop=runs.StopAt(30)) == 143
    kept = rows(tmp_path / "r")
    monkeypatch.setattr(streams, "COLLECT", 9)  # other seeds
    assert go(tmp_path) == 0
    assert "the environments do not repeat themselves" in capsys.readouterr().out
    assert rows(tmp_path / "r")[: len(kept)] == kept
    assert runs.digests(tmp_path / "r")["env_steps"] == 60


# ---- what others begin with ----


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose saves have cut episodes of eight rows into pieces, some of a single row."""
    folder = tmp_path_factory.mktemp("source")
    assert go(folder, "train.save_every=8", "env.num_envs=1") == 0
    pieces = newest(folder / "r").chunks
    assert any(chunk.continuation for chunk in pieces) and any(chunk.rows == 1 for chunk in pieces)
    return folder / "r"


@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("key", ["data", "model_from"])
def test_a_run_begins_with_the_whole_episodes_of_another(
    key: str, envs: int, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"{key}={source}", f"env.num_envs={envs}", "env=dot", "env.time_limit=7", "train.prefill=0"
    assert go(tmp_path, *words, "train.env_steps=12") == 0
    theirs = list(Run.read(source).episodes(newest(source)))
    rows = sum(len(episode.reward) for episode in theirs)
    assert f"begins with {rows} rows of {len(theirs)} episodes\n" in capsys.readouterr().out
    mine = list(Run.read(tmp_path / "r").episodes(newest(tmp_path / "r")))
    assert {episode.digest() for episode in theirs} <= {episode.digest() for episode in mine}
    assert {len(episode.reward) for episode in theirs[:-1]} == {8}
    assert go(tmp_path, *words, "train.env_steps=24") == 0  # and it can be resumed


def test_episodes_go_into_the_emptiest_stream() -> None:
    assert initial_data.spread([5, 1, 1, 3, 2], 2) == [0, 1, 1, 1, 0]
    assert initial_data.rows_taken([5, 1, 1, 3, 2], 2) == 14 and initial_data.rows_taken([], 2) == 0


def test_what_does_not_fit_is_told_before_a_run_begins(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"data={source}", "env=dot", "env.time_limit=7", "train.env_steps=12", "train.prefill=0"
    assert go(tmp_path, *words, "env.num_envs=8", "replay.capacity=60") != 0
    assert "replay.capacity must hold an episode for each of 8 environments" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert go(tmp_path, *words, "env.num_envs=2", "replay.capacity=40") == 0
    assert "older rows are not kept: replay.capacity" in capsys.readouterr().out


def test_pieces_of_a_single_row_are_passed_over_by_who_reads_files(source: Path) -> None:
    found = recorded.read(source)
    assert found.lengths and min(found.lengths) > 1 and sum(1 for _ in found) == len(found.lengths)


def test_a_replay_is_written_for_others_while_its_run_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(source, tmp_path / "r")
    form = recordings.FORMATS["dreamer_v2"]

    def slow(*words: Any) -> None:
        form(*words)
        assert go(tmp_path, "train.env_steps=76", "env.num_envs=1", "train.save_every=8") == 0

    monkeypatch.setitem(recordings.FORMATS, "dreamer_v2", slow)
    rows = recordings.export(tmp_path / "r", tmp_path / "out", "dreamer_v2")
    assert rows == [len(episode.reward) for episode in Run.read(source).episodes(newest(source))]
