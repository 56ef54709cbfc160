"""Catch: a ball falls, a paddle below moves left, stays or moves right, and should be where the ball lands. Numpy only;
the smallest task with discrete actions that can be learned from pixels. After bsuite's (Osband et al. 2020).

A board of rows x columns. The ball starts in the top row, in a random column; the paddle starts in the middle of the
bottom row. One step: the paddle moves by a - 1 for the actions a = 0, 1, 2, the ball falls by one row. When it reaches
the bottom row the episode ends, as a death, with reward +1 if the paddle is there, else -1; all other rewards are 0. An
episode has rows - 1 steps, the optimum is +1, and `random_return` says what uniform actions get."""

from typing import Any

import gymnasium
import numpy as np
import pydantic
from gymnasium import spaces

from envs import adapter

BALL, PADDLE = (255, 200, 0), (0, 160, 255)  # also different in gray


class Config(adapter.Config):
    """The board."""

    rows: int = pydantic.Field(ge=2, le=256)
    columns: int = pydantic.Field(ge=2, le=256)

    @pydantic.model_validator(mode="after")
    def _visible(self) -> "Config":
        if self.size[0] < self.rows or self.size[1] < self.columns:
            raise ValueError(
                f"size {list(self.size)} has less than a pixel for each of {self.rows} rows and {self.columns} columns"
            )
        return self


class Catch(gymnasium.Env):
    """Catch as a Gymnasium environment. `ball` (row, column) and `paddle` (column) may be read."""

    def __init__(self, rows: int, columns: int, size: tuple[int, int]) -> None:
        self.rows, self.columns = rows, columns
        self.row_of = np.arange(size[0]) * rows // size[0]  # (Y,) the board's row of each pixel
        self.column_of = np.arange(size[1]) * columns // size[1]  # (X,)
        self.observation_space = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.ball, self.paddle = (0, 0), 0

    def get_action_meanings(self) -> list[str]:
        """As Atari's environments name theirs."""
        return ["LEFT", "NOOP", "RIGHT"]

    def draw(self) -> np.ndarray:
        """uint8 (Y, X, 3): every cell is a block. A ball that is caught hides the paddle."""
        board = np.zeros((self.rows, self.columns, 3), np.uint8)
        board[-1, self.paddle] = PADDLE
        board[self.ball] = BALL
        return board[self.row_of[:, None], self.column_of]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.ball, self.paddle = (0, int(self.np_random.integers(self.columns))), self.columns // 2
        return self.draw(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.paddle = min(max(self.paddle + int(action) - 1, 0), self.columns - 1)
        row, column = self.ball
        self.ball = row + 1, column
        landed = self.ball[0] == self.rows - 1
        reward = (1.0 if self.paddle == column else -1.0) if landed else 0.0
        return self.draw(), reward, landed, False, {}


def random_return(rows: int, columns: int) -> float:
    """The expected return of uniformly random actions. The ball's column is uniform and independent of the paddle's,
    so whatever distribution p the paddle ends with, sum_c p(c) / columns = 1 / columns are caught: 2 / columns - 1.
    """
    return 2 / columns - 1


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface."""
    return adapter.wrap_env(Catch(config.rows, config.columns, config.size), config, own_limit=config.rows - 1)
