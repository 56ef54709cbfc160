"""What collectors in processes of their own gain where environments wait, 20 ms a step:

    python benchmarks/async_speed.py --json benchmarks/results/async-speed.json

The same recipe with train.collect.mode=sync and with four collectors: as many env steps, as many updates. Wall clock of
the loop, and of all, the seconds in which processes start included. Waiting needs no processor: two cores are enough.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))  # after this folder, in which waiting.py is

from benchmarks.measuring import machine  # noqa: E402
from training.configuration import command_line  # noqa: E402
from training.loop import loop, open_trainer  # noqa: E402
from training.signals import SignalHandler  # noqa: E402

RECIPE = [
    "exp=smoke", "env.wrappers=[waiting:Waiting]", "env.time_limit=50", "train.prefill=4", "train.eval_every=100000",
    "train.eval_episodes=1", "train.save_every=100000", "agent.device=cpu", "agent.threads=1",
]  # fmt: skip


def train(folder: Path, name: str, words: Sequence[str]) -> dict[str, Any]:
    began = time.perf_counter()
    with SignalHandler() as stop:
        trainer = open_trainer(command_line.parse([*RECIPE, *words, f"runs={folder}", f"run={name}"]), stop)
        try:
            opened = time.perf_counter()
            loop(trainer)
            looped = time.perf_counter()
        finally:
            trainer.close()
    counters = trainer.counters
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "loop_seconds": round(looped - opened, 1),
        "env_steps": counters.env_steps,
        "updates": counters.updates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-steps", type=int, default=10_000)
    parser.add_argument("--updates", type=int, default=10, help="after every episode of 50 steps")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    size = [f"train.env_steps={options.env_steps}", f"train.learn.model.updates={options.updates}"]
    collectors = ["train.collect.mode=async", f"train.collect.workers={options.workers}"]
    with tempfile.TemporaryDirectory() as folder:
        sync = train(Path(folder), "sync", size)
        apart = train(Path(folder), "async", [*size, *collectors])
    result = {
        "sync": sync,
        "async": apart,
        "workers": options.workers,
        "ratio": round(sync["seconds"] / apart["seconds"], 2),
        "loop_ratio": round(sync["loop_seconds"] / apart["loop_seconds"], 2),
        "machine": machine() | {"load_at_the_end": round(os.getloadavg()[0], 1)},
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
