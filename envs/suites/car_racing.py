"""Gymnasium's CarRacing with the images and actions of World Models (Ha & Schmidhuber 2018).

Image: the dashboard, the lowest 12 of 96 rows, is cut off. Action in [-1, 1]^3: steering (-1 left), gas = (a + 1) / 2,
brake = clip(a, 0, 1): see `to_env_action`. Reward: 1000 / tiles for each new tile of the track, -0.1 per step; solved
is a mean of 900 over 100 tracks. `terminated`: the lap is finished, or the car has left the field (reward -100); the
limit of 1,000 steps is `truncated`. The same seed gives the same track and the same episode.

The camera zooms in during the first 50 steps of an episode; they are kept, as in the original data. Actions that change
at every step hardly move the car: explore with actions that are held (trap 35)."""

import gymnasium
import numpy as np
import pydantic
from gymnasium import spaces, wrappers

from envs import adapter, rendering
from envs.errors import EnvError

VISIBLE = 84  # rows above the dashboard


class Config(adapter.Config):
    """lap_complete_percent: the part of the track's tiles that makes a lap, in (0, 1)."""

    lap_complete_percent: float = pydantic.Field(gt=0, lt=1)


def to_env_action(action: np.ndarray) -> np.ndarray:
    """(3,) in [-1, 1] -> steering in [-1, 1], gas and brake in [0, 1]: no action (0, 0, 0) is half gas."""
    steering, gas, brake = action
    return np.array([steering, (gas + 1) / 2, np.clip(brake, 0, 1)], np.float32)


def crop_and_wrap(env: gymnasium.Env) -> gymnasium.Env:
    """CarRacing, or something with its spaces -> without the dashboard, and with the published actions."""
    env = wrappers.TransformObservation(
        env, lambda image: image[:VISIBLE], spaces.Box(0, 255, (VISIBLE, 96, 3), np.uint8)
    )
    return wrappers.TransformAction(env, to_env_action, spaces.Box(-1, 1, (3,), np.float32))


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface. Errors: EnvError when a package is missing."""
    rendering.without_screen()
    try:
        env = gymnasium.make(
            "CarRacing-v3",
            lap_complete_percent=config.lap_complete_percent,
            max_episode_steps=None if config.time_limit is None else -1,  # ours takes its place
            disable_env_checker=True,
        )
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise EnvError(
            f"car_racing: {error}; install the simulator: "
            "pip install 'gymnasium[box2d]' (or this project's extra 'box2d')"
        ) from error
    return adapter.wrap_env(crop_and_wrap(env), config)
