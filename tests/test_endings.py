"""However a training or an evaluation ends, what was done is saved and shown; and what ends before torch is loaded."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs

import evaluate
from envs import Vector
from training import early, evaluation
from training.configuration.components import ROOT
from training.reporting import progress
from training.reporting.report import Reporter
from training.run_folder import lock
from training.run_folder.run import Run
from training.signals import MACHINES, SignalHandler
from worldmodel import files
from worldmodel.models import rssm
from worldmodel.replay.buffer import Replay

STEPS = ("train.collect.unit=steps", "train.collect.per_round=5", "train.prefill=10", "train.eval_every=20",
         "train.save_every=1000", "env.num_envs=2")  # fmt: skip


class Strange(BaseException):
    """Of a type that nobody expects."""


def failing_at(number: int, function: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    count = [0]

    def fail(*words: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            raise error
        return function(*words, **more)

    return fail


# ---- every exception ----


@pytest.mark.parametrize(
    ("error", "what", "name", "number", "words"),
    [
        (Strange(), rssm.RSSM, "loss", 5, ()),
        (SystemExit(3), Replay, "add", 7, ("env.num_envs=2",)),
        (EOFError(), Replay, "add", 8, STEPS),
        (Strange(), Vector, "step", 8, STEPS),
        (ZeroDivisionError("of a callback"), Reporter, "log", 6, ()),
        (MemoryError(), evaluation, "dreams", 2, ()),
    ],
    ids=["learning", "adding episodes", "adding steps", "stepping", "telling", "evaluating"],
)
def test_whatever_leaves_the_loop_saves_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, what: Any, name: str, number: int, words: Any
) -> None:
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(what, name, failing_at(number, getattr(what, name), error))
        runs.go(tmp_path, "train.save_every=1000", *words)
    saved = runs.digests(tmp_path / "r")
    assert saved["env_steps"] == saved["agent_steps"] >= 10
    run = Run.read(tmp_path / "r")
    rows = sum(episode.reward.size for episode in run.episodes(run.newest()))
    assert rows >= saved["agent_steps"]  # what is counted is there
    if words == STEPS:  # what follows cannot follow on rows that were lost
        assert run.newest().state["collector"]["numbers"] == []
    assert runs.go(tmp_path, "train.save_every=1000", *words) == 0
    assert runs.digests(tmp_path / "r")["env_steps"] >= 60


# ---- cleaning up ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert runs.go(folder, "train.env_steps=15") == 0
    return folder / "r"


def test_close_that_raises_is_a_warning(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Vector, "close", failing_at(1, Vector.close, RuntimeError("no socket")))
    assert runs.go(tmp_path, "train.env_steps=15") == 0
    assert "warning: closing the vector failed: RuntimeError no socket" in capsys.readouterr().out
    monkeypatch.setattr(Vector, "close", failing_at(1, Vector.close, RuntimeError("no socket")))
    assert evaluate.main([str(trained), "--episodes", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "return " in out and "RuntimeError no socket" in out
    assert len(json.loads((trained / "evaluation.json").read_text())["returns"]) == 2


@pytest.mark.parametrize("words", [[], ["--compare", "--actor", "cem,shooting_tiny"]])
def test_results_are_shown_although_they_cannot_be_written(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    def read_only(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(files, "write", read_only)
    assert evaluate.main([str(trained), "--episodes", "1", "--device", "cpu", *words]) == 1
    said = capsys.readouterr()
    assert ("cem: " if words else "return ") in said.out and "Read-only file system" in said.err


# ---- a closed pipe ----


class Pipe:
    """Standard output that takes a few lines."""

    def __init__(self, lines: int, number: int) -> None:
        self.left, self.number = lines, number

    def write(self, text: str) -> int:
        self.left -= text.count("\n")
        if self.left < 0:
            raise OSError(self.number, os.strerror(self.number))
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError("none")

    encoding = "utf8"


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    yield lambda lines, number: monkeypatch.setattr(sys, "stdout", Pipe(lines, number))
    progress.console.quiet = False


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO], ids=["pipe", "terminal"])
@pytest.mark.parametrize("lines", [0, 3, 6])
def test_a_closed_pipe_ends_it_quietly_with_everything_saved(
    tmp_path: Path, closed: Callable[[int, int], None], capsys: pytest.CaptureFixture[str], lines: int, number: int
) -> None:
    closed(lines, number)
    with pytest.raises(SystemExit) as ended:
        runs.go(tmp_path)
    assert ended.value.code == 141 and not capsys.readouterr().err
    if lines > 3:
        assert runs.digests(tmp_path / "r")["env_steps"] >= 5
    progress.console.quiet = False


def test_a_log_on_a_full_disk_does_not_end_it(tmp_path: Path, closed: Callable[[int, int], None]) -> None:
    closed(2, errno.ENOSPC)
    assert runs.go(tmp_path, "train.env_steps=15") == 0


def test_an_evaluation_whose_pipe_is_closed_is_written(trained: Path, closed: Callable[[int, int], None]) -> None:
    (trained / "evaluation.json").unlink(missing_ok=True)
    closed(1, errno.EPIPE)
    with pytest.raises(SystemExit):
        evaluate.main([str(trained), "--episodes", "1", "--device", "cpu"])
    assert json.loads((trained / "evaluation.json").read_text())["episodes"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_so_it_is_with_a_real_one(tmp_path: Path, kind: str) -> None:
    """A terminal has a progress bar, which writes in a thread of its own."""
    reading, writing = os.pipe() if kind == "pipe" else os.openpty()
    process = runs.process("train.env_steps=100000", folder=tmp_path, stdout=writing)
    os.close(writing)
    said = b""
    while b" 20 env steps" not in said:
        said += os.read(reading, 4096)
    os.close(reading)
    assert process.stderr
    assert process.wait(runs.HANG) == 141 and process.stderr.read() == ""
    process.stderr.close()
    assert runs.digests(tmp_path / "r")["env_steps"] >= 20


# ---- signals ----


@pytest.mark.parametrize("number", MACHINES)
def test_what_machines_send_asks_to_stop(number: int) -> None:
    before = signal.getsignal(number)
    with SignalHandler() as stop:
        for _ in range(4):  # some managers repeat themselves: only people are impatient
            os.kill(os.getpid(), number)
        assert stop() and stop.exit_code == 128 + number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, *MACHINES])
def test_what_is_ignored_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with SignalHandler() as stop:
            os.kill(os.getpid(), number)
            assert not stop()
    finally:
        signal.signal(number, before)


def test_who_handles_such_a_signal_keeps_it() -> None:
    noted: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: noted.append(number))
    try:
        with SignalHandler() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert noted == [signal.SIGUSR1] and not stop()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_the_processes_of_environments_leave_signals_to_their_parent(tmp_path: Path, number: int) -> None:
    """A terminal, or a cluster's manager, sends them to all processes of the job."""
    process = runs.process(
        "train.env_steps=100000", "env.vectorization_mode=async", "env.num_envs=2", folder=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if "env steps" in line:
            break
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=runs.HANG)
    assert process.returncode == 128 + number, err
    assert "stopped and saved" in out and "error" not in err
    assert runs.digests(tmp_path / "r")["env_steps"] >= 10


# ---- before torch is loaded ----

STUB = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(3600)"


@pytest.mark.parametrize("program", ["train.py", "evaluate.py", "play.py", "export.py"])
def test_ctrl_c_while_libraries_are_loaded_ends_it_without_a_traceback(tmp_path: Path, program: str) -> None:
    (tmp_path / "torch.py").write_text(STUB)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, program, "run=r"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=runs.HANG
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("words", [["run=mine", "exp=smoke"], ["exp=smoke", "seed=1"]])
def test_a_second_trainer_is_refused_before_torch_is_loaded(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is loaded')")
    words = [*words, f"runs={tmp_path}"]
    folder = early.asked_folder(words)
    assert folder is not None
    folder.mkdir()

    def second() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "train.py", *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, timeout=runs.HANG,
        )  # fmt: skip

    with lock.acquire(folder):
        done = second()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {folder} is being trained by process {os.getpid()} on ")
    assert "torch is loaded" in second().stderr


@pytest.mark.parametrize(
    "words",
    [
        "run=a", "run=a runs=b", "exp=smoke seed=3", "", "exp=smoke ++seed=3 runs=b", "exp=smoke run=4711",
        "exp=smoke agent.device=cpu model.depths=[4,8]", "exp=smoke replay.capacity=" + "1" * 250, "run=a run=b",
    ],
)  # fmt: skip
def test_the_folder_is_known_early(words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[Path] = []

    def exists(folder: Path) -> bool:
        asked.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "exists", exists)
    with pytest.raises(KeyboardInterrupt):
        runs.composed(*words.split())
    assert (early.asked_folder(words.split()) or Path("runs/quickstart")) == asked[0]


def test_a_sweep_is_about_no_one_run() -> None:
    assert early.asked_folder(["-m", "seed=0,1"]) is None
