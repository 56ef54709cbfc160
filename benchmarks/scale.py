"""How far collectors scale:  python benchmarks/scale.py exp=dreamer_v3 env.task=walker_walk --costs costs.json

The real rules of a run with train.collect.mode=async (training/schedule.py and training/distributed/scheduler.py) in
simulated time: a queue of events, in which acting, an environment's step, an update and the transport of bytes are
lengths of time that were measured before. 1 to 1,000 collectors take seconds.

`--calibrate costs.json` measures those lengths on this machine, of the same words; without `--costs` it is done first.
Beside what was simulated stands the arithmetic, in decisions per second, for W collectors of E environments that share
a network of N bytes per second:

    collectors  W e / (e (a + E s) / E + (e b + w) / N)   e decisions of a request, a of an action, s of a step, b bytes
                                                          of a row, w of the weights
    learner     1 / (k u + x)                             k updates per decision, u of an update, x of taking in a row
    network     N / (b + w / e)

and the least of them is what can be reached. The learner's machine is the only one whose network counts.
"""

import argparse
import copy
import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training.collecting.rollout import rollout  # noqa: E402
from training.configuration import command_line  # noqa: E402
from training.configuration.config import Config  # noqa: E402
from training.distributed.messages import Request  # noqa: E402
from training.distributed.scheduler import Scheduler  # noqa: E402
from training.preflight import collects_steps  # noqa: E402
from training.schedule import Counters, Schedule  # noqa: E402
from training.start import build_agents, open_envs, spec_of  # noqa: E402
from worldmodel.replay.buffer import Replay  # noqa: E402
from worldmodel.replay.storage import row_bytes  # noqa: E402

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
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


# ---- measuring ----


def calibrate(config: Config, clock: Callable[[], float]) -> tuple[Costs, int]:
    """What the parts of this run take here, and how many simulator steps a decision has."""
    vector = open_envs(config)
    if vector is None:
        sys.exit("there is no environment to collect in: choose one, env=...")
    try:
        spec = spec_of(vector)
        agent, _ = build_agents(config, spec)
        agent.act(None, vector.reset(dict.fromkeys(range(vector.num_envs), 0)), mode="explore")  # once: to load
        began = clock()
        results, _ = rollout(agent.act, vector, list(range(vector.num_envs)), "explore", lambda: False)
        whole, decisions = clock() - began, max(result.length for result in results)
        vector.reset(dict.fromkeys(range(vector.num_envs), 0))
        began = clock()
        for row in range(1, len(results[0].episode.action)):
            vector.step(np.repeat(results[0].episode.action[None, row], vector.num_envs, 0))
        step = (clock() - began) / results[0].length / vector.num_envs
        act = max(0.0, whole / decisions - step * vector.num_envs)
        rows = sum(result.length + 1 for result in results)
        replay = Replay(config.replay, spec, max(rows, config.replay.batch_length), streams=1,
                        by_rows=collects_steps(config, vector))  # fmt: skip
        began = clock()
        for result in results:
            replay.add(result.episode)
        take = (clock() - began) / rows
        stages = [stage for stage in config.train.learn.stages.items() if stage[1].updates]
        update, count = 0.0, sum(stage.updates for _, stage in stages)
        for name, stage in stages:
            batch = replay.sample(np.random.default_rng(0), stage.batch_size, stage.batch_length)
            times = []
            for _ in range(4):
                began = clock()
                agent.learn(batch, tuple(stage.parts or [name]))
                times.append(clock() - began)
            update += min(times) * stage.updates / count
        began = clock()
        weights = [tensor.detach().cpu().clone() for tensor in agent.weights()]
        pack = clock() - began
        size = sum(tensor.numel() * tensor.element_size() for tensor in weights)
        length = float(np.mean([result.length for result in results]))
        costs = Costs(act, step, update, row_bytes(spec), take, size, pack, length)
        return costs, vector.action_repeat
    finally:
        vector.close()


# ---- the page ----


def table(config: Config, costs: Costs, action_repeat: int, counts: Sequence[int], num_envs: int) -> Iterator[str]:
    yield from (
        "| collectors | decisions/s | by arithmetic | learner | replay | network | a collector | staleness | limit |",
        "|---|---|---|---|---|---|---|---|---|",
    )
    for workers in counts:
        found = Simulation(config, costs, workers, action_repeat, num_envs).run()
        most = arithmetic(config, costs, workers, action_repeat, num_envs)
        share = " | ".join(f"{100 * part:.0f} %" for part in found[1:5])
        yield (
            f"| {workers:,} | {shown(found.rate)} | {shown(min(most.values()))} ({min(most, key=most.__getitem__)}) | "
            f"{share} | {found.staleness:.1f} | {found.limit()} |"
        )


def shown(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="of train.py")
    parser.add_argument("--costs", type=Path, help="JSON with lengths of time, as --calibrate writes them")
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help="measure them here, and write them")
    parser.add_argument("--cpu-time", action="store_true", help="the processor's: beside other load, with one thread")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other lengths, as update=0.02")
    parser.add_argument("--collectors", type=int, nargs="*", default=COUNTS)
    options = parser.parse_args()
    config = command_line.parse([*options.words, "train.collect.mode=async"])
    if options.costs:
        known = json.loads(options.costs.read_text())
    else:
        costs, repeat = calibrate(config, time.process_time if options.cpu_time else time.perf_counter)
        known = {**costs._asdict(), "action_repeat": repeat, "num_envs": config.env.num_envs}
    if options.calibrate:
        options.calibrate.write_text(json.dumps(known, indent=2) + "\n")
    known |= {name: float(value) for name, value in (word.split("=") for word in options.set)}
    costs = Costs(**{name: known[name] for name in Costs._fields if name in known})
    print(", ".join(f"{name} {value:.4g}" for name, value in costs._asdict().items()))
    began = time.perf_counter()
    for line in table(config, costs, int(known["action_repeat"]), options.collectors, int(known["num_envs"])):
        print(line, flush=True)
    print(f"simulated in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
