"""evaluate.py and agents.load: a trained run acts again, the same for the same seed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import tiny
import torch
from PIL import Image

import agents
import envs
import evaluate
import train
from training.reporting import results
from training.run_folder import checkpoint
from training.run_folder.run import RunError
from training.run_folder.trained import TrainedRun

FIELDS = {
    "return", "ci95", "returns", "episodes", "seed", "actor", "checkpoint", "milliseconds_per_action",
    "planned_return", "obtained_return", "value", "value_obtained", "env_steps", "device", "precision", "commit",
}  # fmt: skip

ACTORS = ", ".join([*tiny.names("actor"), *tiny.names("explorer")])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    assert runs.go(folder, "env.time_limit=9", "train.env_steps=45", "train.eval_every=100") == 0
    return folder / "r"


def evaluated(run: Path, *words: str) -> dict[str, Any]:
    assert evaluate.main([str(run), "--device", "cpu", *words]) == 0
    result: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return result


def refused(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> tuple[int, str]:
    """The exit code, and what is said."""
    capsys.readouterr()
    try:
        code = evaluate.main([str(run), "--device", "cpu", *words])
    except SystemExit as ended:  # of argparse
        code = int(ended.code or 0)
    return code, capsys.readouterr().err


def test_what_is_written(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(trained, "--episodes", "3")
    assert set(result) == FIELDS
    assert (result["episodes"], result["seed"], result["actor"], result["device"]) == (3, 0, "cem", "cpu")
    assert result["checkpoint"] == checkpoint.names(trained / "checkpoints")[0]
    assert len(result["returns"]) == 3 and result["return"] == pytest.approx(np.mean(result["returns"]))
    assert result["ci95"] == pytest.approx(1.96 * np.std(result["returns"], ddof=1) / 3**0.5)
    assert f"return {result['return']:.1f} +- {result['ci95']:.1f} (95 %) over 3 episodes" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_returns(trained: Path) -> None:
    first, again, other = (evaluated(trained, "--episodes", "2", "--seed", seed)["returns"] for seed in "770")
    assert first == again != other


def test_one_episode_has_no_interval(trained: Path) -> None:
    assert evaluated(trained, "--episodes", "1")["ci95"] is None


def test_evaluating_changes_nothing_that_was_trained(trained: Path) -> None:
    before = {
        path: path.read_bytes() for path in trained.rglob("*") if path.is_file() and path.name != "evaluation.json"
    }
    evaluated(trained, "--episodes", "1")
    after = {
        path: path.read_bytes() for path in trained.rglob("*") if path.is_file() and path.name != "evaluation.json"
    }
    assert after == before


@pytest.mark.parametrize("actor", ["shooting_tiny", "uniform"])
def test_another_actor_on_the_same_model(trained: Path, actor: str) -> None:
    result = evaluated(trained, "--episodes", "2", "--actor", actor)
    assert (result["actor"], len(result["returns"])) == (actor, 2)
    assert all(np.isfinite(result["returns"]))


def test_another_actor_has_the_sizes_of_its_file(trained: Path) -> None:
    section = TrainedRun(trained, "cpu", 0).section
    assert (section("shooting_tiny").candidates, section("shooting_tiny").horizon) == (40, 5)
    assert (section("shooting").candidates, section("shooting").exploration_noise) == (10000, 0.3)
    assert section("cem").candidates == section(None).candidates == 6  # the run's own, from its command line
    assert (section("cem_tiny").candidates, section("uniform").name) == (20, "uniform")


def test_a_table_of_actors(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["cem", "mppi_tiny", "shooting_tiny", "evolution_tiny", "uniform"]
    words = ["--compare", "--episodes", "2", "--generations", "3", "--actor", ",".join(asked)]
    assert evaluate.main([str(trained), "--device", "cpu", *words]) == 0
    said = capsys.readouterr().out
    found = json.loads((trained / "comparison.json").read_text())
    assert [result["actor"] for result in found] == asked
    for result in found:
        assert set(result) == FIELDS | {"seconds_of_learning"} and result["env_steps"] == 45
        assert len(result["returns"]) == 2 and np.isfinite(result["returns"]).all()
        assert (result["seconds_of_learning"] > 0) == (result["actor"] == "evolution_tiny")
        assert result["actor"] in said and f"{result['return']:.1f}" in said
    again = evaluated(trained, "--episodes", "2", "--actor", "mppi_tiny")
    assert again["returns"] == found[1]["returns"]


def test_a_table_says_what_was_changed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--compare", "--episodes", "1", "--actor", "cem,shooting_tiny", "actor.horizon=3"]
    assert evaluate.main([str(trained), "--device", "cpu", *words]) == 0
    assert "actor.horizon=3" in capsys.readouterr().out
    found = json.loads((trained / "comparison.json").read_text())
    assert [result["overrides"] for result in found] == [["actor.horizon=3"]] * 2


def test_it_learns_in_the_dream_and_changes_the_controller_alone(trained: Path) -> None:
    asked = TrainedRun(trained, "cpu", 0)
    before = {name: value.clone() for name, value in asked.agent.model.state_dict().items()}
    agent, seconds = asked.prepare_agent("evolution_tiny", 3)
    assert seconds > 0 and int(agent.actor.state_dict()["generation"]) == 3
    assert agent.actor.state_dict()["mean"].abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in agent.model.state_dict().items())
    twin, _ = TrainedRun(trained, "cpu", 0).prepare_agent("evolution_tiny", 3)
    assert torch.equal(agent.actor.state_dict()["mean"], twin.actor.state_dict()["mean"])


def test_returns_over_the_dreams_temperature(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    words = "--temperatures 0.5,1.5 --actor evolution_tiny --episodes 2 --generations 2".split()  # noqa: SIM905
    monkeypatch.setattr(results, "DREAMS", 8)
    assert evaluate.main([str(trained), "--device", "cpu", *words]) == 0
    result = json.loads((trained / "temperatures.json").read_text())
    assert [row["temperature"] for row in result["rows"]] == [0.5, 1.5]
    assert (result["dream_horizon"], result["generations"], result["episodes"]) == (10, 2, 2)
    assert all(np.isfinite(list(row.values())).all() for row in result["rows"])
    assert set(result["rows"][0]) == {
        "temperature", "dream", "dream_std", "dream_ci95", "env", "env_std", "env_ci95"
    }  # fmt: skip
    with Image.open(trained / "temperatures.png") as picture:
        assert picture.size == (720, 480)


# ---- overrides ----


def test_a_planner_can_be_changed_on_the_trained_model(
    monkeypatch: pytest.MonkeyPatch, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    prepare = TrainedRun.prepare_agent

    def noted(self: TrainedRun, *words: Any, **more: Any) -> Any:
        agent, seconds = prepare(self, *words, **more)
        seen.append(agent.actor.config)
        return agent, seconds

    monkeypatch.setattr(TrainedRun, "prepare_agent", noted)
    usual = evaluated(trained, "--episodes", "2")
    changed = evaluated(trained, "actor.horizon=4", "actor.candidates=50", "--episodes", "2")
    assert (seen[0].horizon, seen[0].candidates, seen[0].elites) == (3, 6, 2)
    assert (seen[1].horizon, seen[1].candidates, seen[1].elites) == (4, 50, 2)  # the rest is as in the run
    assert changed["returns"] != usual["returns"] and changed["overrides"] == ["actor.horizon=4", "actor.candidates=50"]
    assert "overrides" not in usual
    other = evaluated(trained, "--episodes", "2", "--actor", "shooting_tiny", "actor.horizon=2")
    assert (seen[2].name, seen[2].horizon, seen[2].candidates, other["actor"]) == ("shooting", 2, 40, "shooting_tiny")
    words = ["--compare", "--actor", "cem,shooting_tiny", "actor.horizon=2", "--episodes", "1"]
    assert evaluate.main([str(trained), "--device", "cpu", *words]) == 0
    assert [(config.name, config.horizon, config.candidates) for config in seen[3:]] == [
        ("cem", 2, 6), ("shooting", 2, 40)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["actor.horizn=20"], "actor.horizn: there is no such key; did you mean 'horizon'?"),
        (["actor.horizn=20", "actor.candidate=3"], "actor.candidate: there is no such key; did you mean 'candidates'?"),
        (["actor.horizon=0"], "actor.horizon: "),
        (["actor.elites=7"], "actor: elites is 7 but there are only 6 candidates"),
        (["actor.noise=0.1"], "actor.noise: is actor.exploration_noise now"),
        (["actor.population=4", "--actor", "shooting_tiny"], "actor.population: there is no such key"),
        (["model.deter=20"], "model.deter=20: here only actor and objective can be changed: actor.key=value"),
        (["train.env_steps=9"], "train.env_steps=9: here only actor and objective can be changed"),
        (["actor.horizon"], "actor.horizon: here only actor and objective can be changed"),
        (["actor.horizon={"], "actor.horizon: input should be a valid integer"),
        (["actor.horizon=3,4"], "actor.horizon=3,4: "),
    ],
)
def test_a_mistake_in_an_override_is_told(
    trained: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, said = refused(capsys, trained, *words)
    assert code == 2 and f"error: {message}" in said, said
    assert all(line.startswith("error: ") for line in said.splitlines())


def test_films(trained: Path) -> None:
    evaluated(trained, "--episodes", "4", "--video")
    names = sorted(path.name for path in (trained / "videos").iterdir())
    assert names == ["dream.png", "episode-0.mp4", "episode-1.mp4", "episode-2.mp4"]
    with Image.open(trained / "videos" / "dream.png") as video:
        assert video.n_frames == 10  # type: ignore[attr-defined]


def test_mistakes_are_named(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, trained, "--actor", "shoting")
    assert (code, message) == (
        2, f"error: --actor: 'shoting' is not one of {ACTORS}; did you mean 'shooting'?\n"
    )  # fmt: skip
    for words, wanted in (
        (("--actor", "cem,mppi"), "several actors are compared: add --compare"),
        (("--temperatures", "1,x"), "error: --temperatures: numbers with commas between them are wanted"),
        (
            ("--temperatures", "1", "--actor", "cem"),
            "error: --temperatures: cem does not learn in dreams; evolution does",
        ),
        (("--compare", "--actor", "cem,shoting"), "error: --actor: 'shoting' is not one of"),
    ):
        code, message = refused(capsys, trained, *words)
        assert code == 2 and wanted in message
    code, message = refused(capsys, trained.parent / "q")
    assert code == 1 and message.startswith(f"error: {trained.parent / 'q'} is not a run")
    assert "runs beside it: r" in message
    for words in (("--episodes", "0"), ("--seed", "-1"), ("--device", "tpu")):
        assert refused(capsys, trained, *words)[0] == 2
    damaged = tmp_path / "r"
    shutil.copytree(trained, damaged)
    shutil.rmtree(damaged / "checkpoints")
    code, message = refused(capsys, damaged)
    assert code == 1 and "has no complete checkpoint" in message
    for name, content in (
        ("run.json", "{"),
        ("run.json", "[]"),
        ("config.yaml", "- a"),
        ("config.yaml", "!!python/object:os.system"),
    ):
        shutil.rmtree(damaged)
        shutil.copytree(trained, damaged)
        (damaged / name).write_text(content)
        code, message = refused(capsys, damaged)
        assert code == 1 and f"{damaged} is damaged" in message


def test_an_edited_config_reaches_no_other_code(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "r"
    for old, new, wanted in (
        ("name: cem", "name: os", "actor.name: 'os' is not one of"),
        ("name: rssm", "name: ../../evil", "model.name: '../../evil' is not one of"),
        ("name: dot", "name: subprocess", "env.name: 'subprocess' is not one of"),
        ("horizon: 3", "_target_: os.system\n  horizon: 3", "actor._target_: there is no such key"),
        ("horizon: 3", "horizon: ${oc.env:HOME}", "actor.horizon: "),
    ):
        shutil.copytree(trained, run)
        text = (run / "config.yaml").read_text()
        assert old in text
        (run / "config.yaml").write_text(text.replace(old, new))
        code, message = refused(capsys, run)
        assert code == 2 and message.startswith(f"error: {wanted}"), message
        assert "HOME" not in new or "/root" not in message
        shutil.rmtree(run)


def test_a_damaged_checkpoint_is_reported_and_the_one_before_acts(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "r")
    newest, older = checkpoint.names(trained / "checkpoints")
    (tmp_path / "r" / "checkpoints" / newest / "model.safetensors").write_bytes(b"")
    assert evaluated(tmp_path / "r", "--episodes", "1")["checkpoint"] == older
    assert f"falling back to {older}" in capsys.readouterr().out


def test_a_loaded_agent_acts_in_six_lines(trained: Path) -> None:
    agent = agents.load(trained, device="cpu")
    env = envs.make(agent.env)
    image, _ = env.reset(seed=0)
    memory, done, steps = None, False, 0
    while not done:
        action, memory = agent.act(memory, image)
        image, _reward, terminated, truncated, _ = env.step(action)
        done, steps = terminated or truncated, steps + 1
    env.close()
    assert steps == 9
    assert action.shape == (2,) and action.dtype == np.float32 and np.abs(action).max() <= 1


def test_a_loaded_agent_is_the_trained_one(trained: Path) -> None:
    agent = agents.load(trained, device="cpu")
    saved = checkpoint.verify(trained / "checkpoints" / checkpoint.names(trained / "checkpoints")[0]).tensors("model")
    assert agent.model.state_dict().keys() == saved.keys()
    assert all((weights == saved[name]).all() for name, weights in agent.model.state_dict().items())


def test_a_wrong_image_is_refused_saying_what_fits(trained: Path) -> None:
    agent = agents.load(trained, device="cpu")
    with pytest.raises(ValueError, match=r"sees uint8 images \(1, 16, 16\).*not float64 \(3, 64, 64\)"):
        agent.act(None, np.zeros((3, 64, 64)))


def test_a_checkpoint_is_no_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = TrainedRun(trained, "cpu", 0).checkpoint.folder
    assert evaluate.main([str(folder)]) == 1
    assert capsys.readouterr().err == f"error: {folder} is a checkpoint: name its run, {trained}\n"
    assert train.main([f"run={folder.name}", f"runs={folder.parent}"]) == 1
    assert "is a checkpoint" in capsys.readouterr().err and not (folder / "lock").exists()


def test_a_run_that_cannot_be_written_to_is_refused_before_anything_is_played(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda folder, mode: False)
    monkeypatch.setattr(TrainedRun, "prepare_agent", None)
    for more in ([], ["--compare", "--actor", "cem,uniform"], ["--temperatures", "1"]):
        assert evaluate.main([str(trained), "--episodes", "1", *more]) == 1
        said = capsys.readouterr().err
        assert f"{trained} cannot be written to, and results are kept there: evaluate a copy of it" in said


def test_no_run_no_agent(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        agents.load(tmp_path)


# ---- a trained Dreamer ----


@pytest.fixture(scope="module")
def dreamer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = "exp=smoke env.time_limit=5 model=dreamer_v3_tiny actor=dreamer_v3_tiny train.env_steps=8 agent.threads=1"
    learns = "train.learn={joint: {parts: [model, actor], updates: 1}}"
    folder = tmp_path_factory.mktemp("dreamer")
    assert runs.go(folder, learns, "agent.device=cpu", recipe=words.split()) == 0
    return folder / "r"


def test_its_own_actor_beside_planners(trained: Path, dreamer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--device", "cpu", "--episodes", "2", "--generations", "2", "--actor"]
    assert evaluate.main([str(dreamer), "--compare", *words, "actor_critic, cem_tiny,mppi_tiny,evolution_tiny,"]) == 0
    found = json.loads((dreamer / "comparison.json").read_text())
    assert [result["actor"] for result in found] == ["dreamer_v3", "cem_tiny", "mppi_tiny", "evolution_tiny"]
    own = evaluated(dreamer, "--episodes", "2")
    assert found[0]["returns"] == own["returns"] and own["actor"] == "dreamer_v3"
    status, said = refused(capsys, dreamer, "actor.units=17")
    assert status == 2 and "error: actor: the run's trained actor does not fit it: actor: " in said and "(17, " in said
    assert refused(capsys, trained, "--actor", "actor_critic") == (
        2, "error: --actor actor_critic: this run's own actor is cem, which has no critic\n"
    )  # fmt: skip


def test_a_planner_may_ask_its_critic(dreamer: Path, capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    asked = TrainedRun(dreamer, "cpu", 0)
    agent, _ = asked.prepare_agent("cem_tiny", 0, ["objective.value_at_horizon=true", "actor.horizon=3"])
    state, critic = agent.model.initial(2), asked.agent.actor
    assert torch.equal(agent.actor.objective.terminal_value(agent.model, state), critic.expected_return(state))
    plain, _ = asked.prepare_agent("cem_tiny", 0, ["actor.horizon=3"])
    assert not plain.actor.objective.terminal_value(agent.model, state).any()
    for folder, actor, said in (
        (trained, "cem", "there is no trained critic"), (dreamer, "dreamer_v3_tiny", "does not plan")
    ):  # fmt: skip
        command = [str(folder), "--device", "cpu", "--actor", actor, "objective.value_at_horizon=true"]
        assert evaluate.main(command) == 2
        assert said in capsys.readouterr().err
