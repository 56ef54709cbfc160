"""Crafter (Hafner 2021): an open world in two dimensions, drawn from above; 17 discrete actions, 22 achievements.

The package knows no Gymnasium: this is its interface. Reward +1 for an achievement's first time in an episode, and 0.1
for each point of health that is won or lost. Death is `terminated`; the limit of 10,000 steps is `truncated`. The same
seed gives the same world and, with the same actions, the same episode. `info["achievements"]` counts."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import adapter
from envs.errors import EnvError


class Config(adapter.Config):
    """Nothing beyond what all have."""


class Crafter(gymnasium.Env):
    """Crafter, drawn at `size` (Y, X), without a time limit. Errors: EnvError when the package is missing."""

    def __init__(self, size: tuple[int, int]) -> None:
        try:
            import crafter
        except ImportError as error:
            raise EnvError(f"crafter: {error}; install the simulator: pip install crafter") from error
        self.make = lambda seed: crafter.Env(size=(size[1], size[0]), length=None, seed=seed)
        self.game = self.make(0)
        self.observation_space = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self.game.action_names))

    def get_action_meanings(self) -> list[str]:
        return list(self.game.action_names)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.game = self.make(int(self.np_random.integers(2**31)))  # it takes a seed only when it is made
        return self.game.reset(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        image, reward, _, info = self.game.step(int(action))
        return image, float(reward), info["discount"] == 0, False, info


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface."""
    return adapter.wrap_env(Crafter(config.size), config)
