"""Environments with images, all with one interface. Adding one is one file in suites/ and one config."""

import sys
from collections.abc import Callable
from typing import Any

import gymnasium

from envs import isolation
from envs.adapter import Config
from envs.errors import EnvError
from envs.vector import Vector  # before `def vector`, which then takes the module's name here

__all__ = ["Config", "EnvError", "Vector", "make", "vector"]


def vector(config: Config, max_failures: int = 1, tell: Callable[[str], Any] | None = None) -> Vector:
    """The environments of a checked config, side by side; see Vector. Errors: EnvError."""
    return Vector(config, sys.modules[type(config).__module__].build, max_failures, tell)


def make(config: Config) -> gymnasium.Env:
    """One environment of a checked config: an ordinary Gymnasium environment with uint8 images (C, Y, X).

    For a trained agent's own: envs.make(agent.env). Errors: EnvError.
    """
    return isolation.build(sys.modules[type(config).__module__].build, config)
