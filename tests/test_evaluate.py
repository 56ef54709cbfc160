"""evaluate.py and agents.load: a trained run acts again, the same for the same seed."""

import argparse
import json
import shutil
import sys
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
from worldmodel import checkpoint
from worldmodel.run import RunError

FIELDS = {
    "return", "interval_95", "returns", "episodes", "seed", "actor", "checkpoint", "milliseconds_per_action",
    "planned_return", "obtained_return", "env_steps", "device", "precision", "commit",
}  # fmt: skip

ACTORS = ", ".join(tiny.names("actor"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    assert runs.go(folder, "env.time_limit=9", "train.steps=45", "train.eval_every=100") == 0
    return folder / "r"


def evaluated(monkeypatch: pytest.MonkeyPatch, run: Path, *words: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run), "--device", "cpu", *words])
    evaluate.main()
    result: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return result


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        evaluated(monkeypatch, *words)  # type: ignore[arg-type]
    return int(end.value.code or 0), capsys.readouterr().err


def test_what_is_written(monkeypatch: pytest.MonkeyPatch, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(monkeypatch, trained, "--episodes", "3")
    assert set(result) == FIELDS
    assert (result["episodes"], result["seed"], result["actor"], result["device"]) == (3, 0, "cem", "cpu")
    assert result["checkpoint"] == checkpoint.names(trained / "checkpoints")[0]
    assert len(result["returns"]) == 3 and result["return"] == pytest.approx(np.mean(result["returns"]))
    assert result["interval_95"] == pytest.approx(1.96 * np.std(result["returns"], ddof=1) / 3**0.5)
    assert (
        f"return {result['return']:.1f} +- {result['interval_95']:.1f} (95 %) over 3 episodes"
        in capsys.readouterr().out
    )


def test_the_same_seed_gives_the_same_returns(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    first, again, other = (
        evaluated(monkeypatch, trained, "--episodes", "2", "--seed", seed)["returns"] for seed in "770"
    )
    assert first == again != other


def test_one_episode_has_no_interval(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    assert evaluated(monkeypatch, trained, "--episodes", "1")["interval_95"] is None


def test_evaluating_changes_nothing_that_was_trained(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    before = {
        path: path.read_bytes() for path in trained.rglob("*") if path.is_file() and path.name != "evaluation.json"
    }
    evaluated(monkeypatch, trained, "--episodes", "1")
    after = {
        path: path.read_bytes() for path in trained.rglob("*") if path.is_file() and path.name != "evaluation.json"
    }
    assert after == before


@pytest.mark.parametrize("actor", ["shooting", "uniform"])
def test_another_actor_on_the_same_model(monkeypatch: pytest.MonkeyPatch, trained: Path, actor: str) -> None:
    result = evaluated(monkeypatch, trained, "--episodes", "2", "--actor", actor)
    assert (result["actor"], len(result["returns"])) == (actor, 2)
    assert all(np.isfinite(result["returns"]))


def test_another_actor_has_the_sizes_that_the_recipe_names(trained: Path) -> None:
    options = argparse.Namespace(run=trained, device="cpu", seed=0, episodes=1, generations=1)
    section = evaluate.Evaluation(options).section
    assert (section("shooting").candidates, section("shooting").noise) == (40, 0.3)  # smoke.yaml's, and shooting.yaml's
    assert section("cem").candidates == 6  # the run's own, from its command line


def test_a_table_of_actors(monkeypatch: pytest.MonkeyPatch, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--compare --episodes 2 --generations 3 --actor cem,mppi,shooting,evolution,uniform".split()  # noqa: SIM905
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(trained), "--device", "cpu", *words])
    evaluate.main()
    said = capsys.readouterr().out
    results = json.loads((trained / "comparison.json").read_text())
    assert [result["actor"] for result in results] == ["cem", "mppi", "shooting", "evolution", "uniform"]
    for result in results:
        assert set(result) == FIELDS | {"seconds_of_practice"} and result["env_steps"] == 45
        assert len(result["returns"]) == 2 and np.isfinite(result["returns"]).all()
        assert (result["seconds_of_practice"] > 0) == (result["actor"] == "evolution")
        assert result["actor"] in said and f"{result['return']:.1f}" in said
    again = evaluated(monkeypatch, trained, "--episodes", "2", "--actor", "mppi")
    assert again["returns"] == results[1]["returns"]


def test_practice_is_learning_in_the_dream_and_changes_the_controller_alone(trained: Path) -> None:
    options = argparse.Namespace(run=trained, device="cpu", seed=0, episodes=1, generations=3)
    asked = evaluate.Evaluation(options)
    before = {name: value.clone() for name, value in asked.agent.model.state_dict().items()}
    agent, seconds = asked.acting("evolution")
    assert seconds > 0 and int(agent.actor.state_dict()["generation"]) == 3
    assert agent.actor.state_dict()["mean"].abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in agent.model.state_dict().items())
    twin, _ = evaluate.Evaluation(options).acting("evolution")
    assert torch.equal(agent.actor.state_dict()["mean"], twin.actor.state_dict()["mean"])


def test_scores_over_the_dreams_temperature(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    words = "--temperatures 0.5,1.5 --episodes 2 --generations 2".split()  # noqa: SIM905
    monkeypatch.setattr(evaluate, "DREAMS", 8)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(trained), "--device", "cpu", *words])
    evaluate.main()
    result = json.loads((trained / "temperatures.json").read_text())
    assert [row["temperature"] for row in result["rows"]] == [0.5, 1.5]
    assert (result["dream_horizon"], result["generations"], result["episodes"]) == (10, 2, 2)
    assert all(np.isfinite(list(row.values())).all() for row in result["rows"])
    with Image.open(trained / "temperatures.png") as picture:
        assert picture.size == (720, 480)


def test_films(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    evaluated(monkeypatch, trained, "--episodes", "4", "--video")
    names = sorted(path.name for path in (trained / "videos").iterdir())
    assert names == ["dream.gif", "episode-0.gif", "episode-1.gif", "episode-2.gif"]
    for name in names:
        with Image.open(trained / "videos" / name) as video:
            assert video.n_frames == 10  # type: ignore[attr-defined]


def test_mistakes_are_named(
    monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = refused(monkeypatch, capsys, trained, "--actor", "shoting")
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
        code, message = refused(monkeypatch, capsys, trained, *words)
        assert code == 2 and wanted in message
    code, message = refused(monkeypatch, capsys, trained.parent / "q")
    assert code == 1 and message.startswith(f"error: {trained.parent / 'q'} is not a run")
    assert "runs beside it: r" in message
    for words in (("--episodes", "0"), ("--seed", "-1"), ("--device", "tpu")):
        assert refused(monkeypatch, capsys, trained, *words)[0] == 2
    damaged = tmp_path / "r"
    shutil.copytree(trained, damaged)
    shutil.rmtree(damaged / "checkpoints")
    code, message = refused(monkeypatch, capsys, damaged)
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
        code, message = refused(monkeypatch, capsys, damaged)
        assert code == 1 and f"{damaged} is damaged" in message


def test_an_edited_config_reaches_no_other_code(
    monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
        code, message = refused(monkeypatch, capsys, run)
        assert code == 2 and message.startswith(f"error: {wanted}"), message
        assert "HOME" not in new or "/root" not in message
        shutil.rmtree(run)


def test_a_damaged_checkpoint_is_reported_and_the_one_before_acts(
    monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "r")
    newest, older = checkpoint.names(trained / "checkpoints")
    (tmp_path / "r" / "checkpoints" / newest / "model.safetensors").write_bytes(b"")
    assert evaluated(monkeypatch, tmp_path / "r", "--episodes", "1")["checkpoint"] == older
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


def test_no_run_no_agent(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        agents.load(tmp_path)
