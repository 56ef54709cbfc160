"""Batches per second from memory and from disk, and the memory that each takes.

    python benchmarks/replay.py --json out.json

Replay is four times the budget that it is given. Batches are PlaNet's, 50 sequences of 50 rows of 64x64x3. Every row of
the table is a process of its own:

    memory      the whole replay in main memory, whatever the budget says: what the others are compared with
    disk, warm  in a file that the system still holds in its page cache
    disk, cold  the same file, thrown out of the page cache before every batch: the rate of the disk itself (or of what
                lies below a virtual one)

Seconds are medians; "fastest" is the fastest batch, and memory's rate is compared by it, for a shared machine disturbs.
"ahead" is how long learning waits for a batch that was drawn in a thread while an update of 100 ms, asleep, went on.
Resident memory is counted from before replay was made to its highest while it was filled and sampled.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agents.device import keep_freed_memory  # noqa: E402
from benchmarks.measuring import copy_rate, machine  # noqa: E402
from benchmarks.speed import BATCH, EPISODE, LENGTH, SPEC  # noqa: E402
from worldmodel.replay import storage  # noqa: E402
from worldmodel.replay.buffer import Replay, ReplayConfig  # noqa: E402
from worldmodel.replay.columns import FileColumn  # noqa: E402
from worldmodel.replay.episodes import Episode  # noqa: E402
from worldmodel.replay.prefetch import prefetched  # noqa: E402

WAYS = ("memory", "disk, warm", "disk, cold")
UPDATE = 0.1  # seconds
RESIDENT = psutil.Process().memory_info


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--budget-gb", type=float, default=0.5, help="replay is four times as large")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where the file lies for a while")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)  # in a child process
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options)))
        return
    figures = {way: child(way) for way in WAYS}
    for row in figures.values():
        row["of_memorys_rate"] = figures["memory"]["fastest_seconds"] / row["fastest_seconds"]
    where = machine() | {"system": f"{platform.system()} {platform.release()}", "copy_gb_per_s": copy_rate() / 1e9}
    print(f"{where['processor']}, {where['threads']} threads, torch {where['torch']}")
    for way, row in figures.items():
        print(f"{way:10}  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps({"machine": where, "figures": figures}, indent=2) + "\n")


def child(way: str) -> dict[str, float]:
    """Measure one way in a process of its own."""
    done = subprocess.run([sys.executable, *sys.argv, "--only", way], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()  # as training does
    config = ReplayConfig(
        batch_size=BATCH, batch_length=LENGTH, capacity=1_000_000, storage="auto", memory_gb=options.budget_gb,
        context=False,
    )  # fmt: skip
    rng, budget = np.random.default_rng(0), options.budget_gb * 1e9
    episodes = int(4 * budget / storage.row_bytes(SPEC)) // (EPISODE + 1)
    image = rng.integers(256, size=(EPISODE + 1, *SPEC.image_shape), dtype=np.uint8)
    tiny = Replay(config, SPEC, EPISODE + 1)
    tiny.add(episode(image, rng))
    tiny.sample(rng)  # the libraries' own memory
    before = RESIDENT().rss

    options.folder.mkdir(parents=True, exist_ok=True)
    place = storage.Storage("memory" if options.only == "memory" else "disk", folder=options.folder)
    store = Replay(config, SPEC, episodes * (EPISODE + 1), place)
    for _ in range(episodes):
        store.add(episode(image, rng))
    highest = RESIDENT().rss
    cold = options.only == "disk, cold"
    if isinstance(store.image, FileColumn):
        os.fsync(store.image.file)  # what is not written yet cannot be thrown out, and disturbs

    seconds, waits = [], []
    for _ in range(options.samples // (5 if cold else 1)):
        forget(store, cold)
        seconds.append(timed(lambda: store.sample(rng)))
        highest = max(highest, RESIDENT().rss)
    with contextlib.closing(prefetched(lambda n: store.sample(np.random.default_rng(n)), range(12))) as batches:
        forget(store, cold)
        for _ in range(11):
            waits.append(timed(lambda: next(batches)))
            highest = max(highest, RESIDENT().rss)
            time.sleep(UPDATE)
            forget(store, cold)
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "fastest_seconds": min(seconds),
        "batches_per_s": 1 / median,
        "gb_per_s": BATCH * LENGTH * storage.row_bytes(SPEC) / median / 1e9,
        "ahead_seconds": statistics.median(waits[1:]),
        "replay_gb": len(store) * storage.row_bytes(SPEC) / 1e9,
        "budget_gb": options.budget_gb,
        "resident_gb": (highest - before) / 1e9,
        "resident_of_budget": (highest - before) / budget,
    }


def forget(store: Replay, cold: bool) -> None:
    """Throw out what the system keeps of the images' file in memory, if reading is to be cold."""
    if cold and isinstance(store.image, FileColumn):
        os.posix_fadvise(store.image.file, 0, 0, os.POSIX_FADV_DONTNEED)


def episode(image: np.ndarray, rng: np.random.Generator) -> Episode:
    """Random rewards and actions on the same pictures: gigabytes of random pixels would take longer than the rest."""
    rows = len(image)
    action = rng.uniform(-1, 1, (rows, SPEC.action_dim)).astype(np.float32)
    return Episode(image, action, rng.normal(size=rows).astype(np.float32), np.zeros(rows, bool))


def timed(job: Callable[[], Any]) -> float:
    """The seconds of a job, whose result is dropped afterwards."""
    began = time.perf_counter()
    result = job()
    took = time.perf_counter() - began
    del result
    return took


if __name__ == "__main__":
    main()
