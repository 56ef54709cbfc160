"""Keep a run's evidence:  python benchmarks/record.py runs/quickstart

Writes benchmarks/results/<run>.json: command, commit, hardware, wall clock, the curves, and what evaluate.py and the
benchmarks left in the run's folder (evaluation, comparison, temperatures, dot_dream); and copies its pictures, too.
Wall clock is the time from the first to the last entry of its event files.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.speed import processor  # noqa: E402
from worldmodel.run import Run  # noqa: E402

CURVES = re.compile(
    r"step$|updates$|collect/return|evaluate/(return|interval)|(vision|memory)/loss_|learn/(popul|incum)"
)
LEFT = ("evaluation", "comparison", "temperatures", "dot_dream")


def record(folder: Path) -> dict[str, Any]:
    """The evidence of one run."""
    run = Run.read(folder)
    files = sorted(folder.glob("events.out.*"))
    times = [event.wall_time for file in files for event in EventFileLoader(str(file)).Load()]
    rows = [{key: value for key, value in row.items() if CURVES.match(key)} for row in run.history()]
    left = {name: folder / f"{name}.json" for name in LEFT}
    return {
        **{key: run.info[key] for key in ("command", "commit", "device", "seed", "python", "versions")},
        "processor": processor(),
        "wall_clock_seconds": max(times) - min(times),
        "event_files": len(files),  # more than one: it was resumed, and wall clock counts the pauses
        "curve": [row for row in rows if len(row) > 2],
        **{name: json.loads(path.read_text()) for name, path in left.items() if path.exists()},
    }


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/record.py RUN_FOLDER [RUN_FOLDER ...]")
    for folder in map(Path, sys.argv[1:]):
        result = record(folder)
        target = ROOT / "benchmarks" / "results" / f"{folder.name}.json"
        target.write_text(json.dumps(result, indent=1) + "\n")
        for picture in (*folder.glob("*.png"), *folder.glob("*.gif")):
            shutil.copy(picture, target.with_name(f"{folder.name}-{picture.name}"))
        score = result.get("evaluation", {}).get("return")
        print(f"{target.relative_to(ROOT)}: {result['wall_clock_seconds']:.0f} s of training, evaluation {score}")


if __name__ == "__main__":
    main()
