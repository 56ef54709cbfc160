"""Whether what a config asks for fits into memory, before it is asked for: a system that has promised too much ends the
process without a word. What is counted is needed at least.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from agents.agent import Agent
from envs import Vector
from training.configuration.config import Config
from training.data_parallel.world import world
from training.reporting.progress import console
from worldmodel.base import Spec
from worldmodel.replay import storage
from worldmodel.replay.context import state_bytes
from worldmodel.replay.storage import RESERVE, StoragePlan, available_memory, gigabytes, row_bytes

FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)
UNKNOWN_LENGTH = 1000  # decisions of an episode, if nothing tells
COPIES = 2  # of imagined states: one by one, and stacked


class LimitedMemory(TorchFunctionMode):
    """Within it, tensors are made in main memory only while they fit. Errors: MemoryError."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.taken = available_memory(), 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in FACTORIES:
            size = kwargs.get("size", args)
            size = size[0] if size and isinstance(size[0], tuple | list) else size
            self.taken += 4 * math.prod(side for side in size if isinstance(side, int))
            if self.taken > self.free:
                raise MemoryError(
                    f"memory: the model and the actor need more than {gigabytes(self.taken)}, but "
                    f"{gigabytes(self.free)} are free: use smaller ones"
                )
        return function(*args, **kwargs)


def working_bytes(config: Config, agent: Agent, envs: int, learns: bool = True) -> int:
    """Of plans for so many environments and, if it learns, of updates; they come one after the other. Errors:
    MemoryError, if there is not as much.
    """
    state = pytree.tree_leaves(agent.model.initial(1))
    with torch.no_grad():
        features = agent.model.features(agent.model.initial(1)).shape[-1]
    row = 4 * (COPIES * (sum(leaf.numel() for leaf in state) + features) + 2 * agent.spec.action_dim)
    stages = [stage for stage in config.train.learn.stages.values() if stage.updates and learns]
    rows = max(
        ((stage.batch_size or config.replay.batch_size) * (stage.batch_length or config.replay.batch_length)
         for stage in stages), default=0,
    )  # fmt: skip
    processes = world()
    on_gpu = agent.device.type == "cuda"  # of which each process has its own
    rows = -(-rows // processes.size) if on_gpu else processes.share(rows)
    actor = agent.actor
    plan = 0 if actor.learns else row * actor.imagined_rows(envs)
    dreams = row * actor.imagined_rows(rows) if actor.learns and learns else 0
    batch = rows * (row_bytes(agent.spec) + 4 * math.prod(agent.spec.image_shape) + row)
    needs = {
        "a plan": (plan, "actor.candidates, actor.horizon or env.num_envs"),
        "an actor that learns": (dreams, "actor.horizon, replay.batch_size or replay.batch_length"),
        "an update": (batch, "replay.batch_size or replay.batch_length, or those of train.learn"),
    }
    there = torch.cuda.mem_get_info(agent.device)[0] if on_gpu else available_memory()
    reserve = 0 if on_gpu else RESERVE
    for what, (needed, advice) in needs.items():
        if needed > there - reserve:
            kept = f", of which {gigabytes(reserve)} stay reserved" if reserve else ""
            raise MemoryError(f"memory: {what} needs {gigabytes(needed)} at least, but {gigabytes(there)} are free"
                              f"{kept}: lower {advice}")  # fmt: skip
    return max(needed for needed, _ in needs.values())


# ---- replay ----


def collects_steps(config: Config, vector: Vector | None) -> bool:
    return vector is not None and config.train.collect.unit == "steps"


def environments(config: Config, vector: Vector) -> int:
    """All that collect, in this process or in others."""
    return vector.num_envs * (config.train.collect.workers if config.train.collect.mode == "async" else 1)


def replay_streams(config: Config, vector: Vector | None) -> int:
    """One for each environment that is learned from while its episodes go on."""
    return environments(config, vector) if vector and collects_steps(config, vector) else 1


def plan_replay(
    config: Config, spec: Spec, vector: Vector | None, initial_rows: int, longest: int, agents: Sequence[Agent]
) -> StoragePlan:
    """Where replay fits. initial_rows: that it begins with (rows_taken); longest: of one of those episodes. Its size
    must not depend on the memory of the day: it decides what is evicted, and so what is learned.
    """
    agent, by_steps = agents[0], collects_steps(config, vector)
    # Episodes that end early have up to twice the rows: there is room for the most there can be.
    rows = (
        2 * collected_rows(config, vector) + initial_rows if vector is None or vector.time_limit or by_steps else None
    )
    rows = min(rows or config.replay.capacity, config.replay.capacity)
    if vector and not by_steps:
        longest = max(longest, math.ceil((vector.time_limit or 0) / vector.action_repeat) + 1)
    count = environments(config, vector) if vector else 1
    if vector and by_steps:  # what is collected at once goes into one environment's ring
        at_once = max(config.train.prefill, config.train.collect.per_round)
        decisions = math.ceil(at_once / (vector.action_repeat * count))
        limit = math.ceil((vector.time_limit or at_once) / vector.action_repeat)
        longest = count * max(longest, min(decisions, limit) + 1)
    if longest > config.replay.capacity:
        each = f" for each of {count} environments" if by_steps and count > 1 else ""
        raise ValueError(f"replay.capacity must hold an episode{each}, which takes up to {longest} rows: raise it")
    where = config.replay.storage, config.replay.memory_gb
    context = state_bytes(agent.model.initial(1)) if config.replay.context else 0
    working = max(working_bytes(config, one, vector.num_envs if vector else 1) for one in agents)
    processes = world().local_size
    plan = storage.plan(*where, spec, rows, agent.device, config.folder, context, working, processes)
    console.print(str(plan))
    return plan


def collected_rows(config: Config, vector: Vector | None) -> int:
    """How many rows of replay the run will fill: one per decision and one more per episode of full length."""
    if vector is None:
        return 0
    train, repeat, limit = config.train, vector.action_repeat, vector.time_limit
    length = math.ceil(limit / repeat) if limit else UNKNOWN_LENGTH
    steps = math.ceil(train.env_steps / repeat)
    if train.collect.unit == "steps":
        steps += math.ceil(train.prefill / repeat)
        return steps + math.ceil(steps / length) + environments(config, vector) * (length + 1)
    return steps + (train.prefill + environments(config, vector)) * (length + 1) + math.ceil(steps / length)
