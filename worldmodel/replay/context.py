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
from worldmodel.base import State


def state_bytes(example: State) -> int:
    """Of the stored state of one row; example: (1, ...)."""
    return 1 + sum(2 * leaf[0].numel() for leaf in pytree.tree_leaves(example))


class StoredStates:
    """States of rows, by the row's place in replay, on the agent's device."""

    def __init__(self, rows: int, example: State) -> None:
        """example: a state of one row, (1, ...)."""
        leaves = pytree.tree_leaves(example)
        self.leaves = [torch.zeros(rows, *leaf.shape[1:], dtype=torch.bfloat16, device=leaf.device) for leaf in leaves]
        self.known = torch.zeros(rows, dtype=torch.bool, device=leaves[0].device)

    def place(self, at: np.ndarray) -> Tensor:
        return torch.from_numpy(at).to(self.known.device, non_blocking=True)

    def forget(self, begin: int, end: int) -> None:
        """New rows lie there."""
        self.known[begin:end] = False

    def read(self, at: np.ndarray, there: np.ndarray) -> dict[str, Tensor]:
        """What a batch carries of the rows `at` (B,): their states, and which are known; those that are not `there` are
        none.
        """
        place = self.place(at)
        known = self.known[place] & self.place(there)
        return {KNOWN: known} | {LEAF.format(i): leaf[place].float() for i, leaf in enumerate(self.leaves)}

    def write(self, at: np.ndarray, states: State) -> None:
        """The states (N, ...) of the rows `at` (N,). One that is not finite is forgotten."""
        place = self.place(at)
        known = torch.ones(len(place), dtype=torch.bool, device=place.device)
        for leaf, new in zip(self.leaves, pytree.tree_leaves(states), strict=True):
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
            tensors[name].shape != (len(at), *own.shape[1:]) or tensors[name].dtype != own.dtype
            for name, own in wanted.items()
        ):
            return False
        place = self.place(at)
        for name, own in wanted.items():
            own[place] = tensors[name].to(own.device)
        return True
