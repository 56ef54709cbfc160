"""Stops bad output of an environment before it reaches the replay: every failure becomes one clear
`EnvError`.

A NaN reward or a half-written image that is stored once spoils training silently and for ever, so each
simulator step is checked where it enters: image dtype, shape and range; reward finite, scalar and sane; done
flags boolean."""

import time
from typing import Any, NoReturn

import gymnasium
import numpy as np

from envs import actions, pixels
from envs.errors import EnvError, told, where

PROMISES = "make observation_space say what step() and reset() return (dtype, shape, keys)"
OLD = (
    "this is not Gymnasium's interface, reset(seed=, options=) and step(action) with five results: take a newer "
    "version of the package, or a wrapper (shimmy's GymV21CompatibilityV0)"
)
ABSURD = 1e9  # no known reward scale comes near; beyond it float32 losses lose all their other terms


class CheckedEnv(gymnasium.Wrapper):
    """Checks what an environment returns at every simulator step, and copies its image (the buffer may be reused). The
    action that it is given is a copy, too, and in its own space.

    box: the space of the image, at `path` in the observation: what this gives is that image alone. None: the image is
    rendered, and `render` is checked instead. `reset(options={"worker": .., "episode": ..})` names the place for
    messages; these two are not passed on. `rendering` counts seconds spent in `render`. Errors: EnvError."""

    def __init__(self, env: gymnasium.Env, name: str, found: pixels.Found) -> None:
        super().__init__(env)
        self.name, self.found = name, found
        self.worker, self.episode, self.count = 0, -1, 0
        self.seed: int | None = None
        self.rendering = 0.0
        if found.box is not None:
            self.observation_space = found.box

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        self.worker = options.pop("worker", self.worker)
        self.episode = options.pop("episode", self.episode + 1)
        self.seed, self.count = seed, 0
        try:
            result = self.env.reset(seed=seed, options=options or None)
        except (Exception, SystemExit) as error:  # an environment that calls exit() must not end the training
            self._raised("reset", error)
        observation, info = self._parts("reset", result, 2)
        return self._observation(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        action = actions.own(self.env.action_space, action)
        try:
            result = self.env.step(action)
        except (Exception, SystemExit) as error:
            self._raised("step", error)
        observation, reward, terminated, truncated, info = self._parts("step", result, 5)
        reward = self._reward(reward)
        terminated, truncated = self._done("terminated", terminated), self._done("truncated", truncated)
        return self._observation(observation), reward, terminated, truncated, info

    def render(self) -> Any:
        start = time.perf_counter()
        try:
            frame: Any = self.env.render()
        except (Exception, SystemExit) as error:
            self._raised("render", error)
        numbers = isinstance(frame, np.ndarray) and frame.dtype.kind in "uif"
        axes = pixels.shape_axes(frame.shape, 1) if numbers else None
        if not isinstance(frame, np.ndarray) or axes in (None, "stack"):
            self._refuse(
                "rendered image",
                frame,
                "is not an array (Y, X, 3)",
                "let render() with render_mode='rgb_array' return uint8 (Y, X, 3)",
            )
        self._range("rendered image", frame, 0, 1 if frame.dtype.kind == "f" else 255)
        frame = pixels.flat(frame, axes).copy()  # RGBA and gray, too, as in an observation
        self.rendering += time.perf_counter() - start
        return frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)

    def _parts(self, call: str, result: Any, count: int) -> Any:
        if not isinstance(result, tuple) or len(result) != count:
            wanted = "(observation, info)" if count == 2 else "(observation, reward, terminated, truncated, info)"
            self._refuse(f"{call}()'s result", result, f"is not {wanted}", OLD)
        return result

    def _observation(self, observation: Any) -> Any:
        box, path = self.found.box, self.found.path
        if box is None:
            return observation
        try:
            image = pixels.take(observation, path)
        except (KeyError, IndexError, TypeError):
            problem = f"has no '{self.found.name}', which its space promises"
            self._refuse("observation", observation, problem, PROMISES)
        key = self.found.name if path else "image"
        if not isinstance(image, np.ndarray) or image.dtype != box.dtype or image.shape != box.shape:
            self._refuse(key, image, f"is not what its space promises: {box.dtype} {box.shape}", PROMISES)
        self._range(key, image, box.low.min(), box.high.max())
        return image.copy()

    def _range(self, key: str, image: np.ndarray, low: float, high: float) -> None:
        """Any uint8 is in 0..255. The comparison is written so that a NaN fails it."""
        if image.dtype != np.uint8 and not (image.min() >= low and image.max() <= high):
            found = f"{image.min():g}..{image.max():g}"
            problem = f"with values in {found} is outside its space, {low:g}..{high:g}"
            self._refuse(key, image, problem, "correct the bounds of observation_space, or the values")

    def _reward(self, reward: Any) -> float:
        value = np.asarray(reward)
        if value.ndim != 0 or value.dtype.kind not in "biuf":
            self._refuse("reward", reward, "is not one real number", "return float(reward) from step()")
        if not np.isfinite(value):
            self._refuse("reward", reward, "is not finite", "find what overflows or divides by zero; do not hide it")
        if abs(value) > ABSURD:
            self._refuse(
                "reward", reward, f"is beyond {ABSURD:g} in size", "scale it: gymnasium.wrappers.TransformReward"
            )
        return float(value)

    def _done(self, key: str, done: Any) -> bool:
        if not isinstance(done, bool | np.bool_):
            self._refuse(key, done, "is not a bool", "return bool(terminated), bool(truncated) from step()")
        return bool(done)

    def _refuse(self, key: str, value: Any, problem: str, advice: str) -> NoReturn:
        shown = f"{' '.join(str(value).split())[:200]} ({type(value).__name__})"
        if isinstance(value, np.ndarray) and value.size > 4:
            shown = f"array of {value.dtype} {value.shape}"
        moment = f"env step {self.count}" if self.count else "reset"
        raise EnvError(f"{self._where(moment)}: {key} {shown} {problem}", advice)

    def _raised(self, call: str, error: BaseException) -> NoReturn:
        moment = f"env step {self.count}" if self.count else "reset"
        moment += ", render" if call == "render" else ""
        old = isinstance(error, TypeError) and f"{call}()" in str(error)
        raise EnvError(f"{self._where(moment)}: {told(error)}", OLD if old else "") from error

    def _where(self, moment: str) -> str:
        return where(self.name, self.worker, self.seed, self.episode, moment)
