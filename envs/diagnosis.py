"""What is suspicious in an environment's episodes although nothing fails: envs.check tells it before training, and
training tells it once.
"""

import numpy as np

LARGE_REWARD = 1e3  # per decision; losses of rewards beyond it drown all others
ENOUGH = 5  # rows of an episode, and episodes, before anything is said of them


class Pictures:
    """Whether the pictures of an episode are all black, or all the same."""

    def __init__(self) -> None:
        self.first: np.ndarray | None = None
        self.rows, self.changes, self.lit = 0, False, False

    def see(self, images: np.ndarray) -> None:
        """images: (T, C, Y, X)."""
        if not len(images):
            return
        if self.first is None:
            self.first = images[0].copy()
        self.changes = self.changes or bool((images != self.first).any())
        self.lit = self.lit or bool(images.any())
        self.rows += len(images)

    def problem(self) -> str | None:
        if self.rows < ENOUGH or (self.changes and self.lit):
            return None
        return "the image never changes" if self.lit else "all images are black"


def reward_problem(rewards: np.ndarray) -> str | None:
    largest = np.abs(rewards).max(initial=0)
    return f"rewards are as large as {largest:.4g}" if largest > LARGE_REWARD else None


NO_LIMIT = "no time limit is known: its episodes may never end"
SAME_START = "every episode begins with the same image, whatever the seed: draw from self.np_random, if it should not"
