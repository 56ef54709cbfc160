"""Kill collectors and the actor's learner of a run again and again, at random, and count what is left:

    python benchmarks/async_kills.py --json benchmarks/results/async-kills.json

A real run of three collectors and a learner of the actor beside the model. After the kills SIGTERM: it must be saved
within 10 s and leave no process behind 5 s later. Then it is resumed, SIGKILLed with all of its processes, and resumed
to its end. Each time: every episode that the counters count is in replay exactly once, with as many rows as were
counted, and the versions of the weights, as they were logged, never go back. Exits with 1 if anything is wrong.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import machine  # noqa: E402
from training.run_folder.run import Run  # noqa: E402

RECIPE = [
    "exp=smoke", "env.time_limit=10", "model=dreamer_v3_tiny", "actor=dreamer_v3_tiny", "train.prefill=4",
    "train.learn.model.parts=[model,actor]", "train.learn.model.updates=4", "train.eval_every=1000000",
    "train.eval_episodes=1", "train.save_every=10", "train.max_failures=100", "replay.batch_size=2",
    "replay.batch_length=4", "agent.device=cpu", "agent.precision=fp32", "agent.threads=1",
    "train.collect.mode=async", "train.collect.workers=3", "train.learn.mode=async",
]  # fmt: skip
COLLECTOR, CONTROLLER = "ray::Collector", "ray::Controller"
TO_SAVE, TO_END = 10, 5  # seconds, of a run that is asked to stop
PATIENCE = 600  # seconds in which something must happen, on a busy machine


def start(folder: Path, log: Path, steps: int) -> subprocess.Popen[bytes]:
    words = [
        sys.executable,
        str(ROOT / "train.py"),
        *RECIPE,
        f"train.env_steps={steps}",
        f"runs={folder}",
        "run=killed",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)


def named(process: subprocess.Popen[bytes], name: str) -> Iterator[psutil.Process]:
    """Those of a run's processes that have begun to work."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                yield child
        except psutil.Error:
            continue


def wait_until(process: subprocess.Popen[bytes], log: Path, true: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it ended by itself, or hangs: {process.poll()}\n{log.read_text()[-3000:]}")
        time.sleep(0.05)


def episodes(log: Path) -> int:
    """Lines that tell of collected ones."""
    return log.read_text().count("return ")


def strike(process: subprocess.Popen[bytes], log: Path, kills: list[str], rng: random.Random) -> None:
    """Kill one process after the other. Between two, something has been collected: the run goes on."""
    for number, name in enumerate(kills):
        before = episodes(log)
        wait_until(process, log, lambda: episodes(log) > before)  # noqa: B023
        time.sleep(rng.uniform(0, 1))
        wait_until(process, log, lambda: list(named(process, name)))  # noqa: B023
        rng.choice(sorted(named(process, name), key=lambda child: child.pid)).kill()
        print(f"{number + 1:3} {name.removeprefix('ray::')}", flush=True)


def inspect(run: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest checkpoint's counters, and all that is wrong."""
    found = Run.read(run).newest()
    counters, wrong = found.state["counters"], []
    if not len(found.chunks) == len({chunk.digest for chunk in found.chunks}) == counters["episodes"]:
        wrong.append(f"{counters['episodes']} episodes are counted, {len(found.chunks)} chunks are in replay")
    if sum(chunk.rows - 1 for chunk in found.chunks) != counters["env_steps"]:
        wrong.append(f"{counters['env_steps']} env steps are counted, replay has others")
    for name in ("count/updates", "count/actor_updates", "count/episodes"):
        values = [row[name] for row in Run.read(run).metrics.history() if name in row]
        if values != sorted(values):
            wrong.append(f"{name} goes back")
    for name in ("async/model_staleness", "async/actor_staleness", "async/controller_staleness"):
        values = [row[name] for row in Run.read(run).metrics.history() if name in row]
        if not values or min(values) < 0:
            wrong.append(f"{name}: {values[:3]}...")
    return counters, wrong


def stop(process: subprocess.Popen[bytes], number: int) -> tuple[float, float]:
    """Seconds from a signal to its end, and from there until all processes of its tree were gone."""
    everybody = psutil.Process(process.pid).children(recursive=True)
    if number == signal.SIGKILL:
        for child in everybody:
            child.kill()
    began = time.monotonic()
    process.send_signal(number)
    process.wait(PATIENCE)
    ended = time.monotonic()
    psutil.wait_procs(everybody, timeout=PATIENCE)
    return round(ended - began, 1), round(time.monotonic() - ended, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collectors", type=int, default=20)
    parser.add_argument("--controllers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    rng, began = random.Random(options.seed), time.monotonic()
    kills = [COLLECTOR] * options.collectors + [CONTROLLER] * options.controllers
    rng.shuffle(kills)
    with tempfile.TemporaryDirectory() as place:
        folder, log = Path(place), Path(place) / "log.txt"
        run = folder / "killed"
        process = start(folder, log, 10**6)
        strike(process, log, kills, rng)
        saved, gone = stop(process, signal.SIGTERM)
        counters, wrong = inspect(run)
        if saved > TO_SAVE or gone > TO_END:
            wrong.append(f"saved after {saved} s, and all gone {gone} s later; {TO_SAVE} and {TO_END} are allowed")
        if counters["failed_episodes"] > options.collectors:  # one that had nothing open costs nothing
            wrong.append(f"{counters['failed_episodes']} episodes failed, more than were killed")
        process = start(folder, log, 10**6)
        before = episodes(log)
        wait_until(process, log, lambda: episodes(log) > before + 25)
        stop(process, signal.SIGKILL)
        after, found = inspect(run)
        wrong += found
        target = after["env_steps"] + 100
        code = start(folder, log, target).wait(PATIENCE)
        last, found = inspect(run)
        wrong += found
        if code or not target <= last["env_steps"] <= target + 20 or last["actor_updates"] != last["updates"]:
            wrong.append(f"exit code {code}, {last} instead of {target} env steps and at most two episodes more")
    result = {
        "kills": {"collectors": options.collectors, "controllers": options.controllers},
        "seconds_to_save": saved,
        "seconds_until_all_are_gone": gone,
        "after_the_kills": counters,
        "at_the_end": last,
        "wrong": wrong,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "machine": machine() | {"load_at_the_end": round(os.getloadavg()[0], 1)},
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
