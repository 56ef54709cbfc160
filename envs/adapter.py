"""Gives any image environment the one interface that agents know: uint8 (C, Y, X) images, actions in [-1, 1].

Layers, from the inside: CheckedEnv (checks) - TimeLimit - ActionRepeat - rendering - image - action. What is done per
simulator step is below ActionRepeat; what is done once per decision (rendering, resizing) is above it."""

import math
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import pydantic
from gymnasium import spaces, wrappers

from envs import pixels
from envs.checks import CheckedEnv, EnvError

Side = Annotated[int, pydantic.Field(ge=4, le=1024)]  # pixels
LARGEST_ACTION = 1e6  # larger bounds stand for "none"; random actions between them would be absurd, or overflow


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
    """Any image environment -> observation Box uint8 (C, Y, X); action Box(-1, 1, (A,), float32) or Discrete
    from 0.

    image: the key of the image in a Dict observation; None finds it, or renders where there is none.
    own_limit: the environment's time limit where its spec does not tell. `metadata["time_limit"]` of the
    result holds the limit in simulator steps. Errors: EnvError for spaces that are not supported, saying
    which are."""
    if own_limit is None and env.spec is not None:
        own_limit = env.spec.max_episode_steps
    try:
        key, box = pixels.find(env, image)
        if box is None and env.render_mode != "rgb_array":
            raise EnvError(
                f"no image in the observation {env.observation_space}, and render_mode is "
                f"{env.render_mode!r}: give it an image (Y, X, 3) or render_mode='rgb_array'"
            )
        guard = CheckedEnv(env, config.label, key, box)
        wrapped: gymnasium.Env = guard
        if config.time_limit is not None:
            wrapped = wrappers.TimeLimit(wrapped, config.time_limit)
        wrapped = ActionRepeat(wrapped, config.action_repeat)
        wrapped = _action(_image(wrapped, config, key, box))
    except EnvError as error:
        if str(error).startswith(config.label):  # the guard has named the place already
            raise
        raise EnvError(f"{config.label}: {error}") from error.__cause__
    wrapped.metadata = {**env.metadata, "time_limit": config.time_limit or own_limit}
    return wrapped


def _image(env: gymnasium.Env, config: Config, key: str | None, box: spaces.Box | None) -> gymnasium.Env:
    """The image, found or rendered, as uint8 (C, Y, X)."""
    if box is None:
        # This resets and renders once to see the frame's size, before anyone has given a seed: harmless.
        env = wrappers.AddRenderObservation(env)
    explicit = 1 if key else pixels.SMALLEST
    axes = "YXC" if box is None else pixels.layout(box, explicit)
    assert axes is not None
    shape = (1 if config.gray else 3, *config.size)

    def convert(observation: Any) -> np.ndarray:
        image = observation if key is None else observation[key]
        return pixels.convert(image, axes, config.size, config.gray)

    return wrappers.TransformObservation(env, convert, spaces.Box(0, 255, shape, np.uint8))


def _action(env: gymnasium.Env) -> gymnasium.Env:
    """Actions in [-1, 1] (A,), clipped, or Discrete from 0."""
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        count = spaces.Discrete(int(space.n))
        return wrappers.TransformAction(env, lambda action: int(action) + start, count)
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating) or not space.shape:
        raise EnvError(
            f"action space {space} is not supported; supported: Box of floats with finite bounds, "
            "Discrete. Convert it with gymnasium.wrappers.TransformAction"
        )
    if not np.isfinite([space.low, space.high]).all() or (space.high <= space.low).any():
        raise EnvError(
            f"action space {space} has no finite bounds low < high; set them, for instance with "
            "gymnasium.wrappers.TransformAction(env, lambda a: a, Box(-2.0, 2.0, shape))"
        )
    if max(np.abs(space.low).max(), np.abs(space.high).max()) > LARGEST_ACTION:
        raise EnvError(
            f"action space {space} has bounds beyond {LARGEST_ACTION:g}, which no action means; set those that are "
            "meant, for instance with gymnasium.wrappers.TransformAction(env, lambda a: a, Box(-2.0, 2.0, shape))"
        )
    shape, flat = space.shape, (math.prod(space.shape),)
    one = np.ones(shape, space.dtype)
    env = wrappers.RescaleAction(env, -one, one)

    def clip(action: np.ndarray) -> np.ndarray:
        return np.clip(action, -1, 1).astype(np.float32).reshape(shape)

    return wrappers.TransformAction(env, clip, spaces.Box(-1, 1, flat, np.float32))
