"""Runs that were written before names changed (old_run/, old_run_worldmodels/): they load, they give the returns that
they gave, and they go on; bit for bit where the libraries and the processor are those of the commit that wrote them.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import agents
import envs
import evaluate
import train
from training.configuration import command_line
from training.configuration.legacy import RENAMED_KEYS, RENAMED_STAGE_KEYS
from training.run_folder.run import Run
from worldmodel.base import ConfigError

STEPS = {"old_run": 96, "old_run_worldmodels": 64}  # env steps to go on to
# Metrics of old runs by today's names.
TAGS = {
    "learn/loss": "learn/model/loss", "learn/loss_image": "learn/model/loss_image",
    "learn/loss_reward": "learn/model/loss_reward", "learn/loss_continue": "learn/model/loss_continue",
    "learn/loss_kl": "learn/model/loss_kl", "vision/loss": "learn/vision/loss",
    "vision/loss_image": "learn/vision/loss_image", "vision/loss_kl": "learn/vision/loss_kl",
    "memory/loss": "learn/memory/loss", "memory/loss_latent": "learn/memory/loss_latent",
    "memory/loss_reward": "learn/memory/loss_reward",
}  # fmt: skip


def source(name: str) -> Path:
    return Path(__file__).parent / name


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((source(name) / "EXPECTED.json").read_text())
    return found


def processor() -> str:
    """Its vector instructions and who made it: with the same instructions Intel's gives other bits than AMD's."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"vendor_id\s*: (\w+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{torch.backends.cpu.get_cpu_capability()}, {found[1] if found else platform.machine()}"


def same_machine(made_with: dict[str, Any]) -> bool:
    """Whether equal bits are to be expected."""
    packages = made_with.keys() - {"python", "threads", "processor"}
    try:
        versions = {package: importlib.metadata.version(package) for package in packages}
    except importlib.metadata.PackageNotFoundError:
        return False
    here = versions | {"processor": processor()}
    return all(made_with[key] == value for key, value in here.items())


def digest(tensors: dict[str, Tensor]) -> str:
    """Whatever their names."""
    arrays = [tensor.numpy() for tensor in tensors.values()]
    single = [hashlib.sha256(f"{a.dtype} {a.shape}".encode() + a.tobytes()).hexdigest() for a in arrays]
    return hashlib.sha256("\n".join(sorted(single)).encode()).hexdigest()


def held(run: Path) -> dict[str, Any]:
    """What EXPECTED.json says of a checkpoint, of the newest one."""
    newest = Run.read(run).newest()
    files = {name: newest.tensors(name) for name in ("model", "actor", "optim")}
    files["moments"] = {name: value for name, value in files.pop("optim").items() if value.ndim}
    return {
        "checkpoint": newest.folder.name,
        **{name: digest(tensors) for name, tensors in files.items()},
        "tensors": {name: len(tensors) for name, tensors in files.items()},
    }


@pytest.fixture(params=STEPS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an old run: the originals stay as they are."""
    shutil.copytree(source(request.param), tmp_path / request.param)
    return tmp_path / str(request.param)


def test_what_was_stored_is_read_bit_for_bit(old: Path) -> None:
    assert held(old) == expected(old.name)["stored"]


def test_it_evaluates_to_the_same_returns(old: Path) -> None:
    assert evaluate.main([str(old), "--episodes", "2", "--seed", "0", "--device", "cpu"]) == 0
    found, wanted = json.loads((old / "evaluation.json").read_text()), expected(old.name)
    assert found["env_steps"] == int(wanted["stored"]["checkpoint"].split("-")[1])
    if same_machine(wanted["made_with"]):
        assert found["returns"] == wanted["evaluated"]["returns"]
    assert found["returns"] == pytest.approx(wanted["evaluated"]["returns"], rel=0.05, abs=0.2)


def test_it_is_resumed_exactly(old: Path) -> None:
    before = (old / "metrics.jsonl").read_text()
    words = [f"runs={old.parent}", f"run={old.name}", f"train.env_steps={STEPS[old.name]}"]
    assert train.main(words) == 0
    wanted = expected(old.name)
    found = held(old)
    for name in ("checkpoint", "tensors"):
        assert found[name] == wanted["resumed"][name]
    if same_machine(wanted["made_with"]):
        assert found == {key: value for key, value in wanted["resumed"].items() if key not in ("losses", "returns")}
    log = (old / "metrics.jsonl").read_text()
    assert log.startswith(before)
    rows = [json.loads(line) for line in log[len(before) :].splitlines()]
    for what in ("losses", "returns"):
        told = [(TAGS.get(name, name), value) for name, value in wanted["resumed"][what]]
        names = {name for name, _ in told}
        logged = [(name, row[name]) for row in rows for name in dict.fromkeys(n for n, _ in told) if name in row]
        assert [name for name, _ in logged] == [name for name, _ in told] and names
        values = [value for _, value in logged]
        assert values == pytest.approx([value for _, value in told], rel=0.05, abs=0.2)
        if same_machine(wanted["made_with"]):
            assert values == [value for _, value in told]


def test_its_agent_acts_by_hand(old: Path) -> None:
    agent = agents.load(old, device="cpu")
    env = envs.make(agent.env)
    image, _ = env.reset(seed=0)
    action, _ = agent.act(None, image)
    env.close()
    assert action.shape == (2,) and np.abs(action).max() <= 1


def test_an_old_run_may_be_given_by_its_recipe_too(old: Path) -> None:
    """With the keys that it was made with, under today's names."""
    run = Run.read(old)
    stored = {f"{section}.{key}": value for section in ("model", "actor") for key, value in run.config[section].items()}
    plain = {key: value for key, value in stored.items() if isinstance(value, int | float | str)}
    words = [f"{key}={json.dumps(value)}" for key, value in plain.items()]
    config = command_line.parse([f"runs={old.parent}", f"run={old.name}", *words])
    assert {section: config.plain[section] for section in ("model", "actor")} == {
        section: run.config[section] for section in ("model", "actor")
    }


# ---- old keys ----


COMPONENTS = {
    "model.cell": ["model=mdnrnn_tiny"],
    "actor.ordered": ["actor=evolution_tiny"],
    "actor.reads": ["actor=evolution_tiny"],
    "actor.judge_every": ["actor=evolution_tiny"],
}


@pytest.mark.parametrize("key", [key for key in RENAMED_KEYS if key not in ("parts", "worlds")])
def test_an_old_key_is_answered_with_the_new_name(key: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert train.main(["exp=smoke", *COMPONENTS.get(key, []), f"{key}=1", f"runs={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"error: {key}: is {RENAMED_KEYS[key]} now\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", RENAMED_STAGE_KEYS)
def test_so_it_is_with_the_keys_of_a_stage(key: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert train.main(["exp=smoke", f"train.learn.model.{key}=1", f"runs={tmp_path}"]) == 2
    new = RENAMED_STAGE_KEYS[key].format("model")
    assert capsys.readouterr().err == f"error: train.learn.model.{key}: is {new} now\n"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("parts.cem.horizon=3", "parts: is a file of its own for each component"),
        ("worlds.dot.env.size=[8,8]", "worlds: is a recipe of its own for each environment"),
        ("actor@explorer=brownian", "actor@explorer: a component is chosen by its section alone: explorer=brownian"),
        ("train.collect=overlap", "train.collect: "),
    ],
)
def test_what_is_gone_is_told(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        command_line.parse(["exp=smoke", word, f"runs={tmp_path}"])


def test_the_new_names_of_keys_are_there(tmp_path: Path) -> None:
    known: set[str] = set()
    for words in (["model=rssm_tiny"], ["model=mdnrnn_tiny", "actor=evolution_tiny"]):
        plain = command_line.parse(["exp=smoke", *words, f"runs={tmp_path}"]).plain
        known |= set(plain) | {
            f"{section}.{key}" for section, keys in plain.items() if isinstance(keys, dict) for key in keys
        }
        known |= {f"train.collect.{key}" for key in plain["train"]["collect"]}
        known |= {f"agent.optimizers.model.{key}" for key in plain["agent"]["optimizers"]["model"]}
    for new in RENAMED_KEYS.values():
        assert new.partition("=")[0] in known or " " in new, new
