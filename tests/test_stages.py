"""Stages of learning in real, tiny runs: what is frozen stays, every interruption is exact, and a run may begin with
recorded episodes or with another run's model.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
import tiny
import torch
import yaml
from PIL import Image

import evaluate
import train
from worldmodel import checkpoint, pictures, recorded
from worldmodel.config import ROOT, ConfigError
from worldmodel.replay import write_chunk
from worldmodel.run import Run

CPU = ["agent.device=cpu", "agent.precision=fp32", "agent.threads=1"]
DOT = ["env=dot", "env.size=[16,16]", "env.time_limit=6"]
EVOLVED = "actor.population=4 actor.rollouts=2 actor.horizon=3 actor.eval_rollouts=2"
MDNRNN = "model.latent=2 model.hidden=4 model.mixtures=2 model.depths=[4,8] model.kernels=[6,6] model.reward_units=4"
RSSM = (
    "model=rssm model.deter=8 model.stoch=4 model.hidden=8 model.depths=[4,8] model.kernels=[6,6] model.reward_units=8"
)
# exp=worldmodels, made tiny: 4 random episodes of 6 steps; then 5 updates of V, 4 of M, 4 generations of C.
STAGES = (
    "train.learn.vision.updates=5 train.learn.vision.batch=2 train.learn.vision.length=3 "
    "train.learn.memory.updates=4 train.learn.memory.batch=2 train.learn.memory.length=4 "
    "train.learn.actor.updates=4 train.learn.actor.batch=2 train.learn.actor.length=3 train.learn.actor.eval_every=2"
)
FEW = "train.seed_episodes=4 train.save_every=2 train.eval_episodes=1 train.temperatures=[1.0,0.5]"
STAGED = ["exp=worldmodels", *DOT, *CPU, *FEW.split(), *STAGES.split(), *MDNRNN.split(), *EVOLVED.split()]
WORLD = ["actor.world=true", "actor.rollouts=1", "actor.eval_rollouts=1", "env.time_limit=4", "train.seed_episodes=2"]
STAGE = "updates=6 batch=2 length=4 eval_every=3"
OFFLINE = ["exp=offline", *CPU, *RSSM.split(), *(f"train.learn.model.{word}" for word in STAGE.split())]
OFFLINE += ["train.report_every=2", "train.eval_episodes=1", "actor.horizon=3", "actor.candidates=6", "actor.elites=2"]
STAGE = "updates=3 batch=2 length=3 eval_every=2"
DREAMT = ["exp=dream_control", *CPU, *EVOLVED.split(), *(f"train.learn.actor.{word}" for word in STAGE.split())]
DREAMT += ["train.eval_episodes=1"]
SAME = ("vision/", "memory/", "learn/", "collect/", "evaluate/return", "dream/", "count/played")


def go(folder: Path, *words: str, stop: runs.SignalHandler | None = None) -> int:
    return runs.go(folder, *words, stop=stop, recipe=STAGED)


def state(run: Path) -> tuple[dict[str, Any], list[Any]]:
    """All that the newest checkpoint holds, and all that was logged, but times. What was evaluated last stands in the
    log: a run that was stopped in its last evaluation is not saved again.
    """
    found = {key: value for key, value in runs.digests(run).items() if key not in ("evaluated", "evaluated_updates")}
    return found, [point for prefix in SAME for point in runs.logged(run, prefix)]


def learned(run: Path, name: str, file: str = "model") -> dict[str, bytes]:
    """The tensors of a file of a checkpoint."""
    tensors = checkpoint.verify(run / "checkpoints" / name).tensors(file)
    return {key: value.numpy().tobytes() for key, value in tensors.items()}


def changed(run: Path, before: str, after: str, file: str = "model") -> set[str]:
    """The first words of the names of the tensors that are not the same in two checkpoints."""
    old, new = learned(run, before, file), learned(run, after, file)
    return {key.partition(".")[0] for key in new if old.get(key) != new[key]}


def episodes(run: Path) -> list[str]:
    """The digests of the replay's episodes, in order."""
    newest = checkpoint.verify(run / "checkpoints" / checkpoint.names(run / "checkpoints")[0])
    return [chunk.digest for chunk in newest.chunks]


def in_pieces(start: Callable[[runs.SignalHandler], int], every: int) -> int:
    """Stopped again and again; the number of pieces."""
    for pieces in range(1, 100):
        code = start(runs.StopAt(every))
        if code == 0:
            return pieces
        assert code == 143
    raise AssertionError("it makes no progress")


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without curves, which take most of such a run's time."""
    monkeypatch.setattr(pictures, "curves", lambda *_: None)


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Who lived through the episodes, and whether exploring; evaluations are not among them."""
    found: list[tuple[str, bool]] = []
    rollout = train.rollout

    def noted(act: Any, *words: Any, explore: bool, **more: Any) -> Any:
        found.append((type(act.__self__.actor).__name__, explore))
        return rollout(act, *words, explore=explore, **more)

    monkeypatch.setattr(train, "rollout", noted)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run; copy it before changing it."""
    folder = tmp_path_factory.mktemp("whole")
    assert go(folder) == 0
    return folder / "r"


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An undisturbed run whose controller learns in the real environment, and how often it asked whether to stop."""
    folder, stop = tmp_path_factory.mktemp("lived"), runs.StopAt()
    assert go(folder, *WORLD, stop=stop) == 0
    return folder / "r", stop.asked


# ---- stages ----


def test_all_stages_leave_their_metrics_and_pictures(whole: Path) -> None:
    history = Run.read(whole).history()
    groups = {key.partition("/")[0] for row in history for key in row if "/" in key}
    assert groups == {"collect", "vision", "memory", "learn", "evaluate", "dream", "count", "seconds"}
    learning = [(row["updates"], {key.partition("/")[0] for key in row}) for row in history if "count/updates" in row]
    found = [(updates, *sorted(names & {"vision", "memory", "learn"})) for updates, names in learning]
    assert found == [
        (5, "vision"), (9, "memory"), (10, "learn"), (11, "learn"), (12, "learn"), (13, "learn")
    ]  # fmt: skip
    assert [value for *_, value in runs.logged(whole, "learn/generation")] == [1, 2, 3, 4]
    assert [row["updates"] for row in history if "evaluate/return" in row] == [11, 13]
    assert {row["step"] for row in history if row["updates"]} == {24}
    for name in ("curve.png", "losses.png", "generations.png", "dream.gif", "dream-temperature-0.5.gif"):
        with Image.open(whole / name) as picture:
            assert min(picture.size) > 50, name
    counters = {key: value for key, value in runs.digests(whole).items() if isinstance(value, int)}
    assert counters == dict(
        env_steps=24,
        agent_steps=24,
        episodes=4,
        updates=13,
        played=0,
        evaluated=4,
        evaluated_updates=13,
        saved=4,
        saved_updates=13,
    )


def test_what_is_not_in_turn_stays_bit_for_bit_and_saves_amid_a_stage_change_nothing(
    tmp_path: Path, whole: Path, unseen: None
) -> None:
    assert go(tmp_path, "train.save_minutes=1e-9", "train.keep=100", "train.report_every=2") == 0
    run = tmp_path / "r"
    names = {
        int(name.split("-")[2]): name
        for name in checkpoint.names(run / "checkpoints")
        if name.startswith("step-00000024")
    }
    assert sorted(names) == [0, 2, 4, 5, 7, 9, 10, 11, 12, 13]
    memory = {"lstm", "output", "reward_head"}
    for first, last, model, others in (
        (0, 2, {"vision"}, False), (2, 4, {"vision"}, False), (4, 5, {"vision"}, False), (5, 7, memory, False),
        (7, 9, memory, False), (9, 10, set(), True), (10, 11, set(), True), (11, 13, set(), True),
    ):  # fmt: skip
        assert changed(run, names[first], names[last]) == model, (first, last)
        assert changed(run, names[first], names[last], "optim") == model, (first, last)
        assert bool(changed(run, names[first], names[last], "actor")) == others, (first, last)
    assert runs.digests(run) == runs.digests(whole)


def test_a_stage_learns_with_its_own_batch_and_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unseen: None
) -> None:
    seen, learn = [], train.agent.Agent.learn

    def noted(self: Any, batch: Any, part: str, rate: float | None, play: Any) -> Any:
        metrics = learn(self, batch, part, rate, play)
        seen.append((part, tuple(batch.reward.shape), self.optimizer.param_groups[0]["lr"]))
        return metrics

    monkeypatch.setattr(train.agent.Agent, "learn", noted)
    words = ["train.learn.vision.learning_rate=3.0e-4", "train.learn.memory.learning_rate=null", "train.steps=30"]
    words += ["train.round_episodes=1", "agent.learning_rate=2.0e-3"]
    assert go(tmp_path, *words) == 0
    a_round = [("vision", (2, 3), 3e-4)] * 5 + [("memory", (2, 4), 2e-3)] * 4 + [("actor", (2, 3), 2e-3)] * 4
    assert seen == a_round * 2


def test_more_rounds_follow_what_the_controller_collects(
    tmp_path: Path, acted: list[tuple[str, bool]], unseen: None
) -> None:
    words = ("train.steps=42", "train.round_episodes=3", "actor@explorer=brownian")
    assert go(tmp_path, *words) == 0
    assert acted == [("Brownian", True)] * 4 + [("Evolution", True)] * 3
    found = runs.digests(tmp_path / "r")
    assert [found[name] for name in ("env_steps", "episodes", "updates", "evaluated", "evaluated_updates")] == [
        42,
        7,
        26,
        7,
        26,
    ]
    assert [step for step, *_ in runs.logged(tmp_path / "r", "vision/loss_kl")] == [24, 42]
    assert [value for *_, value in runs.logged(tmp_path / "r", "learn/generation")] == [1, 2, 3, 4, 5, 6, 7, 8]
    pieces = in_pieces(lambda stop: go(tmp_path / "again", *words, stop=stop), 13)
    assert pieces > 3
    assert state(tmp_path / "again" / "r") == state(tmp_path / "r")


@pytest.mark.parametrize(("explorer", "name"), [("held", "Held"), ("brownian", "Brownian"), ("uniform", "Uniform")])
def test_the_explorer_collects_the_random_episodes_only(
    tmp_path: Path, acted: list[tuple[str, bool]], unseen: None, explorer: str, name: str
) -> None:
    words = ("train.steps=25", "train.eval_every=100", *([f"actor@explorer={explorer}"] * (explorer != "uniform")))
    assert runs.go(tmp_path, *words) == 0
    assert acted == [(name, True)] * 2 + [("CEM", True)] * 3
    first = recorded.read(tmp_path / "r" / "replay")
    if explorer == "held":  # five steps, and some action that was held
        assert any((episode.action[1:-1] == episode.action[2:]).all(1).any() for episode in first)


# ---- interruptions ----


def test_stopped_again_and_again_it_ends_the_same(tmp_path: Path, whole: Path, unseen: None) -> None:
    assert in_pieces(lambda stop: go(tmp_path, stop=stop), 8) > 4
    assert state(tmp_path / "r") == state(whole)


# Questions: 1-24 the episodes; 25-29 vision; 30-33 memory; 34, 35, 42, 43 generations; 36-41 and 44-49 evaluations
@pytest.mark.parametrize("question", [27, 32, 35, 39, 47])
def test_stopped_in_any_stage_it_ends_the_same(tmp_path: Path, whole: Path, unseen: None, question: int) -> None:
    assert go(tmp_path, stop=runs.StopAt(question)) == 143
    found = runs.digests(tmp_path / "r")
    assert found["updates"] == {27: 2, 32: 7, 35: 10, 39: 11, 47: 13}[question]
    assert found["evaluated_updates"] == (11 if question == 47 else 0)
    assert go(tmp_path) == 0
    assert state(tmp_path / "r") == state(whole)


@pytest.mark.slow
@pytest.mark.parametrize("question", range(1, 50))
def test_stopped_at_any_question_it_ends_the_same(tmp_path: Path, whole: Path, unseen: None, question: int) -> None:
    assert go(tmp_path, stop=runs.StopAt(question)) == 143
    assert go(tmp_path) == 0
    assert state(tmp_path / "r") == state(whole)


def test_a_controller_that_plays_is_counted(lived: tuple[Path, int]) -> None:
    run, asked = lived
    found = runs.digests(run)
    assert found["played"] == 4 * (4 + 1) * 4  # generations x (population + mean_solution) x steps
    assert (found["env_steps"], found["episodes"], found["updates"]) == (8, 2, 13)
    assert len(episodes(run)) == 2  # what it plays is not learned from
    assert asked == 8 + 9 + 4 * (1 + 20) + 2 * 4
    assert [value for *_, value in runs.logged(run, "count/played")] == [0, 0, 20, 40, 60, 80]


def test_candidates_meet_the_same_episodes_and_the_same_noise(tmp_path: Path) -> None:
    raw, checked = runs.composed(*STAGED, *WORLD, "run=r", f"runs={tmp_path}")
    training = train.Training(raw, checked, tmp_path / "r", runs.SignalHandler())
    try:
        before = torch.get_rng_state()
        first, again, other = (training.play(training.agent.actor, 3, number) for number in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), before)  # what is learned does not depend on how long was played
        assert first.tolist() == again.tolist() != other.tolist()
        noisy = training.explorer.actor  # whose every action is drawn
        assert training.play(noisy, 2, 5).tolist() == training.play(noisy, 2, 5).tolist()
        assert training.counters.played == (3 * 3 + 2 * 2) * 4
    finally:
        training.close()


# From the end: 4 questions of an evaluation, 4 of the mean_solution's episode, 16 of the population's, 1 before it.
@pytest.mark.parametrize("back", [2, 6, 12, 19, 25, 31])
def test_stopped_while_it_plays_it_ends_the_same(
    tmp_path: Path, lived: tuple[Path, int], unseen: None, back: int
) -> None:
    run, asked = lived
    assert go(tmp_path, *WORLD, stop=runs.StopAt(asked - back)) == 143
    found = runs.digests(tmp_path / "r")
    assert (found["updates"], found["played"]) == ((13, 80) if back == 2 else (12, 60) if back < 25 else (11, 40))
    assert go(tmp_path, *WORLD) == 0
    assert state(tmp_path / "r") == state(run)


@pytest.mark.slow
def test_stopped_again_and_again_while_it_plays(tmp_path: Path, lived: tuple[Path, int], unseen: None) -> None:
    for every in (26, 27, 31):  # an evaluation and a generation take 25 questions
        assert in_pieces(lambda stop: go(tmp_path / str(every), *WORLD, stop=stop), every) > 3  # noqa: B023
        assert state(tmp_path / str(every) / "r") == state(lived[0])


# Learning is made slow and announces itself, so that the process is killed in the stage that is wanted.
SLOW = """
import time; from agents.agent import Agent
learn = Agent.learn
def slow(self, batch, part, *words):
    print('phase:', part, flush=True); time.sleep(0.05); return learn(self, batch, part, *words)
Agent.learn = slow
"""


@pytest.mark.slow
@pytest.mark.parametrize("minutes", ["10", "1e-9"])
def test_killed_while_the_actor_learns_it_ends_the_same(
    tmp_path: Path, whole: Path, unseen: None, minutes: str
) -> None:
    words = [f"train.save_minutes={minutes}"]
    process = runs.process(*words, folder=tmp_path, before=SLOW, recipe=STAGED)
    assert process.stdout
    for _ in range(3):
        next(line for line in process.stdout if line.startswith("phase: actor"))
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -9
    updates = runs.digests(tmp_path / "r")["updates"]
    assert updates == (0 if minutes == "10" else 11)
    assert go(tmp_path, *words) == 0
    assert state(tmp_path / "r") == state(whole)


# ---- recorded episodes ----


@pytest.fixture(scope="module")
def offline(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned from the whole run's episodes, without an environment."""
    folder = tmp_path_factory.mktemp("offline")
    assert runs.go(folder, f"data={whole / 'replay'}", recipe=OFFLINE) == 0
    return folder / "r"


def test_recorded_episodes_teach_without_an_environment(whole: Path, offline: Path) -> None:
    run = Run.read(offline)
    assert run.config["env"] is None and run.spec == Run.read(whole).spec
    counters = {key: value for key, value in runs.digests(offline).items() if isinstance(value, int)}
    assert counters == dict(
        env_steps=0,
        agent_steps=0,
        episodes=0,
        updates=6,
        played=0,
        evaluated=0,
        evaluated_updates=6,
        saved=0,
        saved_updates=6,
    )
    history = run.history()
    assert [row["updates"] for row in history if "learn/loss" in row] == [2, 3, 4, 6]
    assert [row["updates"] for row in history if "dream/image_error_01" in row] == [3, 6]
    assert not any(key.startswith(("evaluate/", "collect/")) for row in history for key in row)
    assert (offline / "losses.png").exists() and (offline / "dream.gif").exists()
    assert not (offline / "curve.png").exists() and not (offline / "generations.png").exists()


def test_held_out_episodes_are_the_last_ones_and_not_learned_from(whole: Path, offline: Path) -> None:
    all_of_them = [episode.digest() for episode in recorded.read(whole / "replay")]
    held_out = [episode.digest() for episode in recorded.read(offline / train.HELD_OUT)]
    assert len(all_of_them) == 4 and len(held_out) == 1
    assert episodes(offline) + held_out == all_of_them
    assert sorted(path.stem for path in (offline / "replay").iterdir()) == sorted(episodes(offline))


def test_recorded_episodes_are_needed_once(tmp_path: Path, whole: Path, offline: Path, unseen: None) -> None:
    shutil.copytree(whole / "replay", tmp_path / "data")
    words = [f"data={tmp_path / 'data'}"]
    assert runs.go(tmp_path, *words, stop=runs.StopAt(3), recipe=OFFLINE) == 143
    shutil.rmtree(tmp_path / "data")
    pieces = in_pieces(lambda stop: runs.go(tmp_path, *words, stop=stop, recipe=OFFLINE), 3)
    assert pieces > 1
    assert state(tmp_path / "r") == state(offline)


def test_killed_before_the_first_checkpoint_they_are_read_again(
    tmp_path: Path, whole: Path, offline: Path, unseen: None
) -> None:
    shutil.copytree(offline, tmp_path / "r")
    for name in ("checkpoints", "replay"):
        shutil.rmtree(tmp_path / "r" / name)
    assert runs.go(tmp_path, f"data={whole / 'replay'}", recipe=OFFLINE) == 0
    assert state(tmp_path / "r") == state(offline)


def test_a_run_without_an_environment_goes_on_by_its_name_alone(
    tmp_path: Path, whole: Path, offline: Path, unseen: None
) -> None:
    assert runs.go(tmp_path, f"data={whole / 'replay'}", stop=runs.StopAt(4), recipe=OFFLINE) == 143
    assert runs.go(tmp_path, recipe=[]) == 0
    assert state(tmp_path / "r") == state(offline)


def evaluated(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--device", "cpu", *words])
    try:
        evaluate.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_without_an_environment_nothing_can_be_evaluated(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(monkeypatch, str(offline)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {offline} was trained on recorded episodes, without an environment")
    assert "env=" in lines[0]


def test_with_an_environment_recorded_episodes_are_learned_from_and_it_evaluates(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, unseen: None
) -> None:
    words = [f"data={whole / 'replay'}", *DOT, "train.eval_episodes=2"]
    assert runs.go(tmp_path, *words, recipe=OFFLINE) == 0
    assert episodes(tmp_path / "r") == [episode.digest() for episode in recorded.read(whole / "replay")]
    assert not (tmp_path / "r" / train.HELD_OUT).exists()
    assert [row["updates"] for row in Run.read(tmp_path / "r").history() if "evaluate/return" in row] == [3, 6]
    assert evaluated(monkeypatch, str(tmp_path / "r"), "--episodes", "1") == 0
    assert len(json.loads((tmp_path / "r" / "evaluation.json").read_text())["returns"]) == 1


def test_with_an_environment_it_may_collect_too(
    tmp_path: Path, whole: Path, acted: list[tuple[str, bool]], unseen: None
) -> None:
    words = [f"data={whole / 'replay'}", *DOT, "train.steps=12"]
    assert runs.go(tmp_path, *words, recipe=OFFLINE) == 0
    found = runs.digests(tmp_path / "r")
    assert (found["env_steps"], found["episodes"], found["updates"]) == (12, 2, 18)
    assert acted == [("CEM", True)] * 2 and len(episodes(tmp_path / "r")) == 6
    assert in_pieces(lambda stop: runs.go(tmp_path / "b", *words, stop=stop, recipe=OFFLINE), 13) > 2
    assert state(tmp_path / "b" / "r") == state(tmp_path / "r")


# ---- another run's model ----


@pytest.fixture(scope="module")
def dreamt(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A controller that learned in the whole run's model."""
    folder = tmp_path_factory.mktemp("dreamt")
    assert runs.go(folder, f"model_from={whole}", recipe=DREAMT) == 0
    return folder / "r"


def test_a_trained_model_is_taken_and_stays(tmp_path: Path, whole: Path, dreamt: Path, unseen: None) -> None:
    source = learned(whole, checkpoint.names(whole / "checkpoints")[0])
    assert learned(dreamt, checkpoint.names(dreamt / "checkpoints")[0]) == source
    assert runs.go(tmp_path, f"model_from={whole}", stop=runs.StopAt(1), recipe=DREAMT) == 143
    at_first = checkpoint.names(tmp_path / "r" / "checkpoints")[0]
    assert at_first == "step-00000000-00000000-0000"
    assert learned(tmp_path / "r", at_first) == source
    config, origin = Run.read(dreamt).config, Run.read(whole).config
    assert (config["env"], config["model"]) == (origin["env"], origin["model"])
    assert config["actor"]["name"] == "evolution" and config["actor"]["horizon"] == 3
    assert Run.read(dreamt).spec == Run.read(whole).spec
    assert episodes(dreamt) == episodes(whole)
    found = runs.digests(dreamt)
    assert (found["env_steps"], found["episodes"], found["updates"]) == (0, 0, 3)
    mine, theirs = (learned(run, checkpoint.names(run / "checkpoints")[0], "actor") for run in (dreamt, whole))
    assert mine["mean"] != theirs["mean"] and any(mine["mean"])
    assert [row["updates"] for row in Run.read(dreamt).history() if "evaluate/return" in row] == [2, 3]


def test_the_source_is_needed_once(tmp_path: Path, whole: Path, dreamt: Path, unseen: None) -> None:
    shutil.copytree(whole, tmp_path / "source")
    words = [f"model_from={tmp_path / 'source'}"]
    assert runs.go(tmp_path, *words, stop=runs.StopAt(2), recipe=DREAMT) == 143
    shutil.rmtree(tmp_path / "source")
    assert runs.go(tmp_path, recipe=[], stop=runs.StopAt(4)) == 143  # by its name alone
    assert runs.go(tmp_path, *words, recipe=DREAMT) == 0  # by the same command again
    assert state(tmp_path / "r") == state(dreamt)


def test_the_command_line_wins_over_the_source(tmp_path: Path, whole: Path, dreamt: Path) -> None:
    words = ["run=r", f"runs={tmp_path}", f"model_from={whole}", *DREAMT]
    raw, checked = runs.composed(*words, "env.time_limit=9", "model.reward_weight=2.0")
    origin = Run.read(whole).config
    assert raw["env"] == origin["env"] | {"time_limit": 9}
    assert raw["model"] == origin["model"] | {"reward_weight": 2.0}
    assert (checked["env"].time_limit, checked["model"].reward_weight) == (9, 2.0)
    raw, _ = runs.composed(*words, *DOT)
    assert raw["env"]["time_limit"] == 6 and raw["model"] == origin["model"]


def test_a_model_without_an_environment_may_be_taken(
    tmp_path: Path, offline: Path, unseen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"model_from={offline}", f"data={offline / 'replay'}", "train.learn.actor.eval_every=1"]
    assert runs.go(tmp_path, *words, recipe=DREAMT) == 0
    assert Run.read(tmp_path / "r").config["env"] is None
    assert len(episodes(tmp_path / "r")) == 2


# ---- mistakes ----


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *words: str
) -> tuple[int, str]:
    """The exit code of train.py, and what it says; nothing that counts as a run is left."""
    with pytest.raises(SystemExit) as end:
        try:
            plain = train.strict([*words, f"runs={folder / 'runs'}", "run=r"])
        except ConfigError as error:
            train.fail(error, 2)
        monkeypatch.setattr(sys, "argv", ["train.py", "--config-path", str(ROOT / "configs"), *plain])
        train.main()
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())
    err = capsys.readouterr().err
    assert err and all(line.startswith("error: ") for line in err.splitlines())
    return int(end.value.code or 0), err


# Recipe, further words, exit code, and what the message must say. SOURCE is a World Models run.
MISTAKES = {
    "no such part": (
        STAGED, ["train.learn.visoin.updates=3"], 2,
        ["train.learn.visoin: this model has no part of that name", "did you mean 'vision'?"],
    ),
    "a part of another model": (
        runs.TINY, ["train.learn.vision.updates=3"], 2,
        ["train.learn.vision: this model has no part of that name; it has model, actor"],
    ),
    "an actor with nothing to learn": (
        runs.TINY, ["train.learn.actor.updates=3"], 2,
        ["train.learn.actor: cem has nothing to learn: choose actor=evolution, or set train.learn.actor.updates=0"],
    ),
    "a learning rate for an actor": (
        STAGED, ["train.learn.actor.learning_rate=0.1"], 2,
        ["train.learn.actor.learning_rate: an actor has its own settings, actor.*: leave it out"],
    ),
    "a stage without updates": (STAGED, ["train.learn.model.batch=3"], 2, ["train.learn.model.updates: missing"]),
    "no data": (OFFLINE, ["data=EMPTY"], 1, ["data", "EMPTY holds no recorded episodes"]),
    "no data folder": (OFFLINE, ["data=NOWHERE"], 1, ["data", "there is no folder NOWHERE"]),
    "a run, not its replay": (OFFLINE, ["data=SOURCE"], 1, ["did you mean SOURCE/replay?"]),
    "data, and random episodes": (
        OFFLINE, ["data=SOURCE/replay", "train.seed_episodes=3"], 2, ["train", "seed_episodes", "env=", "0"]
    ),
    "data, and steps": (OFFLINE, ["data=SOURCE/replay", "train.steps=9"], 2, ["train", "steps", "env=", "0"]),
    "one recorded episode": (OFFLINE, ["data=ONE"], 1, ["at least two"]),
    "nothing to learn from": (OFFLINE, DOT, 2, ["train.seed_episodes", "data=", "model_from="]),
    "a world without an environment": (
        DREAMT, ["model_from=OFFLINE", "actor.world=true"], 2, ["actor.world", "actor.world=false"]
    ),
    "no such run": (DREAMT, ["model_from=SOURCES"], 2, ["SOURCES is not a run", "runs beside it", "r"]),
    "a number": (DREAMT, ["model_from=5"], 2, ["5"]),
    "an untrained run": (DREAMT, ["model_from=UNTRAINED"], 1, ["has no complete checkpoint to load; train it"]),
    "another image size": (
        DREAMT, ["model_from=SOURCE", "env=dot", "env.size=[32,32]"], 1, ["(1, 16, 16)", "(1, 32, 32)", "env"]
    ),
    "another size of the model": (DREAMT, ["model_from=SOURCE", "model.hidden=6"], 2, ["model_from", "hidden"]),
    "another model": (DREAMT, ["model_from=SOURCE", *RSSM.split()], 2, ["model_from", "rssm", "mdnrnn"]),
    "other data": (DREAMT, ["model_from=SOURCE", "data=ONE"], 1, ["ONE", "SOURCE"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_and_leaves_nothing(
    name: str,
    tmp_path: Path,
    whole: Path,
    offline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, words, code, wanted = MISTAKES[name]
    for folder in ("empty", "one", "untrained"):
        (tmp_path / folder).mkdir()
    write_chunk(tmp_path / "one" / "a.npz", tiny.episode(5, tiny.DISCRETE))
    for file in ("run.json", "config.yaml"):
        shutil.copy(whole / file, tmp_path / "untrained")
    places = {
        "SOURCE": whole, "OFFLINE": offline, "EMPTY": tmp_path / "empty", "ONE": tmp_path / "one",
        "UNTRAINED": tmp_path / "untrained", "NOWHERE": tmp_path / "nowhere",
    }  # fmt: skip

    def placed(word: str) -> str:
        for key, path in places.items():
            word = word.replace(key, str(path))
        return word

    found, err = refused(monkeypatch, capsys, tmp_path, *recipe, *map(placed, words))
    assert found == code, err
    assert all(placed(word) in err for word in wanted), err


# ---- what a recipe says of worlds and parts ----


def composed(*words: str) -> dict[str, Any]:
    return runs.composed(*words, "runs=nowhere")[0]


RECIPE, SMALL = (
    yaml.safe_load((ROOT / "configs" / "exp" / f"{name}.yaml").read_text("utf8"))
    for name in ("worldmodels", "worldmodels_small")
)


def test_values_for_a_world_count_for_that_world_only() -> None:
    found = {name: composed("exp=worldmodels", f"env={name}") for name in ("dot", "car_racing", "take_cover", "gym")}
    dot, car, doom, other = found.values()
    worlds, generic = RECIPE["worlds"], RECIPE["train"]
    assert dot["train"]["learn"] == worlds["dot"]["train"]["learn"] != generic["learn"]
    assert dot["train"]["seed_episodes"] == worlds["dot"]["train"]["seed_episodes"] != generic["seed_episodes"]
    assert dot["model"]["latent"] == worlds["dot"]["parts"]["mdnrnn"]["latent"] and dot["env"]["size"] == [16, 16]
    for raw in (car, doom, other):
        assert {part: stage["updates"] for part, stage in raw["train"]["learn"].items()} == {
            part: stage["updates"] for part, stage in generic["learn"].items()
        }
        assert raw["train"]["seed_episodes"] == generic["seed_episodes"]
    assert (car["explorer"], car["actor"]["world"]) == ({"name": "brownian", "scale": 0.1414}, True)
    assert (doom["model"]["latent"], doom["actor"]["temperature"], doom["actor"]["world"]) == (64, 1.15, False)
    assert doom["explorer"] == dot["explorer"] == other["explorer"] == {"name": "held", "shortest": 1, "longest": 10}
    assert (car["model"]["latent"], other["model"]["latent"], other["actor"]["population"]) == (32, 32, 64)
    for raw in found.values():
        assert "worlds" not in raw
        assert list(raw["train"]["learn"]) == ["vision", "memory", "actor"]


def test_a_recipe_built_on_another_adds_to_its_worlds() -> None:
    for name in ("car_racing", "take_cover"):
        raw, mine, theirs = (
            composed("exp=worldmodels_small", f"env={name}"), SMALL["worlds"][name], RECIPE["worlds"][name]
        )  # fmt: skip
        assert raw["train"] == raw["train"] | mine["train"] and raw["env"] == raw["env"] | mine.get("env", {})
        for section, part in (("model", "mdnrnn"), ("actor", "evolution")):
            wanted = theirs["parts"].get(part, {}) | mine["parts"].get(part, {})
            assert wanted and raw[section] == raw[section] | wanted
    assert composed("exp=worldmodels_small", "env=car_racing")["explorer"]["name"] == "brownian"


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (["exp=worldmodels_small", "env=car_racing", "env.time_limit=77"], "env.time_limit", 77),
        (["exp=worldmodels", "train.learn.vision.updates=3"], "train.learn.vision.updates", 3),
        (["exp=worldmodels", "train.seed_episodes=3"], "train.seed_episodes", 3),
        (["exp=worldmodels", "actor.population=8"], "actor.population", 8),
        (["exp=worldmodels", "env.size=[24,24]"], "env.size", [24, 24]),
        (["exp=worldmodels", "model.latent=3"], "model.latent", 3),
        (["exp=worldmodels", "env=car_racing", "actor@explorer=uniform"], "explorer", {"name": "uniform"}),
        (["exp=worldmodels", "env=car_racing", "actor@explorer=held", "explorer.longest=4"], "explorer",
         {"name": "held", "shortest": 1, "longest": 4}),
        (["exp=worldmodels", "env=car_racing", "explorer.scale=0.5"], "explorer", {"name": "brownian", "scale": 0.5}),
        (["exp=smoke", "actor@explorer=brownian", "explorer.scale=0.5"], "explorer",
         {"name": "brownian", "scale": 0.5}),
        (["exp=worldmodels", "train.learn={vision: {updates: 3}}"], "train.learn.vision.updates", 3),
        (["exp=smoke", "model.deter=9"], "model.deter", 9),
        (["exp=smoke", "env=dot", "env.size=[24,24]"], "env.size", [24, 24]),
    ],
)  # fmt: skip
def test_the_command_line_wins_over_a_recipe(words: list[str], path: str, value: Any) -> None:
    found: Any = composed(*words)
    for key in path.split("."):
        found = found[key]
    assert found == value


def test_values_for_parts_count_for_the_chosen_part() -> None:
    rssm, other = composed("exp=smoke"), composed("exp=smoke", "model=mdnrnn", "actor=shooting")
    assert (rssm["model"]["deter"], rssm["actor"]["candidates"], rssm["actor"]["elites"]) == (32, 20, 5)
    assert "deter" not in other["model"] and other["model"]["latent"] == 8
    assert (other["actor"]["name"], other["actor"]["candidates"]) == ("shooting", 40)
    stay = composed("exp=worldmodels", "actor=cem")  # what the recipe says of evolution is not cem's
    assert stay["actor"]["name"] == "cem" and "population" not in stay["actor"]


def test_recorded_episodes_are_of_no_known_world(whole: Path) -> None:
    for start in (f"data={whole / 'replay'}", f"model_from={whole}"):
        raw = composed("exp=worldmodels", start, "train.seed_episodes=0")
        assert raw["train"]["learn"] == RECIPE["train"]["learn"]  # and not DOT's
        chosen = composed("exp=worldmodels", start, "train.seed_episodes=0", "env=dot")
        assert chosen["train"]["learn"] == RECIPE["worlds"]["dot"]["train"]["learn"]


def test_an_explorer_may_be_named_again_on_resuming(tmp_path: Path, unseen: None) -> None:
    assert runs.go(tmp_path, "actor@explorer=held", "train.steps=15") == 0
    assert runs.go(tmp_path, "actor@explorer=held", "train.steps=20") == 0
    assert runs.go(tmp_path, "actor@explorer=held", "train.steps=25", recipe=[]) == 0
    with pytest.raises(ConfigError, match=r"explorer\.name: the run has 'held', you ask for 'uniform'"):
        runs.composed("run=r", f"runs={tmp_path}", "actor@explorer=uniform")
