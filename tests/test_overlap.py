"""train.collect=overlap: episodes are collected beside a round of learning, and what is true of a run stays so."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import tiny
import torch
import yaml

import train
from agents import build_actor, evaluation
from agents.agent import Agent
from agents.base import Actor, Plan
from agents.overlap import Collector
from agents.rollout import Interrupted
from agents.schedule import Counters, Schedule
from envs import dot
from worldmodel import latents
from worldmodel.base import Spec
from worldmodel.config import ConfigError
from worldmodel.run import Run

OVERLAP = "train.collect=overlap"
COUNTS = ("env_steps", "agent_steps", "episodes", "updates", "evaluated", "evaluated_updates", "saved", "saved_updates")
DREAMER = (  # noqa: SIM905  # a controller that learns in dreams, in which candidates share their noise
    "exp=smoke model=mdnrnn actor=evolution env.time_limit=5 train.seed_episodes=2 train.eval_every=4 "
    "train.eval_episodes=1 replay.batch=2 replay.length=4 agent.device=cpu agent.precision=fp32 agent.threads=1"
).split() + ["train.learn={memory: {updates: 2}, actor: {updates: 2, eval_every: 1}}"]


def go(folder: Path, *words: str, recipe: Sequence[str] = runs.TINY, **options: Any) -> int:
    """Eight episodes, of which two are random."""
    return runs.go(folder, "train.steps=40", *words, recipe=recipe, **options)


def collectors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "collector"]


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """They take two thirds of such a run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.pictures, "curves", lambda *_: None)
        yield


@pytest.fixture(autouse=True)
def no_thread_survives() -> Iterator[None]:
    yield
    assert not collectors()


def counts(run: Path) -> dict[str, Any]:
    found = runs.digests(run)
    return {name: found[name] for name in COUNTS}


def evaluations(run: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["updates"]) for row in Run.read(run).history() if "evaluate/return" in row]


@pytest.fixture(scope="module")
def synchronous(no_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run that never overlaps."""
    folder = tmp_path_factory.mktemp("synchronous")
    assert go(folder) == 0
    return folder / "r"


# ---- a run ----


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("env.count=2", "train.round_episodes=3", "train.eval_every=2"),  # several rollouts beside one round
        ("env.count=3", "train.seed_episodes=1", "train.steps=30"),  # several rounds beside one rollout
        ("train.round_episodes=4",),  # the steps end amid the second one
        ("train.learn.model.eval_every=1",),  # evaluations in the middle of a round
    ],
)
def test_the_counts_are_those_of_sync(tmp_path: Path, words: tuple[str, ...]) -> None:
    for name in ("overlap", "sync"):
        assert go(tmp_path / name, f"train.collect={name}", *words) == 0
    here, there = tmp_path / "overlap" / "r", tmp_path / "sync" / "r"
    assert counts(here) == counts(there)
    assert evaluations(here) == evaluations(there)
    assert runs.logged(here, "count/") == runs.logged(there, "count/")
    assert runs.logged(here, "seconds/waited") and not runs.logged(there, "seconds/waited")


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [(runs.TINY, "fp32"), (runs.TINY, "bf16"), (DREAMER, "fp32")],
    ids=["fp32", "bf16", "dreamer"],
)
def test_on_a_processor_it_is_a_function_of_the_seed(tmp_path: Path, recipe: list[str], precision: str) -> None:
    """So neither side sees anything of the other's: weights while they change, random numbers, environments."""
    found = []
    for name in ("one", "two"):
        words = (OVERLAP, "train.steps=25", f"agent.precision={precision}")
        assert go(tmp_path / name, *words, recipe=recipe) == 0
        run = tmp_path / name / "r"
        logged = [runs.logged(run, prefix) for prefix in ("learn/", "collect/", "evaluate/return")]
        found.append((runs.digests(run), logged))
    assert found[0] == found[1]


def test_it_collects_as_the_agent_was_when_the_round_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the seeds of the episodes are those of sync; only the random ones are collected before."""
    began, random, start, rollout = [], [], Collector.start, train.rollout

    def noted(self: Collector, agent: Agent, rollouts: Any, decisions: int) -> None:
        began.append((training.counters.updates, training.counters.episodes, rollouts, decisions))
        start(self, agent, rollouts, decisions)

    def counted(*args: Any, **kwargs: Any) -> Any:
        random.append(training.counters.episodes)
        return rollout(*args, **kwargs)

    monkeypatch.setattr(Collector, "start", noted)
    monkeypatch.setattr(train, "rollout", counted)
    words = (*runs.TINY, OVERLAP, "train.steps=40", "train.round_episodes=2", "run=r", f"runs={tmp_path}")
    training = train.Training(*runs.composed(*words), tmp_path / "r", runs.Stop())
    try:
        training.loop()
    finally:
        training.close()
    seeds = [[train.episode_seed(0, train.COLLECT, number)] for number in range(8)]
    assert began == [(0, 2, seeds[2:4], 30), (2, 4, seeds[4:6], 20), (4, 6, seeds[6:8], 10)]
    assert random == [0, 1]
    assert (training.counters.updates, training.counters.episodes) == (8, 8)


@pytest.mark.parametrize(
    ("since", "count", "rollouts"), [(0, 1, 3), (0, 2, 2), (0, 3, 1), (0, 16, 1), (4, 1, 2), (4, 2, 1), (5, 2, 1)]
)
def test_what_the_next_round_needs_is_known(since: int, count: int, rollouts: int) -> None:
    """Rounds of three episodes, of which some of the next are there already."""
    checked = runs.composed(*runs.TINY, "train.round_episodes=3")[1]
    assert Schedule(checked["train"], Counters(episodes=2 + since), given=False).ahead(count) == rollouts


def test_environments_are_never_used_by_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations, here also in the middle of a round, wait until they are free."""
    step, evaluate, lock, who = dot.step, evaluation.evaluate, threading.Lock(), []

    def alone(*args: Any) -> Any:
        assert lock.acquire(blocking=False), "somebody else is stepping"
        try:
            who.append(threading.current_thread().name)
            time.sleep(0.002)
            return step(*args)
        finally:
            lock.release()

    def noted(*args: Any) -> Any:
        before = len(who)
        found = evaluate(*args)
        assert set(who[before:]) == {"MainThread"}
        return found

    monkeypatch.setattr(dot, "step", alone)
    monkeypatch.setattr(evaluation, "evaluate", noted)
    assert go(tmp_path, OVERLAP, "train.steps=25", "train.learn.model.eval_every=1") == 0
    assert set(who) == {"MainThread", "collector"}


# ---- however it ends ----


class StopIn(runs.Stop):
    """Asks to stop at the n-th question of one thread."""

    def __init__(self, thread: str, question: int) -> None:
        super().__init__()
        self.thread, self.question = thread, question

    def __call__(self) -> bool:
        if threading.current_thread().name == self.thread:
            self.question -= 1
            if self.question == 0:
                self.signal = signal.SIGTERM
        return super().__call__()


@pytest.mark.parametrize(("thread", "question"), [("MainThread", 8), ("collector", 1), ("collector", 8)])
def test_stopped_anywhere_it_goes_on_with_the_right_counts(
    tmp_path: Path, synchronous: Path, thread: str, question: int
) -> None:
    assert go(tmp_path, OVERLAP, stop=StopIn(thread, question)) == 143
    saved = runs.digests(tmp_path / "r")
    assert saved["env_steps"] == 5 * saved["episodes"] <= 40
    assert max((row["step"] for row in Run.read(tmp_path / "r").history()), default=0) == saved["env_steps"]
    assert go(tmp_path, OVERLAP) == 0
    assert counts(tmp_path / "r") == counts(synchronous)
    assert evaluations(tmp_path / "r") == evaluations(synchronous)


def test_a_failing_environment_is_named_and_the_rest_is_saved(
    tmp_path: Path, synchronous: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = dot.step

    def fail(*args: Any) -> Any:
        if threading.current_thread().name == "collector":
            raise KeyError("lost key")
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(dot, "step", fail)
        assert go(tmp_path, OVERLAP) == 1
    place = r"error: dot \(worker 0, seed \d+, episode 2, env step \d+\): KeyError: 'lost key'"
    assert re.fullmatch(place, capsys.readouterr().err.strip())
    assert runs.digests(tmp_path / "r")["env_steps"] == 10
    assert go(tmp_path, OVERLAP) == 0
    assert counts(tmp_path / "r") == counts(synchronous)


def test_a_failure_is_told_before_a_long_round_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = dot.step

    def fail(*args: Any) -> Any:
        if threading.current_thread().name == "collector":
            raise KeyError("lost key")
        return step(*args)

    monkeypatch.setattr(dot, "step", fail)
    words = ("train.learn.model.updates=3000", "train.report_every=1")
    assert go(tmp_path, OVERLAP, *words) == 1
    assert runs.digests(tmp_path / "r")["updates"] < 3000


@pytest.mark.parametrize("first", ["sync", "overlap"])
def test_a_run_may_change_between_them(tmp_path: Path, synchronous: Path, first: str) -> None:
    then = {"sync": "overlap", "overlap": "sync"}[first]
    assert go(tmp_path, f"train.collect={first}", stop=runs.StopAt(45)) == 143
    assert go(tmp_path, f"train.collect={then}") == 0
    assert counts(tmp_path / "r") == counts(synchronous)


def test_a_run_of_before_there_was_a_choice_goes_on_as_it_was(tmp_path: Path, synchronous: Path) -> None:
    assert go(tmp_path, stop=runs.StopAt(45)) == 143
    path = tmp_path / "r" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    assert config["train"].pop("collect") == "sync"
    path.write_text(yaml.safe_dump(config))
    checked = runs.composed("run=r", f"runs={tmp_path}")[1]  # the run's own config
    assert checked["train"].collect == "sync"
    assert go(tmp_path) == 0  # and with the recipe named again
    assert runs.digests(tmp_path / "r") == runs.digests(synchronous)


# The environment hangs in the thread, as soon as it collects there.
HANGS = """
import threading, time
from envs import dot
step = dot.step
def hang(*args):
    if threading.current_thread().name == 'collector':
        print('it hangs', flush=True); time.sleep(1000)
    return step(*args)
dot.step = hang
"""


@pytest.mark.slow
@pytest.mark.parametrize(("updates", "signals"), [(1_000_000, 1), (1, 3)], ids=["learning", "waiting"])
def test_it_ends_even_while_an_environment_hangs(tmp_path: Path, updates: int, signals: int) -> None:
    """As without a thread: while nothing but the environment is waited for, it takes three signals."""
    words = (OVERLAP, "train.steps=100000", f"train.learn.model.updates={updates}")
    process = runs.process(*words, folder=tmp_path, before=HANGS)
    assert process.stdout
    try:
        next(line for line in process.stdout if line.startswith("it hangs"))
        for _ in range(signals):
            time.sleep(3)
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=40)
        assert process.returncode == 130
        if signals == 1:
            assert runs.digests(tmp_path / "r")["env_steps"] == 10
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_with_workers_it_ends_at_a_signal_and_goes_on(tmp_path: Path) -> None:
    words = (OVERLAP, "env.workers=true", "env.count=2")
    process = runs.process("train.steps=100000", *words, folder=tmp_path)
    assert process.stdout
    try:
        next(line for line in process.stdout if " 8 episodes" in line)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 143 and "Traceback" not in err, err
        assert "stopped and saved" in out
    finally:
        process.kill()
        process.communicate()
    steps = runs.digests(tmp_path / "r")["env_steps"]
    assert runs.go(tmp_path, *words, f"train.steps={steps + 20}") == 0
    assert counts(tmp_path / "r")["env_steps"] == steps + 20


# ---- the thread ----


class Constant(Actor):
    """Its action is its weight. It draws one number, and plans no further."""

    blind = True

    def __init__(self, model: Any, spec: Any) -> None:
        super().__init__(model, spec)
        self.weight = torch.nn.Parameter(torch.zeros(spec.action))
        self.drawn: list[float] = []

    def initial(self, n: int) -> Plan:
        return Plan(torch.zeros(n, 0, self.spec.action), torch.full((n,), torch.nan))

    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[torch.Tensor, Plan]:
        assert explore
        self.drawn.append(float(torch.rand(())))
        return self.weight.expand(len(plan.value), -1), plan


class Gate(tiny.Worlds):
    """Three steps an episode, each after waiting for the gate to open."""

    def __init__(self, count: int = 1) -> None:
        super().__init__(count, lambda seed, step, action: seed, lambda seed, step, action: 1.0, lambda seed: 3)
        self.gate, self.entered = threading.Event(), threading.Event()

    def step(self, actions: np.ndarray) -> Any:
        self.entered.set()
        assert self.gate.wait(10)
        return super().step(actions)


@pytest.fixture
def made() -> Iterator[Callable[..., tuple[Agent, Gate, Collector]]]:
    """Make a collector; it is closed at the end."""
    all_of_them = []

    def make(stop: Callable[[], bool] = lambda: False, count: int = 1) -> tuple[Agent, Gate, Collector]:
        agent, envs = tiny.make_agent(Constant), Gate(count)
        all_of_them.append((envs, Collector(agent, envs, stop)))
        return agent, *all_of_them[-1]

    yield make
    for envs, collector in all_of_them:
        envs.gate.set()
        collector.close()
        assert not collector.thread.is_alive()


def weigh(agent: Agent, weight: float) -> None:
    with torch.no_grad():
        agent.actor.weight.fill_(weight)  # type: ignore[union-attr]


def actions(found: Any) -> set[float]:
    return {float(value) for trial in found[0] for value in trial.episode.action[1:].flatten()}


def test_what_is_learned_meanwhile_counts_from_the_next_start_on(made: Any) -> None:
    agent, envs, collector = made()
    weigh(agent, 0.25)
    collector.start(agent, [[7]], 100)
    assert envs.entered.wait(10) and collector.busy()
    weigh(agent, 0.5)  # while the thread is in its first step
    envs.gate.set()
    assert actions(collector.take()) == {0.25}
    assert not collector.busy() and collector.take() is None
    collector.start(agent, [[8]], 100)
    assert actions(collector.take()) == {0.5}
    assert envs.used == [7, 8]


def test_rollouts_are_taken_one_by_one_and_enough_is_enough(made: Any) -> None:
    agent, envs, collector = made(count=2)
    envs.gate.set()
    collector.start(agent, [[1, 2], [3, 4], [5, 6]], 12)  # decisions, of which a rollout has six
    collector.wait()
    assert envs.used == [1, 2, 3, 4] and collector.busy()
    seeds = [[int(trial.episode.image[0, 0, 0, 0]) for trial in collector.take()[0]] for _ in range(2)]
    assert seeds == [[1, 2], [3, 4]]
    assert collector.take() is None and collector.waited > 0


@pytest.mark.parametrize("asked", ["stop", "close"])
def test_it_ends_after_the_step_that_it_is_in(made: Any, asked: str) -> None:
    stop = threading.Event()
    agent, envs, collector = made(stop.is_set)
    collector.start(agent, [[1], [2]], 100)
    assert envs.entered.wait(10)
    if asked == "stop":
        stop.set()
        envs.gate.set()
        with pytest.raises(Interrupted):
            collector.take()
    else:
        threading.Timer(0.05, envs.gate.set).start()
        collector.close()
        assert not collector.thread.is_alive()
    assert envs.used == [1] and len(envs.taken[1]) == 1
    assert not collector.found


def test_what_goes_wrong_in_the_thread_is_raised_where_it_is_waited_for(made: Any) -> None:
    agent, envs, collector = made()
    envs.gate.set()
    for wait in (collector.wait, collector.take, collector.busy):
        envs.reward = lambda *_: 1 / 0
        collector.start(agent, [[1]], 100)
        with pytest.raises(ZeroDivisionError):
            while wait():
                pass
        envs.reward = lambda *_: 1.0
        collector.start(agent, [[2]], 100)  # it lives on
        assert collector.take()[0][0].score == 3


def test_its_random_numbers_are_its_own(made: Any) -> None:
    agent, envs, collector = made()
    envs.gate.set()
    drawn = collector.agent.actor.drawn
    for seed in (1, 2, 1):
        before = torch.get_rng_state()
        collector.start(agent, [[seed]], 100)
        collector.wait()
        assert torch.equal(torch.get_rng_state(), before)
    assert drawn[:3] == drawn[6:] and drawn[:3] != drawn[3:6]


@pytest.mark.parametrize("name", tiny.names("actor"))
def test_a_snapshot_acts_alike_until_its_agent_learns_and_again_when_it_follows(name: str) -> None:
    agent = tiny.make_agent(lambda model, spec: build_actor(tiny.section("actor", name, noise=0.0), model, spec))
    images = np.random.default_rng(0).integers(0, 256, (2, *tiny.SPEC.image), dtype=np.uint8)

    def answer(one: Agent) -> list[float]:
        torch.manual_seed(0)
        memory = None
        for _ in range(2):
            action, memory = one.act(memory, images)
        return action.flatten().tolist() + one.model.reward(memory.state).flatten().tolist()  # type: ignore[union-attr]

    other, before = agent.snapshot(), answer(agent)
    assert other.actor.model is other.model is not agent.model
    assert answer(other) == before
    with torch.no_grad():
        for weight in [*agent.model.parameters(), *agent.actor.buffers()]:
            if weight.is_floating_point():
                weight.add_(0.1 * torch.randn_like(weight))
    after = answer(agent)
    assert answer(other) == before
    other.follow(agent)
    assert answer(other) == after
    assert after != before or agent.actor.blind


def test_common_noise_is_a_mode_of_one_thread() -> None:
    drawn: list[torch.Tensor] = []

    def draw() -> None:
        drawn.extend(function(torch.zeros(3, 2)) for function in (latents.normal, latents.uniform))

    with latents.common_noise(2):  # of which three rows are no multiple
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
        here = latents.normal(torch.zeros(4, 2))
    assert len(drawn) == 2 and torch.equal(here[:2], here[2:])


# ---- mistakes in the config ----


def test_all_that_cannot_overlap_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("actor.world=true", "train.learn.vission.updates=1")
    assert go(tmp_path, OVERLAP, *words, recipe=DREAMER) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: train.learn.vission: ") and second.startswith("error: actor.world: ")
    assert not (tmp_path / "r").exists()


def test_a_world_that_only_its_own_thread_can_draw_needs_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dot.Config, "one_thread", True)
    assert go(tmp_path, OVERLAP) == 2
    assert capsys.readouterr().err.startswith("error: env.workers: dot ")
    assert go(tmp_path, "train.steps=10") == 0


def test_without_an_environment_there_is_nothing_to_collect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    for number in range(3):
        episode = tiny.episode(9, Spec((1, 16, 16), 2, False), seed=number)
        np.savez(tmp_path / "data" / f"{number}.npz", **episode._asdict())
    recipe = [word for word in runs.TINY if not word.startswith(("exp=", "env.", "train."))]
    words = (f"data={tmp_path / 'data'}", "model.kernels=[6,6]", "train.learn.model.updates=1", OVERLAP)
    assert go(tmp_path, *words, recipe=recipe) == 2
    assert "error: train.collect: there is no environment" in capsys.readouterr().err


def test_there_are_two_ways() -> None:
    with pytest.raises(ConfigError, match=r"train.collect: input should be 'sync' or 'overlap', not 'overlapp'"):
        runs.composed(*runs.TINY, "train.collect=overlapp")
