"""What all models and actors share: axis letters, configs, Spec, Batch, states, the WorldModel interface.

Axes, in comments and docstrings everywhere:
    B batch   T time   N flat rows (environments, or B*T)   F features   A action   H horizon   K candidates
    C, Y, X   channels, rows and columns of an image

Time. Row t of every sequence holds an image and the action that LED TO it: image[t], action[t] (zero at an
episode's first row), reward[t] (received on arriving), first[t], terminal[t] (a real end; a time limit is not one). An
episode of N actions has N + 1 rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.utils import _pytree as pytree

State: TypeAlias = Any  # a NamedTuple of tensors, rows first; each model defines its own


# ---- configs ----


class StrictConfig(BaseModel):
    """A frozen, checked section of the config. Subclasses have no defaults: numbers live in configs/. Every number has
    bounds on both sides and every list a largest length, far beyond what anyone uses: a config may come from a
    stranger, and none may make us compute for ever or take all memory (tests/test_bounds.py).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class ModelConfig(StrictConfig):
    """What every world model's Config has."""

    name: str

    def image_size_error(self, size: Sequence[int]) -> str | None:
        """What is wrong with images of this size (Y, X), if anything."""
        return None


class ConfigError(ValueError):
    """What is wrong with a config, one line per mistake."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


# ---- data ----


class Spec(NamedTuple):
    """What an agent sees and does. Discrete actions travel as one-hot rows of length `action_dim`."""

    image_shape: tuple[int, int, int]  # (C, Y, X), uint8
    action_dim: int
    discrete: bool


class Batch(NamedTuple):
    """Sequences from replay, all (B, T, ...)."""

    image: Tensor  # (B, T, C, Y, X) uint8
    action: Tensor  # (B, T, A) float32, in [-1, 1] or one-hot
    reward: Tensor  # (B, T) float32
    first: Tensor  # (B, T) bool
    terminal: Tensor  # (B, T) bool
    extras: Mapping[str, Tensor] = {}  # what else a part asked for, by name: row ids, stored latents, visit counts

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; copies from pinned memory are asynchronous."""
        moved: Batch = pytree.tree_map(lambda a: a.to(device, non_blocking=True), self)
        return moved


def force_first(first: Tensor) -> Tensor:
    """Firsts (B, T) that are true in every sequence's first row, too (DreamerV2, V3 of 2023): a sequence that is drawn
    from the middle of an episode begins as an episode does, without the action that led there.
    """
    return torch.cat([torch.ones_like(first[:, :1]), first[:, 1:]], 1)


# Extras of replay context: which sequences (B,) have a stored state of the row before their first, and its leaves.
CONTEXT_KNOWN, CONTEXT_STATE = "context/known", "context/{:03d}"


def begin_state(batch: Batch, initial: State) -> State:
    """The state (B, ...) before a batch's first rows: the stored one where it is known, else the initial one."""
    if CONTEXT_KNOWN not in batch.extras:
        return initial
    leaves, structure = pytree.tree_flatten(initial)
    stored = [batch.extras[CONTEXT_STATE.format(i)].to(leaf.dtype) for i, leaf in enumerate(leaves)]
    return tree_where(batch.extras[CONTEXT_KNOWN], pytree.tree_unflatten(stored, structure), initial)


def for_replay(batch: Batch, states: State) -> State:
    """What replay stores of the states (B, T, ...) of a batch: (), if it stores none."""
    return tree_map(Tensor.detach, states) if CONTEXT_KNOWN in batch.extras else ()


class WorldModel(nn.Module, ABC):
    """Learns from replay; answers observe, imagine, reward, continues, decode.

    A state is a NamedTuple of tensors, rows first, defined beside each model. Images stay uint8 until they are inside
    the model, which alone knows its normalisation. Models are written as if there were one device and one dtype. They
    draw random numbers from the device's default generator, whose state a checkpoint holds.
    """

    step_methods: tuple[str, ...] = ("imagine",)  # worth compiling: called at every time step, or a pass over images
    takes_context = False  # whether sequences begin in the states that replay has stored: begin() by begin_state()

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can learn by itself while the rest is frozen, and has an optimiser of its own, by name."""
        return {"model": list(self.parameters())}

    @abstractmethod
    def initial(self, n: int) -> State:
        """The state before anything was seen: n rows, on the model's device."""

    @abstractmethod
    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        """Step on the action (N, A), then correct by the image (N, C, Y, X); rows with first (N,) forget the past."""

    def begin(self, batch: Batch) -> tuple[State, Tensor]:
        """How the sequences of a batch begin, in loss() and wherever else they are observed: the state (B, ...) before
        their first rows, and which rows (B, T) forget the past.
        """
        return self.initial(len(batch.reward)), batch.first

    @abstractmethod
    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        """Step without an image. A temperature tau makes the dream more uncertain than the model is (tau > 1), or less:
        standard deviations times sqrt(tau), mixture logits over tau. 0 takes the mode, which is differentiable and uses
        no random numbers.
        """

    @abstractmethod
    def features(self, state: State) -> Tensor:
        """What heads and policies read, (N, F)."""

    @abstractmethod
    def reward(self, state: State) -> Tensor:
        """The expected reward of arriving in a state, (N,), in the environment's units."""

    @abstractmethod
    def continues(self, state: State) -> Tensor:
        """The probability that a state is not terminal, (N,); ones if the model was built without that head."""

    @abstractmethod
    def decode(self, state: State) -> Tensor:
        """The expected image, (N, C, Y, X), intensities in about [0, 1]."""

    @abstractmethod
    def loss(self, batch: Batch, part: str = "model") -> tuple[Tensor, State, dict[str, Tensor]]:
        """A scalar to minimise, the states (B, T, ...) where imagination may start, and metrics. part: 'model' for all
        of it, or one of parts(); gradients reach only that.
        """


# ---- functions on every tensor of a state, a nested tuple ----


def tree_map(function: Callable[..., Tensor], *states: State) -> State:
    """Apply a function to every tensor of a state (or to the corresponding tensors of several)."""
    return pytree.tree_map(function, *states)


def tree_where(mask: Tensor, yes: State, no: State) -> State:
    """Choose row by row: mask (N,)."""
    return tree_map(lambda a, b: torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b), yes, no)


def tree_repeat(state: State, times: int) -> State:
    """Every row `times` times, its copies adjacent: (N, ...) -> (N * times, ...)."""
    return tree_map(lambda a: a.repeat_interleave(times, 0), state)


def tree_stack(states: Sequence[State], axis: int = 1) -> State:
    """A list of states becomes one state with a time axis: T x (N, ...) -> (N, T, ...)."""
    return tree_map(lambda *a: torch.stack(a, axis), *states)


def merge_time(states: State) -> State:
    """(B, T, ...) -> (N, ...) with N = B * T."""
    return tree_map(lambda a: a.flatten(0, 1), states)


def split_time(states: State, length: int) -> State:
    """(N, ...) -> (B, T, ...) with T = length: the inverse of merge_time."""
    return tree_map(lambda a: a.unflatten(0, (-1, length)), states)
