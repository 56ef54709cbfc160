"""Runs of several processes: equal to those of one where that is promised, and unharmed by whoever dies, hangs or is
slow. The rules alone: test_scheduler.py.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import runs
from test_replay_context import RECIPE as DREAMER
from test_resume import state
from test_stages import LIVED

from training.configuration.components import ROOT
from training.distributed import cluster
from training.distributed.cluster import Cluster
from training.run_folder.checkpoint import Checkpoint
from training.run_folder.run import Run

ASYNC = ("train.collect.mode=async", "train.collect.workers=2")
ALONE = ("train.collect.mode=async", "train.collect.max_staleness=0")
BESIDE = ("train.learn.mode=async", "train.learn.max_staleness=4")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for all runs of this process: a Ray that is there already is used."""
    shared = Cluster(runs.composed(*runs.TINY, "run=r").ray, processes=4)
    yield
    shared.close()


def newest(folder: Path) -> Checkpoint:
    return Run.read(folder / "r").newest()


def counted(folder: Path) -> dict[str, int]:
    """The counters of a finished run; every episode that they count is in replay, once."""
    found = newest(folder)
    counters: dict[str, int] = found.state["counters"]
    assert len(found.chunks) == len({chunk.digest for chunk in found.chunks}) == counters["episodes"]
    assert sum(chunk.rows - 1 for chunk in found.chunks) == counters["agent_steps"] == counters["env_steps"]
    return counters


# ---- what is refused, before anything is started ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("train.collect.mode=async", "train.collect.workers=0"),
            "train.collect.workers: input should be greater than",
        ),
        (("train.learn.mode=async",), "error: train.learn.mode=async: cem does not learn"),
        (("train.learn.mode={updates: 3}",), "train.learn.mode: no stage can have this name"),
        (("train.learn.mod=async",), "train.learn.mod: a stage with keys is wanted, not 'async'; did you mean 'mode'?"),
        (("ray.address=auto",), "ray.address: does nothing here, it is for train.collect.mode=async"),
        (("train.collect.workers=3",), "train.collect.workers: does nothing here"),
        ((*ALONE, "ray.address=here"), "ray.address: auto or host:port is wanted"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.go(tmp_path, *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_without_ray_all_else_works_and_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "installed", lambda: False)
    assert runs.go(tmp_path, *ASYNC) == 2
    assert (
        "train.collect.mode=async needs the package ray: pip install 'ray>=2.60' (or this project's extra 'ray')"
        in (capsys.readouterr().err)
    )
    assert runs.go(tmp_path, "train.env_steps=10") == 0


def test_not_under_torchrun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runs.go(tmp_path, *ASYNC) == 2
    assert "error: train.collect.mode=async: not under torchrun" in capsys.readouterr().err


def test_the_actor_cannot_learn_in_environments_beside_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.go(tmp_path, "train.learn.mode=async", recipe=LIVED) == 2
    assert "train.learn.mode=async: the actor learns in the environments: set actor.eval" in capsys.readouterr().err


def test_ray_is_imported_by_nobody_who_does_not_need_it() -> None:
    script = "import sys, train, evaluate, training.distributed.trainer; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    with socket.socket() as held:  # a port of ours, at which nobody listens
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        assert cluster.why_not(address).startswith("nobody answers there")


# ---- one collector, and no staleness: bit for bit the run of one process ----


@pytest.mark.slow
def test_alone_and_without_staleness_it_is_the_same_run_and_resumes_the_same(tmp_path: Path, ray: None) -> None:
    words = ("env.num_envs=2", "train.env_steps=40")
    assert runs.go(tmp_path / "a", *words) == 0
    stop = runs.StopAt(10)  # before every update, and while it waits: how often that is depends on the machine
    assert runs.go(tmp_path / "b", *words, *ALONE, stop=stop) == 143
    assert runs.go(tmp_path / "b", *words, *ALONE) == 0
    assert state(tmp_path / "b" / "r") == state(tmp_path / "a" / "r")


@pytest.mark.slow
def test_so_it_is_by_steps(tmp_path: Path, ray: None) -> None:
    words = ("train.collect={unit: steps, per_round: 4}", "train.prefill=7", "train.env_steps=31")
    assert runs.go(tmp_path / "a", *words) == 0
    assert runs.go(tmp_path / "b", *words, *ALONE) == 0
    assert state(tmp_path / "b" / "r") == state(tmp_path / "a" / "r")


# ---- deaths ----


class Killer(threading.Thread):
    """SIGKILLs processes of this one's tree that have a name, until so many are dead, one after the other."""

    def __init__(self, name: str, kills: int) -> None:
        super().__init__(daemon=True)
        self.called, self.kills, self.killed, self.over = name, kills, 0, False

    def run(self) -> None:
        while self.killed < self.kills and not self.over:
            for process in psutil.Process().children(recursive=True):
                try:
                    found = self.called in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
                except psutil.Error:
                    continue
                if found:  # at work: its name has the method's then
                    process.kill()
                    self.killed += 1
                    process.wait()
                    break
            time.sleep(0.05)


@pytest.mark.slow
def test_killed_collectors_cost_their_open_episode_alone(tmp_path: Path, ray: None) -> None:
    killer = Killer("ray::Collector.collect", 3)
    killer.start()
    try:
        assert runs.go(tmp_path, *ASYNC, "train.env_steps=100") == 0
    finally:
        killer.over = True
    counters = counted(tmp_path)
    assert counters["env_steps"] in (100, 105)  # two may come at the same time
    assert counters["failed_episodes"] == killer.killed == 3
    assert counters["updates"] == 2 * (1 + counters["episodes"] - 2)
    assert all(value >= 0 for _, _, value in runs.logged(tmp_path / "r", "async/model_staleness"))


@pytest.mark.slow
def test_the_killed_learner_of_the_actor_goes_on_from_the_last_exchange(tmp_path: Path, ray: None) -> None:
    killer = Killer("ray::Controller.learn", 2)
    killer.start()
    try:
        assert runs.go(tmp_path, *BESIDE, "train.env_steps=40", recipe=DREAMER) == 0
    finally:
        killer.over = True
    found = newest(tmp_path)
    counters, learn = found.state["counters"], Run.read(tmp_path / "r").config["train"]["learn"]
    model, actor = (learn[stage]["updates"] for stage in ("model", "joint"))
    assert killer.killed == 2
    assert counters["actor_updates"] == counters["updates"] * actor // (model + actor)
    steps = {
        float(value) for name, value in found.tensors("optim").items() if name.startswith("actor/") and "step" in name
    }
    assert steps == {counters["actor_updates"]}  # each was followed once, by one optimiser
    staleness = [value for _, _, value in runs.logged(tmp_path / "r", "async/controller_staleness")]
    assert staleness and min(staleness) >= 0 and max(staleness) <= 4 + 1


# ---- slow and hung environments ----

WRAPPER = """
import os, time, gymnasium
class Slow(gymnasium.Wrapper):
    def step(self, action):
        if os.getpid() != {driver}:  # the first collector that comes here
            try:
                os.close(os.open({file!r}, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                time.sleep({seconds})
        return super().step(action)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("timeout", "workers"), [(runs.HANG, 2), (2, 1)])
def test_a_slow_environment_holds_nobody_up_and_a_hung_one_is_replaced(
    tmp_path: Path, ray: None, timeout: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that hangs is the only one: without another in its place nothing would go on."""
    module = f"slow_worlds_{timeout}"
    code = WRAPPER.format(driver=os.getpid(), file=str(tmp_path / "one"), seconds=runs.HANG)
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    words = (f"env.wrappers=[{module}:Slow]", f"env.timeout={timeout}")
    assert runs.go(tmp_path, *ASYNC, f"train.collect.workers={workers}", *words) == 0
    assert (tmp_path / "one").exists()
    failed = counted(tmp_path)["failed_episodes"]
    assert failed >= 1 if timeout == 2 else failed == 0


# ---- the process itself ----


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def until_collecting(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """All processes of a run, once a collector has answered."""
    assert process.stdout
    for line in process.stdout:
        if "episodes" in line and "return" in line:
            return tree(psutil.Process(process.pid))
    raise AssertionError(f"it ended before: {process.stderr and process.stderr.read()}")


@pytest.mark.slow
def test_signals_leave_nothing_behind_and_it_listens_on_this_machine_alone(tmp_path: Path) -> None:
    words = (*ASYNC, "train.env_steps=100000")
    with runs.process(*words, folder=tmp_path) as process:
        everybody = until_collecting(process)
        assert any("raylet" in each.name() for each in everybody)
        places = {
            connection.laddr.ip.removeprefix("::ffff:")
            for each in everybody
            for connection in each.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert places == {"127.0.0.1"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(runs.HANG) == 143
        assert not psutil.wait_procs(everybody, timeout=runs.HANG)[1]
    before = newest(tmp_path).state["counters"]["episodes"]
    assert before > 0
    with runs.process(*words, folder=tmp_path) as process:
        everybody = until_collecting(process)
        agents = [each for each in everybody if "Agent" in " ".join(each.cmdline())]  # of Ray's: they notice it late
        process.kill()  # it alone
        assert not psutil.wait_procs([each for each in everybody if each not in agents], timeout=runs.HANG)[1]
        for each in agents:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    assert newest(tmp_path).state["counters"]["episodes"] >= before
