"""What a recorded file holds: arrays by the names that projects give them, as they lie there. Images are not read.

Which row an action belongs to is not decided here, but in layouts.py.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldmodel.replay import hdf5, npz
from worldmodel.replay.boundaries import begins, column, found, terminals
from worldmodel.replay.npz import Arrays, RecordedError

IMAGE = ("image", "images", "obs", "observ", "observation", "observations", "pixels", "rgb", "frames")
ACTION = ("action", "actions")
REWARD = ("reward", "rewards")
SHARE = 8  # an array of actions or rewards may take a 1/SHARE of what images may


class Raw(NamedTuple):
    """Everything but the images of a file, or of files that continue each other. T images, n actions."""

    paths: tuple[Path, ...]
    keys: frozenset[str]
    image: str  # its name
    shape: tuple[int, ...]  # (T, ...), as it lies in the file
    kind: np.dtype  # of the image
    first: np.ndarray  # (T,) bool: where an episode begins, or the piece of one with which a file begins
    action: np.ndarray  # (n, A) float32 or (n,) integers
    reward: np.ndarray | None  # (n,) or (T,) float32
    terminal: np.ndarray | None  # bool, as long as reward
    done: bool  # `terminal` comes from an array that does not tell a death from a time limit
    amid: tuple[bool, bool]  # whether the file begins, and ends, amid an episode, as its own marks say
    heights: tuple[int, ...]  # rows of each path
    others: tuple[str, ...] = ()  # arrays that could be images, too: another camera

    @property
    def episodes(self) -> int:
        return int(self.first.sum())

    @property
    def form(self) -> str:
        return "integers" if self.action.ndim == 1 else f"rows of {self.action.shape[1]} numbers"

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def last(self) -> np.ndarray:
        """(T,) bool: an episode's last row."""
        return np.append(self.first[1:], True)


def opened(path: Path) -> AbstractContextManager[Arrays]:
    return hdf5.opened(path) if path.suffix in hdf5.SUFFIXES else npz.opened(path)


def scan(path: Path, limit: int) -> Raw:
    """limit: bytes that may be read at once. Errors: RecordedError, with all that is wrong with the file."""
    faults: list[str] = []

    def attempt(read: Callable[[], np.ndarray | None]) -> np.ndarray | None:
        try:
            return read()
        except RecordedError as error:
            faults.append(str(error))
            return None

    with opened(path) as arrays:
        image, kind = "", np.dtype(np.uint8)
        shape: tuple[int, ...] = (0,)
        try:
            image = image_key(arrays)
            shape, kind = arrays.header(image)
            if not shape or not shape[0]:
                faults.append(f"'{image}' is {shape}: there are no images in it")
        except RecordedError as error:
            faults.append(str(error))
        limit //= SHARE
        actions = attempt(lambda: as_actions(required(arrays, ACTION, limit)))
        reward = attempt(lambda: column(arrays, REWARD, limit))
        terminal, done = None, False
        try:
            terminal, done = terminals(arrays, limit)
        except RecordedError as error:
            faults.append(str(error))
        if faults:
            raise RecordedError("; ".join(dict.fromkeys(faults)))
        assert actions is not None
        if shape[0] > 2 * len(actions):  # HDF5 names any number of rows; each episode has an action
            raise RecordedError(f"it holds {shape[0]:,} images, but {len(actions):,} actions")
        first, amid = begins(arrays, shape[0], len(actions), limit)
        reward = None if reward is None else as_float32(reward)
        keys = frozenset(arrays.names)
        others = tuple(
            name for name in sorted(keys - {image}) if not name.startswith("next") and pictures(arrays, name)
        )
    return Raw((path,), keys, image, shape, kind, first, actions, reward, terminal, done, amid, shape[:1], others)


def join(raws: Sequence[Raw]) -> Raw:
    """Files that continue each other, as one. Errors: RecordedError, if they do not fit."""
    one = raws[0]
    if len(raws) == 1:
        return one
    forms = {(raw.image, raw.shape[1:], raw.kind, raw.action.shape[1:], raw.reward is None, raw.terminal is None)
             for raw in raws}  # fmt: skip
    if len(forms) > 1:
        raise RecordedError(f"it goes on in {raws[1].paths[0].name}, which holds other arrays, or of other shapes")
    first = np.concatenate([raw.first for raw in raws])
    starts = np.cumsum([0, *(raw.rows for raw in raws[:-1])])
    first[starts[1:]] = [not raw.amid[0] for raw in raws[1:]]
    return one._replace(
        paths=tuple(path for raw in raws for path in raw.paths),
        shape=(len(first), *one.shape[1:]),
        first=first,
        action=np.concatenate([raw.action for raw in raws]),
        reward=None if one.reward is None else np.concatenate([raw.reward for raw in raws]),
        terminal=None if one.terminal is None else np.concatenate([raw.terminal for raw in raws]),
        amid=(one.amid[0], raws[-1].amid[1]),
        heights=tuple(raw.rows for raw in raws),
    )


def unlike(raws: Sequence[Raw], what: str, found: Sequence[str]) -> dict[Path, str]:
    """Files in which something is not as in most of them."""
    usual = Counter(found).most_common(1)[0][0] if found else ""
    differing = {raw.paths[0]: own for raw, own in zip(raws, found) if own != usual}
    if not differing:
        return {}
    like = f"those of {raws[found.index(usual)].paths[0].name} {usual}: all files must be alike"
    return {path: f"its {what} are {own}, {like}" for path, own in differing.items()}


# ---- arrays by their names ----


def image_key(arrays: Arrays) -> str:
    """The one array that can hold images: by its name, or else by its form."""
    known = [name for name in IMAGE if name in arrays.names and looks_like_images(arrays.header(name)[0])]
    if not known:
        known = [name for name in IMAGE if name in arrays.names][:1]  # to say what is wrong with it
    if not known:
        others = set(arrays.names) - set(ACTION) - set(REWARD)
        known = [name for name in sorted(others) if pictures(arrays, name)]
    if len(known) > 1:
        raise RecordedError(f"several arrays could be the images: {', '.join(known)}. Keep one of them in the file")
    if not known:
        raise RecordedError(f"it has no array 'image'; there is {', '.join(sorted(arrays.names)[:12]) or 'nothing'}")
    return known[0]


def looks_like_images(shape: Sequence[int]) -> bool:
    return len(shape) >= 3 and sum(side >= 4 for side in shape[1:]) >= 2


def pictures(arrays: Arrays, name: str) -> bool:
    try:
        shape, kind = arrays.header(name)
    except RecordedError:  # objects or text, which nobody asked for
        return False
    return kind == np.uint8 and len(shape) == 4 and sum(side >= 16 for side in shape[1:]) >= 2


def required(arrays: Arrays, names: Sequence[str], limit: int) -> np.ndarray:
    name = found(arrays, names)
    if name is None:
        raise RecordedError(f"it has no array '{names[0]}'")
    return arrays.load(name, limit)


def as_actions(action: np.ndarray) -> np.ndarray:
    """(n, A) float32, also for A = 1; or (n,) integers, which may have come as (n, 1)."""
    if action.ndim == 2 and action.shape[1] == 1 and action.dtype.kind != "f":
        action = action[:, 0]
    if action.ndim == 1:
        return action.astype(np.int64) if action.dtype.kind != "f" else as_float32(action)[:, None]
    if action.ndim != 2 or not action.shape[1]:
        form = f"{action.dtype} {action.shape}"
        raise RecordedError(f"'action' is {form}: wanted (T, A), also for A = 1; or integers (T,) if discrete")
    return as_float32(action)


def as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # what is beyond float32 becomes infinite
        return values.astype(np.float32)
