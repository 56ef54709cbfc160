"""The environment that is played in."""

from collections.abc import Callable
from typing import Any

import gymnasium

from envs.errors import EnvError, close


class Rebuilt(gymnasium.Wrapper):
    """After a failure it is made anew at the next reset, as for training: what has failed may be lost for good."""

    def __init__(self, make: Callable[[], gymnasium.Env], label: str) -> None:
        super().__init__(make())
        self.make, self.label, self.broken = make, label, False

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        if self.broken:
            close(self.env, self.label)
            self.env = self.make()
        self.broken = True  # until it has begun
        begun = self.env.reset(**options)
        self.broken = False
        return begun

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            return self.env.step(action)
        except EnvError:
            self.broken = True
            raise

    def close(self) -> None:
        close(self.env, self.label)
