"""Where episodes begin and end in a recorded file, by the marks that projects leave, and which ends are real ones."""

from collections.abc import Sequence

import numpy as np

from worldmodel.replay.npz import Arrays, RecordedError

FIRST = ("is_first", "first")
TERMINAL = ("is_terminal", "terminal", "terminated", "terminations", "terminals")
DONE = ("done", "dones")
TRUNCATED = ("truncated", "truncations", "truncation", "timeouts", "timeout")
ENDS = ("is_last", *DONE, *TRUNCATED, "terminals")  # where an episode ends, whatever ended it
STEP_TYPES = 0, 1, 2  # of dm_env: first, mid, last


# ---- real ends ----


def terminals(arrays: Arrays, limit: int) -> tuple[np.ndarray | None, bool]:
    """Real ends, and whether time limits may be among them: what says so itself, a discount of 0, or `done`."""
    terminal = flags(arrays, TERMINAL, limit)
    if terminal is not None:
        return terminal, False
    discount = column(arrays, ("discount", "discounts"), limit)
    if discount is not None:
        return discount == 0, False
    done, cut = flags(arrays, DONE, limit), flags(arrays, TRUNCATED, limit)
    if done is None or cut is None:
        return done, done is not None
    if len(done) != len(cut):
        raise RecordedError(f"{len(done)} values of done, but {len(cut)} of truncated")
    return done & ~cut, False


# ---- where episodes begin ----


def begins(arrays: Arrays, rows: int, actions: int, limit: int) -> tuple[np.ndarray, tuple[bool, bool]]:
    """(T,) bool, and Raw.amid. The first row always begins something; without any mark a file is one episode."""
    first, last = flags(arrays, FIRST, limit), flags(arrays, ("is_last",), limit)
    step_type, offset = column(arrays, ("step_type",), limit), column(arrays, ("ep_offset",), limit)
    if first is None and step_type is not None:
        first, last = step_type == STEP_TYPES[0], step_type == STEP_TYPES[2]
    if first is None and offset is not None:
        if offset.dtype.kind not in "iu" or not ((offset >= 0) & (offset < rows)).all():
            raise RecordedError(f"'ep_offset' must be rows, whole numbers in 0..{rows - 1}")
        first = np.isin(np.arange(rows), offset)
    if first is None:
        first = after_ends(ends(arrays, limit), rows, actions)
    if first.shape != (rows,):
        raise RecordedError(f"'first' must be ({rows},), one for each image, not {first.shape}")
    amid = not first[0], last is not None and len(last) > 0 and not last[-1]
    first[0] = True
    return first, amid


def ends(arrays: Arrays, limit: int) -> np.ndarray | None:
    """Where an episode ends, by all arrays that say so; None if there is none."""
    marks = [flags(arrays, (name,), limit) for name in ENDS if name in arrays.names]
    if marks:
        marks += [flags(arrays, (name,), limit) for name in TERMINAL if name in arrays.names]
    known = [mark for mark in marks if mark is not None]
    if len({len(mark) for mark in known}) > 1:
        raise RecordedError("the arrays that mark ends of episodes differ in length")
    return np.logical_or.reduce(known) if known else None


def after_ends(end: np.ndarray | None, rows: int, actions: int) -> np.ndarray:
    """Ends of rows, or of actions if an episode has one image more than those -> where the next episode begins."""
    first = np.arange(rows) == 0
    if end is None or not len(end):
        return first
    after = np.flatnonzero(end[:-1]) + 1
    if len(end) == rows:
        first[after] = True
    elif len(end) == actions == rows - 1 - len(after):
        first[after + 1 + np.arange(len(after))] = True
    elif len(after):
        raise RecordedError(f"{rows} images, {actions} actions, but {len(end)} marks of where an episode ends")
    return first


# ---- one number a row ----


def found(arrays: Arrays, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in arrays.names), None)


def column(arrays: Arrays, names: Sequence[str], limit: int) -> np.ndarray | None:
    """(n,) or (n, 1) -> (n,); None if there is no such array. Errors: RecordedError."""
    name = found(arrays, names)
    if name is None:
        return None
    values = arrays.load(name, limit)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise RecordedError(f"'{name}' {values.shape} must be (T,)")
    return values


def flags(arrays: Arrays, names: Sequence[str], limit: int) -> np.ndarray | None:
    values = column(arrays, names, limit)
    if values is not None and not np.isin(values, (0, 1)).all():
        raise RecordedError(f"'{found(arrays, names)}' must be bool, or 0 and 1")
    return None if values is None else values.astype(bool)
