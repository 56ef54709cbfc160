"""One of the processes that compute an update together, for tests/test_data_parallel.py: shares.py RANK SIZE FOLDER.

It computes what jobs.json in the folder names, from its share, and writes gradients and weights beside it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import runs
import tiny
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from agents.agent import Agent
from training.build import build_agent
from training.data_parallel.shares import learn
from worldmodel.base import Spec, tree_map
from worldmodel.networks import data_parallel
from worldmodel.replay.buffer import Replay, ReplayConfig

SPEC, ROWS = Spec((3, 64, 64), 2, False), 4
STARTS = ((0, 2), (0, 4), (1, 3), (3, 3))  # of episodes amid sequences: masks of the shares count unequal rows


def agent(words: Sequence[str]) -> Agent:
    config = runs.composed("exp=smoke", "agent.device=cpu", "agent.precision=fp32", "agent.threads=1", *words)
    torch.manual_seed(0)
    built = build_agent(config, SPEC)
    with torch.no_grad():  # heads that begin with zeros would hide errors
        for module in (built.model, built.actor):
            for parameter in module.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    return built


def update(built: Agent, rank: int, size: int) -> dict[str, Tensor]:
    """Metrics of an update from a share."""
    batch = tiny.batch(ROWS, 6, SPEC, starts=STARTS)
    own = slice(rank * ROWS // size, (rank + 1) * ROWS // size)
    parts = ("model", "actor") if built.actor.has_loss else ("model",)
    return built.learn(tree_map(lambda a: a[own], batch._replace(extras={})), parts)


def constant(value: float) -> Any:
    return lambda like, *_, **__: torch.full_like(like, value)


def filled(value: float) -> Any:
    return lambda *shape, **_: torch.full(shape if isinstance(shape[0], int) else tuple(shape[0]), value)


def without_noise(words: Sequence[str], rank: int, size: int) -> dict[str, Tensor]:
    """Metrics and clipped gradients of one update, and moving statistics; every random number is the same one."""
    built = agent(words)
    same = mock.patch.multiple(
        torch, randn_like=constant(0.3), rand_like=constant(0.4), randn=filled(0.3), rand=filled(0.4)
    )
    with same:
        found = {f"metric/{name}": value for name, value in update(built, rank, size).items()}
    modules = {"model": built.model, "actor": built.actor}
    for part, module in modules.items():
        found |= {f"gradient/{part}/{name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
        found |= {f"buffer/{part}/{name}": value for name, value in module.named_buffers()}
    return found


def with_noise(words: Sequence[str], rank: int, size: int) -> dict[str, Tensor]:
    """All that three updates have changed; every process draws its own random numbers."""
    built = agent(words)
    rows = ReplayConfig(batch_size=ROWS, batch_length=4, capacity=99, context=True, storage="memory", memory_gb=None)
    replay = Replay(rows, SPEC)
    if built.model.takes_context:
        replay.keep_states(built.model.initial(1))
    for seed in range(3):
        replay.add(tiny.episode(8, SPEC, seed))
    for number in range(3):
        torch.manual_seed(100 * number + rank)
        batch = replay.sample(np.random.default_rng(number), share=(rank, size))
        learn(built, replay, batch, ("model", "actor") if built.actor.has_loss else ("model",))
    tensors = built.tensors() | {"context": replay.context()}
    return {f"{part}/{name}": value for part, all_ in tensors.items() for name, value in all_.items()}


def main(rank: int, size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    data_parallel.join(dist.group.WORLD)
    for number, words in enumerate(json.loads((folder / "jobs.json").read_text())):
        for name, compute in (("exact", without_noise), ("noisy", with_noise)):
            tensors = {key: value.detach().clone().contiguous() for key, value in compute(words, rank, size).items()}
            save_file(tensors, folder / f"{name}-{number}-{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
