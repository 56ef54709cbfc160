"""What the processes of a run tell each other: arrays, numbers and texts. Weights travel as a safetensors file would
hold them, so that a message names no code.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from training.collecting.rollout import EpisodeResult
from training.collecting.step_collector import Rows
from training.run_folder.tensors import read_tensors
from worldmodel.base import Batch
from worldmodel.replay.episodes import Episode

Tensors = Mapping[str, Tensor]


class Request(NamedTuple):
    """What a collector is asked for. Its first three numbers name it, and its answer, once and for all."""

    collector: int
    incarnation: int  # of its process
    sequence: int  # of the requests to that process
    number: int  # of its first episode, which gives the seed; by steps: how many were begun before
    decisions: int  # in each environment; 0: whole episodes
    explorer: bool  # the prefill's actor acts, not the agent's
    updates: int  # of the weights that it acts with
    actor_updates: int
    noise: int  # the request's number in the run, from which its exploration is drawn


def pack(parts: Mapping[str, Tensors]) -> np.ndarray:
    """Tensors by part, as bytes: an array, which Ray hands on without a copy."""
    flat = {
        f"{part}:{name}": value.detach().cpu().contiguous()
        for part, tensors in parts.items()
        for name, value in tensors.items()
    }
    return np.frombuffer(save(flat), np.uint8)


def unpack(content: np.ndarray) -> dict[str, dict[str, Tensor]]:
    """The reverse. A part without tensors is not there."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in read_tensors(content.tobytes()).items():
        part, _, rest = name.partition(":")
        parts.setdefault(part, {})[rest] = value
    return parts


def packed_batch(batch: Batch) -> list[np.ndarray]:
    """Its columns. Extras stay behind: row ids and stored states are of use to the model alone."""
    return [column.cpu().numpy() for column in batch[:5]]


def unpacked_batch(columns: list[np.ndarray]) -> Batch:
    image, action, reward, first, terminal = (torch.from_numpy(np.array(column)) for column in columns)  # to be written
    return Batch(image, action, reward, first, terminal)


def packed_result(result: EpisodeResult) -> dict[str, Any]:
    return {**result._asdict(), "episode": result.episode._asdict()}


def unpacked_result(values: Mapping[str, Any]) -> EpisodeResult:
    """An episode in memory of its own: that of a message is freed with it."""
    return EpisodeResult(**{**values, "episode": unpacked_episode(values["episode"])})


def packed_rows(rows: Rows) -> dict[str, Any]:
    return {**rows._asdict(), "episode": rows.episode._asdict()}


def unpacked_rows(values: Mapping[str, Any]) -> Rows:
    return Rows(**{**values, "episode": unpacked_episode(values["episode"])})


def unpacked_episode(columns: Mapping[str, np.ndarray]) -> Episode:
    return Episode(**{name: np.array(column) for name, column in columns.items()})
