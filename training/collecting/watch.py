"""What is suspicious about an environment while a run collects: told once, in one line, with the key to set. Before
training, `python -m envs.check` tells the same.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from envs import Vector
from envs.diagnosis import ENOUGH, NO_LIMIT, SAME_START, Pictures, reward_problem
from training.collecting.rollout import EpisodeResult
from training.configuration.config import Config
from training.configuration.hints import command
from worldmodel.replay.episodes import Episode

JUDGED = 200  # rows of an episode after which its pictures are judged, if it goes on
LONG = 10_000  # decisions of an episode from which nothing was learned yet


class Watch:
    """tell: prints a line."""

    def __init__(self, config: Config, vector: Vector | None, tell: Callable[[str], Any]) -> None:
        self.config, self.tell = config, tell
        self.told: set[str] = set()
        self.pictures: dict[int, Pictures] = {}  # of the episode that is under way in a stream
        self.starts: list[bytes] = []  # digests of the first images of episodes
        if vector:
            for note in vector.notes:
                tell(f"note: {note}")
            if not vector.time_limit:
                by_episodes = config.train.collect.unit == "episodes"
                unit = ", and nothing is learned before one has: train.collect.unit=steps, or" if by_episodes else ":"
                self.once("limit", f"{NO_LIMIT}{unit} env.time_limit=1000 (simulator steps)")

    def once(self, kind: str, text: str, level: str = "warning") -> None:
        if kind not in self.told:
            self.told.add(kind)
            self.tell(f"{level}: {self.config.env.label}: {text}")

    def rows(self, stream: int, episode: Episode, continuation: bool) -> None:
        """Rows that were collected; `continuation`: they follow on the stream's last ones."""
        if not continuation:
            self.end(stream)
            self.started(episode.image[0].tobytes())
        pictures = self.pictures.setdefault(stream, Pictures())
        pictures.see(episode.image)
        if pictures.rows >= JUDGED:
            self.end(stream)
        problem = reward_problem(episode.reward)
        divisor = getattr(self.config.model, "reward_divisor", None)
        if problem and divisor is not None:
            problem = reward_problem(episode.reward / divisor) and problem
        if problem:
            unit = 10 ** math.ceil(math.log10(np.abs(episode.reward).max()))  # then they are within -1..1
            key = f"model.reward_divisor={unit}" if divisor is not None else "env.wrappers=[my_package:Scaled]"
            self.once("reward", f"{problem}, and their loss drowns all others; scale them: {key}")
        if episode.terminal.any() and getattr(self.config.model, "continue_weight", None) == 0:
            self.once(
                "terminal",
                "episodes end in death, but the model has no continue head, so that plans and dreams know of none: "
                "model.continue_weight=1, in a new run",
            )

    def end(self, stream: int) -> None:
        """Of what is known of the stream's episode."""
        problem = self.pictures.pop(stream, Pictures()).problem()
        if problem:
            name = getattr(self.config.env, "id", None)
            picture = f"look at it: {command('-m envs.check', name, '--picture', 'out.png')}" if name else ""
            look = picture or "look at the run's dream.png"
            self.once("pictures", f"{problem} in an episode: {look}")

    def started(self, image: bytes) -> None:
        if len(self.starts) < ENOUGH:
            self.starts.append(hashlib.sha256(image).digest())
            if len(self.starts) == ENOUGH and len(set(self.starts)) == 1:
                self.once("start", SAME_START, "note")

    def waited(self, decisions: int) -> None:
        """So many, for an episode's end."""
        if decisions < LONG:
            return
        self.once(
            "long",
            f"an episode is {LONG:,} decisions long, and nothing is learned before it ends: stop by Ctrl-C, and set "
            "env.time_limit or train.collect.unit=steps in a new run",
        )

    def episode(self, result: EpisodeResult, longest: int) -> None:
        """A whole one. longest: decisions after which it would have been cut."""
        self.rows(0, result.episode, continuation=False)
        self.end(0)
        if result.length == longest:
            self.once(
                "cut",
                f"an episode is cut after {longest:,} decisions, which fill replay: set env.time_limit, or raise "
                "replay.capacity",
            )
