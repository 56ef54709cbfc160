"""Keep a run's evidence:  python benchmarks/record.py runs/quickstart

Writes benchmarks/results/<run>.json: command, commit, hardware, wall clock, how far it came, the curves, and what
evaluate.py and the benchmarks left in the run's folder (evaluation, comparison, temperatures, dot_dream); and copies
its pictures, too. Wall clock is the time from the first to the last entry of its event files; training_seconds leaves
out the pauses in between. Hardware is this machine. Of a run that benchmarks/gpu.sh trained piece by piece, perhaps on
several machines, trained.txt in its folder knows better: a line for each piece, its seconds and where it was trained
(`--hardware` prints what this machine is called there).
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import processor  # noqa: E402
from training.run_folder.run import Run, RunError  # noqa: E402

CURVES = re.compile(
    r"step$|updates$|(cpu_)?hours$|collect/return|evaluate/(return|ci95)|learn/(vision|memory)/loss_|learn/actor/(popul|mean_solution)"
)
LARGEST = 2_000_000  # bytes of a video that is kept as it is
LEFT = ("evaluation", "comparison", "temperatures", "dot_dream")


def record(folder: Path) -> dict[str, Any]:
    """The evidence of one run."""
    run = Run.read(folder)
    files = sorted(folder.glob("events.out.*"))
    loaded = ([event.wall_time for event in EventFileLoader(str(file)).Load()] for file in files)
    times = [events for events in loaded if events]
    seconds = sum(max(events) - min(events) for events in times)  # one file for each process
    pieces, counters = folder / "trained.txt", run.newest().state["counters"]
    trained = [line.split(" ", 1) for line in pieces.read_text("utf8").splitlines()] if pieces.exists() else []
    logged, cpu_seconds = timed(run.metrics.history())
    rows = [{key: value for key, value in row.items() if CURVES.match(key)} for row in logged]
    left = {name: folder / f"{name}.json" for name in LEFT}
    return {
        "command": re.sub(r" \+*runs=\S+", "", run.info["command"]),  # where the runs lie says nothing
        **{key: run.info[key] for key in ("commit", "device", "seed", "python", "versions")},
        **{key: run.info.get(key) for key in ("precision", "threads")},  # runs of earlier versions do not say
        "processor": processor(),
        "hardware": sorted({where for _, where in trained}) or [hardware(run.info["device"])],
        "env": run.config.get("env"),
        **{part: run.config[part]["name"] for part in ("model", "actor")},
        "counters": {name: counters[name] for name in ("env_steps", "episodes", "updates")},
        "wall_clock_seconds": max(map(max, times)) - min(map(min, times)),
        "training_seconds": sum(float(lasted) for lasted, _ in trained) or seconds,
        "cpu_seconds": cpu_seconds,  # of the processor, up to the last report; null: not logged
        "event_files": len(files),  # more than one: it was resumed, and wall clock counts the pauses
        "curve": [row for row in rows if len(row) > 2],
        **{name: json.loads(path.read_text()) for name, path in left.items() if path.exists()},
    }


def timed(rows: Iterable[dict[str, float]]) -> tuple[list[dict[str, float]], float | None]:
    """Evaluations with the hours until there, of wall clock without pauses and of the processor; and all of the
    processor's seconds. Runs of earlier versions did not log them.
    """
    wall_clock, cpu, known, found = 0.0, 0.0, False, []
    for row in rows:
        known = known or "seconds/cpu" in row
        wall_clock += row.get("seconds/wall_clock", 0.0)
        cpu += row.get("seconds/cpu", 0.0)
        hours = {"hours": wall_clock / 3600, "cpu_hours": cpu / 3600}
        found.append(row | (hours if known and "evaluate/return" in row else {}))
    return found, cpu if known else None


def hardware(device: str = "cuda") -> str:
    """What a run on this device trains on here."""
    gpu = device.startswith("cuda") and torch.cuda.is_available()
    return torch.cuda.get_device_name() if gpu else f"{processor()}, {os.cpu_count()} cores"


def strip(video: Path, frames: tuple[int, ...] = (3, 8, 20, 45)) -> Image.Image:
    """Some frames of a video, one below the other."""
    with Image.open(video) as opened:
        pictures = []
        for number in frames:
            opened.seek(min(number, opened.n_frames - 1))  # type: ignore[attr-defined]
            pictures.append(opened.convert("RGB"))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width, height * len(pictures)))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (0, number * height))
    return sheet


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/record.py RUN_FOLDER [RUN_FOLDER ...] | --hardware")
    if sys.argv[1] == "--hardware":
        print(hardware())
        return
    for folder in map(Path, sys.argv[1:]):
        try:
            result = record(folder)
        except RunError as error:
            sys.exit(f"error: {error}")
        target = ROOT / "benchmarks" / "results" / f"{folder.name}.json"
        target.write_text(json.dumps(result, indent=1) + "\n")
        for picture in (*folder.glob("*.png"), *folder.glob("*.gif")):  # films of earlier versions are GIFs
            copy = target.with_name(f"{folder.name}-{picture.name}")
            if picture.stat().st_size < LARGEST:
                shutil.copy(picture, copy)
            else:
                strip(picture).save(copy.with_suffix(".png"))
        score = result.get("evaluation", {}).get("return")
        print(f"{target.relative_to(ROOT)}: {result['training_seconds']:.0f} s of training, evaluation {score}")


if __name__ == "__main__":
    main()
