"""Collecting whole episodes, as many at a time as there are environments. By steps: collector.py."""

from collections.abc import Callable
from typing import Any

from agents.agent import Agent
from envs import EnvError, Vector
from training.collecting.rollout import EpisodeResult, Interrupted, Seconds, rollout


class EpisodeCollector:
    """Every episode that is begun takes a seed. Those that fail in their simulator do so, too: a run that they end is
    resumed with others.
    """

    def __init__(self, envs: Vector, episode_seed: Callable[[int], int], longest: int) -> None:
        """episode_seed: of the environment, by the number of the episode. longest: decisions, of which replay can hold
        the rows; then an episode is cut.
        """
        self.envs, self.episode_seed, self.longest = envs, episode_seed, longest
        self.failed = 0  # episodes of the last round
        self.error: EnvError | None = None  # is raised at once

    def collect(
        self,
        agent: Agent,
        begun: int,
        stop: Callable[[], bool] = lambda: False,
        waited: Callable[[int], Any] = lambda decisions: None,
        shared: bool = False,
    ) -> tuple[list[EpisodeResult], Seconds]:
        """A round. begun: the episodes before it. shared: others play the next numbers, so that in the place of
        episodes that fail none of them is taken. Errors: Interrupted: nothing has happened, and the round is to be
        repeated; EnvError.
        """
        before, count = self.envs.failures, self.envs.num_envs
        self.failed = 0
        seeds = [self.episode_seed(begun + row) for row in range(count)]
        try:
            return rollout(
                agent.act,
                self.envs,
                seeds,
                "explore",
                stop,
                another=None if shared else lambda number: self.episode_seed(begun + count + number),
                longest=self.longest,
                waited=waited,
            )
        except Interrupted:
            before = self.envs.failures
            raise
        finally:
            self.failed = self.envs.failures - before
