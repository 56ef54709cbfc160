"""Several environments behind one interface, in this process or each in its own. One that fails, dies or hangs is named
in an error, within a time limit.

Axes: `N` environment, `C` channel, `Y` row, `X` column, `A` action.
"""

import contextlib
import functools
import os
import signal
import sys
import time
import types
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NoReturn
from unittest import mock

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.adapter import Config
from envs.errors import EnvError, WorkerLost, as_error, where
from envs.worker import Build, Worker, start

GOODBYE = 5.0  # seconds that a worker has for closing its environment


class Vector:
    """`num_envs` environments; rows are environments. image_shape: (C, Y, X); action_dim: A, or the number of discrete
    actions.

    time_limit: simulator steps per episode, None if unknown. notes: what a user should know. Errors: EnvError for
    everything that goes wrong in an environment or its process, within `config.timeout`; all workers are gone then.
    Workers end with the thread that made them (Linux), so make it in the main thread.

    max_failures: more than 1: an episode that fails is dropped instead. Its row is in `failed` until the next call, and
    holds still until it is reset, in an environment that is built anew (all of them, if a worker's process was lost).
    `tell` gets the message, `failures` counts, and so many in a row, without an episode that ends, are an error."""

    def __init__(
        self, config: Config, build: Build, max_failures: int = 1, tell: Callable[[str], Any] | None = None
    ) -> None:
        self.config, self.num_envs, self.action_repeat = config, config.num_envs, config.action_repeat
        self.build, self.max_failures, self.tell = build, max_failures, tell
        self.image_shape: tuple[int, int, int] = (1 if config.gray else 3, *config.size)
        self.failed: dict[int, EnvError] = {}  # row -> why, of the last call
        self.failures = self._in_a_row = 0
        self._seed: list[int | None] = [None] * self.num_envs
        self._episode = [-1] * self.num_envs
        self._step = [0] * self.num_envs
        self._live = np.zeros(self.num_envs, bool)  # rows amid an episode
        described = self._open()
        self.action_dim: int = described["action"]
        self.discrete: bool = described["discrete"]
        self.time_limit: int | None = described["time_limit"]
        self.notes: list[str] = described["notes"]

    def _open(self) -> dict[str, Any]:
        """Builds the environments -> what they are."""
        self._async: AsyncVectorEnv | None = None
        if self.config.vectorization_mode == "async":
            self._async = self._start(self.build)
        rows = [functools.partial(Worker, self.config, self.build, i, remote=False) for i in range(self.num_envs)]
        self._vector = self._async or SyncVectorEnv(rows, autoreset_mode=AutoresetMode.DISABLED)
        described = self._call("constructor", "call", "describe")
        for answer in described:
            if answer.get("failure"):
                self._fail(as_error(answer["failure"], answer.get("traceback")))
        if any(answer != described[0] for answer in described):
            self._fail(EnvError(f"{self.config.label}: the environments differ: {described}"))
        first: dict[str, Any] = described[0]
        return first

    def reset(self, seeds: dict[int, int], episodes: dict[int, int] | None = None) -> np.ndarray:
        """Resets the named rows with these seeds -> all rows' images (N, C, Y, X) uint8, a fresh copy.

        episodes: numbers for messages; counted from 0 when not given.
        """
        for i, seed in seeds.items():
            if not 0 <= i < self.num_envs:
                raise IndexError(f"row {i} of {self.num_envs} environments")
            self._seed[i], self._step[i], self._live[i] = seed, 0, True
            self._episode[i] = (episodes or {}).get(i, self._episode[i] + 1)
        options = {"seeds": dict(seeds), "episodes": dict(enumerate(self._episode))}
        try:
            image, info = self._call("reset", "reset", options=options)
        except WorkerLost as error:
            return self._replace(error)
        self._note(info)
        return image

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
        """actions (N, A) in [-1, 1], or one-hot rows -> image (N, C, Y, X) uint8 (a copy), reward (N,)
        float32, terminated (N,), truncated (N,), and info: `render_seconds`, summed over the environments.

        A row whose episode has ended holds still until it is reset: last image, reward 0, both flags False.
        """
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, self.action_dim) or not np.isfinite(actions).all():
            raise ValueError(f"actions: wanted finite {(self.num_envs, self.action_dim)}, got {actions.shape}")
        self._step = [step + 1 for step in self._step]
        chosen = actions.argmax(axis=1) if self.discrete else actions.copy()  # environments may write into it
        none = np.zeros(self.num_envs)
        try:
            image, reward, _, _, info = self._call("step", "step", chosen)
        except WorkerLost as error:
            image, reward, info = self._replace(error), none, {}
        else:
            self._note(info)
        terminated, truncated = (np.asarray(info.get(key, none), bool) for key in ("terminated", "truncated"))
        if (terminated | truncated).any():
            self._live &= ~(terminated | truncated)
            self._in_a_row = 0
        seconds = float(np.sum(info.get("rendering", none)))
        return image, np.asarray(reward, np.float32), terminated, truncated, {"render_seconds": seconds}

    def close(self) -> None:
        """Closes the environments and ends their processes; a second call does nothing."""
        if self._vector.closed:
            return
        if self._async is None:
            self._vector.close()
            return
        for pipe in self._async.parent_pipes:
            with contextlib.suppress(OSError):  # it is gone already
                pipe.send(("close", None))
        deadline = time.monotonic() + GOODBYE
        for process in self._async.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        self._kill()

    def _start(self, build: Build) -> AsyncVectorEnv:
        rows = [functools.partial(start, self.config, build, i, os.getpid()) for i in range(self.num_envs)]
        try:
            # Python would import the main script in every worker, and with it torch: much memory and many
            # seconds.
            with mock.patch.dict(sys.modules, {"__main__": types.ModuleType("__main__")}):
                return AsyncVectorEnv(rows, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
        except (EOFError, OSError) as error:
            raise EnvError(f"{self.config.label}: a worker's process did not start (see above)") from error

    def _note(self, info: dict[str, Any]) -> None:
        """What a call has told of failures."""
        none = [None] * self.num_envs
        told = zip(info.get("failure", none), info.get("traceback", none))
        self._failing({i: as_error(failure, trace) for i, (failure, trace) in enumerate(told) if failure})

    def _failing(self, failed: dict[int, EnvError]) -> None:
        """Drops the episodes of some rows. Errors: EnvError, if too many in a row have failed."""
        self.failed = failed
        if not failed:
            return
        self.failures += len(failed)
        self._in_a_row += 1
        self._live[list(failed)] = False
        last = next(iter(failed.values()))
        if self._in_a_row >= self.max_failures:
            if self.max_failures > 1:
                message = f"{last}; {self._in_a_row} episodes in a row have failed (train.max_failures)"
                last, cause = EnvError(message, last.advice), last
                last.__cause__ = cause
            self._fail(last)
        for message in dict.fromkeys(map(str, failed.values())):
            if self.tell:
                self.tell(f"warning: an episode is dropped: {message}")

    def _replace(self, error: EnvError) -> np.ndarray:
        """Other workers for those of which one was lost: all episodes under way are dropped -> black images."""
        self._failing({int(i): error for i in np.flatnonzero(self._live)})
        self._open()
        return np.zeros((self.num_envs, *self.image_shape), np.uint8)

    def _call(self, moment: str, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._vector.closed:
            raise EnvError(f"{self.config.label}: the environments are closed")
        if self._async is None:
            try:
                return getattr(self._vector, name)(*args, **kwargs)
            except EnvError:
                self._vector.close()
                raise
        try:
            getattr(self._async, f"{name}_async")(*args, **kwargs)
            self._wait(moment)
            return getattr(self._async, f"{name}_wait")()
        except (EOFError, OSError):  # a pipe broke, a moment before its process ends
            connection.wait([process.sentinel for process in self._async.processes], 1.0)
            dead = [i for i, process in enumerate(self._async.processes) if not process.is_alive()]
            self._died(dead[0] if dead else 0, moment)

    def _wait(self, moment: str) -> None:
        """Until every worker has answered, one has died, or the time is over."""
        assert self._async is not None
        pipes, processes = self._async.parent_pipes, self._async.processes
        waiting, deadline = set(range(self.num_envs)), time.monotonic() + self.config.timeout
        while waiting:
            handles: list[Any] = [pipes[i] for i in waiting] + [processes[i].sentinel for i in waiting]
            ready = connection.wait(handles, max(0.0, deadline - time.monotonic()))
            for i in sorted(waiting):
                if processes[i].sentinel in ready:
                    self._died(i, moment)
            waiting -= {i for i in waiting if pipes[i] in ready}
            if waiting and time.monotonic() >= deadline:
                hung = min(waiting)
                if hasattr(signal, "SIGUSR1"):
                    os.kill(processes[hung].pid or 0, signal.SIGUSR1)  # prints its stack, see worker.start
                    time.sleep(0.1)
                self._fail(
                    WorkerLost(f"{self._where(hung, moment)}: no answer for {self.config.timeout:g} s: it hangs")
                )

    def _died(self, i: int, moment: str) -> NoReturn:
        assert self._async is not None
        process = self._async.processes[i]
        process.join(1.0)
        code = process.exitcode
        if code is None:
            how = "the worker closed its pipe"
        elif code < 0:
            how = f"the worker was killed by {signal.Signals(-code).name}"
        else:
            how = f"the worker ended with exit code {code}"
        self._fail(WorkerLost(f"{self._where(i, moment)}: {how}"))

    def _fail(self, error: EnvError) -> NoReturn:
        self._kill() if self._async else self._vector.close()
        raise error

    def _kill(self) -> None:
        assert self._async is not None
        for process in self._async.processes:
            process.kill()
        for process in self._async.processes:
            process.join()
        for pipe in self._async.parent_pipes:
            pipe.close()
        self._async.closed = True

    def _where(self, i: int, moment: str) -> str:
        moment = f"agent step {self._step[i]}" if moment == "step" else moment
        return where(self.config.label, i, self._seed[i], max(self._episode[i], 0), moment)
