"""Any Gymnasium environment that gives images or can be rendered, by its id.

`id: package:Name-v0` imports `package` first, which registers its environments (Gymnasium's own notation).
"""

import contextlib
import difflib
import os
import sys
from typing import Any

import gymnasium
import pydantic

from envs import adapter, pixels, rendering
from envs.checks import EnvError


class Config(adapter.Config):
    """`id` as in gymnasium.make; `image`: key of the image in a Dict observation, None finds it; `kwargs`:
    its own."""

    id: str
    image: str | None
    kwargs: dict[str, Any] = pydantic.Field(max_length=100)

    @property
    def label(self) -> str:
        return self.id


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface. Errors: EnvError."""
    return adapter.wrap_env(make(config), config, config.image)


def make(config: Config) -> gymnasium.Env:
    """One environment as Gymnasium makes it, with rendering if its observation has no image."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen, and without complaining
    kwargs = dict(config.kwargs)
    if config.time_limit is not None:
        kwargs["max_episode_steps"] = -1  # no limit of its own: ours takes its place
    env = _make(config.id, kwargs)
    if "render_mode" in kwargs:
        return env
    try:
        _, image = pixels.find(env, config.image)
    except EnvError as error:
        env.close()
        raise EnvError(f"{config.label}: {error}") from error
    if image is not None:
        return env
    modes = env.metadata.get("render_modes") or []
    env.close()
    if "rgb_array" not in modes:
        raise EnvError(
            f"{config.id}: no image in the observation {env.observation_space}, and it cannot be rendered "
            f"(render_modes: {modes}): give it an image (Y, X, 3) or the render_mode 'rgb_array'"
        )
    return _make(config.id, {**kwargs, "render_mode": "rgb_array"})


def nearest(name: str, count: int = 5) -> list[str]:
    """The registered ids that look most like `name`, likeliest first."""
    lower = {known.lower(): known for known in gymnasium.registry}
    return [lower[match] for match in difflib.get_close_matches(name.lower(), lower, count, cutoff=0.5)]


def _make(name: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    try:
        if ":" in name:  # the package that is about to be imported may import mujoco
            with contextlib.suppress(EnvError):
                rendering.choose()
        elif "mujoco" in str(gymnasium.spec(name).entry_point).lower():
            rendering.choose()
        # Gymnasium's checker warns where `CheckedEnv` refuses, once per environment; two checkers would only cost
        # time.
        return gymnasium.make(name, disable_env_checker=True, **kwargs)
    except EnvError:
        raise
    except gymnasium.error.UnregisteredEnv as error:
        close = nearest(name)
        hint = f"nearest: {', '.join(close)}" if close else "no registered id is near it"
        raise EnvError(
            f"{name}: no such Gymnasium id; {hint}. An id of another package is written package:Name-v0"
        ) from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise EnvError(f"{name}: a package is missing: {error}") from error
    except Exception as error:
        raise EnvError(f"{name}: could not be made: {type(error).__name__}: {error}") from error
