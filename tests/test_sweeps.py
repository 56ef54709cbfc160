"""Sweeps side by side: what was stopped goes on, what is done is skipped, a failure stops nobody; the table."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import runs

import train
from training.signals import SignalHandler
from training.sweeps import members as members_room
from training.sweeps import side_by_side, table
from training.sweeps.members import FAILED, FINISHED, NOT_BEGUN, STOPPED, WAS_DONE, Member, Result, member_of
from training.sweeps.sweep import sweep
from worldmodel.base import ConfigError


def some(folder: Path, count: int) -> list[Member]:
    return [member_of(["exp=smoke", f"seed={seed}", f"runs={folder}"]) for seed in range(count)]


def test_a_members_name_is_made_of_its_words_or_of_a_template() -> None:
    words = ["exp=smoke", "seed=3", "env.task=cup_catch"]
    assert member_of(words).folder == Path("runs/smoke-seed=3-env.task=cup_catch")
    assert member_of(words, "{exp}-{env.task}-seed{seed}").folder == Path("runs/smoke-cup_catch-seed3")


@pytest.mark.parametrize(
    ("name", "message"),
    [("a", "cannot share a name"), ("{exp}-{actor}", r"run: the name has no \{seed\}, in which the members differ")],
)
def test_members_that_would_share_a_name_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(["-m", "exp=smoke", "seed=0,1", f"run={name}"], lambda words: 0)


def test_mistakes_of_all_members_are_told_at_once_before_the_first_begins(tmp_path: Path) -> None:
    began: list[Sequence[str]] = []
    words = ["exp=smoke", f"runs={tmp_path / 'new'}", "seed=0,x", "actor.horizon=5,0", "model.deterr=3"]
    with pytest.raises(ConfigError) as caught:
        sweep(["-m", *words], lambda words: len(began.append(words) or []))  # type: ignore[func-returns-value]
    assert [line.partition(":")[0] for line in caught.value.lines] == ["model.deterr", "actor.horizon", "seed"]
    assert not began and not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=r"^run: \{nope\} is none of the keys that are given: \{exp\}, \{runs\}, "):
        sweep(["-m", *words[:2], "seed=0,1", "run={seed}-{nope}"], lambda words: 0)


def test_mistakes_of_some_members_are_told_before_the_first_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others begin: not all values of a grid go together."""
    told: list[str] = []

    def run(words: Sequence[str]) -> int:
        told.append(capsys.readouterr().out)
        return 0

    sweep(["-m", "exp=smoke", f"runs={tmp_path}", "actor.elites=5,500", "actor.candidates=50,900"], run)
    said = "warning: 1 of 4 runs of the sweep cannot begin, the others do:\n  actor: elites is 500"
    assert len(told) == 4 and said in told[0]  # the fourth is told again in its turn, by whoever runs it


@pytest.mark.parametrize("word", ["seed=interval(0,3)", "exp=glob(sm*)"])
def test_what_cannot_be_swept_over_is_told_in_a_line(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["-m", "exp=smoke", f"runs={tmp_path / 'r'}", word]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and not (tmp_path / "r").exists()


def test_of_a_key_that_is_given_twice_the_last_word_counts(tmp_path: Path) -> None:
    began: list[Sequence[str]] = []
    words = ["exp=smoke", f"runs={tmp_path}", "seed=0,1", "seed=2,3,4", "run={seed}"]
    sweep(["-m", *words], lambda words: len(began.append(words) or []))  # type: ignore[func-returns-value]
    assert [words[-1] for words in began] == ["run=2", "run=3", "run=4"]


def test_a_sweep_of_nothing_and_one_that_cannot_be_written_are_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(["-m"]) == 2
    assert capsys.readouterr().err == "error: -m: a sweep is over values of keys, as -m seed=0,1,2\n"
    (tmp_path / "there").write_text("a file")
    assert train.main(["-m", *runs.TINY, "seed=0,1", f"runs={tmp_path / 'there'}"]) == 1
    said = capsys.readouterr().err
    assert "there" in said and "Traceback" not in said and len(said.splitlines()) == 1


def test_a_launcher_that_there_is_not_is_told() -> None:
    with pytest.raises(ConfigError, match="hydra/launcher"):
        sweep(["-m", "hydra/launcher=slum", "exp=smoke", "seed=0,1"], lambda words: 0)


def instead(monkeypatch: pytest.MonkeyPatch, *codes: int) -> list[list[str]]:
    """Processes that end at once, as told, in the place of train.py and evaluate.py; their command lines."""
    began: list[list[str]] = []

    class Ended:
        pid = 0

        def __init__(self, command: Sequence[str], **_: Any) -> None:
            began.append([*command][1:])
            self.returncode = codes[len(began) - 1]

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr(members_room.subprocess, "Popen", Ended)
    return began


def test_a_member_is_trained_evaluated_and_then_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    began = instead(monkeypatch, 0, 1, 0, 0, 2)
    (member,) = some(tmp_path, 1)
    member.folder.mkdir()
    assert members_room.train(member, 7, alone=False).state == FAILED  # the evaluation
    assert [Path(command[0]).name for command in began] == ["train.py", "evaluate.py"]
    assert {f"run={member.folder.name}", "agent.threads=1", "seed=0"} <= set(began[0])
    assert began[1][1:] == [str(member.folder), "--episodes", "7", "--seed", "0"]
    (member.folder / "evaluation.json").write_text(json.dumps({"return": 12.5}))
    assert members_room.train(member, 7) == Result(member, FINISHED, 0, 12.5)
    assert members_room.train(member, 7) == Result(member, WAS_DONE, 0, 12.5)
    assert members_room.train(member, 8).code == 2 and len(began) == 5  # asked for something else, it goes on


def test_what_a_signal_has_ended_was_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    instead(monkeypatch, 143, -9)
    (member,) = some(tmp_path, 1)
    assert [members_room.train(member).code for _ in range(2)] == [143, 137]
    assert not (member.folder / "done.txt").exists()


def test_members_run_side_by_side_and_a_signal_stops_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four members, two at a time: both are there at once, and when a signal comes the others are not begun."""
    both, handlers = threading.Barrier(2), []

    class Handler(SignalHandler):
        def __init__(self) -> None:
            super().__init__()
            handlers.append(self)

    def train(member: Member, episodes: int, alone: bool, stop: SignalHandler, environment: Any) -> Result:
        assert not alone and not stop()
        both.wait(runs.HANG)
        handlers[0].signal = 15
        return Result(member, STOPPED, 143)

    monkeypatch.setattr(side_by_side, "train", train)
    monkeypatch.setattr(side_by_side, "SignalHandler", Handler)
    found = side_by_side.on_this_machine(some(tmp_path, 4), jobs=2)
    assert [result.state for result in found] == [STOPPED, STOPPED, NOT_BEGUN, NOT_BEGUN]
    assert [result.member for result in found] == some(tmp_path, 4)


def test_the_table_has_the_words_in_which_members_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = some(Path("runs"), 3)
    assert table.show([Result(one, FINISHED, 0, 1.25), Result(two, FAILED, 2), Result(three, NOT_BEGUN, 0)]) == 2
    said = capsys.readouterr()
    assert "1.2" in said.out and "seed=0" in said.out and "exp=smoke" not in said.out
    lines = said.err.splitlines()
    assert lines[0] == "1 of 3 runs of the sweep failed:" and lines[1].endswith("train.py exp=smoke seed=1 runs=runs")
    assert lines[2] == "1 were not begun:"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ray", "joblib"])
def test_a_launcher_trains_what_can_be_trained(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip("ray" if launcher == "ray" else "hydra_plugins.hydra_joblib_launcher")
    jobs = "jobs" if launcher == "ray" else "n_jobs"
    words = [word for word in runs.TINY if not word.startswith("actor.elites=")]
    command = [sys.executable, "train.py", "-m", f"hydra/launcher={launcher}", f"hydra.launcher.{jobs}=2", *words]
    done = subprocess.run(
        [*command, "train.env_steps=15", f"runs={tmp_path}", "run={exp}-{actor.elites}", "actor.elites=2,50"],
        cwd=members_room.HOME, capture_output=True, text=True, timeout=runs.HANG,
    )  # fmt: skip
    assert done.returncode == 2 and "1 of 2 runs of the sweep failed:" in done.stderr, done.stderr
    assert (tmp_path / "smoke-2" / "done.txt").exists() and not (tmp_path / "smoke-50" / "run.json").exists()
    assert "elites is 50" in (tmp_path / "smoke-50.log").read_text()
