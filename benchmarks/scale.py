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
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.scale_simulation import Costs, Simulation, arithmetic  # noqa: E402
from training.collecting.rollout import rollout  # noqa: E402
from training.configuration import command_line  # noqa: E402
from training.configuration.config import Config  # noqa: E402
from training.preflight import collects_steps  # noqa: E402
from training.start import build_agents, open_envs, spec_of  # noqa: E402
from worldmodel.replay.buffer import Replay  # noqa: E402
from worldmodel.replay.storage import row_bytes  # noqa: E402

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


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
