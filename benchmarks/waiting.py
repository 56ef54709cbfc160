"""An environment that waits, as one behind a network or a slow simulator does: env.wrappers=[waiting:Waiting]."""

import time
from typing import Any

import gymnasium

SECONDS = 0.02  # a step


class Waiting(gymnasium.Wrapper):
    def step(self, action: Any) -> Any:
        time.sleep(SECONDS)
        return super().step(action)
