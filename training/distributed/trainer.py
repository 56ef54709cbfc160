"""A run of several processes. This one has the model, replay, counters and the run's folder; collectors and the
controller learn and act beside it, and it attends to them between updates.
"""

import time
from typing import Any

import numpy as np
import torch

from envs import EnvError
from training import evaluation, streams
from training.collecting.rollout import EpisodeResult, Interrupted, Seconds
from training.distributed.cluster import Cluster
from training.distributed.collectors import Collectors
from training.distributed.controllers import RemoteController
from training.distributed.messages import Request, unpacked_result, unpacked_rows
from training.distributed.split_schedule import SplitSchedule
from training.reporting.progress import console
from training.run_folder.checkpoint import Checkpoint
from training.schedule import Counters, Stage
from training.trainer import Trainer
from worldmodel.base import Batch

LOOK = 0.2  # seconds after which a wait asks whether the run is to stop


class DistributedTrainer(Trainer):
    """What it receives is counted at once, and put into replay where nobody reads that."""

    collectors: Collectors | None = None
    controller: RemoteController | None = None
    cluster: Cluster | None = None

    def __init__(self, config: Any, run: Any, vector: Any, agent: Any, *others: Any) -> None:
        """As Trainer. Errors: RunError, if Ray does not start."""
        super().__init__(config, run, vector, agent, *others)
        collect, learn = config.train.collect.mode == "async", config.train.learn.mode == "async"
        self.inbox: list[tuple[Request, dict[str, Any]]] = []
        self.waited = 0.0  # seconds, since it was last told
        self.error: EnvError | None = None  # of a collector
        workers = config.train.collect.workers if collect else 0
        self.cluster = Cluster(config.ray, workers + learn)
        beside = [f"{workers} collector{'s' * (workers > 1)}"] * collect + ["the actor's learner"] * learn
        place = f"in the cluster at {config.ray.address}" if config.ray.address else "on this machine"
        console.print(f"processes of their own {place}: {', '.join(beside)}")
        if collect:
            self.collector = None  # of steps: others have them
            longest = self.replay.ring - 1
            self.collectors = Collectors(self.cluster, config, run.spec, vector.action_repeat, longest)
        if learn:
            threads = torch.get_num_threads()
            self.controller = RemoteController(self.cluster, config, run.spec, threads, console.print)

    def use_counters(self, counters: Counters, has_data: bool) -> None:
        super().use_counters(counters, has_data)
        if self.config.learn.mode == "async":
            batch = self.replay.config.batch_size, self.replay.config.batch_length
            self.schedule = self.reporter.schedule = SplitSchedule(self.config, counters, has_data, batch)

    def close(self) -> None:
        try:
            if self.cluster:
                self.cluster.close()
        finally:
            super().close()

    # ---- the loop's steps ----

    def collect(self) -> None:
        """Wait for an answer of a collector at least; or, once all is collected, for the controller."""
        if self.schedule.collected_enough():
            self.wait_for_controller(at_most=0)
        elif self.collectors is None:
            super().collect()
        else:
            began = time.perf_counter()
            while not self.inbox:
                if self.stop():
                    raise Interrupted
                self.collectors.begin(self.schedule, self.agent)
                self.attend_controller(0)
                self.receive(LOOK)
            self.waited += time.perf_counter() - began
            self.take()
            if self.error:
                raise self.error

    def between_updates(self) -> None:
        """Nobody waits for this process longer than an update takes."""
        if self.collectors and not self.collectors.scheduler.exact(self.schedule):
            self.receive(0)
            self.collectors.begin(self.schedule, self.agent)
        self.wait_for_controller(self.config.learn.max_staleness)

    def learn(self) -> None:
        self.take()
        super().learn()
        self.take()

    def save(self) -> None:
        self.take()
        super().save()

    def more_state(self) -> dict[str, Any]:
        return {"scheduler": self.collectors.scheduler.state()} if self.collectors else {}

    def load(self, checkpoint: Checkpoint) -> None:
        super().load(checkpoint)
        if self.collectors and "scheduler" in checkpoint.state:
            self.collectors.scheduler.restore(checkpoint.state["scheduler"])

    # ---- collectors ----

    def receive(self, seconds: float) -> None:
        """Count what comes within so many seconds."""
        assert self.collectors and self.envs
        for request, answer in self.collectors.receive(seconds, self.schedule, self.agent):
            for line in answer["said"]:
                console.print(line, markup=False)
            self.counters.failed_episodes += answer.get("failed", 0)
            actor = self.agent if self.schedule.prefilled else self.explorer  # whose decisions they count as
            for result in answer.get("episodes", []):
                self.counters.episodes += 1
                if not request.decisions:
                    self.count(len(result["predicted_return"]), actor)
            for rows in answer.get("rows", []):
                self.count(len(rows["episode"]["reward"]) - (not rows["continuation"]), actor)
            self.inbox.append((request, answer))

    def take(self) -> None:
        """Put into replay what was received, and tell of it. Errors: OSError, if there is no room; then the run
        cannot be saved either, since its counters are ahead of its replay.
        """
        requests: list[Request] = []
        results: list[EpisodeResult] = []
        seconds = Seconds(0.0, 0.0, 0.0)
        while self.inbox:
            request, answer = self.inbox[0]
            results += self.store(request, answer)
            self.inbox.pop(0)
            if "seconds" in answer:
                requests.append(request)
                seconds = Seconds(*(sum(pair) for pair in zip(seconds, answer["seconds"])))
            if "error" in answer:
                self.error = EnvError(answer["error"], answer["advice"])
        if requests:
            self.tell(requests, results, seconds)

    def store(self, request: Request, answer: dict[str, Any]) -> list[EpisodeResult]:
        """In replay -> the episodes that have ended."""
        results = [unpacked_result(values) for values in answer.get("episodes", [])]
        for result in results if not request.decisions else []:
            self.replay.add(result.episode)
            self.watch.episode(result, self.replay.ring - 1)
        for row in map(unpacked_rows, answer.get("rows", [])):
            stream = request.collector * self.env_config.num_envs + row.stream
            self.replay.add(row.episode, stream, row.continuation)
            self.watch.rows(stream, row.episode, row.continuation)
        return results

    def tell(self, requests: list[Request], results: list[EpisodeResult], seconds: Seconds) -> None:
        """Of answers that have come since the last time."""
        agent = self.explorer if all(request.explorer for request in requests) else self.agent
        metrics = evaluation.collect_metrics(agent, results) if results else {}
        self.reporter.collected(seconds, results, metrics)
        updates, actor_updates = self.counters.updates, self.counters.actor_updates
        values = {"async/model_staleness": np.mean([updates - request.updates for request in requests])}
        if self.controller:
            staleness = [actor_updates - request.actor_updates for request in requests]
            values["async/actor_staleness"] = np.mean(staleness)
        self.log({name: float(value) for name, value in values.items()})

    def log(self, values: dict[str, float]) -> None:
        """With the seconds that this process has waited since the last time."""
        waited, self.waited = self.waited, 0.0
        self.reporter.log({**values, "async/waiting_seconds": waited})

    # ---- the controller ----

    def wait_for_controller(self, at_most: int) -> None:
        """Until the model is ahead of it by at most so many updates. Errors: Interrupted."""
        if not self.controller:
            return
        self.attend_controller(0)
        began = time.perf_counter()
        while self.schedule.behind() > at_most:  # type: ignore[attr-defined]
            if self.stop():
                raise Interrupted
            self.attend_controller(LOOK)
        self.waited += time.perf_counter() - began

    def attend_controller(self, seconds: float) -> None:
        """Take what it has done within so many seconds, and let it go on."""
        if not self.controller:
            return
        schedule: SplitSchedule = self.schedule  # type: ignore[assignment]
        exchange = self.controller.receive(seconds, schedule, self.agent)
        if exchange:
            for metrics in exchange.metrics:
                self.reporter.add({name: torch.tensor(value) for name, value in metrics.items()}, updates=0)
            self.log({"async/controller_staleness": float(exchange.staleness)})
        self.controller.begin(schedule, self.agent, self.draw_for_actor)

    def draw_for_actor(self, update: int, stage: Stage) -> Batch:
        rng = np.random.default_rng([self.seed, streams.ACTOR_SAMPLE, update])
        return self.replay.sample(rng, stage.batch_size, stage.batch_length)
