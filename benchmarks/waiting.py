"""Environments that wait, as those behind a network or a slow simulator do: env.wrappers=[waiting:Waiting]."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import gymnasium

SECONDS = 0.02  # a step
FAST = 0.1  # of OneSlow: eight of them leave two cores nearly idle
TIMES = 100  # as long waits the slow one


class Waiting(gymnasium.Wrapper):
    def step(self, action: Any) -> Any:
        time.sleep(SECONDS)
        return super().step(action)


class OneSlow(gymnasium.Wrapper):
    """Of all processes that share the folder ONE_SLOW, the first to step is slow and says so in its file `slow`. Each
    counts its steps in a file of its own, a byte for each.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.folder, self.seconds = Path(os.environ["ONE_SLOW"]), 0.0

    def step(self, action: Any) -> Any:
        if not self.seconds:
            self.seconds = FAST
            with contextlib.suppress(FileExistsError), (self.folder / "slow").open("x") as file:
                file.write(str(os.getpid()))
                self.seconds *= TIMES
        time.sleep(self.seconds)
        with (self.folder / f"{os.getpid()}.steps").open("ab") as file:
            file.write(b".")
        return super().step(action)
