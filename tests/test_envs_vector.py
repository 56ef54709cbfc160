"""Many environments act as one; a worker that raises, dies or hangs is named in time, and none is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bad_envs
import numpy as np
import psutil
import pytest
import runs
from bad_envs import Odd
from gymnasium import spaces

import envs
from envs import adapter
from envs.checks import EnvError
from envs.suites import dot

ROOT = Path(__file__).parent.parent
ZERO = np.zeros((2, 2), np.float32)


def config(kind: Any = bad_envs.Config, **changes: Any) -> Any:
    values = dict(name="dot", size=(16, 16), gray=True, action_repeat=1, time_limit=None, num_envs=2)
    values |= dict(vectorization_mode="async", timeout=600.0)
    if kind is bad_envs.Config:
        values |= dict(fault="none", at=-1, bad=None)
    return kind(**{**values, **changes})


def discrete(config: adapter.Config) -> Any:
    return adapter.wrap_env(Odd(action=spaces.Discrete(3, start=5), length=3), config)


def ends(config: adapter.Config) -> Any:
    return adapter.wrap_env(Odd(length=3), config)


def alive(pid: int) -> bool:
    """A zombie, which nobody has reaped yet, is dead."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def play(vector: envs.Vector, steps: int) -> list:
    rng = np.random.default_rng(0)
    seen: list = [vector.reset({i: 100 + i for i in range(vector.num_envs)})]
    for step in range(steps):
        seen += vector.step(rng.uniform(-1, 1, (vector.num_envs, vector.action_dim)))[:4]
        if step == steps // 2:
            seen.append(vector.reset({1: 77}))
    vector.close()
    return seen


def test_workers_and_one_process_give_the_same() -> None:
    alone = play(envs.vector(config(dot.Config, vectorization_mode="sync", num_envs=3, time_limit=5)), 12)
    apart = play(envs.vector(config(dot.Config, vectorization_mode="async", num_envs=3, time_limit=5)), 12)
    assert len(alone) == len(apart) and all(np.array_equal(a, b) for a, b in zip(alone, apart))
    assert alone[0].dtype == np.uint8 and alone[2].dtype == np.float32 and alone[3].dtype == bool


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_attributes(mode: str) -> None:
    vector = envs.vector(config(dot.Config, vectorization_mode=mode, time_limit=50, action_repeat=2, gray=False))
    assert (vector.num_envs, vector.image_shape, vector.action_dim, vector.discrete) == (2, (3, 16, 16), 2, False)
    assert (vector.action_repeat, vector.time_limit) == (2, 50)
    vector.close()
    vector.close()
    with pytest.raises(EnvError, match="closed"):
        vector.step(ZERO)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_ended_row_holds_still_until_it_is_reset(mode: str) -> None:
    vector = envs.Vector(config(adapter.Config, vectorization_mode=mode), ends)
    assert (vector.step(ZERO)[1] == 0).all()  # before the first reset as well
    vector.reset({0: 1, 1: 1})
    vector.step(ZERO)
    image = vector.reset({1: 1})  # one step behind from now on
    assert image[:, 0, 0, 0].tolist() == [10, 0]
    vector.step(ZERO)
    image, reward, terminated, truncated, _ = vector.step(ZERO)
    assert image[:, 0, 0, 0].tolist() == [30, 20] and terminated.tolist() == [True, False]
    image, reward, terminated, truncated, _ = vector.step(ZERO)
    assert image[:, 0, 0, 0].tolist() == [30, 30] and reward.tolist() == [0, 1]
    assert terminated.tolist() == [False, True] and not truncated.any()
    assert vector.reset({0: 1})[:, 0, 0, 0].tolist() == [0, 30]
    image, reward, terminated, *_ = vector.step(ZERO)
    assert image[:, 0, 0, 0].tolist() == [10, 30] and reward.tolist() == [1, 0] and not terminated.any()
    vector.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_images_are_copies(mode: str) -> None:
    vector = envs.Vector(config(adapter.Config, vectorization_mode=mode), ends)
    first = vector.reset({0: 1, 1: 1})
    second = vector.step(ZERO)[0]
    vector.step(ZERO)
    assert (first == 0).all() and (second == 10).all()
    vector.close()


def test_discrete_actions_travel_as_one_hot_rows() -> None:
    vector = envs.Vector(config(adapter.Config, vectorization_mode="sync", num_envs=2), discrete)
    assert vector.discrete and vector.action_dim == 3
    vector.reset({0: 0, 1: 1})
    vector.step(np.eye(3)[[2, 0]])
    assert [row.env.unwrapped.actions for row in vector._vector.envs] == [[7], [5]]
    vector.close()


@pytest.mark.parametrize("actions", [np.zeros(2), np.zeros((2, 3)), np.full((2, 2), np.nan)])
def test_wrong_actions_are_refused(actions: np.ndarray) -> None:
    vector = envs.vector(config(dot.Config, vectorization_mode="sync"))
    vector.reset({0: 0, 1: 1})
    with pytest.raises(ValueError, match="actions"):
        vector.step(actions)
    vector.close()


def run_into(vector: envs.Vector, steps: int = 5) -> None:
    vector.reset({0: 100, 1: 101}, episodes={0: 7, 1: 8})
    for _ in range(steps):
        vector.step(ZERO)


def workers_of(vector: envs.Vector) -> list[int]:
    assert vector._async is not None
    return [process.pid or 0 for process in vector._async.processes]


DEATHS = {
    "kill": "killed by SIGKILL",
    "segv": "killed by SIGSEGV",
    "exit": "ended with exit code 0",
    "sys.exit": "SystemExit: 0",
    "raise": "KeyError: 'lost key'",
}


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("fault", DEATHS)
def test_a_worker_that_dies_is_named_and_not_waited_for(fault: str, at: int) -> None:
    vector = envs.Vector(config(fault=fault, at=at, bad=1), bad_envs.build)  # which waits for ten minutes
    pids = workers_of(vector)
    moment = r"(agent|env) step 3" if at else "reset"
    with pytest.raises(EnvError, match=rf"dot \(worker 1, seed 101, episode 8, {moment}\): .*{DEATHS[fault]}"):
        run_into(vector)
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(EnvError, match="closed"):
        vector.step(ZERO)
    vector.close()


def test_a_failure_in_a_worker_brings_its_traceback() -> None:
    vector = envs.Vector(config(fault="raise", at=1, bad=0), bad_envs.build)
    with pytest.raises(EnvError) as error:
        run_into(vector)
    assert "in misbehave" in str(error.value.__cause__)


@pytest.mark.parametrize("fault, at", [("hang", 0), ("hang", 3), ("stop", 2)])
def test_a_worker_that_hangs_is_named_within_its_timeout(fault: str, at: int) -> None:
    vector = envs.Vector(config(fault=fault, at=at, bad=1, timeout=3.0), bad_envs.build)
    pids = workers_of(vector)
    with pytest.raises(EnvError, match=r"dot \(worker 1, seed 101, episode 8, .*no answer for 3 s"):
        run_into(vector)
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_failing_constructor_is_named(mode: str) -> None:
    with pytest.raises(EnvError, match=r"dot \(worker 0, .*constructor\): ValueError: no such level"):
        envs.Vector(config(fault="constructor", vectorization_mode=mode), bad_envs.build)


def test_a_dying_constructor_is_named() -> None:
    with pytest.raises(EnvError, match=r"constructor\): the worker was killed by SIGKILL"):
        envs.Vector(config(fault="constructor killed"), bad_envs.build)


def test_a_failure_in_this_process_keeps_its_cause() -> None:
    vector = envs.Vector(config(fault="raise", at=2, vectorization_mode="sync"), bad_envs.build)
    with pytest.raises(EnvError, match=r"env step 2\): KeyError") as error:
        run_into(vector)
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize("fault, mode", [("raise", "sync"), ("raise", "async"), ("kill", "async"), ("hang", "async")])
def test_an_episode_that_fails_is_dropped_if_that_is_allowed(fault: str, mode: str) -> None:
    """Its row waits; the others go on, unless a process was lost, which takes theirs with it."""
    told: list[str] = []
    timeout = 2.0 if fault == "hang" else 600.0
    vector = envs.Vector(
        config(fault=fault, at=2, bad=1, vectorization_mode=mode, timeout=timeout), bad_envs.build, 3, told.append
    )
    vector.reset({0: 100, 1: 101})
    assert vector.step(ZERO)[1].tolist() == [1, 1] and vector.failed == {}
    reward = vector.step(ZERO)[1]
    lost = {0, 1} if fault in ("kill", "hang") else {1}
    assert set(vector.failed) == lost and vector.failures == len(lost)
    assert reward.tolist() == [float(0 not in lost), 0]
    assert len(told) == 1 and told[0].startswith("warning: an episode is dropped: dot (worker 1, seed 101, episode 0")
    vector.reset({row: 102 + row for row in lost})  # built anew
    assert vector.failed == {}
    for _ in range(3):
        assert vector.step(ZERO)[1].tolist() == [1, 1]
    vector.close()


@pytest.mark.parametrize("at", [0, 1])
def test_so_many_failures_in_a_row_are_an_error_and_an_end_begins_the_count_anew(at: int) -> None:
    def build(config: Any) -> Any:
        return adapter.wrap_env(Odd(length=3, make=make), config)

    def make(step: int) -> np.ndarray:
        if wanted and step == at:
            raise KeyError("lost key")
        return bad_envs.fill(bad_envs.HWC, step)

    wanted = True
    vector = envs.Vector(config(adapter.Config, vectorization_mode="sync", num_envs=1), build, max_failures=3)
    one = np.zeros((1, 2), np.float32)

    def episode() -> None:
        vector.reset({0: 1})
        while not vector.failed and not vector.step(one)[2].any():
            pass

    for _ in range(2):
        episode(), episode()
        wanted = False
        episode()
        wanted = True
    assert vector.failures == 4
    with pytest.raises(EnvError, match=r"KeyError: 'lost key'; 3 episodes in a row have failed \(train.max_failures\)"):
        for _ in range(3):
            episode()
    with pytest.raises(EnvError, match="closed"):
        vector.step(one)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_environment_that_cannot_be_closed_loses_nothing(mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    vector = envs.Vector(config(fault="close", at=-1, bad=None, vectorization_mode=mode), bad_envs.build)
    vector.reset({0: 100, 1: 101})
    vector.close()
    assert capfd.readouterr().err.count("warning: dot: close() failed: RuntimeError: no such window") == 2


def test_an_id_that_only_the_script_knows_is_explained_in_a_worker() -> None:
    import gymnasium

    from envs.suites import gym

    gymnasium.register("OnlyHere-v0", entry_point=Odd)
    values = config(adapter.Config, num_envs=1).model_dump() | {"id": "OnlyHere-v0", "image": None, "kwargs": {}}
    with pytest.raises(EnvError, match=r"no such Gymnasium id; .*does not run your script: name the module"):
        envs.vector(gym.Config(**values))
    envs.vector(gym.Config(**values | {"vectorization_mode": "sync"})).close()
    gymnasium.registry.pop("OnlyHere-v0")


def test_ctrl_c_is_left_to_the_parent_and_close_leaves_no_process() -> None:
    vector = envs.Vector(config(), bad_envs.build)
    pids = workers_of(vector)
    run_into(vector, 1)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    run_into(vector, 1)
    vector.close()
    assert not any(alive(pid) for pid in pids)


SCRIPT = """
import sys, time
import bad_envs, envs
import only_for_the_trainer  # what only the trainer may import
config = bad_envs.Config(name="dot", size=(16, 16), gray=True, action_repeat=1, time_limit=None, num_envs=2,
                         vectorization_mode="async", timeout=60, fault=sys.argv[1], at=1, bad=None)
if __name__ == "__main__":
    vector = envs.Vector(config, bad_envs.lean)
    print(*[process.pid for process in vector._async.processes], flush=True)
    vector.reset({0: 100, 1: 101})
    vector.step([[0, 0], [0, 0]])
    time.sleep(60)
"""


@pytest.mark.parametrize("fault", ["none", "hang"])
def test_no_worker_outlives_a_killed_parent_or_loads_what_only_the_trainer_needs(tmp_path: Path, fault: str) -> None:
    (tmp_path / "trainer.py").write_text(SCRIPT)
    (tmp_path / "only_for_the_trainer.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])}
    command = [sys.executable, "trainer.py", fault]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.5)
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        parent.kill()
        parent.wait()
        runs.wait_for(lambda: not any(alive(pid) for pid in pids))
