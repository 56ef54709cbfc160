"""Writes a run's replay as recordings of another project:  python -m training.recordings runs/mine out --format minari

What was written is read back and compared. To look at recordings: python -m worldmodel.replay.check <folder>
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.reporting.progress import print_error
from training.run_folder.run import Run, RunError
from worldmodel.replay.episodes import DamagedChunk
from worldmodel.replay.export import FORMATS
from worldmodel.replay.recorded import RecordedError, read


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.recordings", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--format", choices=sorted(FORMATS), default="dreamer_v2")
    asked = parser.parse_args(arguments)
    try:
        rows = export(asked.run, asked.out, asked.format)
    except (RunError, RecordedError, DamagedChunk, OSError, MemoryError) as error:
        print_error(error)
        return 1
    print(f"{len(rows)} episodes, {sum(rows):,} rows, written to {asked.out} as {asked.format}, and read back equal")
    return 0


def export(folder: Path, out: Path, form: str) -> list[int]:
    """Write the replay of a run's newest checkpoint; the rows of each episode. Errors: RunError, RecordedError."""
    run = Run.read(folder)
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out} is not empty: choose another folder")
    newest = run.newest()  # the run may be training on
    FORMATS[form](out, run.episodes(newest), run.spec)
    found = read(out)
    if found.spec != run.spec:
        raise RunError(f"{out} reads as {found.spec}, not as {run.spec}")
    pairs = zip(found, run.episodes(newest), strict=True)
    different = [number for number, (one, other) in enumerate(pairs) if one.digest() != other.digest()]
    if different:
        raise RunError(f"{out}: episode {different[0]} is not read back as it was written")
    return found.lengths


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
