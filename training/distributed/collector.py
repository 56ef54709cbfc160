"""What a collector's process does: environments, and a snapshot of the agent that acts in them."""

import contextlib
import faulthandler
import functools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import envs
from envs import EnvError
from training import streams
from training.collecting.episode_collector import EpisodeCollector
from training.collecting.rollout import episode_seed
from training.collecting.step_collector import StepCollector
from training.configuration import config
from training.distributed.messages import Request, pack, packed_result, packed_rows, unpack
from training.start import build_agents, open_envs
from worldmodel.base import Spec


class Collector:
    """Everything is built at the first request, whose answer says what went wrong. Answers are plain data."""

    def __init__(self, plain: dict[str, Any], spec: dict[str, Any], longest: int, path: list[str]) -> None:
        """plain: the run's config, as it was checked. longest: decisions of a whole episode, at most. path: Python's,
        by which the user's own modules are found.
        """
        sys.path += [folder for folder in path if folder not in sys.path]
        self.plain, self.spec, self.longest = plain, Spec(**spec), longest
        self.said: list[str] = []  # for people to read, since the last answer
        self.vector: envs.Vector | None = None
        self.version: tuple[int, int] | None = None  # of the weights
        self.steps: StepCollector | None = None  # its episodes go on from one request to the next

    def build(self) -> None:
        self.config = config.check(self.plain)
        self.vector = open_envs(self.config, self.said.append)
        self.workers, self.seed = self.config.train.collect.workers, self.config.root.seed
        self.agent, self.explorer = build_agents(self.config, self.spec)

    def collect(self, request: dict[str, Any], weights: np.ndarray, random: np.ndarray | None) -> dict[str, Any]:
        """An answer: what was collected, `seconds`, `failed`, `said`; `error` and `advice`, if that has ended it.

        weights: see messages.pack; they are read if they are others than those that it has. random: the state of the
        generator to draw from, which comes back as it is then; None: this request has numbers of its own.
        """
        asked = Request(**request)
        try:
            if self.vector is None:
                self.build()
            self.take(asked, weights)
            if random is not None:
                self.agent.set_random_state(unpack(random)["random"])
            else:
                torch.manual_seed(episode_seed(self.seed, streams.COLLECTOR_NOISE, asked.noise))
            answer = self.by_steps(asked) if asked.decisions else self.by_episodes(asked)
        except EnvError as error:
            answer = {"error": str(error), "advice": error.advice}
            if self.vector is not None:
                answer["failed"] = self.vector.failures - self.failures
        if random is not None and "error" not in answer:
            answer["random"] = pack({"random": self.agent.random_state()})
        answer["said"], self.said[:] = list(self.said), []
        return answer

    def take(self, asked: Request, weights: np.ndarray) -> None:
        """Become the agent of these versions."""
        assert self.vector is not None
        self.failures = self.vector.failures
        version = asked.updates, asked.actor_updates
        if version != self.version:
            self.agent.restore({"actor": {}} | unpack(weights), self.said.append)
            self.version = version

    # ---- collecting ----

    def by_episodes(self, asked: Request) -> dict[str, Any]:
        assert self.vector is not None
        seed = functools.partial(episode_seed, self.seed, streams.COLLECT)
        collector = EpisodeCollector(self.watched(), seed, self.longest)
        results, seconds = collector.collect(self.acting(asked), asked.number, shared=self.workers > 1)
        return {
            "episodes": [packed_result(result) for result in results],
            "seconds": list(seconds),
            "failed": collector.failed,
        }

    def by_steps(self, asked: Request) -> dict[str, Any]:
        collector = self.step_collector(asked)
        rows, results, seconds = collector.collect(self.acting(asked), asked.decisions, "explore", lambda: False)
        answer: dict[str, Any] = {
            "rows": [packed_rows(row) for row in rows],
            "episodes": [packed_result(result) for result in results],
            "seconds": list(seconds),
            "failed": collector.failed,
            "begun": collector.started,
        }
        if collector.error:
            answer |= {"error": str(collector.error), "advice": collector.error.advice}
        return answer

    def step_collector(self, asked: Request) -> StepCollector:
        """The same one for all requests. Numbers of its episodes: every so-many-th one is its."""
        if self.steps is None:
            self.steps = StepCollector(
                self.watched(),
                lambda number: episode_seed(self.seed, streams.COLLECT, number * self.workers + asked.collector),
            )
            self.steps.started = asked.number
        return self.steps

    def acting(self, asked: Request) -> Any:
        return self.explorer if asked.explorer else self.agent

    def watched(self) -> Any:
        """The environments. One that hangs in this process ends it; those in processes of their own are watched
        already.
        """
        assert self.vector is not None
        return self.vector if self.config.env.vectorization_mode == "async" else Watched(self.vector)


class Watched:
    """Environments whose every call ends within their timeout, or else the process does, with a stack in its log."""

    def __init__(self, vector: envs.Vector) -> None:
        self.vector = vector

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vector, name)

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        with self.deadline():
            return self.vector.reset(*args, **kwargs)

    def step(self, actions: np.ndarray) -> Any:
        with self.deadline():
            return self.vector.step(actions)

    @contextlib.contextmanager
    def deadline(self) -> Iterator[None]:
        faulthandler.dump_traceback_later(self.vector.config.timeout, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
