"""How well the pictures' changes tell the actions, row by row: evidence on which row an action belongs to.

An action shows first in the change that it causes. With c_t = image[t] - image[t-1], and R2(.) of a linear regression
of action[t] on changes, cross-validated,

    into    R2(c_{t-1}, c_t) - R2(c_{t-1})                   what the change into row t tells that was not told before
    out of  R2(c_{t-1}, c_t, c_{t+1}) - R2(c_{t-1}, c_t)     what the change out of row t adds

Actions that led to their image show in `into`; actions that were taken at it in `out of`. Actions that are held for
long, or that hardly show, leave it open.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from worldmodel.replay.episodes import Episode

ROWS = 3000  # that are looked at, at most
GRID = 32  # pictures are averaged to as many squares a side
PENALTIES = (1e-3, 1e-1, 10.0)  # of the ridge regression, on features of unit variance; the best one counts
FOLDS = 5
CLEAR, FACTOR = 0.05, 2  # one must tell so much, and so many times what the other does


class Evidence(NamedTuple):
    before: float  # R2(c_{t-1}): also large where actions are held, or chosen by what was seen
    into: float
    out_of: float
    rows: int

    @property
    def verdict(self) -> str:
        """'led', 'follows', 'earlier' or ''."""
        if self.before > max(CLEAR, FACTOR * self.into, FACTOR * self.out_of):
            return "earlier"
        best, other = max(self.into, self.out_of), max(0, min(self.into, self.out_of))
        if best < CLEAR or best < FACTOR * other:
            return ""
        return "led" if self.into > self.out_of else "follows"

    def __str__(self) -> str:
        return (
            f"of the actions, the picture's change into their row tells {max(0, self.into):.2f}, and the change out of "
            f"it {max(0, self.out_of):.2f} more (R2, {self.rows} rows)"
        )


def gather(episodes: Iterable[Episode]) -> Evidence | None:
    """From the first episodes, as they are read; None if there are too few rows."""
    changes, actions, rows = [], [], 0
    for episode in episodes:
        if len(episode.reward) < 4:
            continue
        shape = waves(episode.image[: ROWS - rows + 3])  # (T, P)
        change = np.diff(shape, axis=0)  # change[t - 1] leads into row t
        if len(change) < 3:
            break
        changes.append(np.stack([change[:-2], change[1:-1], change[2:]], 1))  # (T - 3, 3, P) of rows 2 .. T - 2
        actions.append(episode.action[2 : len(change)])
        rows += len(changes[-1])
        if rows >= ROWS:
            break
    if rows < 10 * FOLDS:
        return None
    inputs, targets = np.concatenate(changes), np.concatenate(actions)
    keep = max(2, min(12, int((rows / 30) ** 0.5)))  # waves a side: few for few rows
    inputs = inputs.reshape(rows, 3, GRID, GRID)[:, :, :keep, :keep].reshape(rows, 3, -1)
    told = [explained(inputs[:, :count].reshape(rows, -1), targets) for count in (1, 2, 3)]
    return Evidence(told[0], told[1] - told[0], told[2] - told[1], rows)


def waves(image: np.ndarray) -> np.ndarray:
    """Pictures (T, C, Y, X) as cosine waves (T, GRID * GRID), long ones first: where things are is linear in a few."""
    t, _, y, x = image.shape
    gray = image.mean(1, dtype=np.float32)  # (T, Y, X)
    return np.einsum("gy,tyx,hx->tgh", cosines(y), gray, cosines(x), optimize=True).reshape(t, -1)


def cosines(side: int) -> np.ndarray:
    """(GRID, side): rows of a cosine transform."""
    at = (np.arange(side) + 0.5) / side
    return (np.cos(np.pi * np.arange(GRID)[:, None] * at) / side).astype(np.float32)


def explained(inputs: np.ndarray, targets: np.ndarray) -> float:
    """R2 of a ridge regression (rows, P) -> (rows, A) on rows that it was not fitted to; the mean over what varies."""
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    targets = targets[:, targets.std(0) > 1e-6]
    if not targets.shape[1]:
        return 0.0
    fold = np.arange(len(inputs)) * FOLDS // len(inputs)  # in one piece each: neighbours are alike
    errors = np.zeros((len(PENALTIES), targets.shape[1]))
    total = np.zeros(targets.shape[1])
    for number in range(FOLDS):
        learn, test = fold != number, fold == number
        mean = targets[learn].mean(0)
        gram = inputs[learn].T @ inputs[learn]
        cross = inputs[learn].T @ (targets[learn] - mean)
        for row, penalty in enumerate(PENALTIES):
            weights = np.linalg.solve(gram + penalty * learn.sum() * np.eye(len(gram)), cross)
            errors[row] += ((inputs[test] @ weights + mean - targets[test]) ** 2).sum(0)
        total += ((mean - targets[test]) ** 2).sum(0)
    return float((1 - errors / total).mean(1).max())
