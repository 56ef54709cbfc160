"""Recorded episodes: a folder of .npz files in, Spec and Episodes out, to learn a world model without an environment.

A file holds one episode of T rows, in arrays of these names (others are ignored; nothing is ever unpickled):

    image     (T, C, Y, X), (T, Y, X, C) or (T, Y, X) uint8, C 1 or 3
    action    (T, A) in [-1, 1]; or one-hot, or integers (T,): discrete
    reward    (T,) numbers
    terminal  (T,) bool or 0/1, true only in an episode's last row
    first     (T,) bool or 0/1, if the file holds several episodes: where they begin

Time is as in worldmodel/base.py: action[t] led to image[t], and an episode's first row has neither action nor reward.
So are a replay's own chunks. Files with one image more per episode than actions, rewards and terminals are understood
too: there action[t] follows image[t].
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldmodel.base import Spec
from worldmodel.replay.episodes import Episode
from worldmodel.replay.npz import RecordedError, header, load, opened
from worldmodel.replay.storage import available_memory

SHARE = 4  # the images of a file may take a 1/SHARE of the memory that is free, each other array an eighth of that
LARGEST = 1000  # discrete actions: each is a column, so that a stray integer must not ask for a billion of them
SHOWN = 10  # files that an error lists
CONVENTIONS = (
    "Either action[t] led to image[t], and an episode's first row has neither action nor reward, only zeros; or "
    "action[t] follows image[t], and there is one image more than actions, rewards and terminals: add the image that "
    "followed the last action, or drop the last action, reward and terminal"
)


class File(NamedTuple):
    """What is kept of a file: everything but its images."""

    path: Path
    shape: tuple[int, ...]  # of the images, as they lie in the file
    size: tuple[int, ...]  # (C, Y, X)
    first: np.ndarray  # (T,) bool
    action: np.ndarray  # (T, A) float32 or (T,) int16, zero in first rows
    reward: np.ndarray  # (T,) float32
    terminal: np.ndarray  # (T,) bool
    onehot: bool  # all rows of `action` but first ones are one-hot, of two columns or more

    @property
    def form(self) -> str:
        return "integers" if self.action.ndim == 1 else f"rows of {self.action.shape[1]} numbers"


class Recorded:
    """Recorded episodes, to be iterated as often as wanted, in the order of file names."""

    def __init__(self, spec: Spec, files: list[File], limit: int) -> None:
        self.spec, self.files, self.limit = spec, files, limit
        self.lengths = [rows for file in files for rows in lengths(file.first)]  # N + 1 of each episode

    def __iter__(self) -> Iterator[Episode]:
        """One file is unpacked at a time. Errors: RecordedError if images are damaged, or no longer what they were."""
        for file in self.files:
            try:
                with opened(file.path) as archive:
                    shape, kind = header(archive, "image", self.limit)
                    if shape != file.shape or kind != np.uint8:
                        raise RecordedError("its images changed while it was read")
                    image = to_channels_first(load(archive, "image", self.limit))
            except RecordedError as error:
                raise RecordedError(f"{file.path} cannot be used: {error}") from error
            end = 0
            for rows in lengths(file.first):
                part = slice(end, end := end + rows)
                action = file.action[part]
                if action.ndim == 1:
                    action = np.eye(self.spec.action_dim, dtype=np.float32)[action]  # (N + 1, A)
                    action[0] = 0
                yield Episode(np.ascontiguousarray(image[part]), action, file.reward[part], file.terminal[part])


def read(folder: Path) -> Recorded:
    """Check a folder and find its Spec. Only the headers of images are read, so that this takes little time or memory.

    Actions are discrete if they are integers, or one-hot in all files. Errors: RecordedError, with all bad files.
    """
    if not folder.is_dir():
        raise RecordedError(f"there is no folder {folder}: name one that holds recorded episodes, .npz files")
    paths = sorted(folder.glob("*.npz"), key=lambda path: path.name)
    if not paths:
        hint = f"; did you mean {folder / 'replay'}?" if (folder / "replay").is_dir() else ""
        raise RecordedError(f"{folder} holds no recorded episodes, .npz files{hint}")
    files, wrong, limit = [], {}, available_memory() // SHARE
    for path in paths:
        try:
            files.append(scan(path, limit))
        except RecordedError as error:
            wrong[path.name] = str(error)
    for what, found in (("images", [str(file.size) for file in files]), ("actions", [file.form for file in files])):
        usual = Counter(found).most_common(1)[0][0] if found else ""
        for file, own in zip(files, found):
            if own != usual:
                other = files[found.index(usual)].path.name
                wrong[file.path.name] = f"its {what} are {own}, those of {other} {usual}: all files must be alike"
    if wrong:
        lines = [f"{len(wrong)} of {len(paths)} files in {folder} cannot be used:"]
        lines += [f"  {name}: {wrong[name]}" for name in sorted(wrong)[:SHOWN]]
        lines += [f"  ... and {len(wrong) - SHOWN} more"] * (len(wrong) > SHOWN)
        raise RecordedError("\n".join(lines))
    (c, y, x), integers = files[0].size, files[0].action.ndim == 1
    count = 1 + max(int(file.action.max()) for file in files) if integers else files[0].action.shape[1]
    return Recorded(Spec((c, y, x), count, integers or all(file.onehot for file in files)), files, limit)


# ---- one file ----


def scan(path: Path, limit: int) -> File:
    """Everything but the images, checked and brought to our time. limit: bytes of the images."""
    with opened(path) as archive:
        shape, kind = header(archive, "image", limit)
        if kind != np.uint8:
            raise RecordedError(f"'image' is {kind}, not uint8: store intensities as whole numbers 0..255")
        t, *size = to_channels_first(np.broadcast_to(np.uint8(0), shape)).shape  # takes no memory
        action, reward, terminal = (load(archive, name, limit // 8) for name in ("action", "reward", "terminal"))
        several = "first.npy" in archive.namelist()
        first = flags(load(archive, "first", limit // 8), "first") if several else np.arange(t) == 0
    action, terminal = numbers(action), flags(terminal, "terminal")
    if reward.ndim != 1 or terminal.ndim != 1:
        raise RecordedError(f"'reward' {reward.shape} and 'terminal' {terminal.shape} must be (T,)")
    if first.shape != (t,) or not first[0]:
        raise RecordedError(f"'first' must be ({t},), one for each image, and true in the first row")
    if min(lengths(first)) < 2:
        raise RecordedError("it holds an episode of a single image, without an action: leave that out")

    given = {len(action), len(reward), len(terminal)}
    if given == {t - first.sum()}:
        action, reward, terminal = (pad_first_rows(part, first) for part in (action, reward, terminal))
    elif given != {t}:
        found = f"{t} images, {len(action)} actions, {len(reward)} rewards, {len(terminal)} terminals"
        raise RecordedError(f"it holds {found}, and {first.sum()} episode(s). {CONVENTIONS}")
    elif action[first].any() or reward[first].any():
        raise RecordedError(f"there are as many actions as images, but a first row is not zero. {CONVENTIONS}")

    with np.errstate(all="ignore"):  # what is beyond float32 becomes infinite
        reward = reward.astype(np.float32)
    if not np.isfinite(reward).all():
        raise RecordedError(f"'reward' is {reward[~np.isfinite(reward)][0]} somewhere: all must be finite")
    early = terminal & ~np.roll(first, -1)
    if early.any():
        where = f"in row {early.argmax()} of {t}, before its episode's last one"
        raise RecordedError(f"'terminal' is true {where}: end the episode there, or mark where others begin by 'first'")
    onehot = action.ndim == 2 and action.shape[1] > 1 and np.isin(action, (0, 1)).all()
    onehot = bool(onehot and (action[~first].sum(1) == 1).all())
    return File(path, shape, tuple(size), first, action, reward, terminal, onehot)


def numbers(action: np.ndarray) -> np.ndarray:
    """Actions of any type -> (T, A) float32 or (T,) int16."""
    if action.ndim == 1 and action.dtype.kind != "f":
        low, high = action.min(initial=0), action.max(initial=0)
        if low < 0 or high >= LARGEST:
            raise RecordedError(f"'action' holds integers in {low}..{high}: they must lie in 0..{LARGEST - 1}")
        return action.astype(np.int16)
    if action.ndim != 2 or not action.shape[1]:
        found = f"{action.dtype} {action.shape}"
        raise RecordedError(f"'action' is {found}: wanted (T, A), also for A = 1; or integers (T,) if discrete")
    with np.errstate(all="ignore"):
        action = action.astype(np.float32)
    largest = np.abs(action).max(initial=0)
    if not largest <= 1:  # NaN is not
        raise RecordedError(f"the largest 'action' is {largest:g}: they must be scaled to [-1, 1]")
    return action


def flags(array: np.ndarray, name: str) -> np.ndarray:
    if not np.isin(array, (0, 1)).all():
        raise RecordedError(f"'{name}' must be bool, or 0 and 1")
    return array.astype(bool)


def pad_first_rows(array: np.ndarray, first: np.ndarray) -> np.ndarray:
    """What belongs to actions, (T - episodes, ...), with zeros put into first rows: (T, ...)."""
    rows = np.zeros((len(first), *array.shape[1:]), array.dtype)
    rows[~first] = array
    return rows


def lengths(first: np.ndarray) -> list[int]:
    """Rows of each episode."""
    return np.diff(np.flatnonzero(np.append(first, True))).tolist()


def to_channels_first(image: np.ndarray) -> np.ndarray:
    """Images in any accepted order -> (T, C, Y, X), a view. Colours last is tried first, as in envs/pixels.py."""
    if image.ndim == 3 and image.size:
        return image[:, None]
    if image.ndim == 4 and image.size and image.shape[3] in (1, 3):
        return image.transpose(0, 3, 1, 2)
    if image.ndim == 4 and image.size and image.shape[1] in (1, 3):
        return image
    wanted = "(T, C, Y, X), (T, Y, X, C) or (T, Y, X) with C 1 or 3"
    raise RecordedError(f"'image' is {image.shape}: wanted {wanted}; one frame of a stack, and no alpha")
