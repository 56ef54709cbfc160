"""A run with collectors in simulated time: the real schedule and scheduler, and lengths of time that were measured.

What benchmarks/scale.py draws its page from.
"""

import copy
import heapq
from typing import NamedTuple

import numpy as np

from training.configuration.config import Config
from training.distributed.messages import Request
from training.distributed.scheduler import Scheduler
from training.schedule import Counters, Schedule

REQUESTS = 5  # of each collector, in a simulation, at least
STALE = 20  # times train.collect.max_staleness updates, at least: what may be owed at first counts for little then


class Costs(NamedTuple):
    """Seconds and bytes, as measured."""

    act: float  # s of a decision for all environments of a collector
    step: float  # s of a decision's step in one environment
    update: float  # s
    row: float  # bytes of a row
    take: float  # s that the learner needs to take in a row
    weights: float  # bytes
    pack: float  # s that the learner needs to pack its weights
    length: float  # decisions of an episode
    network: float = 1.25e9  # bytes per second into and out of the learner's machine: 10 Gbit/s


class Found(NamedTuple):
    """Of one simulation; shares of the time."""

    rate: float  # decisions per second
    learning: float
    taking: float  # taking in rows, and packing weights
    network: float
    collecting: float  # of a collector's time
    staleness: float  # updates since the weights that collected, on average

    def limit(self) -> str:
        """What is busy nearly all of the time; collectors, if nothing else is."""
        shares = {"learner": self.learning, "replay": self.taking, "network": self.network}
        busiest = max(shares, key=lambda name: shares[name])
        if self.learning + self.taking > 0.85:
            return "learner" if self.learning > self.taking else "replay"
        return busiest if shares[busiest] > 0.85 else "collectors"


class Simulation:
    """One run with so many collectors."""

    def __init__(self, config: Config, costs: Costs, workers: int, action_repeat: int, num_envs: int) -> None:
        self.costs, self.workers, self.repeat, self.num_envs = costs, workers, action_repeat, num_envs
        self.counters = Counters()
        batch = config.replay.batch_size, config.replay.batch_length
        endless = config.train.model_copy(update={"env_steps": 10**12})
        self.schedule = Schedule(endless, self.counters, False, batch)
        self.scheduler = Scheduler(workers, num_envs, action_repeat)
        self.now = self.link = 0.0  # when the learner, and its network, are free
        self.link_busy = self.learning = self.taking = self.collecting = 0.0
        self.free = list(range(workers))
        self.has = [-1] * workers  # the version of a collector's weights
        self.packed = -1
        self.answers: list[tuple[float, int, Request]] = []  # when they are at the learner; a heap
        self.staleness: list[int] = []

    def send(self, at: float, size: float) -> float:
        """When so many bytes have passed the learner's network."""
        self.link = max(at, self.link) + size / self.costs.network
        self.link_busy += size / self.costs.network
        return self.link

    def begin(self) -> None:
        """Ask whoever is free and may begin."""
        while self.free:
            request = self.scheduler.next(self.free[-1], self.schedule)
            if request is None:
                return
            collector, costs = self.free.pop(), self.costs
            at = self.now
            if self.packed != request.updates:
                self.packed, self.taking = request.updates, self.taking + costs.pack
                self.now = at = at + costs.pack
            if self.has[collector] != request.updates:
                self.has[collector] = request.updates
                at = self.send(at, costs.weights)
            acted = self.decisions(request) / self.num_envs * (costs.act + self.num_envs * costs.step)
            self.collecting += acted
            heapq.heappush(self.answers, (at + acted, collector, request))

    def decisions(self, request: Request) -> int:
        """Of all environments."""
        return self.num_envs * (request.decisions or round(self.costs.length))

    def receive(self) -> None:
        """Count and take in all that has arrived."""
        while self.answers and self.answers[0][0] <= self.now:
            ready, collector, request = heapq.heappop(self.answers)
            decisions = self.decisions(request)
            episodes = 0 if request.decisions else self.num_envs
            arrived = self.send(ready, (decisions + episodes) * self.costs.row)
            self.now = max(self.now, arrived)
            self.free.append(collector)
            self.staleness.append(self.counters.updates - request.updates)
            if self.scheduler.accept(request, self.schedule):
                self.counters.episodes += episodes
                self.counters.agent_steps += decisions
                self.counters.env_steps += decisions * self.repeat
                if request.explorer:
                    self.counters.prefill_agent_steps = self.counters.agent_steps
                self.taking += decisions * self.costs.take
                self.now += decisions * self.costs.take

    def run(self) -> Found:
        """What is reached once it goes on evenly: the first third is not counted, neither is the prefill."""
        owed = self.schedule.config.collect.max_staleness
        decisions = max(
            max(20, REQUESTS * self.workers) * self.of_a_request(), round(STALE * owed / self.updates_per_decision())
        )
        start: tuple[float, ...] = ()
        while self.counters.agent_steps < decisions:
            self.begin()
            self.receive()
            if not start and self.counters.agent_steps > decisions / 3 and self.schedule.prefilled:
                start = self.sums()
                self.staleness.clear()
            if self.schedule.updates_due() > 0:
                self.now += self.costs.update
                self.learning += self.costs.update
                self.counters.updates += 1
            elif self.answers:
                self.now = max(self.now, self.answers[0][0])
        seconds, learned, *busy = np.subtract(self.sums(), start)
        learning, taking, network, collecting = np.array(busy) / seconds
        staleness = float(np.mean(self.staleness))
        return Found(learned / seconds, learning, taking, network, collecting / self.workers, staleness)

    def of_a_request(self) -> int:
        """Decisions, of all environments, once the prefill is over."""
        if self.schedule.config.collect.unit == "episodes":
            return self.num_envs * round(self.costs.length)
        after, prefill = copy.copy(self.schedule), self.schedule.config.prefill
        after.counters = Counters(env_steps=prefill, episodes=prefill, updates=after.round)
        return self.num_envs * self.scheduler.decisions(after)

    def updates_per_decision(self) -> float:
        train, schedule = self.schedule.config, self.schedule
        if train.ratio is not None:
            return train.ratio * schedule.round / schedule.round_rows
        of_a_round = self.costs.length if train.collect.unit == "episodes" else 1 / self.repeat
        return schedule.round / (train.collect.per_round * of_a_round)

    def sums(self) -> tuple[float, ...]:
        """Decisions are those that were learned from: others arrive in bursts, of all collectors at once."""
        learned = self.counters.updates / self.updates_per_decision()
        return (self.now, learned, self.learning, self.taking, self.link_busy, self.collecting)


def arithmetic(config: Config, costs: Costs, workers: int, action_repeat: int, num_envs: int) -> dict[str, float]:
    """Decisions per second that each part allows."""
    simulation = Simulation(config, costs, workers, action_repeat, num_envs)
    decisions = simulation.of_a_request()
    transport = decisions * costs.row + costs.weights
    acting = decisions / num_envs * (costs.act + num_envs * costs.step)
    return {
        "collectors": workers * decisions / (acting + transport / costs.network),
        "learner": 1 / (simulation.updates_per_decision() * costs.update + costs.take),
        "network": costs.network * decisions / transport,
    }
