"""The collectors of a run, as train.py sees them: it asks, answers come, and processes that are lost are replaced."""

from typing import Any

import torch

from agents.agent import Agent
from training.configuration.config import Config
from training.distributed.cluster import Cluster, python_path
from training.distributed.collector import Collector
from training.distributed.messages import Request, pack, unpack
from training.distributed.scheduler import Scheduler
from training.schedule import Schedule
from worldmodel.base import Spec


class Collectors:
    """Processes are started when they are first asked."""

    def __init__(self, cluster: Cluster, config: Config, spec: Spec, action_repeat: int, longest: int) -> None:
        """longest: decisions of a whole episode, at most."""
        self.cluster, self.config = cluster, config
        workers, gpus = config.train.collect.workers, config.ray.collector_gpus
        threads = torch.get_num_threads() if workers == 1 else 1
        plain = in_a_process(config, gpus, threads)
        self.make = lambda: cluster.process(Collector, gpus, plain, spec._asdict(), longest, python_path())
        self.scheduler = Scheduler(workers, config.env.num_envs, action_repeat)
        self.processes: dict[int, Any] = {}
        self.calls: dict[Any, Request] = {}  # the open ones
        self.weights: tuple[tuple[int, int], Any] | None = None  # versions, and where Ray keeps them
        self.lost_in_a_row = 0

    def begin(self, schedule: Schedule, agent: Agent) -> None:
        """Ask all who may begin."""
        exact = self.scheduler.exact(schedule)
        for number in range(len(self.scheduler.seats)):
            request = self.scheduler.next(number, schedule)
            if request is None:
                continue
            if number not in self.processes:
                self.processes[number] = self.make()
            random = pack({"random": agent.random_state()}) if exact else None
            process, weights = self.processes[number], self.published(request, agent)
            self.calls[process.collect.remote(request._asdict(), weights, random)] = request

    def published(self, request: Request, agent: Agent) -> Any:
        """The agent's weights in Ray's store, once for each version."""
        version = request.updates, request.actor_updates
        if self.weights is None or self.weights[0] != version:
            content = pack({"model": agent.model.state_dict(), "actor": agent.actor.state_dict()})
            self.weights = version, self.cluster.put(content)
        return self.weights[1]

    def receive(self, seconds: float, schedule: Schedule, agent: Agent) -> list[tuple[Request, dict[str, Any]]]:
        """The answers that come within so many seconds; those that do not count are left out. Of a lost process we say
        what its answer would have: what has failed, and after too many losses an error.
        """
        found = []
        for call, answer in self.cluster.answers(self.calls, seconds):
            request = self.calls.pop(call)
            if answer is None:
                if self.scheduler.lost(request):
                    found.append((request, self.replace(request)))
            elif self.scheduler.accept(request, schedule, answer.get("failed", 0), answer.get("begun", 0)):
                self.lost_in_a_row = 0
                if "random" in answer:
                    agent.set_random_state(unpack(answer["random"])["random"])
                found.append((request, answer))
        return found

    def replace(self, request: Request) -> dict[str, Any]:
        """A process is gone; the next request to its place starts another one -> what there is to say of it."""
        self.cluster.kill(self.processes.pop(request.collector))
        self.lost_in_a_row += 1
        env = self.config.env
        lost = (
            f"collector {request.collector} was lost: killed, or its environment gave no answer for {env.timeout:g} s"
        )
        answer: dict[str, Any] = {"failed": env.num_envs, "said": []}
        if self.lost_in_a_row < self.config.train.max_failures:
            answer["said"] = [f"warning: {lost}; the episodes under way in it are dropped, and it is replaced"]
        else:
            several = f"{self.lost_in_a_row} in a row, without an episode in between (train.max_failures)"
            answer |= {"error": f"{env.label}: {lost}; {several}", "advice": ""}
        return answer


def in_a_process(config: Config, gpus: float, threads: int) -> dict[str, Any]:
    """The run's config for another process: on a CPU, if no part of a GPU was asked for it."""
    agent = config.plain["agent"] | {"device": "cuda" if gpus else "cpu", "threads": threads}
    if not gpus and config.agent.precision == "fp16":
        agent["precision"] = "auto"  # which on a CPU is slow, or not there
    return {**config.plain, "agent": agent}
