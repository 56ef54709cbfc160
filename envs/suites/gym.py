"""Any Gymnasium environment that gives images or can be rendered, by its id.

`id: package:Name-v0` imports `package` first, which registers its environments (Gymnasium's own notation).
"""

import contextlib
import difflib
import importlib.metadata
import os
import sys
from typing import Any

import gymnasium
import pydantic

from envs import adapter, pixels, rendering
from envs.errors import EnvError, close, told


class Config(adapter.Config):
    """`id` as in gymnasium.make; `image`: the part of the observation that is the image, sensors/rgb in nested Dicts,
    or `render` for the rendered picture; None finds it; `kwargs`: the environment's own."""

    id: str
    image: str | None
    kwargs: dict[str, Any] = pydantic.Field(max_length=100)

    @property
    def label(self) -> str:
        return self.id


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface. Errors: EnvError."""
    env = make(config)
    return adapter.adapt(env, config, config.image, limit_of(env))


def limit_of(env: gymnasium.Env) -> int | None:
    """The environment's own time limit, in simulator steps, as far as it is told."""
    return env.spec.max_episode_steps if env.spec else None


def make(config: Config) -> gymnasium.Env:
    """One environment as Gymnasium makes it, in the user's wrappers; with rendering if its observation has no image."""
    rendering.without_screen()
    kwargs = dict(config.kwargs)
    if config.time_limit is not None:
        kwargs["max_episode_steps"] = -1  # no limit of its own: ours takes its place
    env = wrapped(config, kwargs)
    if "render_mode" in kwargs:
        return env
    try:
        found = pixels.find(env, config.image)
    except EnvError as error:
        close(env, config.label)
        raise EnvError(f"{config.label}: {error}", error.advice) from error
    if found.box is not None:
        return env
    modes = env.metadata.get("render_modes") or []
    close(env, config.label)
    if "rgb_array" not in modes:
        raise EnvError(
            f"{config.id}: no image in the observation {env.observation_space}, and it cannot be rendered "
            f"(render_modes: {modes}): give it an image (Y, X, 3) or the render_mode 'rgb_array'"
        )
    return wrapped(config, {**kwargs, "render_mode": "rgb_array"})


def wrapped(config: Config, kwargs: dict[str, Any]) -> gymnasium.Env:
    return adapter.user_wrappers(by_id(config.id, kwargs), config)


def by_id(name: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    """Errors: EnvError."""
    try:
        if ":" in name:  # the package that is about to be imported may import mujoco
            with contextlib.suppress(EnvError):
                rendering.choose()
        elif "mujoco" in str(gymnasium.spec(name).entry_point).lower():
            rendering.choose()
        # Gymnasium's checker warns where `CheckedEnv` refuses, once per environment; two checkers would only cost
        # time.
        try:
            return gymnasium.make(name, disable_env_checker=True, **kwargs)
        except gymnasium.error.UnregisteredEnv:
            register(name.rpartition(":")[0])
            return gymnasium.make(name, disable_env_checker=True, **kwargs)
    except EnvError:
        raise
    except gymnasium.error.UnregisteredEnv as error:
        raise EnvError(f"{name}: {unknown(name)}") from error
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvError(f"{name}: a package is missing: {error}") from error
    except ImportError as error:
        raise EnvError(f"{name}: {missing(name, error)}") from error
    except (Exception, SystemExit) as error:  # one that calls exit() must not end the program, as if all were well
        raise EnvError(f"{name}: could not be made: {told(error)}") from error


def register(package: str) -> None:
    """Call the functions by which a package registers its environments, where importing it does not (MinAtar): those
    that it declares as Gymnasium's plugins.
    """
    top = package.partition(".")[0]
    for entry in importlib.metadata.entry_points(group="gymnasium.envs"):
        if top and entry.module.partition(".")[0] == top:
            entry.load()()


# ---- what to say ----


def nearest(name: str, count: int = 5) -> list[str]:
    """The registered ids that look most like `name`, likeliest first; of the package that it names, with its prefix."""
    package, colon, bare = name.rpartition(":")
    lower = {known.lower(): known for known in gymnasium.registry}
    close = [lower[match] for match in difflib.get_close_matches(bare.lower(), lower, count, cutoff=0.5)]
    ours = [str(gymnasium.registry[known].entry_point).startswith("gymnasium.") for known in close]
    return [known if own else f"{package}{colon}{known}" for known, own in zip(close, ours, strict=True)]


def unknown(name: str) -> str:
    """Why there is no such id."""
    package, _, bare = name.rpartition(":")
    old = getattr(getattr(sys.modules.get("gym"), "envs", None), "registry", {})
    if bare in getattr(old, "env_specs", old):
        return (
            "it is registered with the old package `gym`, not with Gymnasium: take a newer version of it, or "
            f"pip install 'shimmy[gym-v21]' and env.id=shimmy:GymV21Environment-v0 env.kwargs.env_id={bare}"
        )
    close = nearest(name)
    hint = f"nearest: {', '.join(close)}" if close else "no registered id is near it"
    return f"no such Gymnasium id; {hint}{'' if package else '. An id of another package is written package:Name-v0'}"


def missing(name: str, error: ImportError) -> str:
    """What could not be imported."""
    package, colon, _ = name.partition(":")
    first = error.__cause__ if isinstance(error.__cause__, ImportError) else error  # Gymnasium says it in its own words
    if colon and first.name == package:
        top = package.partition(".")[0]
        if os.path.exists(f"{top}.py") or os.path.isdir(top):  # `python -m` and what one types look there
            return (
                f"{package!r} lies in the current folder, {os.getcwd()}, which is not searched for what a run names: "
                "if you trust it, put PYTHONPATH=. before the command"
            )
        return f"there is no package {package!r}, neither installed nor in the current folder, {os.getcwd()}"
    return f"a package is missing: {first}"
