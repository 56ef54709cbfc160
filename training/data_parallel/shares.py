"""One update, computed together: what rank 0 and the others do alike."""

import datetime
import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from agents.agent import Agent
from agents.base import Play
from worldmodel.base import Batch, tree_map
from worldmodel.networks import data_parallel
from worldmodel.replay.buffer import Replay

HANGS = datetime.timedelta(minutes=30)  # without an update from another process; compiling takes less


def join_updates(device: torch.device) -> None:
    """From now on updates are computed together. All processes call it at the same time."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    group: Any = dist.new_group(backend=backend, timeout=HANGS)
    data_parallel.join(group)


def learn(
    agent: Agent, replay: Replay, batch: Batch, parts: tuple[str, ...], play: Play | None = None
) -> dict[str, Tensor]:
    """An update from this process's share of a batch: metrics of the whole. The states that replay keeps are exchanged,
    so that every process knows those of all rows.
    """
    metrics, states = agent.learn_with_states(replay.with_context(batch), parts, play)
    if replay.states:
        batch = batch._replace(extras={name: data_parallel.gather(ids) for name, ids in batch.extras.items()})
        replay.write_context(batch, tree_map(data_parallel.gather, states))
    return metrics


def digest(agent: Agent) -> str:
    """Of all that was learned."""
    sha = hashlib.sha256()
    for part, tensors in agent.tensors().items():
        for name, tensor in sorted(tensors.items()):
            sha.update(f"{part}/{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
