"""Stops bad output of an environment before it reaches the replay: every failure becomes one clear
`EnvError`.

A NaN reward or a half-written image that is stored once spoils training silently and for ever, so each
simulator step is checked where it enters: image dtype, shape and range; reward finite, scalar and sane; done
flags boolean."""

import time
from typing import Any, NoReturn

import gymnasium
import numpy as np

ABSURD = 1e9  # no known reward scale comes near; beyond it float32 losses lose all their other terms


class EnvError(RuntimeError):
    """Every failure of an environment that a user should read: one clear message."""


def where(name: str, worker: int, seed: int | None, episode: int, moment: str) -> str:
    """The place of a failure in words, e.g. "Pendulum-v1 (worker 0, seed 3, episode 5, env step 17)"."""
    return f"{name} (worker {worker}, seed {seed}, episode {episode}, {moment})"


class CheckedEnv(gymnasium.Wrapper):
    """Checks what an environment returns at every simulator step, and copies its image (the buffer may be
    reused). The action that it is given is a copy, too, and in its own space.

    image: the space of the image in the observation, at `key` when the observation is a Dict; None: the image
    is rendered, and `render` is checked instead. `reset(options={"worker": .., "episode": ..})` names the
    place for messages; these two are not passed on. `rendering` counts seconds spent in `render`. Errors:
    EnvError."""

    def __init__(self, env: gymnasium.Env, name: str, key: str | None, image: gymnasium.spaces.Box | None) -> None:
        super().__init__(env)
        self.name, self.key, self.image = name, key, image
        self.worker, self.episode, self.count = 0, -1, 0
        self.seed: int | None = None
        self.rendering = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        self.worker = options.pop("worker", self.worker)
        self.episode = options.pop("episode", self.episode + 1)
        self.seed, self.count = seed, 0
        try:
            observation, info = self.env.reset(seed=seed, options=options or None)
        except (Exception, SystemExit) as error:  # an environment that calls exit() must not end the training
            self._raised("reset", error)
        return self._observation(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        action = self._own_action(action)
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except (Exception, SystemExit) as error:
            self._raised("step", error)
        reward = self._reward(reward)
        terminated, truncated = self._done("terminated", terminated), self._done("truncated", truncated)
        return self._observation(observation), reward, terminated, truncated, info

    def render(self) -> Any:
        start = time.perf_counter()
        try:
            frame = self.env.render()
        except (Exception, SystemExit) as error:
            self._raised("render", error)
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,)):
            self._refuse("rendered image", frame, "is not a uint8 array (Y, X, 3)")
        frame = frame.copy()
        self.rendering += time.perf_counter() - start
        return frame

    def _own_action(self, action: Any) -> Any:
        """A copy, which the environment may write into, in its own space to the last bit: rescaling in float32 may
        leave a bound by one.
        """
        space = self.env.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            return space.dtype.type(action)  # as space.sample() gives it
        if not isinstance(space, gymnasium.spaces.Box):
            return action
        return np.clip(np.array(action, space.dtype), space.low, space.high)

    def _observation(self, observation: Any) -> Any:
        if self.image is None:
            return observation
        if self.key is None:
            return self._image("image", observation)
        if not isinstance(observation, dict) or self.key not in observation:
            self._refuse("observation", observation, f"has no key '{self.key}', which its space promises")
        return {**observation, self.key: self._image(self.key, observation[self.key])}

    def _image(self, key: str, image: Any) -> np.ndarray:
        space = self.image
        assert space is not None
        if not isinstance(image, np.ndarray) or image.dtype != space.dtype or image.shape != space.shape:
            self._refuse(key, image, f"is not what its space promises: {space.dtype} {space.shape}")
        # Any uint8 is in 0..255. The comparison is written so that a NaN fails it.
        low, high = space.low.min(), space.high.max()
        if image.dtype != np.uint8 and not (image.min() >= low and image.max() <= high):
            found = f"{image.min():g}..{image.max():g}"
            self._refuse(key, image, f"with values in {found} is outside its space, {low:g}..{high:g}")
        return image.copy()

    def _reward(self, reward: Any) -> float:
        value = np.asarray(reward)
        if value.ndim != 0 or value.dtype.kind not in "biuf":
            self._refuse("reward", reward, "is not one real number")
        if not np.isfinite(value):
            self._refuse("reward", reward, "is not finite")
        if abs(value) > ABSURD:
            self._refuse("reward", reward, f"is beyond {ABSURD:g} in size")
        return float(value)

    def _done(self, key: str, done: Any) -> bool:
        if not isinstance(done, bool | np.bool_):
            self._refuse(key, done, "is not a bool")
        return bool(done)

    def _refuse(self, key: str, value: Any, problem: str) -> NoReturn:
        shown = f"{str(value)[:200]} ({type(value).__name__})"
        if isinstance(value, np.ndarray) and value.size > 4:
            shown = f"array of {value.dtype} {value.shape}"
        moment = f"env step {self.count}" if self.count else "reset"
        raise EnvError(f"{self._where(moment)}: {key} {shown} {problem}")

    def _raised(self, call: str, error: BaseException) -> NoReturn:
        moment = f"env step {self.count}" if self.count else "reset"
        moment += ", render" if call == "render" else ""
        raise EnvError(f"{self._where(moment)}: {type(error).__name__}: {error}") from error

    def _where(self, moment: str) -> str:
        return where(self.name, self.worker, self.seed, self.episode, moment)
