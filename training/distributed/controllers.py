"""The controller's process, as train.py sees it: batches and the model's weights go out, the actor comes back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agents.agent import Agent
from agents.optimizers import Diverged
from training.configuration.config import Config
from training.distributed.cluster import Cluster, python_path
from training.distributed.collectors import in_a_process
from training.distributed.controller import Controller, actor_state, take_actor
from training.distributed.messages import pack, packed_batch
from training.distributed.split_schedule import SplitSchedule
from training.run_folder.run import RunError
from worldmodel.base import Batch, Spec

MOST_BYTES = 64 << 20  # of the batches in one message, if there are several


class Call(NamedTuple):
    """What the process is doing."""

    done: int  # the actor's updates before
    updates: int  # the model's, of the weights in which it learns
    batches: int


class Exchange(NamedTuple):
    """What has come back."""

    metrics: list[dict[str, float]]  # of each update
    staleness: int  # updates that the model was ahead by then


class RemoteController:
    """One open call at most. What comes back is at once in the agent, so that every checkpoint has it; a process that
    is lost costs the call that was open.
    """

    def __init__(self, cluster: Cluster, config: Config, spec: Spec, threads: int, tell: Callable[[str], Any]) -> None:
        self.cluster, self.config, self.tell = cluster, config, tell
        gpus = config.ray.controller_gpus
        plain = in_a_process(config, gpus, threads)
        self.make = lambda: cluster.process(Controller, gpus, plain, spec._asdict(), python_path())
        self.worker: Any = None
        self.call: dict[Any, Call] = {}  # none or one
        self.lost_in_a_row = 0

    def begin(self, schedule: SplitSchedule, agent: Agent, draw: Callable[[int, Any], Batch]) -> None:
        """Ask for what is due, if nothing is open. draw: the batch of an update in its stage."""
        counters, due = schedule.counters, schedule.actor_updates_due()
        if self.call or due <= 0:
            return
        done, size = counters.actor_updates, 0
        batches: list[list[np.ndarray]] = []
        while len(batches) < min(due, self.most(schedule)) and (not batches or size < MOST_BYTES):
            number = done + len(batches)
            batches.append(packed_batch(draw(number, schedule.actor_stage(number))))
            size += sum(column.nbytes for column in batches[-1])
        state: np.ndarray | None = None
        if self.worker is None:
            self.worker, state = self.make(), actor_state(agent)
        model = pack({"model": agent.model.state_dict()})
        call = self.worker.learn.remote(done, model, state, batches)
        self.call[call] = Call(done, counters.updates, len(batches))

    def most(self, schedule: SplitSchedule) -> int:
        """Updates in one call: what the model may be ahead by, at most."""
        return max(1, self.config.train.learn.max_staleness * schedule.actor_round // schedule.round)

    def receive(self, seconds: float, schedule: SplitSchedule, agent: Agent) -> Exchange | None:
        """What comes back within so many seconds. Errors: Diverged; RunError, if nothing but losses comes."""
        for call, answer in self.cluster.answers(self.call, seconds):
            asked = self.call.pop(call)
            if answer is None:
                self.replace()
                return None
            if "diverged" in answer:
                raise Diverged(answer["diverged"])
            self.lost_in_a_row = 0
            take_actor(agent, answer["state"])
            schedule.counters.actor_updates = asked.done + asked.batches
            return Exchange(answer["metrics"], schedule.counters.updates - asked.updates)
        return None

    def replace(self) -> None:
        """The next call starts another process, from what the agent has. Errors: RunError, after too many."""
        self.cluster.kill(self.worker)
        self.worker = None
        self.lost_in_a_row += 1
        if self.lost_in_a_row >= self.config.train.max_failures:
            raise RunError(f"the process in which the actor learns was lost {self.lost_in_a_row} times in a row")
        self.tell("warning: the process in which the actor learns was lost: another goes on from the last exchange")
