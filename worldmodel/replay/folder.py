"""Which files of a folder hold recordings."""

from pathlib import Path

from worldmodel.replay.hdf5 import SUFFIXES
from worldmodel.replay.npz import RecordedError

MINARI = "main_data.hdf5"  # beside its metadata.json
FOREIGN = {  # what else is found where people look for recordings
    ".parquet": "LeRobot and others: write the episodes as .npz",
    ".tfrecord": "RLDS and others: write the episodes as .npz",
    ".pkl": "pickle can run code and is never read: write the episodes as .npz",
    ".pickle": "pickle can run code and is never read: write the episodes as .npz",
    ".mp4": "videos: write the episodes as .npz",
    ".npy": "single arrays: write those of an episode into one .npz",
    ".zip": "unpack it",
    ".gz": "unpack it",
    ".tar": "unpack it",
}


def data_files(folder: Path) -> list[Path]:
    """The .npz and HDF5 files of a folder, or, where it has none itself, of its folders; or the one that it is. Errors:
    RecordedError.
    """
    suffixes = (".npz", *SUFFIXES)
    if folder.is_file() and folder.suffix in suffixes:
        return [folder]
    if not folder.is_dir():
        raise RecordedError(f"there is no folder {folder}: name one that holds recorded episodes, .npz or .hdf5 files")
    if (folder / "run.json").is_file():
        folder = folder / "replay"  # a run's validation episodes stay what they are
    paths = [path for path in folder.iterdir() if path.suffix in suffixes]
    paths = paths or [path for path in folder.rglob("*") if path.suffix in suffixes]
    if not paths:
        there = {path.suffix for path in folder.rglob("*")} & FOREIGN.keys()
        hints = "".join(f"; it holds {suffix} files ({FOREIGN[suffix]})" for suffix in sorted(there))
        raise RecordedError(f"{folder} holds no recorded episodes, .npz or .hdf5 files, nor do its folders{hints}")
    return sorted(paths, key=lambda path: path.relative_to(folder).parts)


def minari_data(folder: Path) -> Path | None:
    """The folder with a Minari dataset's data, if that is what it is. Errors: RecordedError, if there are several."""
    found = sorted({path.parent for path in folder.rglob(MINARI) if (path.parent / "metadata.json").is_file()})
    if len(found) > 1:
        names = ", ".join(str(path.parent) for path in found[:5])
        raise RecordedError(f"{folder} holds {len(found)} Minari datasets: name one of them, {names}")
    return found[0] if found else None
