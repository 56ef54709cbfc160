"""Twenty minutes of eight collectors of which one is a hundred times as slow as the others, and their memory:

    python benchmarks/async_long.py --json benchmarks/results/async-long.json

A real run whose environments wait 0.1 s a step, one of them 10 s. Replay is full from early on, so nothing has a reason
to grow. Every ten seconds the memory of every process is read (proportional set size: what processes share is counted
once). Exits with 1 if the learner, the collectors or Ray's own processes take more than a twentieth more in the last
quarter than in the second one, or if the slow environment held up any other collector.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import machine  # noqa: E402

RECIPE = [
    "exp=smoke", "env.wrappers=[waiting:OneSlow]", "env.time_limit=50", "train.prefill=4", "train.env_steps=100000000",
    "train.learn.model.updates=2", "train.eval_every=100000000", "train.eval_episodes=1", "train.save_every=200",
    "replay.capacity=4000", "agent.device=cpu", "agent.threads=1", "train.collect.mode=async",
]  # fmt: skip
EVERY = 10  # seconds
GROWTH = 0.05
FAIR = 0.5  # of what the busiest collector has done every other fast one has done at least


def kind(process: psutil.Process, trainer: int) -> str:
    if process.pid == trainer:
        return "learner"
    return "collectors" if "ray::Collector" in " ".join(process.cmdline()) else "ray"


def memory(trainer: int) -> dict[str, float]:
    """Megabytes, by kind of process."""
    found: Counter[str] = Counter()
    parent = psutil.Process(trainer)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            found[kind(process, trainer)] += process.memory_full_info().pss / 1e6
        except psutil.Error:  # it has just ended
            continue
    return dict(found)


def watched(minutes: float, workers: int, folder: Path) -> tuple[dict[str, list[float]], dict[int, int]]:
    """Megabytes every ten seconds, by kind of process; and the steps of every collector, by its process."""
    words = [sys.executable, str(ROOT / "train.py"), *RECIPE, f"train.collect.workers={workers}", "run=long"]
    places = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": places, "ONE_SLOW": str(folder)}
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*words, f"runs={folder}"], cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    samples: dict[str, list[float]] = defaultdict(list)

    def wait(seconds: float) -> None:
        time.sleep(seconds)
        if process.poll() is not None:
            raise RuntimeError(f"it ended by itself:\n{log.read_text()[-3000:]}")

    try:
        while log.read_text().count("return ") < workers:
            wait(1)
        before, ends = steps(folder), time.monotonic() + 60 * minutes
        while time.monotonic() < ends:
            wait(EVERY)
            for name, size in memory(process.pid).items():
                samples[name].append(round(size, 1))
        after = steps(folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(600)  # how soon it ends is async_kills.py's to measure
    return samples, {number: count - before.get(number, 0) for number, count in after.items()}


def steps(folder: Path) -> dict[int, int]:
    """Of every environment, by its process: see waiting.OneSlow."""
    return {int(path.stem): path.stat().st_size for path in folder.glob("*.steps")}


def quarter(values: list[float], number: int) -> float:
    size = len(values) // 4
    return statistics.mean(values[number * size : (number + 1) * size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples, done = watched(options.minutes, options.workers, Path(folder))
        slow = int((Path(folder) / "slow").read_text())
    wrong: list[str] = []
    sizes: dict[str, Any] = {}
    for name, values in samples.items():
        second, last = quarter(values, 1), quarter(values, 3)
        sizes[name] = {
            "second_quarter_mb": round(second, 1),
            "last_quarter_mb": round(last, 1),
            "every_10_s_mb": values,
        }
        if last > second * (1 + GROWTH):
            wrong.append(f"{name} grew from {second:.0f} to {last:.0f} MB")
    fast = sorted(count for number, count in done.items() if number != slow)
    if len(done) != options.workers:
        wrong.append(f"{len(done)} collectors have worked")
    if fast[0] < FAIR * fast[-1] or fast[0] < 10 * done[slow]:
        wrong.append(f"a fast collector was held up: {fast}, the slow one {done[slow]}")
    result = {
        "minutes": options.minutes,
        "memory": sizes,
        "steps_of_fast_collectors": fast,
        "steps_of_the_slow_one": done[slow],
        "wrong": wrong,
        "machine": machine() | {"load_at_the_end": round(os.getloadavg()[0], 1)},
    }
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
