"""Atari games through the Arcade Learning Environment (ale-py, which brings the games): env.id=ALE/Pong-v5.

A simulator step is one frame of the console (1/60 s); `action_repeat` frames make a decision, and the agent sees the
maximum of the last two frames, since many games draw their objects in every other one (Mnih et al. 2015). With
`sticky_actions` p each frame repeats the action of the frame before with probability p (Machado et al. 2018), as in the
simulator itself. An episode begins with 0 to `noops` frames without action, and `time_limit` frames, 108,000, that is
27,000 decisions, end it as `truncated`. The same seed gives the same episode."""

import difflib
from typing import Any, Literal

import gymnasium
import numpy as np
import pydantic

from envs import adapter
from envs.errors import EnvError


class Config(adapter.Config):
    """lives: unused: an episode is a game; end: it is a life, and the next one begins a new game, so that an episode
    stays a function of its seed and actions. Returns are then those of one life.
    """

    id: str
    sticky_actions: float = pydantic.Field(ge=0, lt=1)  # probability of repeating the last frame's action
    all_actions: bool  # all 18 of the joystick, or those that have an effect in the game
    noops: int = pydantic.Field(ge=0, le=1000)  # frames without action at an episode's begin, at most
    lives: Literal["unused", "end"]

    @property
    def label(self) -> str:
        return self.id


class Frames(gymnasium.Wrapper):
    """One frame a step: shows the maximum of the last two, begins with no-ops, and knows lives."""

    def __init__(self, env: gymnasium.Env, noops: int, lives: Literal["unused", "end"]) -> None:
        super().__init__(env)
        self.noops, self.ends_with_life = noops, lives == "end"
        self.last = np.zeros(0, np.uint8)  # frame
        self.lives = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        frame, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self.np_random.integers(self.noops + 1))):
            frame, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                frame, info = self.env.reset(options=options)
        self.last, self.lives = frame, info["lives"]
        return frame, info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        frame, reward, terminated, truncated, info = self.env.step(action)
        shown, self.last = np.maximum(frame, self.last), frame
        lost, self.lives = info["lives"] < self.lives, info["lives"]
        return shown, float(reward), terminated or (lost and self.ends_with_life), truncated, info


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface. Errors: EnvError for an unknown game or a missing package."""
    try:
        import ale_py
    except ImportError as error:
        raise EnvError(
            f"{config.label}: {error}; install the simulator: pip install ale-py (or this project's extra 'atari')"
        ) from error
    gymnasium.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it introduces itself for every environment
    games = sorted(name for name, spec in gymnasium.registry.items() if "ale_py" in str(spec.entry_point))
    if config.id not in games:
        close = difflib.get_close_matches(config.id, games, 3, cutoff=0.4)
        close = close or difflib.get_close_matches(f"ALE/{config.id}-v5", games, 3, cutoff=0)
        raise EnvError(f"{config.label}: no such game; nearest: {', '.join(close)}")
    limit = {} if config.time_limit is None else {"max_num_frames_per_episode": 0}  # 0: none; ours takes its place
    env = gymnasium.make(
        config.id,
        obs_type="grayscale" if config.gray else "rgb",  # gray is the console's own brightness
        frameskip=1,  # action_repeat does it
        repeat_action_probability=config.sticky_actions,
        full_action_space=config.all_actions,
        disable_env_checker=True,
        **limit,
    )
    own = env.spec.kwargs.get("max_num_frames_per_episode") if env.spec else None
    return adapter.wrap_env(Frames(env, config.noops, config.lives), config, own_limit=own)
