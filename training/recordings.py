"""Writes a run's replay as recordings of another project:  python -m training.recordings runs/mine out --format minari

What was written is read back and compared. To look at recordings: python -m worldmodel.replay.check <folder>
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from training.reporting.progress import print_error
from training.run_folder.run import Run, RunError
from worldmodel.replay.episodes import DamagedChunk, Episode
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
    except (RunError, RecordedError, DamagedChunk, OSError) as error:
        print_error(error)
        return 1
    print(f"{len(rows)} episodes, {sum(rows):,} rows, written to {asked.out} as {asked.format}, and read back equal")
    return 0


def export(folder: Path, out: Path, form: str) -> list[int]:
    """Write the replay of a run's newest checkpoint; the rows of each episode. Errors: RunError, RecordedError."""
    run = Run.read(folder)
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out} is not empty: choose another folder")
    FORMATS[form](out, episodes(run), run.spec)
    found = read(out)
    if found.spec != run.spec:
        raise RunError(f"{out} reads as {found.spec}, not as {run.spec}")
    pairs = zip(found, episodes(run), strict=True)
    different = [number for number, (one, other) in enumerate(pairs) if one.digest() != other.digest()]
    if different:
        raise RunError(f"{out}: episode {different[0]} is not read back as it was written")
    return found.lengths


def episodes(run: Run) -> Iterator[Episode]:
    """Those of the newest checkpoint, pieces that follow on each other joined. One that begins amid an episode, because
    what came before was evicted, begins a new one.
    """
    checkpoint = run.newest()
    pieces: dict[int, list[Episode]] = {}  # of the open episode, by stream
    for chunk, piece in zip(checkpoint.chunks, run.episodes(checkpoint), strict=True):
        if not chunk.continuation:
            yield from joined(pieces.pop(chunk.stream, []))
        pieces.setdefault(chunk.stream, []).append(piece)
    for open_pieces in pieces.values():
        yield from joined(open_pieces)


def joined(pieces: Sequence[Episode]) -> Iterator[Episode]:
    """One episode, if it has any action."""
    if sum(len(piece.reward) for piece in pieces) < 2:
        return
    whole = Episode(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))
    whole.action[0], whole.reward[0] = 0, 0
    yield whole


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
