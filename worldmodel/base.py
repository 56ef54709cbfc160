"""The words that every model and every actor share: axes, Spec, Batch, states, and the WorldModel interface.

Axes, in comments and docstrings everywhere:
    B batch   T time   N flat rows (environments, or B*T)   F features   A action   H horizon   K candidates
    C, Y, X   channels, rows and columns of an image

Time, said once. Row t of every sequence holds an image and the action that LED TO it: image[t], action[t] (zero at an
episode's first row), reward[t] (received on arriving), first[t], terminal[t] (true death only; a time limit is not
one). An episode of N actions has N + 1 rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

State: TypeAlias = Any  # a NamedTuple of tensors, rows first; each model defines its own


class Spec(NamedTuple):
    """What an agent sees and does. Discrete actions travel as one-hot rows of length `action`."""

    image: tuple[int, int, int]  # (C, Y, X), uint8
    action: int
    discrete: bool


class Batch(NamedTuple):
    """Sequences from replay, all (B, T, ...)."""

    image: Tensor  # (B, T, C, Y, X) uint8
    action: Tensor  # (B, T, A) float32, in [-1, 1] or one-hot
    reward: Tensor  # (B, T) float32
    first: Tensor  # (B, T) bool
    terminal: Tensor  # (B, T) bool


class WorldModel(nn.Module, ABC):
    """Learns from replay; answers observe, imagine, reward, continues, decode.

    A state is a NamedTuple of tensors, rows first, defined beside each model. Images stay uint8 until they are inside
    the model, which alone knows its normalisation. Models are written as if there were one device and one dtype.
    """

    parts: tuple[str, ...] = ("model",)  # what can learn by itself, while the rest is frozen
    steps: tuple[str, ...] = ("imagine",)  # the methods that are called once for every step of time

    @abstractmethod
    def initial(self, n: int) -> State:
        """The state before anything was seen: n rows."""

    @abstractmethod
    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        """Step on the action (N, A), then believe the image (N, C, Y, X); rows with first (N,) forget both."""

    @abstractmethod
    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        """Step with eyes closed. A temperature tau makes the dream more uncertain than the model is (tau > 1), or less:
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
        """A scalar to minimise, the states (B, T, ...) where imagination may start, and metrics. Gradients reach only
        the part that is to learn.
        """


def each(function: Callable[..., Tensor], *states: State) -> State:
    """Apply a function to every tensor of a state (or to the corresponding tensors of several)."""
    return type(states[0])(*(function(*tensors) for tensors in zip(*states, strict=True)))


def where(mask: Tensor, yes: State, no: State) -> State:
    """Choose row by row: mask (N,)."""
    return each(lambda a, b: torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b), yes, no)


def repeat(state: State, times: int) -> State:
    """Every row `times` times, neighbours together: (N, ...) -> (N * times, ...)."""
    return each(lambda a: a.repeat_interleave(times, 0), state)


def stack(states: Sequence[State], axis: int = 1) -> State:
    """A list of states becomes one state with a time axis: T x (N, ...) -> (N, T, ...)."""
    return each(lambda *a: torch.stack(a, axis), *states)


def flatten(states: State) -> State:
    """(B, T, ...) -> (N, ...) with N = B * T."""
    return each(lambda a: a.flatten(0, 1), states)
