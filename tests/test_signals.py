"""Ctrl-C, SIGTERM and a failing environment end a training soon, with everything saved."""

import errno
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import runs

from envs.suites import dot
from training.run_folder import checkpoint
from training.run_folder.run import Run
from worldmodel.models import rssm

# The phases are made longer and announce themselves, so that a signal can be sent into each of them.
SLOW = """
import sys, time; from agents.agent import Agent; from training import evaluation
def slowed(function, what, seconds):
    def slow(*args, **kwargs):
        print(what, flush=True); time.sleep(seconds); return function(*args, **kwargs)
    return slow
Agent.learn_with_states = slowed(Agent.learn_with_states, 'phase: learn', 0.02)
Agent.act = slowed(Agent.act, 'phase: act', 0.02)
evaluation.evaluate = slowed(evaluation.evaluate, 'phase: evaluate', 0.1)
"""
PHASES = ("phase: learn", "phase: act", "phase: evaluate")


def signalled(folder: Path, number: int, phase: str, rng: random.Random, *words: str) -> tuple[int, str]:
    """Exit code and last line of a training that gets a signal in some phase."""
    process = runs.process("train.env_steps=100000", *words, folder=folder, before=SLOW)
    assert process.stdout and process.stderr
    try:
        for line in process.stdout:
            if line.startswith(phase):
                break
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(number)
        out, err = process.communicate(timeout=runs.HANG)
        assert "Traceback" not in err, err
        return process.returncode, out.rstrip().splitlines()[-1]
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_ends_it_soon_with_everything_saved(tmp_path: Path, phase: str, number: int, code: int) -> None:
    rng = random.Random(f"{phase} {number}")
    ended, last = signalled(tmp_path, number, phase, rng)
    assert (ended, last) == (code, f"stopped and saved. To go on: {Run.read(tmp_path / 'r').command()}")
    saved = runs.digests(tmp_path / "r")
    assert saved["env_steps"] < 100  # of 100,000
    history = Run.read(tmp_path / "r").metrics.history()
    collected = max((row["step"] for row in history), default=0)
    assert saved["env_steps"] == collected  # nothing that was lived through is lost
    # It goes on from there: a few more episodes, and the end is the same as without any signal.
    steps = saved["env_steps"] + 15
    assert runs.go(tmp_path, f"train.env_steps={steps}") == 0
    assert runs.go(tmp_path / "whole", f"train.env_steps={steps}") == 0
    assert runs.digests(tmp_path / "r") == runs.digests(tmp_path / "whole" / "r")
    assert runs.logged(tmp_path / "r") == runs.logged(tmp_path / "whole" / "r")


@pytest.mark.slow
def test_signals_with_workers_leave_no_process(tmp_path: Path) -> None:
    words = ("env.vectorization_mode=async", "env.num_envs=2")
    ended, last = signalled(tmp_path, signal.SIGTERM, "phase: act", random.Random(0), *words)
    assert (ended, last.split(".")[0]) == (143, "stopped and saved")
    mine = f"runs={tmp_path}".encode()
    runs.wait_for(lambda: not [path for path in Path("/proc").glob("[0-9]*/cmdline") if mine in cmdline(path)])


def cmdline(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_a_second_signal_does_not_spoil_the_save_and_a_third_ends_at_once(tmp_path: Path) -> None:
    process = runs.process("train.env_steps=100000", folder=tmp_path, before=SLOW)
    assert process.stdout
    next(line for line in process.stdout if line.startswith("phase: learn"))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=runs.HANG)
    assert process.returncode in (130, 143)
    assert runs.digests(tmp_path / "r")["env_steps"] >= 10


def test_the_third_signal_ends_it() -> None:
    stop = runs.SignalHandler()
    stop.note(signal.SIGTERM, None)
    stop.note(signal.SIGTERM, None)
    assert stop() and stop.exit_code == 143
    with pytest.raises(SystemExit) as end:
        stop.note(signal.SIGINT, None)
    assert end.value.code == 130


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with runs.SignalHandler() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and stop.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


# ---- failing environments ----


def failing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The dot world raises in its `at`-th step."""
    step, count = dot.step, [0]

    def fail(*args: object) -> object:
        count[0] += 1
        if count[0] == at:
            raise KeyError("lost key")
        return step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(dot, "step", fail)


@pytest.mark.parametrize("at", [3, 23])
def test_a_failing_environment_is_named_and_the_rest_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    """The first failure ends it where max_failures is 1; with more, tests/test_failures.py."""
    with monkeypatch.context() as patch:
        failing(patch, at)
        assert runs.go(tmp_path, "train.max_failures=1") == 1
    message = capsys.readouterr().err
    assert re.search(r"dot \(worker 0, seed \d+, episode \d+, env step \d+\): KeyError: 'lost key'", message), message
    assert runs.digests(tmp_path / "r")["env_steps"] == (0 if at == 3 else 20)  # 21-25 are an evaluation
    assert runs.go(tmp_path, "train.max_failures=1") == 0
    assert runs.digests(tmp_path / "r")["env_steps"] == 60


def test_a_loss_that_stays_infinite_ends_it_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.go(tmp_path, "train.env_steps=30") == 0
    good, loss = runs.digests(tmp_path / "r"), rssm.RSSM.loss

    def infinite(*words: Any) -> Any:
        value, states, metrics = loss(*words)
        return value * float("inf"), states, metrics

    with monkeypatch.context() as patch:
        patch.setattr(rssm.RSSM, "loss", infinite)
        assert runs.go(tmp_path, "train.env_steps=80") == 1
    assert "not finite in 10 updates in a row; the last good checkpoint is kept" in capsys.readouterr().err
    kept = runs.digests(tmp_path / "r")
    weights = [name for name in good if name.startswith("model/")]
    assert weights and all(kept[name] == good[name] for name in weights)


def test_a_full_disk_on_the_way_out_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for stop in (None, runs.StopAt(12)):  # in the loop, and after a signal
        with monkeypatch.context() as patch:
            folder = tmp_path / str(stop is None)
            assert runs.go(folder, stop=runs.StopAt(8)) == 143
            patch.setattr(checkpoint, "write_synced", full)
            assert runs.go(folder, stop=stop) == 1
        said = capsys.readouterr().err
        assert ": the checkpoint was not saved, No space left on device" in said and "make room on its disk" in said
        assert runs.digests(folder / "r")["env_steps"] == 5
