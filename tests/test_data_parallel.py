"""Several processes, one run: they learn what one would from the whole batch, and end and go on together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import runs
import shares
import tiny
import torch
from safetensors.torch import load_file

from training.checks import check_learning
from training.configuration.components import ROOT
from training.configuration.hints import to_go_on
from training.data_parallel.leader import Leader
from training.data_parallel.world import ALONE, World, world
from training.run_folder import checkpoint
from worldmodel.base import ConfigError
from worldmodel.networks import data_parallel
from worldmodel.replay.buffer import Replay, ReplayConfig

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}


# ---- learning ----


def recipe(name: str, *words: str) -> list[str]:
    return [f"model={name}_tiny", f"actor={name}_tiny", "train.learn.model.parts=[model,actor]", *words]


JOBS = {  # whose losses and statistics are not plain means: masks, thresholds, percentiles, the images' scale
    "rssm": ["model=rssm_tiny", "model.overshooting=3", "model.normalise=true", "model.dequantise=false"],
    "mdnrnn": ["model=mdnrnn_tiny"],
    "dreamer_v1": recipe("dreamer_v1"),
    "dreamer_v2": recipe("dreamer_v2"),
    "dreamer_v3": recipe("dreamer_v3"),
    "dreamer_v3_2023": [
        *recipe("dreamer_v3_2023")[1:],
        *["model=dreamer_v3_2023", "model.deter=32", "model.stoch=4", "model.classes=4", "model.hidden=16"],
        "model.depths=[4,4,8,8]",
    ],
}


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By two processes. Free nats lie between the KLs of the two shares."""
    folder = tmp_path_factory.mktemp("shares")
    for name in ("dreamer_v1", "dreamer_v2"):
        kl = shares.without_noise([*JOBS[name], "model.free_nats=0"], 0, 1)["metric/model/kl"]
        JOBS[name] = [*JOBS[name], f"model.free_nats={0.9999 * float(kl)}"]
    (folder / "jobs.json").write_text(json.dumps(list(JOBS.values())))
    command = [sys.executable, "tests/shares.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], cwd=ROOT, env=environment) for rank in range(2)
    ]
    assert [process.wait(runs.HANG) for process in processes] == [0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_two_shares_give_the_gradient_of_the_whole_batch(name: str, computed: Path) -> None:
    number = list(JOBS).index(name)
    whole = shares.without_noise(JOBS[name], 0, 1)
    assert sum(key.startswith("gradient/") for key in whole) > 10
    for rank in range(2):
        found = load_file(computed / f"exact-{number}-{rank}.safetensors")
        assert found.keys() == whole.keys()
        for key, value in whole.items():
            scale = float(value.abs().max())
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_weights_stay_equal_to_the_bit(name: str, computed: Path) -> None:
    number = list(JOBS).index(name)
    one, other = (load_file(computed / f"noisy-{number}-{rank}.safetensors") for rank in range(2))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    if "context/context/known" in one:  # the states of all rows, whoever has learned from them
        assert one["context/context/known"].sum() > 6


def test_alone_nothing_is_changed() -> None:
    x, counts = torch.randn(5), torch.tensor([True, False, True, True, False])
    assert data_parallel.mean(x) is x and data_parallel.gather(x) is x
    assert torch.equal(data_parallel.masked_mean(x, counts), (x * counts).sum() / counts.sum().clamp(min=1))
    assert data_parallel.masked_mean(x, counts & False) == 0
    before = x.clone()
    data_parallel.average([x])
    assert torch.equal(x, before)


def test_shares_are_the_batch() -> None:
    config = ReplayConfig(batch_size=6, batch_length=3, capacity=100, context=False, storage="memory", memory_gb=None)
    replay = Replay(config, tiny.SPEC)
    for seed in range(3):
        replay.add(tiny.episode(9, seed=seed))
    whole = replay.sample(np.random.default_rng(0))
    parts = [replay.sample(np.random.default_rng(0), share=(rank, 3)) for rank in range(3)]
    assert all(len(part.reward) == 2 for part in parts)
    for name in ("image", "action", "reward", "first", "terminal"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


# ---- the processes ----


def test_torchruns_variables_are_read() -> None:
    assert world(TORCHRUN) == World(1, 4, 1, 2) and world(TORCHRUN).share(50) == 25
    assert world({}) == ALONE == world({name: text for name, text in TORCHRUN.items() if name != "MASTER_ADDR"})


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    leader = Leader(World(0, 3, 0, 3), channel=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"replay.batch_size: 4 sequences cannot .* 3 processes: choose 3 or 6"):
        leader.check(runs.composed("exp=smoke", "agent.device=cpu"))
    leader.check(runs.composed("exp=smoke", "agent.device=cpu", "replay.batch_size=6"))


def test_an_actor_without_a_loss_learns_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    config = runs.composed("exp=smoke", "agent.device=cpu", "actor=evolution_tiny", "+train.learn.actor.updates=1")
    agent = shares.agent(["actor=evolution_tiny", "+train.learn.actor.updates=1"])
    check_learning(config, agent, has_data=False)
    for name, text in TORCHRUN.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=r"train.learn.actor: evolution learns by its own means, in one process"):
        check_learning(config, agent, has_data=False)
    assert "torch.distributed.run --nnodes=2 --nproc-per-node=2 train.py run=r" in to_go_on(Path("runs/r"), None)


# Two environments that are learned from while their episodes go on, and states that each process must know of all rows.
RUN = (  # noqa: SIM905
    "exp=smoke model=dreamer_v3_tiny actor=dreamer_v3_tiny train.learn.model.parts=[model,actor] replay.context=true "
    "env.time_limit=7 env.num_envs=2 train.collect.unit=steps train.collect.per_round=6 train.prefill=12 "
    "train.learn.model.updates=1 train.eval_every=60 train.eval_episodes=1 train.save_every=18 replay.batch_size=2 "
    "replay.batch_length=4 actor.horizon=3 agent.device=cpu agent.precision=fp32 agent.threads=1"
).split()


def torchrun(folder: Path, *words: str) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*launcher, *RUN, "run=r", f"runs={folder}", *words],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_save(process: "subprocess.Popen[str]", folder: Path, after: str = "") -> str:
    """The name of a newer checkpoint."""
    while not (names := [name for name in checkpoint.names(folder / "r" / "checkpoints") if name > after]):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return names[0]


@pytest.mark.slow
def test_a_lost_process_ends_the_run_a_signal_saves_it_and_it_goes_on_exactly(tmp_path: Path) -> None:
    lost = torchrun(tmp_path / "b", "train.env_steps=100000")
    saved = wait_for_save(lost, tmp_path / "b")
    ranks = {child.environ()["RANK"]: child for child in psutil.Process(lost.pid).children()}
    ranks["1"].send_signal(signal.SIGKILL)
    said, _ = lost.communicate(timeout=runs.HANG)
    assert lost.returncode and f"rank 1 (process {ranks['1'].pid}) of 2 has ended" in said, said
    checkpoint.verify(tmp_path / "b/r/checkpoints" / checkpoint.names(tmp_path / "b/r/checkpoints")[0])

    stopped = torchrun(tmp_path / "b", "train.env_steps=100000")
    wait_for_save(stopped, tmp_path / "b", after=max(saved, *checkpoint.names(tmp_path / "b/r/checkpoints")))
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate(timeout=runs.HANG)
    assert "stopped and saved" in said, said

    steps = runs.digests(tmp_path / "b" / "r")["env_steps"] + 30
    for name in ("a", "b"):
        ended = torchrun(tmp_path / name, f"train.env_steps={steps}")
        said, _ = ended.communicate(timeout=runs.HANG)
        assert ended.returncode == 0, said
    whole, pieces = (runs.digests(tmp_path / name / "r") for name in ("a", "b"))
    del whole["replay"], pieces["replay"]  # the same rows, cut into other chunks by other saves
    assert pieces == whole
