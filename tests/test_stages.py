"""Stages of learning in real, tiny runs: what is frozen stays, every interruption is exact, and a run may begin with
recorded episodes or with another run's model.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
import tiny
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import train
from agents.agent import Agent
from training import evaluation
from training.collecting import episode_collector
from training.configuration.components import ROOT
from training.loop import open_trainer
from training.reporting import pictures
from training.run_folder import checkpoint
from training.run_folder.run import Run
from worldmodel.base import ConfigError
from worldmodel.replay import recorded
from worldmodel.replay.episodes import write_chunk

CPU = ["agent.device=cpu", "agent.precision=fp32", "agent.threads=1"]
DOT = ["env=dot", "env.size=[16,16]", "env.time_limit=6"]
EVOLVED = "actor.population=4 actor.rollouts=2 actor.horizon=3 actor.eval_rollouts=2"
MDNRNN = "model.latent=2 model.hidden=4 model.mixtures=2 model.depths=[4,8] model.kernels=[6,6] model.reward_units=4"
RSSM = (
    "model=rssm model.deter=8 model.stoch=4 model.hidden=8 model.depths=[4,8] model.kernels=[6,6] model.reward_units=8"
)
# exp=worldmodels_dot, made tiny: 4 random episodes of 6 steps; then 5 updates of V, 4 of M, 4 generations of C.
STAGES = (
    "train.learn.vision.updates=5 train.learn.vision.batch_size=2 train.learn.vision.batch_length=3 "
    "train.learn.memory.updates=4 train.learn.memory.batch_size=2 train.learn.memory.batch_length=4 "
    "train.learn.actor.updates=4 train.learn.actor.batch_size=2 train.learn.actor.batch_length=3 "
    "train.learn.actor.eval_every=2"
)
FEW = "train.prefill=4 train.save_every=2 train.eval_episodes=1 train.temperatures=[1.0,0.5]"
STAGED = ["exp=worldmodels_dot", *DOT, *CPU, *FEW.split(), *STAGES.split(), *MDNRNN.split(), *EVOLVED.split()]
UNREAD = ("actor.horizon=", "train.learn.actor.batch_")  # where there are no dreams
LIVED = [word for word in STAGED if not word.startswith(UNREAD)]
LIVED += ["actor.evaluate_in=env", "actor.rollouts=1", "actor.eval_rollouts=1", "env.time_limit=4", "train.prefill=2"]
STAGE = "updates=6 batch_size=2 batch_length=4 eval_every=3"
OFFLINE = ["exp=offline", *CPU, *RSSM.split(), *(f"train.learn.model.{word}" for word in STAGE.split())]
OFFLINE += ["train.report_every=2", "train.eval_episodes=1", "actor.horizon=3", "actor.candidates=6", "actor.elites=2"]
STAGE = "updates=3 batch_size=2 batch_length=3 eval_every=2"
DREAMT = ["exp=dream_control", *CPU, *EVOLVED.split(), *(f"train.learn.actor.{word}" for word in STAGE.split())]
DREAMT += ["train.eval_episodes=1"]
IN_NO_ENV = [word for word in DREAMT if not word.startswith(UNREAD)]
CEMS = ("actor.candidates=", "actor.elites=")
EVOLVED_OFFLINE = [word for word in OFFLINE if not word.startswith((*UNREAD, *CEMS))]
EVOLVED_OFFLINE += ["actor=evolution", *(word for word in EVOLVED.split() if not word.startswith(UNREAD))]
SAME = ("learn/", "collect/", "evaluate/return", "dream/", "count/fitness_env_steps")


def go(folder: Path, *words: str, stop: runs.SignalHandler | None = None) -> int:
    return runs.go(folder, *words, stop=stop, recipe=STAGED)


def live(folder: Path, stop: runs.SignalHandler | None = None) -> int:
    return runs.go(folder, stop=stop, recipe=LIVED)


def state(run: Path) -> tuple[dict[str, Any], list[Any]]:
    """All that the newest checkpoint holds, and all that was logged, but times. What was evaluated last stands in the
    log: a run that was stopped in its last evaluation is not saved again.
    """
    found = {
        key: value
        for key, value in runs.digests(run).items()
        if key not in ("last_eval_collected", "last_eval_updates")
    }
    return found, [point for prefix in SAME for point in runs.logged(run, prefix)]


def learned(run: Path, name: str, file: str = "model") -> dict[str, bytes]:
    """The tensors of a file of a checkpoint."""
    tensors = checkpoint.verify(run / "checkpoints" / name).tensors(file)
    return {key: value.numpy().tobytes() for key, value in tensors.items()}


def changed(run: Path, before: str, after: str, file: str = "model") -> set[str]:
    """The first words of the names of the tensors that are not the same in two checkpoints; in an optimiser's file, of
    the model's tensor that they belong to.
    """
    old, new = learned(run, before, file), learned(run, after, file)
    return {
        key.partition("/")[2].partition(".")[0] if file == "optim" else key.partition(".")[0]
        for key in new
        if old.get(key) != new[key]
    }


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
def acted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Who lived through the episodes, and how; evaluations are not among them."""
    found: list[tuple[str, str]] = []
    rollout, play = episode_collector.rollout, evaluation.play

    def collected(act: Any, envs: Any, seeds: Any, mode: str, *rest: Any, **options: Any) -> Any:
        found.append((type(act.__self__.actor).__name__, mode))
        return rollout(act, envs, seeds, mode, *rest, **options)

    def played(agent: Any, actor: Any, *rest: Any) -> Any:
        found.append((type(actor).__name__, "evaluate"))
        return play(agent, actor, *rest)

    monkeypatch.setattr(episode_collector, "rollout", collected)
    monkeypatch.setattr(evaluation, "play", played)
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
    assert live(folder, stop) == 0
    return folder / "r", stop.asked


# ---- stages ----


def test_all_stages_leave_their_metrics_and_pictures(whole: Path) -> None:
    history = Run.read(whole).metrics.history()
    groups = {key.partition("/")[0] for row in history for key in row if "/" in key}
    assert groups == {"collect", "learn", "evaluate", "dream", "count", "seconds", "rate"}
    learning = [
        (row["updates"], {key.split("/")[1] for key in row if key.startswith("learn/")})
        for row in history
        if "count/updates" in row
    ]
    found = [(updates, *sorted(names)) for updates, names in learning]
    assert found == [
        (5, "vision"), (9, "memory"), (10, "actor"), (11, "actor"), (12, "actor"), (13, "actor")
    ]  # fmt: skip
    assert [value for *_, value in runs.logged(whole, "learn/actor/generation")] == [1, 2, 3, 4]
    assert [row["updates"] for row in history if "evaluate/return" in row] == [11, 13]
    assert {row["step"] for row in history if row["updates"]} == {24}
    for name in ("curve.png", "losses.png", "generations.png", "dream.png", "dream-temperature-0.5.png"):
        with Image.open(whole / name) as picture:
            assert min(picture.size) > 50, name
    counters = {key: value for key, value in runs.digests(whole).items() if isinstance(value, int)}
    assert counters == dict(
        env_steps=24,
        agent_steps=24,
        episodes=4,
        failed_episodes=0,
        actor_updates=0,
        updates=13,
        decisions_left=0,
        fitness_env_steps=0,
        prefill_agent_steps=24,
        last_eval_collected=4,
        last_eval_updates=13,
        last_save_collected=4,
        last_save_updates=13,
    )


def test_what_is_not_in_turn_stays_bit_for_bit_and_saves_amid_a_stage_change_nothing(
    tmp_path: Path, whole: Path, unseen: None
) -> None:
    assert go(tmp_path, "train.save_minutes=1e-9", "train.keep_checkpoints=100", "train.report_every=2") == 0
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


def test_a_stage_learns_with_its_own_batch_and_a_part_with_its_own_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unseen: None
) -> None:
    seen, learn = [], Agent.learn_with_states

    def noted(self: Any, batch: Any, parts: tuple[str, ...], play: Any) -> Any:
        metrics = learn(self, batch, parts, play)
        rates = {part: optimizer.param_groups[0]["lr"] for part, optimizer in self.optimizers.optimizers.items()}
        seen.append((*parts, tuple(batch.reward.shape)))
        assert rates == {"vision": 3e-4, "memory": 2e-3}
        return metrics

    monkeypatch.setattr(Agent, "learn_with_states", noted)
    words = ["agent.optimizers.vision.learning_rate=3.0e-4", "agent.optimizers.memory.learning_rate=2.0e-3"]
    assert go(tmp_path, *words, "train.env_steps=30", "train.collect.per_round=1") == 0
    a_round = [("vision", (2, 3))] * 5 + [("memory", (2, 4))] * 4 + [("actor", (2, 3))] * 4
    assert seen == a_round * 2


def test_more_rounds_follow_what_the_controller_collects(
    tmp_path: Path, acted: list[tuple[str, str]], unseen: None
) -> None:
    words = ("train.env_steps=42", "train.collect.per_round=3", "explorer=brownian")
    assert go(tmp_path, *words) == 0
    assert acted == [("Brownian", "explore")] * 4 + [("Evolution", "explore")] * 3
    found = runs.digests(tmp_path / "r")
    assert [
        found[name] for name in ("env_steps", "episodes", "updates", "last_eval_collected", "last_eval_updates")
    ] == [
        42,
        7,
        26,
        7,
        26,
    ]
    assert [step for step, *_ in runs.logged(tmp_path / "r", "learn/vision/loss_kl")] == [24, 42]
    assert [value for *_, value in runs.logged(tmp_path / "r", "learn/actor/generation")] == [1, 2, 3, 4, 5, 6, 7, 8]
    pieces = in_pieces(lambda stop: go(tmp_path / "again", *words, stop=stop), 13)
    assert pieces > 3
    assert state(tmp_path / "again" / "r") == state(tmp_path / "r")


@pytest.mark.parametrize(
    ("explorer", "name"), [("repeated_random", "RepeatedRandom"), ("brownian", "Brownian"), ("uniform", "Uniform")]
)
def test_the_explorer_collects_the_random_episodes_only(
    tmp_path: Path, acted: list[tuple[str, str]], unseen: None, explorer: str, name: str
) -> None:
    words = ("train.env_steps=25", "train.eval_every=100", *([f"explorer={explorer}"] * (explorer != "uniform")))
    assert runs.go(tmp_path, *words) == 0
    assert acted == [(name, "explore")] * 2 + [("CEM", "explore")] * 3
    first = recorded.read(tmp_path / "r" / "replay")
    if explorer == "repeated_random":  # five steps, and some action that was held
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
    assert found["last_eval_updates"] == (11 if question == 47 else 0)
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
    assert found["fitness_env_steps"] == 4 * (4 + 1) * 4  # generations x (population + mean_solution) x steps
    assert (found["env_steps"], found["episodes"], found["updates"]) == (8, 2, 13)
    assert len(episodes(run)) == 2  # what it plays is not learned from
    assert asked == 8 + 9 + 4 * (1 + 20) + 2 * 4
    assert [value for *_, value in runs.logged(run, "count/fitness_env_steps")] == [0, 0, 20, 40, 60, 80]


def test_candidates_meet_the_same_episodes_and_the_same_noise(tmp_path: Path) -> None:
    training = open_trainer(runs.composed(*LIVED, "run=r", f"runs={tmp_path}"), runs.SignalHandler())
    try:
        before = torch.get_rng_state()
        first, again, other = (training.play(training.agent.actor, 3, number) for number in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), before)  # what is learned does not depend on how long was played
        assert first.tolist() == again.tolist() != other.tolist()
        noisy = training.explorer.actor  # whose every action is drawn
        assert training.play(noisy, 2, 5).tolist() == training.play(noisy, 2, 5).tolist()
        assert training.counters.fitness_env_steps == (3 * 3 + 2 * 2) * 4
    finally:
        training.close()


# From the end: 4 questions of an evaluation, 4 of the mean_solution's episode, 16 of the population's, 1 before it.
@pytest.mark.parametrize("back", [2, 6, 12, 19, 25, 31])
def test_stopped_while_it_plays_it_ends_the_same(
    tmp_path: Path, lived: tuple[Path, int], unseen: None, back: int
) -> None:
    run, asked = lived
    assert live(tmp_path, runs.StopAt(asked - back)) == 143
    found = runs.digests(tmp_path / "r")
    assert (found["updates"], found["fitness_env_steps"]) == (
        (13, 80) if back == 2 else (12, 60) if back < 25 else (11, 40)
    )
    assert live(tmp_path) == 0
    assert state(tmp_path / "r") == state(run)


@pytest.mark.slow
def test_stopped_again_and_again_while_it_plays(tmp_path: Path, lived: tuple[Path, int], unseen: None) -> None:
    for every in (26, 27, 31):  # an evaluation and a generation take 25 questions
        assert in_pieces(lambda stop: live(tmp_path / str(every), stop), every) > 3  # noqa: B023
        assert state(tmp_path / str(every) / "r") == state(lived[0])


# Learning is made slow and announces itself, so that the process is killed in the stage that is wanted.
SLOW = """
import time; from agents.agent import Agent
learn = Agent.learn_with_states
def slow(self, batch, parts, *words):
    print('phase:', *parts, flush=True); time.sleep(0.05); return learn(self, batch, parts, *words)
Agent.learn_with_states = slow
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
    process.communicate(timeout=runs.HANG)
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
        failed_episodes=0,
        actor_updates=0,
        updates=6,
        decisions_left=0,
        fitness_env_steps=0,
        prefill_agent_steps=0,
        last_eval_collected=0,
        last_eval_updates=6,
        last_save_collected=0,
        last_save_updates=6,
    )
    history = run.metrics.history()
    assert [row["updates"] for row in history if "learn/model/loss" in row] == [2, 3, 4, 6]
    assert [row["updates"] for row in history if "dream/image_mse_01" in row] == [3, 6]
    events = EventAccumulator(str(offline), size_guidance={"images": 0}).Reload()  # without env steps, over updates
    assert [event.step for event in events.Scalars("learn/model/loss")] == [2, 3, 4, 6]
    assert [event.step for event in events.Scalars("learn/dream/image_mse_01")] == [3, 6]
    assert [event.step for event in events.Images("evaluate/rollout/dream")] == [3, 6]
    assert not any(tag.startswith("over_updates/") for tag in events.Tags()["scalars"])
    assert not any(key.startswith(("evaluate/", "collect/")) for row in history for key in row)
    assert (offline / "losses.png").exists() and (offline / "dream.png").exists()
    assert not (offline / "curve.png").exists() and not (offline / "generations.png").exists()


def test_validation_episodes_are_the_last_ones_and_not_learned_from(whole: Path, offline: Path) -> None:
    all_of_them = [episode.digest() for episode in recorded.read(whole / "replay")]
    validation = [episode.digest() for episode in recorded.read(offline / "validation", recorded.Options("worldmodel"))]
    assert len(all_of_them) == 4 and len(validation) == 1
    assert episodes(offline) + validation == all_of_them
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
    (tmp_path / "r" / "checkpoints").mkdir()
    assert runs.go(tmp_path, f"data={whole / 'replay'}", recipe=OFFLINE) == 0
    assert state(tmp_path / "r") == state(offline)


def test_a_run_without_an_environment_goes_on_by_its_name_alone(
    tmp_path: Path, whole: Path, offline: Path, unseen: None
) -> None:
    assert runs.go(tmp_path, f"data={whole / 'replay'}", stop=runs.StopAt(4), recipe=OFFLINE) == 143
    stray = tmp_path / "r" / "validation" / ".ipynb_checkpoints"  # as editors leave
    stray.mkdir()
    (stray / "main_data.hdf5").write_text("no recording")
    (stray / "metadata.json").write_text("{}")
    assert runs.go(tmp_path, recipe=[]) == 0
    assert state(tmp_path / "r") == state(offline)


def test_validation_episodes_lie_in_the_runs_folder(
    tmp_path: Path, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(offline, tmp_path / "r")
    path = next((tmp_path / "r" / "validation").iterdir())
    path.rename(tmp_path / "elsewhere.npz")
    path.symlink_to(tmp_path / "elsewhere.npz")
    assert runs.go(tmp_path, recipe=[]) == 1
    assert f"{path.name}: it is a link, and nothing is followed out of a run's folder" in capsys.readouterr().err


def evaluated(*words: str) -> int:
    return evaluate.main(["--device", "cpu", *words])


def test_without_an_environment_nothing_can_be_evaluated(offline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated(str(offline)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {offline} was trained on recorded episodes, without an environment")
    assert "env=" in lines[0]


def test_with_an_environment_recorded_episodes_are_learned_from_and_it_evaluates(
    tmp_path: Path, whole: Path, unseen: None
) -> None:
    words = [f"data={whole / 'replay'}", *DOT, "train.eval_episodes=2"]
    assert runs.go(tmp_path, *words, recipe=OFFLINE) == 0
    assert episodes(tmp_path / "r") == [episode.digest() for episode in recorded.read(whole / "replay")]
    assert not (tmp_path / "r" / "validation").exists()
    assert [row["updates"] for row in Run.read(tmp_path / "r").metrics.history() if "evaluate/return" in row] == [3, 6]
    assert evaluated(str(tmp_path / "r"), "--episodes", "1") == 0
    assert len(json.loads((tmp_path / "r" / "evaluation.json").read_text())["returns"]) == 1


def test_with_an_environment_it_may_collect_too(
    tmp_path: Path, whole: Path, acted: list[tuple[str, str]], unseen: None
) -> None:
    words = [f"data={whole / 'replay'}", *DOT, "train.env_steps=12"]
    assert runs.go(tmp_path, *words, recipe=OFFLINE) == 0
    found = runs.digests(tmp_path / "r")
    assert (found["env_steps"], found["episodes"], found["updates"]) == (12, 2, 18)
    assert acted == [("CEM", "explore")] * 2 and len(episodes(tmp_path / "r")) == 6
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
    assert [row["updates"] for row in Run.read(dreamt).metrics.history() if "evaluate/return" in row] == [2, 3]


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
    config = runs.composed(*words, "env.time_limit=9", "model.reward_weight=2.0")
    origin = Run.read(whole).config
    assert config.plain["env"] == origin["env"] | {"time_limit": 9}
    assert config.plain["model"] == origin["model"] | {"reward_weight": 2.0}
    assert (config.env.time_limit, config.model.reward_weight) == (9, 2.0)
    plain = runs.composed(*words, *DOT).plain
    assert plain["env"]["time_limit"] == 6 and plain["model"] == origin["model"]


def test_a_model_without_an_environment_may_be_taken(tmp_path: Path, offline: Path, unseen: None) -> None:
    words = [f"model_from={offline}", f"data={offline / 'replay'}", "train.learn.actor.eval_every=1"]
    assert runs.go(tmp_path, *words, recipe=DREAMT) == 0
    assert Run.read(tmp_path / "r").config["env"] is None
    assert len(episodes(tmp_path / "r")) == 2


# ---- mistakes ----


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str]:
    """The exit code of train.py, and what it says; nothing that counts as a run is left."""
    capsys.readouterr()
    code = train.main([*words, f"runs={folder / 'runs'}", "run=r"])
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())
    err = capsys.readouterr().err
    assert err and all(line.startswith("error: ") for line in err.splitlines())
    return code, err


# Recipe, further words, exit code, and what the message must say. SOURCE is a World Models run.
MISTAKES = {
    "no such part": (
        STAGED, ["train.learn.visoin.updates=3"], 2,
        ["train.learn.visoin: this agent has no part 'visoin' that learns", "did you mean 'vision'?"],
    ),
    "a part of another model": (
        runs.TINY, ["train.learn.vision.updates=3"], 2,
        ["train.learn.vision: this agent has no part 'vision' that learns; it has model, actor"],
    ),
    "an actor with nothing to learn": (
        runs.TINY, ["train.learn.actor.updates=3"], 2,
        ["train.learn.actor: cem has nothing to learn: choose actor=evolution, or set train.learn.actor.updates=0"],
    ),
    "a learning rate for a stage": (
        STAGED, ["train.learn.vision.learning_rate=0.1"], 2,
        ["train.learn.vision.learning_rate: ", "agent.optimizers.vision.learning_rate"],
    ),
    "an optimizer for a part that is not there": (
        runs.TINY, ["agent.optimizers.visoin.learning_rate=0.1"], 2, ["agent.optimizers.visoin"],
    ),
    "a part that is not there, named by parts": (
        STAGED, ["train.learn.joint={updates: 3, parts: [vision, memroy]}"], 2,
        ["train.learn.joint: this agent has no part 'memroy' that learns", "did you mean 'memory'?"],
    ),
    "a stage without updates": (STAGED, ["train.learn.model.batch_size=3"], 2, ["train.learn.model.updates: missing"]),
    "no data": (OFFLINE, ["data=EMPTY"], 1, ["data", "EMPTY holds no recorded episodes"]),
    "no data folder": (OFFLINE, ["data=NOWHERE"], 1, ["data", "there is no folder NOWHERE"]),
    "data, and random episodes": (
        OFFLINE, ["data=SOURCE/replay", "train.prefill=3"], 2, ["train", "prefill", "env=", "0"]
    ),
    "data, and steps": (OFFLINE, ["data=SOURCE/replay", "train.env_steps=9"], 2, ["train", "env_steps", "env=", "0"]),
    "one recorded episode": (OFFLINE, ["data=ONE"], 1, ["at least two"]),
    "nothing to learn from": (OFFLINE, DOT, 2, ["train.prefill", "data=", "model_from="]),
    "a world without an environment": (
        IN_NO_ENV, ["model_from=OFFLINE", "actor.evaluate_in=env"], 2, ["actor.evaluate_in", "actor.evaluate_in=model"]
    ),
    "nor for a stage of another name": (
        EVOLVED_OFFLINE,
        ["data=SOURCE/replay", "actor.evaluate_in=env", "+train.learn.control={parts: [actor], updates: 1}"],
        2, ["actor.evaluate_in", "actor.evaluate_in=model"],
    ),
    "no such run": (DREAMT, ["model_from=SOURCES"], 1, ["SOURCES is not a run", "runs beside it", "r"]),
    "a number": (DREAMT, ["model_from=5"], 1, ["5 is not a run"]),
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
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, words, code, wanted = MISTAKES[name]
    for folder in ("empty", "one", "untrained"):
        (tmp_path / folder).mkdir()
    write_chunk(tmp_path / "one" / f"{0:064}.npz", tiny.episode(5, tiny.DISCRETE))
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

    found, err = refused(capsys, tmp_path, *recipe, *map(placed, words))
    assert found == code, err
    assert all(placed(word) in err for word in wanted), err


# ---- recipes are ordinary Hydra files ----


def composed(*words: str) -> dict[str, Any]:
    return runs.composed(*words, "runs=nowhere").plain


def written(name: str) -> dict[str, Any]:
    """A recipe as it stands in its file."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "exp" / f"{name}.yaml").read_text("utf8"))
    return found


def laid_over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: laid_over(base[key], value) for key, value in values.items() if isinstance(value, dict) and key in base
    }
    return base | values | both


FAMILIES = {  # a recipe, and those that it is laid over
    "worldmodels": ["worldmodels"],
    "worldmodels_dot": ["worldmodels", "worldmodels_dot"],
    "worldmodels_pendulum": ["worldmodels", "worldmodels_pendulum"],
    "worldmodels_small": ["worldmodels", "worldmodels_small"],
    "worldmodels_take_cover": ["worldmodels", "worldmodels_take_cover"],
    "worldmodels_small_take_cover": ["worldmodels", "worldmodels_take_cover", "worldmodels_small_take_cover"],
}


@pytest.mark.parametrize("exp", FAMILIES)
def test_what_is_read_in_a_recipe_is_what_runs(exp: str) -> None:
    wanted: dict[str, Any] = {}
    for name in FAMILIES[exp]:
        wanted = laid_over(wanted, {key: value for key, value in written(name).items() if key != "defaults"})
    found = composed(f"exp={exp}")
    assert laid_over(found, wanted) == found
    stages = {name: stage for name, stage in found["train"]["learn"].items() if isinstance(stage, dict)}
    assert list(stages) == ["vision", "memory", "actor"]
    assert stages == wanted["train"]["learn"]


def test_worlds_of_world_models() -> None:
    car, doom, dot = (composed(f"exp={name}") for name in ("worldmodels", "worldmodels_take_cover", "worldmodels_dot"))
    assert (car["explorer"], car["actor"]["evaluate_in"]) == ({"name": "brownian", "scale": 0.1414}, "env")
    assert (doom["model"]["latent"], doom["actor"]["temperature"], doom["actor"]["evaluate_in"]) == (64, 1.15, "model")
    assert doom["explorer"] == dot["explorer"] == {"name": "repeated_random", "shortest": 1, "longest": 10}
    assert (car["model"]["latent"], dot["env"]["size"], dot["env"]["name"]) == (32, [16, 16], "dot")
    small = composed("exp=worldmodels_small")
    assert (small["explorer"]["name"], small["actor"]["evaluate_in"], small["model"]["latent"]) == (
        "brownian", "model", 32
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (["exp=worldmodels_small", "env.time_limit=77"], "env.time_limit", 77),
        (["exp=worldmodels_dot", "train.learn.vision.updates=3"], "train.learn.vision.updates", 3),
        (["exp=worldmodels", "train.prefill=3"], "train.prefill", 3),
        (["exp=worldmodels", "actor.population=8"], "actor.population", 8),
        (["exp=worldmodels_dot", "env.size=[24,24]"], "env.size", [24, 24]),
        (["exp=worldmodels_dot", "model.latent=3"], "model.latent", 3),
        (["exp=worldmodels", "explorer=uniform"], "explorer", {"name": "uniform"}),
        (["exp=worldmodels", "explorer=repeated_random", "explorer.longest=4"], "explorer",
         {"name": "repeated_random", "shortest": 1, "longest": 4}),
        (["exp=worldmodels", "explorer.scale=0.5"], "explorer", {"name": "brownian", "scale": 0.5}),
        (["exp=smoke", "explorer=brownian", "explorer.scale=0.5"], "explorer", {"name": "brownian", "scale": 0.5}),
        (["exp=worldmodels", "train.learn={vision: {updates: 3}}"], "train.learn.vision.updates", 3),
        (["exp=smoke", "model.deter=9"], "model.deter", 9),
        (["exp=smoke", "model=rssm_dot"], "model.deter", 64),
        (["exp=smoke", "env.size=[24,24]"], "env.size", [24, 24]),
        (["exp=smoke", "actor=cem"], "actor.candidates", 1000),
        (["exp=smoke", "actor=shooting_tiny"], "actor", {
            "name": "shooting", "horizon": 5, "candidates": 40, "exploration_noise": 0.3
        }),
    ],
)  # fmt: skip
def test_the_command_line_wins_over_a_recipe(words: list[str], path: str, value: Any) -> None:
    found: Any = composed(*words)
    for key in path.split("."):
        found = found[key]
    assert found == value


def test_an_explorer_may_be_named_again_on_resuming(tmp_path: Path, unseen: None) -> None:
    assert runs.go(tmp_path, "explorer=repeated_random", "train.env_steps=15") == 0
    assert runs.go(tmp_path, "explorer=repeated_random", "train.env_steps=20") == 0
    assert runs.go(tmp_path, "explorer=repeated_random", "train.env_steps=25", recipe=[]) == 0
    with pytest.raises(ConfigError, match=r"explorer\.name: the run has 'repeated_random', you ask for 'uniform'"):
        runs.composed("run=r", f"runs={tmp_path}", "explorer=uniform")


def test_what_the_model_learned_beside_an_interrupted_generation_is_dropped_with_it(tmp_path: Path) -> None:
    words = [word for word in runs.TINY if not word.startswith(("actor.", "train.learn"))]
    words += ["actor=evolution_tiny", "actor.evaluate_in=env", "actor.population=4", "actor.rollouts=1",
              "train.learn.model.updates=0", "+train.learn.joint={parts: [model, actor], updates: 2}",
              "train.env_steps=15"]  # fmt: skip
    assert runs.go(tmp_path / "whole", recipe=words) == 0
    assert runs.go(tmp_path / "stopped", recipe=words, stop=runs.StopAt(20)) == 143
    newest = checkpoint.names(tmp_path / "stopped" / "r" / "checkpoints")[0]
    counted = checkpoint.verify(tmp_path / "stopped" / "r" / "checkpoints" / newest).state["counters"]
    assert counted["updates"] < 2  # it was stopped amid a generation
    assert runs.go(tmp_path / "stopped", recipe=words) == 0
    assert runs.digests(tmp_path / "stopped" / "r") == runs.digests(tmp_path / "whole" / "r")
