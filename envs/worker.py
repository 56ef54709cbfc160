"""One environment as `Vector` holds it: built in its own process, reporting failures instead of raising them, and doing
nothing once its episode has ended.

gymnasium.vector steps all rows, also those whose episode has ended and which wait to be reset, and one error ends
them all without saying which it was. So ends, failures and render time travel in `info`, where only `Vector` reads
them, and gymnasium.vector sees an endless environment."""

import ctypes
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from envs import isolation
from envs.adapter import Config
from envs.errors import EnvError, close, told, where

Build = Callable[[Any], gymnasium.Env]  # config -> one environment with the fixed interface

# What Ctrl-C, a closed terminal or a cluster's manager sends to all processes of a job: the parent decides, and closes
# the workers. SIGUSR1 only prints where one is.
PARENTS_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2")
ELSEWHERE = (
    "It is looked for in a worker's process, which does not run your script: name the module that registers it, "
    "module:Name-v0, or set env.vectorization_mode=sync"
)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start(config: Config, build: Build, index: int, parent: int) -> "Worker":
    """Prepares a worker's process, a child of the process `parent`, and gives its environment."""
    if os.getpid() == parent:  # gymnasium makes the first one in the parent, too, for its spaces: nothing is built
        return Worker(config, build, index, remote=True)
    for name in PARENTS_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":
        # Even a worker that hangs in C must not outlive its parent. This needs "spawn": the fork server waits
        # for its workers, and they for it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died meanwhile
            os._exit(1)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)  # `Vector` asks a hung worker where it hangs
    cv2.setNumThreads(1)  # more threads would only compete for the cores
    return Worker(config, build, index, remote=True)


class Worker(gymnasium.Env):
    """Environment number `index`. Failures are reported in info["failure"], remote ones as text.

    info of a step: "terminated", "truncated", "rendering" (seconds). The two flags of `step` are always
    False. After an end, and before the first reset, a step does nothing: last image, reward 0, empty info.
    """

    def __init__(self, config: Config, build: Build, index: int, remote: bool) -> None:
        self.config, self.build, self.index, self.remote = config, build, index, remote
        shape = (1 if config.gray else 3, *config.size)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Box(-1, 1, (1,))  # a stand-in: gymnasium.vector only hands rows through
        self.env: gymnasium.Env | None = None
        self.broken = False  # it has failed: another one is built before the next episode
        self.image = np.zeros(shape, np.uint8)
        self.running = False

    def describe(self) -> dict[str, Any]:
        """Builds the environment -> {"action": A, "discrete": bool, "time_limit": int or None, "notes": [text]}, or
        {"failure": ..}."""
        try:
            self.env = isolation.build(self.build, self.config)
            if self.env.observation_space != self.observation_space:
                raise EnvError(
                    f"{self.config.label}: the image is {self.env.observation_space} instead of "
                    f"{self.observation_space}"
                )
            space = self.env.action_space
            discrete = isinstance(space, spaces.Discrete)
            size = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))
            limit = self.env.metadata.get("time_limit")
            notes = self.env.metadata.get("notes", [])
            return {"action": size, "discrete": discrete, "time_limit": limit, "notes": notes}
        except EnvError as error:
            if self.remote and isinstance(error.__cause__, gymnasium.error.UnregisteredEnv):
                error = EnvError(f"{error}. {ELSEWHERE}", error.advice)
            return self._failed(error)
        except (Exception, SystemExit) as error:
            place = where(self.config.label, self.index, None, 0, "constructor")
            failure = EnvError(f"{place}: {told(error)}")
            failure.__cause__ = error
            return self._failed(failure)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """options: {"seeds": {index: seed}, "episodes": {index: number}}; not named there: nothing
        happens."""
        options = options or {}
        if self.index not in options["seeds"]:
            return self.image, {}
        if self.broken:
            self.close()
            answer = self.describe()
            if "failure" in answer:
                return self.image, answer
            self.broken = False
        assert self.env is not None
        place = {"worker": self.index, "episode": options["episodes"][self.index]}
        try:
            self.image, _ = self.env.reset(seed=options["seeds"][self.index], options=place)
        except EnvError as error:
            return self.image, self._failed(error)
        self.running = True
        return self.image, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self.running:
            return self.image, 0.0, False, False, {}
        assert self.env is not None
        before = self._rendering()
        try:
            self.image, reward, terminated, truncated, _ = self.env.step(action)
        except EnvError as error:
            return self.image, 0.0, False, False, self._failed(error)
        self.running = not (terminated or truncated)
        info = {"terminated": terminated, "truncated": truncated, "rendering": self._rendering() - before}
        return self.image, float(reward), False, False, info

    def close(self) -> None:
        if self.env is not None:
            close(self.env, self.config.label)
        self.env = None

    def _failed(self, error: EnvError) -> dict[str, Any]:
        self.running, self.broken = False, True
        if not self.remote:
            return {"failure": error, "traceback": None}
        return {"failure": str(error), "traceback": "".join(traceback.format_exception(error))}

    def _rendering(self) -> float:
        assert self.env is not None
        known = self.env.has_wrapper_attr("rendering")
        return float(self.env.get_wrapper_attr("rendering")) if known else 0.0
