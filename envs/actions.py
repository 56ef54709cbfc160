"""Gives every action space one of two forms that agents know: a vector in [-1, 1], or one of n choices.

Spaces of choices (MultiDiscrete, MultiBinary, Boxes of integers, Dicts and Tuples of these) become one choice among
all combinations; Dicts and Tuples of Boxes become one vector. What goes to the environment lies in its own space to the
last bit, and is a copy."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers

from envs.errors import EnvError

LARGEST_ACTION = 1e6  # larger bounds stand for "none"; random actions between them would be absurd, or overflow
MOST_CHOICES = 1024  # combinations; beyond, hardly one would be tried twice
WRAP = "gymnasium.wrappers.TransformAction"


class Choices(NamedTuple):
    """A finite space: how many elements it has, and the element of each number."""

    size: int
    element: Callable[[int], Any]


def choices(space: spaces.Space) -> Choices | None:
    """All elements of a finite space, numbered; None if it is not one."""
    if isinstance(space, spaces.Discrete):
        kind, start = space.dtype.type, int(space.start)
        return Choices(int(space.n), lambda number: kind(number + start))
    if isinstance(space, spaces.MultiBinary):
        return grid(space, np.full(space.shape, 2), np.zeros(space.shape, np.int64))
    if isinstance(space, spaces.MultiDiscrete):
        return grid(space, space.nvec, space.start)
    if isinstance(space, spaces.Box) and space.dtype.kind in "iu":
        low = space.low.astype(np.int64)
        return grid(space, space.high.astype(object) - low + 1, low)  # as Python's integers: they may overflow
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return product(space)
    return None


def grid(space: spaces.Space, counts: np.ndarray, start: np.ndarray) -> Choices:
    """Every element has counts[i] values from start[i] on."""
    sizes = [int(count) for count in np.ravel(counts)]

    def element(number: int) -> np.ndarray:
        values = np.array(np.unravel_index(number, sizes)).reshape(np.shape(start)) + start
        return values.astype(space.dtype)

    return Choices(math.prod(sizes), element)


def product(space: spaces.Dict | spaces.Tuple) -> Choices | None:
    """All combinations of the parts."""
    keys = list(space.spaces) if isinstance(space, spaces.Dict) else range(len(space.spaces))
    parts = [choices(space.spaces[key]) for key in keys]  # type: ignore[index]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    sizes = [part.size for part in known]

    def element(number: int) -> Any:
        places = np.unravel_index(number, sizes) if sizes else ()
        values = [part.element(int(place)) for part, place in zip(known, places, strict=True)]
        return dict(zip(keys, values, strict=True)) if isinstance(space, spaces.Dict) else tuple(values)

    return Choices(math.prod(sizes), element)


def adapt(env: gymnasium.Env) -> tuple[gymnasium.Env, list[str]]:
    """An environment with one of the two forms, Box(-1, 1, (A,), float32), clipped, or Discrete from 0; and what there
    is to say about it. Errors: EnvError.
    """
    space = env.action_space
    finite = choices(space)
    if finite is not None:
        if finite.size > MOST_CHOICES:
            raise EnvError(
                f"the action space {space} has {finite.size:,} combinations, agents here choose among at most "
                f"{MOST_CHOICES:,}: keep a table of those that are needed, "
                f"{WRAP}(env, table.__getitem__, Discrete(len(table)))"
            )
        told = f"the action {space} is one of {finite.size} choices: every combination of its parts"
        wrapped = wrappers.TransformAction(
            env, lambda number: finite.element(int(number)), spaces.Discrete(finite.size)
        )
        return wrapped, [] if isinstance(space, spaces.Discrete) else [told]
    notes = []
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        if not all(isinstance(part, spaces.Box) and part.dtype.kind == "f" for part in parts):
            raise EnvError(
                f"the action space {space} mixes choices and numbers, or is nested: agents here do one of the two; "
                f"leave a part out, or turn choices into numbers, with {WRAP}"
            )
        joined = spaces.flatten_space(space)
        assert isinstance(joined, spaces.Box)
        env = wrappers.TransformAction(env, lambda action: spaces.unflatten(space, action), joined)
        notes = [f"the action {space} is one vector of {joined.shape[0]} numbers"]
    return vector(env), notes


def vector(env: gymnasium.Env) -> gymnasium.Env:
    """A Box of floats -> Box(-1, 1, (A,), float32), clipped and rescaled. Errors: EnvError."""
    space = env.action_space
    if not isinstance(space, spaces.Box) or not space.shape:
        raise EnvError(
            f"the action space {space} is not supported; supported: Box with finite bounds, Discrete, MultiDiscrete, "
            f"MultiBinary, Dicts and Tuples of these. Convert it with {WRAP}"
        )
    if not np.isfinite([space.low, space.high]).all() or (space.high <= space.low).any():
        raise EnvError(
            f"the action space {space} has no finite bounds low < high; set them, for instance with "
            f"{WRAP}(env, lambda a: a, Box(-2.0, 2.0, shape))"
        )
    if max(np.abs(space.low).max(), np.abs(space.high).max()) > LARGEST_ACTION:
        raise EnvError(
            f"the action space {space} has bounds beyond {LARGEST_ACTION:g}, which no action means; set those that are "
            f"meant, for instance with {WRAP}(env, lambda a: a, Box(-2.0, 2.0, shape))"
        )
    shape, one = space.shape, np.ones(space.shape, space.dtype)
    env = wrappers.RescaleAction(env, -one, one)

    def clip(action: np.ndarray) -> np.ndarray:
        return np.clip(action, -1, 1).astype(np.float32).reshape(shape)

    return wrappers.TransformAction(env, clip, spaces.Box(-1, 1, (math.prod(shape),), np.float32))


def own(space: spaces.Space, action: Any) -> Any:
    """A copy of an action, which the environment may write into, in its own space to the last bit: rescaling in float32
    may leave a bound by one.
    """
    if isinstance(space, spaces.Dict):
        return {key: own(part, action[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(own(part, value) for part, value in zip(space.spaces, action, strict=True))
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(action)  # as space.sample() gives it
    if isinstance(space, spaces.Box):
        return np.clip(np.array(action, space.dtype), space.low, space.high)
    return np.array(action, space.dtype) if space.dtype is not None else action
