"""Replay context (DreamerV3): the model's state after every row, kept beside replay's rows.

A sequence that is drawn from the middle of an episode then begins in the state in which the row before it was left when
it was last learned from, instead of in none. States are written after every update, one row per row of the batch, as
bfloat16. A row that was never learned from has none; the sequence after it begins as it would without context.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from worldmodel.base import CONTEXT_KNOWN as KNOWN
from worldmodel.base import CONTEXT_STATE as LEAF
from worldmodel.base import Batch, State


def state_bytes(example: State) -> int:
    """Of the stored state of one row; example: (1, ...)."""
    return 1 + sum(2 * leaf[0].numel() for leaf in pytree.tree_leaves(example))


class StoredStates:
    """States of rows, in rings as replay's: row r of stream s lies at s * ring + r % ring. On the agent's device."""

    def __init__(self, streams: int, ring: int, example: State) -> None:
        """example: a state of one row, (1, ...)."""
        self.ring, leaves, rows = ring, pytree.tree_leaves(example), streams * ring
        self.leaves = [torch.zeros(rows, *leaf.shape[1:], dtype=torch.bfloat16, device=leaf.device) for leaf in leaves]
        self.known = torch.zeros(rows, dtype=torch.bool, device=leaves[0].device)

    def place(self, at: np.ndarray) -> Tensor:
        return torch.from_numpy(at).to(self.known.device, non_blocking=True)

    def forget(self, stream: int, begin: int, rows: int) -> None:
        """New rows lie there."""
        self.known[self.place(stream * self.ring + np.arange(begin, begin + rows) % self.ring)] = False

    def added_to(self, batch: Batch, begin: np.ndarray) -> Batch:
        """The batch with the states before its first rows. begin: the oldest live row of each stream."""
        stream, before = batch.extras["stream"].numpy(), batch.extras["row"][:, 0].numpy() - 1
        place = self.place(stream * self.ring + before % self.ring)
        known = self.known[place] & self.place(before >= begin[stream])
        stored = {LEAF.format(i): leaf[place].float() for i, leaf in enumerate(self.leaves)}
        return batch._replace(extras={KNOWN: known} | stored)

    def take(self, batch: Batch, states: State, begin: np.ndarray) -> None:
        """The states (B, T, ...) of a drawn batch. Rows that have made room since are left out; a state that is not
        finite is forgotten.
        """
        stream, row = batch.extras["stream"].numpy()[:, None], batch.extras["row"].numpy()
        live = np.flatnonzero(row >= begin[stream])
        place, at = self.place((stream * self.ring + row % self.ring).ravel()[live]), self.place(live)
        known = torch.ones(len(place), dtype=torch.bool, device=place.device)
        for leaf, values in zip(self.leaves, pytree.tree_leaves(states), strict=True):
            new = values.flatten(0, 1)[at]
            known &= new.flatten(1).isfinite().all(-1)
            leaf[place] = new.to(leaf.dtype).nan_to_num()
        self.known[place] = known

    # ---- what a checkpoint holds ----

    def tensors(self, at: np.ndarray) -> dict[str, Tensor]:
        """Of the rows `at`, in this order."""
        place = self.place(at)
        return {KNOWN: self.known[place]} | {LEAF.format(i): leaf[place] for i, leaf in enumerate(self.leaves)}

    def restore(self, at: np.ndarray, tensors: Mapping[str, Tensor]) -> bool:
        """The reverse. False, and nothing is changed, if they are not of these rows or of this model."""
        wanted = {KNOWN: self.known, **{LEAF.format(i): leaf for i, leaf in enumerate(self.leaves)}}
        if set(wanted) != set(tensors) or any(
            tensors[name].shape != (len(at), *own.shape[1:])
            or tensors[name].dtype != own.dtype
            or not tensors[name].isfinite().all()
            for name, own in wanted.items()
        ):
            return False
        place = self.place(at)
        for name, own in wanted.items():
            own[place] = tensors[name].to(own.device)
        return True
