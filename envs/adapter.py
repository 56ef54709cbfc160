"""Gives any image environment the one interface that agents know: uint8 (C, Y, X) images, actions in [-1, 1].

Layers, from the inside: the user's own wrappers - CheckedEnv (checks) - TimeLimit - ActionRepeat - rendering - image -
action. What is done per simulator step is below ActionRepeat; what is done once per decision (rendering, resizing) is
above it."""

import importlib
import re
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import pydantic
from gymnasium import spaces, wrappers

from envs import actions, pixels
from envs.checks import CheckedEnv
from envs.errors import EnvError, told

Side = Annotated[int, pydantic.Field(ge=4, le=1024)]  # pixels


class Config(pydantic.BaseModel):
    """What every environment has. Numbers live in configs/env/*.yaml."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str  # the file in envs/
    size: tuple[Side, Side]  # (Y, X) pixels of the image that the agent sees
    gray: bool  # one channel instead of three
    action_repeat: int = pydantic.Field(ge=1, le=1000)  # one action is held for so many simulator steps
    time_limit: int | None = pydantic.Field(ge=1, le=10**9)  # simulator steps per episode; None: the environment's own
    num_envs: int = pydantic.Field(ge=1, le=256)  # environments side by side
    vectorization_mode: Literal["sync", "async"]  # in this process, one after the other; or each in one of its own
    timeout: float = pydantic.Field(gt=0, le=1e6)  # seconds after which a silent worker counts as hung
    # Those that came later: the configs of plugins need not name them.
    fit: pixels.Fit = "stretch"  # of an image of another aspect than size: stretch, letterbox or crop
    # The user's own, module:Name, around the bare environment; their packages are plugins.
    wrappers: list[str] = pydantic.Field(default=[], max_length=20)

    @pydantic.field_validator("wrappers")
    @classmethod
    def _named(cls, names: list[str]) -> list[str]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
                raise ValueError(f"{name!r} is not of the form my_package:Wrapper")
        return names

    @property
    def label(self) -> str:
        """How messages call the environment."""
        return self.name


class ActionRepeat(gymnasium.Wrapper):
    """Holds an action for `count` simulator steps: rewards are summed, and an end stops it (trap 28)."""

    def __init__(self, env: gymnasium.Env, count: int) -> None:
        super().__init__(env)
        self.count = count

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self.count):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def wrap_env(
    env: gymnasium.Env, config: Config, image: str | None = None, own_limit: int | None = None
) -> gymnasium.Env:
    """Any image environment -> observation Box uint8 (C, Y, X); action Box(-1, 1, (A,), float32) or Discrete from 0.
    The user's own wrappers (`config.wrappers`) come first.

    image: the part of the observation that is the image, or `render`; None finds it, or renders where there is none.
    own_limit: the environment's time limit where its spec does not tell. `metadata` of the result: "time_limit" in
    simulator steps, and "notes", what a user should know. Errors: EnvError for spaces that are not supported, saying
    which are."""
    if own_limit is None and env.spec is not None:
        own_limit = env.spec.max_episode_steps
    return adapt(user_wrappers(env, config), config, image, own_limit)


def adapt(env: gymnasium.Env, config: Config, image: str | None, own_limit: int | None) -> gymnasium.Env:
    """wrap_env, after the user's own wrappers."""
    try:
        found = pixels.find(env, image)
        if found.box is None and env.render_mode != "rgb_array":
            raise EnvError(
                f"no image in the observation {env.observation_space}, and render_mode is "
                f"{env.render_mode!r}: give it an image (Y, X, 3) or render_mode='rgb_array'"
            )
        wrapped: gymnasium.Env = CheckedEnv(env, config.label, found)
        if config.time_limit is not None:
            wrapped = wrappers.TimeLimit(wrapped, config.time_limit)
        wrapped = ActionRepeat(wrapped, config.action_repeat)
        wrapped, notes = actions.adapt(_image(wrapped, config, found))
    except EnvError as error:
        if str(error).startswith(config.label):  # the guard has named the place already
            raise
        raise EnvError(f"{config.label}: {error}") from error.__cause__
    notes = [f"{config.label}: {note}" for note in (*found.notes, *notes)]
    wrapped.metadata = {**env.metadata, "time_limit": config.time_limit or own_limit, "notes": notes}
    return wrapped


def user_wrappers(env: gymnasium.Env, config: Config) -> gymnasium.Env:
    """The wrappers that the user has named, module:Name, from the inside. Errors: EnvError."""
    for name in config.wrappers:
        module, _, attribute = name.partition(":")
        try:
            env = getattr(importlib.import_module(module), attribute)(env)
        except (Exception, SystemExit) as error:
            raise EnvError(f"{config.label}: env.wrappers: {name}: {told(error)}") from error
        if not isinstance(env, gymnasium.Env):
            raise EnvError(f"{config.label}: env.wrappers: {name} gives {type(env).__name__}, no Gymnasium environment")
    return env


def _image(env: gymnasium.Env, config: Config, found: pixels.Found) -> gymnasium.Env:
    """The image, found or rendered, as uint8 (C, Y, X)."""
    if found.box is None:
        # This resets and renders once to see the frame's size, before anyone has given a seed: harmless.
        env = wrappers.AddRenderObservation(env)
    shape = (1 if config.gray else 3, *config.size)

    def convert(image: Any) -> np.ndarray:
        return pixels.convert(image, found.axes, config.size, config.gray, config.fit)

    return wrappers.TransformObservation(env, convert, spaces.Box(0, 255, shape, np.uint8))
