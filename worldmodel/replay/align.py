"""Recorded actions, rewards and terminals, in a known layout, brought to our time and range, and checked.

Our time (worldmodel/base.py): action[t] led to image[t]; an episode's first row has neither action nor reward.
"""

from typing import NamedTuple

import numpy as np

from worldmodel.base import Spec
from worldmodel.replay.images import ROUNDING
from worldmodel.replay.layouts import FOLLOWS, LED, Layout
from worldmodel.replay.npz import RecordedError
from worldmodel.replay.scan import Raw

LARGEST = 1000  # discrete actions: each is a column, so that a stray integer must not ask for a billion of them


class File(NamedTuple):
    """What is kept of a file: everything but its images."""

    raw: Raw
    first: np.ndarray  # (T,) bool
    action: np.ndarray  # (T, A) float32 or (T,) int16, zero in first rows
    reward: np.ndarray  # (T,) float32
    terminal: np.ndarray  # (T,) bool
    onehot: bool  # all rows of `action` but first ones are one-hot, of two columns or more
    unseen: int  # terminals after an episode's last image

    @property
    def dropped(self) -> int:
        """First rows with an action or a reward, which are not kept."""
        given = (self.raw.action, self.raw.reward)
        full = [values[self.first].reshape(self.raw.episodes, -1).any(1) for values in given
                if values is not None and len(values) == self.raw.rows]  # fmt: skip
        return int(np.logical_or.reduce(full).sum()) if full else 0


def align(raw: Raw, layout: Layout, longest: int) -> File:
    """longest: rows of the longest episode of all files. Errors: RecordedError."""
    raw = meanings(raw, layout, longest)
    check_counts(raw, layout)
    first, faults = raw.first, []
    action = shifted(raw.action, first) if layout.action == "follows" else zeroed(raw.action, first)
    reward, terminal, unseen = np.zeros(raw.rows, np.float32), np.zeros(raw.rows, bool), 0
    move = zeroed if layout.outcome == "with_image" else shifted
    if raw.reward is not None:
        reward = move(raw.reward, first)
    if raw.terminal is not None:
        terminal = raw.terminal if layout.outcome == "with_image" else shifted(raw.terminal, first)
        if layout.outcome == "after_action" and len(raw.terminal) == raw.rows:
            unseen = int(raw.terminal[raw.last].sum())
    if not np.isfinite(reward).all():
        faults.append(f"'reward' is {reward[~np.isfinite(reward)][0]} somewhere: all must be finite")
    early = terminal & ~raw.last
    if early.any():
        where = f"in row {early.argmax()} of {raw.rows}, before its episode's last one"
        faults.append(f"'terminal' is true {where}: end the episode there, or mark where others begin by 'first'")
    if raw.rows == raw.episodes and layout.name != "worldmodel":  # of ours it is a piece of one, cut by a save
        faults.append("it holds an episode of a single image, without an action: leave that out")
    try:
        action = in_range(action)
    except RecordedError as error:
        faults.append(str(error))
    if faults:
        raise RecordedError("; ".join(faults))
    onehot = action.ndim == 2 and action.shape[1] > 1 and np.isin(action, (0, 1)).all()
    onehot = bool(onehot and (action[~first].sum(1) == 1).all())
    return File(raw, first, action, reward, terminal, onehot, unseen)


def meanings(raw: Raw, layout: Layout, longest: int) -> Raw:
    """What is peculiar to a project: which ends are real ones."""
    if layout.name == "world_models_ctallec":
        planned = len(raw.action)  # actions are drawn for a whole episode, and the time limit is as long
        terminal = raw.terminal if raw.rows < planned or raw.terminal is None else np.zeros_like(raw.terminal)
        return raw._replace(action=raw.action[: raw.rows], terminal=terminal)
    if layout.name == "worldmodel" and (raw.reward is None or raw.terminal is None):
        raise RecordedError(f"it has no array '{'reward' if raw.reward is None else 'terminal'}'")
    if layout.name == "ogbench":
        return raw._replace(terminal=None)
    if raw.done and raw.terminal is not None:
        begins = np.flatnonzero(raw.first)
        cut = begins[np.diff(np.append(begins, raw.rows)) == longest] + longest - 1  # last rows of the longest ones
        at = cut if len(raw.terminal) == raw.rows else cut - np.searchsorted(begins, cut)
        terminal = raw.terminal.copy()
        terminal[at[at < len(terminal)]] = False
        return raw._replace(terminal=terminal)
    return raw


def check_counts(raw: Raw, layout: Layout) -> None:
    """Errors: RecordedError, if there are not as many of each as the layout has."""
    rows, actions = raw.rows, len(raw.action)
    allowed = (rows, rows - raw.episodes) if layout.action == "follows" else (rows,)
    outcomes = {len(values) for values in (raw.reward, raw.terminal) if values is not None}
    if actions in allowed and outcomes <= {rows if layout.outcome == "with_image" else actions}:
        return
    count = [f"{rows} images", f"{actions} actions"]
    count += [f"{len(values)} {name}" for name, values in (("rewards", raw.reward), ("terminals", raw.terminal))
              if values is not None]  # fmt: skip
    raise RecordedError(
        f"it holds {', '.join(count)}, and {raw.episodes} episode(s). With data_layout={layout.name} there are as many "
        f"of each as images{' or, in each episode, one less' if layout.action == 'follows' else ''}. Other readings: "
        f"{LED}, {FOLLOWS}"
    )


def zeroed(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """What came with its image: what led to an episode's first image is not there, or left out."""
    rows = values.copy()
    rows[first] = 0
    return rows


def shifted(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """What followed its image, (T, ...) or (T - episodes, ...), one row later: (T, ...)."""
    rows = np.zeros((len(first), *values.shape[1:]), values.dtype)
    rows[~first] = values[~np.append(first[1:], True)] if len(values) == len(first) else values
    return rows


def in_range(action: np.ndarray) -> np.ndarray:
    """Actions as we know them, (T, A) in [-1, 1] or (T,) int16. Errors: RecordedError."""
    if action.ndim == 1:
        low, high = action.min(initial=0), action.max(initial=0)
        if low < 0 or high >= LARGEST:
            raise RecordedError(f"'action' holds integers in {low}..{high}: they must lie in 0..{LARGEST - 1}")
        return action.astype(np.int16)
    largest = np.abs(action).max(initial=0)
    if not largest <= 1 + ROUNDING:  # NaN is not
        raise RecordedError(f"the largest 'action' is {largest:g}: they must be scaled to [-1, 1]")
    return action.clip(-1, 1)


def lengths(first: np.ndarray) -> list[int]:
    """Rows of each episode."""
    return np.diff(np.flatnonzero(np.append(first, True))).tolist()


def one_hot(action: np.ndarray, spec: Spec) -> np.ndarray:
    """An episode's actions (N + 1, A)."""
    if action.ndim == 1:
        action = np.eye(spec.action_dim, dtype=np.float32)[action]
        action[0] = 0
    return action
