"""Environments as they are in the wild: odd ones that must work, and bad ones that must be refused by name.

`Odd` is told what to be; `build` makes it from a config, also in a worker's process.
"""

import os
import signal
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import adapter

SIDE = 24
HWC = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)


class Config(adapter.Config):
    """fault: what goes wrong; at: the env step when it does (0: in reset); bad: the worker that it happens
    to."""

    fault: str
    at: int
    bad: int | None


class Odd(gymnasium.Env):
    """A gray level that counts the steps of an episode of `length`; `change(observation, step)` may spoil
    it."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as gymnasium.Env has it

    def __init__(
        self,
        observation: spaces.Space = HWC,
        action: spaces.Space | None = None,
        length: int = 10,
        reward: Any = 1.0,
        terminated: Any = None,
        make: Any = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = observation
        self.action_space = action if action is not None else spaces.Box(-1, 1, (2,), np.float32)
        self.length, self.reward, self.terminated, self.make = length, reward, terminated, make
        self.render_mode = render_mode
        self.steps, self.renders, self.actions = 0, 0, []

    def observe(self) -> Any:
        if self.make is not None:
            return self.make(self.steps)
        return fill(self.observation_space, 10 * self.steps % 256)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        self.actions.append(action)
        self.steps += 1
        done = self.steps >= self.length if self.terminated is None else self.terminated
        return self.observe(), self.reward, done, False, {}

    def render(self) -> np.ndarray:
        self.renders += 1
        return np.full((2 * SIDE, 3 * SIDE, 3), 10 * self.steps, np.uint8)


def fill(space: spaces.Space, level: int) -> Any:
    """An element of `space` in which each image has the gray level `level` (of 255)."""
    if isinstance(space, spaces.Dict):
        return {key: fill(part, level) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(fill(part, level) for part in space.spaces)
    if isinstance(space, spaces.Box) and space.dtype.kind in "ui":
        return np.full(space.shape, level, space.dtype)
    if isinstance(space, spaces.Box):
        return np.full(space.shape, level / 255, space.dtype)
    return space.sample()


class Faulty(Odd):
    """Does `fault` at step `at`, in a process of its own or not; `seen` writes its process id into
    `folder`."""

    def __init__(self, fault: str, at: int, bad: int | None) -> None:
        super().__init__(length=1000)
        self.fault, self.at, self.bad = fault, at, bad
        self.noise = 0
        if fault == "constructor":
            raise ValueError("no such level")
        if fault == "constructor killed":
            os.kill(os.getpid(), signal.SIGKILL)

    def observe(self) -> np.ndarray:
        self.noise = int(self.np_random.integers(256))
        if self.steps == self.at and self.bad in (None, self.mine()):
            misbehave(self.fault)
        return np.full((SIDE, SIDE, 3), self.noise, np.uint8)

    def close(self) -> None:
        if self.fault == "close":
            raise RuntimeError("no such window")

    def mine(self) -> int:
        """The worker that this is: its seeds are 100, 101, ... in the tests."""
        return int(self.np_random_seed or 0) - 100


def misbehave(fault: str) -> None:
    if fault == "raise":
        raise KeyError("lost key")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "exit":
        os._exit(0)
    if fault == "sys.exit":
        sys.exit(0)
    if fault == "hang":
        time.sleep(1000)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)


def build(config: Config) -> gymnasium.Env:
    return adapter.wrap_env(Faulty(config.fault, config.at, config.bad), config)


def lean(config: Config) -> gymnasium.Env:
    """Fails when the worker has loaded the main script, and with it what only the trainer needs."""
    loaded = {"trainer", "only_for_the_trainer"} & set(sys.modules)
    if loaded:
        raise ValueError(f"the worker has loaded {loaded}")
    return build(config)
