"""The DOT world: a bright dot, pushed by a force, should rest at the centre. Numpy only; it learns in
seconds.

State s = (x, y, u, w): position in [-1, 1]^2 (x right, y down), velocity in units per step. Action a = (force
right, force down) in [-1, 1]^2. One step:

    velocity' = FRICTION * velocity + FORCE * a
    position' = clip(position + velocity', -1, 1);  a wall that is hit takes the velocity towards it
    reward'   = -|position' - GOAL| / FARTHEST          in [-1, 0]

An image shows one Gaussian blob, intensity 255 * exp(-|pixel - position|^2 / (2 RADIUS^2)), with pixel
centres at (2 i + 1) / side - 1. It shows no velocity, so an agent needs memory. With so little friction the
dot must be braked in time, so that planning ahead pays. The functions `reset`, `step`, `draw` are pure and work
on (N, 4): a planner may take them for its true simulator."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import adapter

FRICTION = 0.95
FORCE = 0.02
RADIUS = 0.15
GOAL = np.zeros(2)
FARTHEST = float(np.sqrt(2))  # from a corner to the goal
SPEED = 0.1  # initial velocities are in [-SPEED, SPEED]


class Config(adapter.Config):
    """Nothing beyond what all have."""


def reset(rng: np.random.Generator, n: int) -> np.ndarray:
    """n initial states (n, 4): anywhere, in slow motion."""
    return rng.uniform(-1, 1, (n, 4)) * [1, 1, SPEED, SPEED]


def step(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """state (N, 4), action (N, 2) -> state (N, 4), reward (N,)."""
    velocity = FRICTION * state[:, 2:] + FORCE * np.clip(action, -1, 1)
    moved = state[:, :2] + velocity
    position = np.clip(moved, -1, 1)
    velocity = np.where(position == moved, velocity, 0.0)  # (N, 2), each axis by itself
    reward = -np.linalg.norm(position - GOAL, axis=1) / FARTHEST
    return np.concatenate([position, velocity], axis=1), reward


def draw(state: np.ndarray, size: tuple[int, int], gray: bool = True) -> np.ndarray:
    """state (N, 4) -> uint8 images (N, 1 or 3, Y, X). A Gaussian of two axes is the product of two of one
    axis."""
    rows, columns = ((2 * np.arange(side) + 1) / side - 1 for side in size)
    across = np.exp(-0.5 * ((columns - state[:, 0, None]) / RADIUS) ** 2)  # (N, X)
    down = np.exp(-0.5 * ((rows - state[:, 1, None]) / RADIUS) ** 2)  # (N, Y)
    image = np.rint(255 * down[:, :, None] * across[:, None, :]).astype(np.uint8)  # (N, Y, X)
    return np.repeat(image[:, None], 1 if gray else 3, axis=1)


class Dot(gymnasium.Env):
    """The DOT world as a Gymnasium environment; it never ends by itself. `state` (4,) may be
    read."""

    def __init__(self, size: tuple[int, int], gray: bool) -> None:
        self.size, self.gray = size, gray
        self.observation_space = spaces.Box(0, 255, (1 if gray else 3, *size), np.uint8)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.state = np.zeros(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = reset(self.np_random, 1)[0]
        return draw(self.state[None], self.size, self.gray)[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        states, rewards = step(self.state[None], np.asarray(action, np.float64)[None])
        self.state = states[0]
        return draw(states, self.size, self.gray)[0], float(rewards[0]), False, False, {}


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface."""
    return adapter.wrap_env(Dot(config.size, config.gray), config)
