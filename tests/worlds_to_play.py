"""An environment without a simulator, and a server of a session in this process, for tests of play.py's page."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from viewer.opening import Opened
from viewer.server import serve
from worldmodel.base import Spec


class Picture(gymnasium.Env):
    """Random pictures that the seed, the step and the action decide. An episode has `length` steps."""

    def __init__(self, spec: Spec, length: int = 1000) -> None:
        self.spec_, self.length = spec, length
        self.actions: list[Any] = []  # that it was given

    def picture(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *(int(100 * np.sum(action)) + 1000 for action in self.actions)])
        return rng.integers(0, 256, self.spec_.image_shape, dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.seed, self.actions = int(seed or 0), []
        return self.picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if len(self.actions) >= self.length:
            raise AssertionError("a step after the end")
        self.actions.append(np.array(action))
        return self.picture(), float(len(self.actions)), False, len(self.actions) == self.length, {}


@contextlib.contextmanager
def page(opening: Callable[[], Opened]) -> Iterator[int]:
    """Its port, while it is served by a thread."""
    ready, ended, failure = threading.Event(), asyncio.Event(), []
    port: list[int] = []
    loop = asyncio.new_event_loop()

    def told(number: int) -> None:
        port.append(number)
        ready.set()

    def run() -> None:
        try:
            loop.run_until_complete(serve(opening, 0, told, ended))
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(600) and port, failure
        yield port[0]
    finally:
        if port:
            loop.call_soon_threadsafe(ended.set)
        thread.join(600)
    assert not failure, failure
