"""A trained agent as one file: it acts as its run does, and a file that is damaged or wrong loads nothing."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch

import agents
import evaluate
import export
from training.build import load_agent
from training.run_folder import agent_file
from training.run_folder.run import RunError
from worldmodel.base import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    assert runs.go(folder, "env.time_limit=9", "train.env_steps=45", "train.eval_every=100") == 0
    assert evaluate.main([str(folder / "r"), "--device", "cpu", "--episodes", "3"]) == 0
    return folder / "r"


@pytest.fixture(scope="module")
def content(run: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("file") / "mine.agent"
    assert export.main([str(run), str(file)]) == 0
    return file.read_bytes()


@pytest.fixture
def file(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "mine.agent"
    path.write_bytes(content)
    return path


def test_it_acts_as_the_run_does_and_results_are_written_beside_it(
    run: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = agents.load(run, "cpu"), agents.load(str(file), "cpu")
    weights = other.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.model.state_dict().items())
    assert other.env == one.env and other.spec == one.spec
    assert evaluate.main([str(file), "--device", "cpu", "--episodes", "3", "--video"]) == 0
    wanted = json.loads((run / "evaluation.json").read_text())
    found = json.loads((file.parent / "mine-evaluated" / "evaluation.json").read_text())
    different = {"milliseconds_per_action"}
    assert {k: v for k, v in found.items() if k not in different} == {
        k: v for k, v in wanted.items() if k not in different
    }
    assert (file.parent / "mine-evaluated" / "videos" / "episode-0.mp4").exists()
    assert f"recorded when it was exported: return {wanted['return']:.1f} over 3 episodes" in capsys.readouterr().out


def test_it_does_not_tell_where_the_run_lay(run: Path, content: bytes) -> None:
    header = content[: 8 + int.from_bytes(content[:8], "little")].decode(errors="replace")
    assert str(run.parent) not in header and '\\"runs\\": \\"' in header


def test_other_planners_and_tables_but_nothing_that_needs_episodes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(file), "--device", "cpu", "--episodes", "1"]
    assert evaluate.main([*words, "--compare", "--actor", "cem,shooting_tiny"]) == 0
    assert evaluate.main([*words, "actor.horizon=2"]) == 0
    assert evaluate.main([*words, "--actor", "evolution_tiny"]) == 1
    assert "an agent's file has none" in capsys.readouterr().err


def test_weights_in_half_precision(run: Path, content: bytes, tmp_path: Path) -> None:
    half = tmp_path / "half.agent"
    assert export.main([str(run), str(half), "--weights", "bf16"]) == 0
    assert half.stat().st_size < 0.7 * len(content)
    exact, rounded = agents.load(run, "cpu").model.state_dict(), agents.load(half, "cpu").model.state_dict()
    for name, value in exact.items():
        assert rounded[name].dtype == value.dtype
        torch.testing.assert_close(rounded[name], value, rtol=2**-8, atol=0)


def test_what_does_not_fit_is_halved_then_refused(
    run: Path, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    little, least = 0.9 * len(content) / 1e6, 0.1 * len(content) / 1e6
    assert export.main([str(run), str(tmp_path / "a.agent"), "--megabytes", str(little)]) == 0
    assert (tmp_path / "a.agent").stat().st_size <= 1e6 * little
    for words in (["--megabytes", str(least)], ["--megabytes", str(little), "--weights", "fp32"]):
        assert export.main([str(run), str(tmp_path / "b.agent"), *words]) == 1
        assert "--megabytes raises the limit" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.agent"]


def test_a_planner_is_exported_as_it_was_evaluated(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = run / "evaluation.json", str(tmp_path / "a.agent")
    was = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(was) | {"overrides": ["actor.candidates=7"]}))
        for wrong in ([], ["actor.candidates=8"]):
            assert export.main([str(run), file, *wrong]) == 1
            assert "was changed otherwise" in capsys.readouterr().err
        assert export.main([str(run), file, "actor.candidates=7"]) == 0
    finally:
        path.write_text(was)
    kept, stored = agent_file.read(tmp_path / "a.agent")
    assert kept.config["actor"]["candidates"] == 7 and stored.evaluation["overrides"] == ["actor.candidates=7"]
    assert agents.load(tmp_path / "a.agent").actor.config.candidates == 7
    assert export.main([file, str(tmp_path / "b.agent")]) == 1
    assert "is an agent's file already" in capsys.readouterr().err
    assert export.main([str(run), str(tmp_path / "b.agent"), "env.num_envs=2"]) == 1
    path.write_text(json.dumps(json.loads(was) | {"overrides": ["env.num_envs=2"]}))
    try:
        assert export.main([str(run), str(tmp_path / "b.agent"), "env.num_envs=2"]) == 2
        assert "only actor" in capsys.readouterr().err
    finally:
        path.write_text(was)


# ---- what export refuses ----


def test_an_export_says_what_it_needs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "evaluation.json"
    was = path.read_text()
    try:
        for change, said in (
            (None, f"evaluate.py {run} --episodes 10"),
            ("[", "cannot be read"),
            ("[]", "cannot be read"),
            (json.dumps(json.loads(was) | {"checkpoint": "step-1-1-1"}), "is of another checkpoint"),
            (json.dumps(json.loads(was) | {"actor": "shooting"}), "is of another checkpoint, or of an actor"),
            (json.dumps(json.loads(was) | {"overrides": ["actor.horizon=2"]}), "is of another checkpoint, or of"),
        ):
            path.unlink(missing_ok=True)
            if change is not None:
                path.write_text(change)
            assert export.main([str(run), str(tmp_path / "a.agent")]) == 1
            assert said in capsys.readouterr().err
    finally:
        path.write_text(was)
    (tmp_path / "b.agent").write_text("mine")
    for name, said in (
        ("a.zip", "ends with .agent"),
        ("b.agent", "exists already"),
        ("no/a.agent", "there is no folder "),
    ):
        assert export.main([str(run), str(tmp_path / name)]) == 1
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["b.agent"] and (tmp_path / "b.agent").read_text() == "mine"


# ---- damaged, wrong and hostile files ----


def refused(path: Path, said: str) -> None:
    with pytest.raises(RunError) as error:
        load_agent(path, "cpu")
    assert said in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_any_byte_that_was_changed_is_noticed(content: bytes, file: Path) -> None:
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    places = {*range(0, 24, 3), header - 1, header, len(content) - 1, content.index(b'"sha256"') + 20}
    for place in sorted(places | set(rng.integers(0, header, 20)) | set(rng.integers(header, len(content), 10))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        refused(file, "damaged")
    for cut in (0, 1, 8, 9, header - 1, header, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        refused(file, "damaged")
    file.write_bytes(content + b"\0")
    refused(file, "does not match its digest")


def test_other_files_are_not_taken_for_agents(run: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = next((run / "checkpoints").glob("step-*")) / "model.safetensors"
    for other in (weights.read_bytes(), b"hello", struct.pack("<Q", 1 << 63) + b"{}", b"\x80\x04K\x01."):
        file.write_bytes(other)
        refused(file, "not an agent's file")
    refused(file.with_name("absent.agent"), "No such file")
    refused(file.with_name("absent"), "is not a run")
    monkeypatch.setattr(agent_file, "LARGEST", 100)
    file.write_bytes(b" " * 101)
    refused(file, "it has 101 bytes, more than the 100 that are expected")


def signed(content: bytes, **changes: Any) -> bytes:
    """The file with other contents of `about`, and a digest that is right: anybody can write one."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about = json.loads(header["__metadata__"]["about"])
    for path, value in changes.items():
        *keys, last = path.split("__")
        place = about
        for key in keys:
            place = place[key]
        place[last] = value
    header["__metadata__"]["about"] = json.dumps(about)
    text = json.dumps(header, separators=(",", ":")).encode()
    whole = struct.pack("<Q", len(text)) + text + content[8 + length :]
    return agent_file.DIGEST.sub(b'"sha256":"' + agent_file.digest(whole).encode() + b'"', whole, count=1)


def test_a_right_digest_is_no_permission(content: bytes, file: Path) -> None:
    file.write_bytes(signed(content))
    load_agent(file, "cpu")
    for changes, said in (
        ({"config": []}, "damaged"),
        ({"info": {}}, "damaged"),
        ({"info__spec": {"image_shape": 3}}, "damaged"),
        ({"evaluation": 3}, "damaged"),
        ({"counters": None}, "damaged"),
        ({"info__plugins": ["os"]}, "was trained with components of os"),
    ):
        file.write_bytes(signed(content, **changes))
        refused(file, said)
    for key, value in (("model__name", "os.path"), ("actor__name", "../x"), ("model__evil", 1), ("env__size", [16])):
        file.write_bytes(signed(content, **{f"config__{key}": value}))
        with pytest.raises(ConfigError):
            load_agent(file, "cpu")
    file.write_bytes(signed(content, config__model__deter=16))  # of another size than the weights
    with pytest.raises(RunError, match=r"cannot be used: model: .* is torch.float32"):
        load_agent(file, "cpu")
    file.write_bytes(signed(content, checkpoint="../../x"))  # is only shown
    assert agent_file.read(file)[1].folder.name == "______x"
