"""A run in progress: what the loop's steps do. start.py builds one, loop.py (a page) calls it."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

import envs
from agents.agent import Agent
from agents.base import Actor
from envs import Vector
from training import closing, evaluation, streams
from training.collecting.episode_collector import EpisodeCollector
from training.collecting.rollout import EpisodeResult, Interrupted, Seconds, episode_seed
from training.collecting.step_collector import StepCollector
from training.collecting.watch import Watch
from training.configuration.config import Config
from training.data_parallel import shares
from training.data_parallel.leader import Leader
from training.reporting.progress import console
from training.reporting.report import Reporter
from training.run_folder.checkpoint import Checkpoint
from training.run_folder.run import Run
from training.schedule import Counters, Schedule
from worldmodel.base import Batch
from worldmodel.replay.buffer import Replay
from worldmodel.replay.episodes import Episode
from worldmodel.replay.prefetch import prefetched


class Trainer:
    """All parts of a run, built and loaded."""

    def __init__(
        self,
        config: Config,
        run: Run,
        vector: Vector | None,
        agent: Agent,
        explorer: Agent,
        replay: Replay,
        stop: Callable[[], bool],
        callback: Callable[[Mapping[str, float]], Any] | None = None,
    ) -> None:
        self.config, self.seed, self.run, self.envs, self.stop = config.train, config.root.seed, run, vector, stop
        self.agent, self.explorer, self.replay = agent, explorer, replay
        self.leader = Leader()  # of other processes, if there are some
        self.validation: list[Episode] = []  # that are never learned from, for runs without an environment
        self.saved_at = time.monotonic()
        self.reporter = Reporter(config.train, run, callback)
        self.env_config = config.env
        self.other_envs: Vector | None = None
        seed = functools.partial(episode_seed, self.seed, streams.COLLECT)
        by_steps = vector and self.config.collect.unit == "steps"
        self.collector = StepCollector(vector, seed) if vector and by_steps else None
        if vector and not by_steps:
            self.episode_collector = EpisodeCollector(vector, seed, longest=replay.ring - 1)
        self.watch = Watch(config, vector, console.print)
        self.use_counters(Counters(), has_data=False)

    def use_counters(self, counters: Counters, has_data: bool) -> None:
        batch = self.replay.config.batch_size, self.replay.config.batch_length
        by_generation = not self.agent.actor.has_loss
        self.counters, self.schedule = counters, Schedule(self.config, counters, has_data, batch, by_generation)
        self.reporter.schedule = self.schedule

    def minutes_since_save(self) -> float:
        return (time.monotonic() - self.saved_at) / 60

    def idle_envs(self) -> Vector:
        """Environments without open episodes: where those live on between rounds, others than theirs."""
        if not self.collector:
            assert self.envs is not None
            return self.envs
        self.other_envs = self.other_envs or envs.vector(self.env_config, self.config.max_failures, console.print)
        return self.other_envs

    def close(self) -> None:
        closing.close(self.envs, self.other_envs, self.run)

    # ---- collecting ----

    def collect(self) -> None:
        """A round's worth of experience: whole episodes, all or nothing, so that a resumed run repeats an interrupted
        one exactly; or steps.
        """
        assert self.envs is not None
        counters, agent = self.counters, self.agent if self.schedule.prefilled else self.explorer
        collector = self.collector or self.episode_collector
        try:
            results, seconds = self.collect_steps(agent) if self.collector else self.collect_episodes(agent)
        finally:
            counters.failed_episodes += collector.failed
        self.reporter.collected(seconds, results, evaluation.collect_metrics(agent, results) if results else {})
        if collector.error:
            raise collector.error

    def collect_episodes(self, agent: Agent) -> tuple[list[EpisodeResult], Seconds]:
        """As many whole episodes as there are environments."""
        counters, collector = self.counters, self.episode_collector
        begun = counters.episodes + counters.failed_episodes
        with self.rollback():
            results, seconds = collector.collect(agent, begun, self.stop, self.watch.waited)
        for result in results:
            self.replay.add(result.episode)
            self.count(result.length, agent)
            counters.episodes += 1
            self.watch.episode(result, collector.longest)
        return results, seconds

    def collect_steps(self, agent: Agent) -> tuple[list[EpisodeResult], Seconds]:
        """Steps in every environment, up to the next round or the end of the prefill."""
        assert self.envs is not None and self.collector is not None
        decisions = self.schedule.decisions_due(self.envs.action_repeat * self.envs.num_envs)
        before = self.counters.agent_steps
        try:
            rows, results, seconds = self.collector.collect(agent, decisions, "explore", self.stop)
            for stream, episode, continuation in rows:
                self.replay.add(episode, stream, continuation)
                self.count(len(episode.reward) - (not continuation), agent)
                self.watch.rows(stream, episode, continuation)
        except Interrupted:  # before anything was done
            raise
        except BaseException:  # rows are lost: what goes on after a resume cannot follow on them
            self.collector.abandon()
            raise
        self.counters.episodes += len(results)
        self.counters.decisions_left = decisions - (self.counters.agent_steps - before) // self.envs.num_envs
        return results, seconds

    def count(self, decisions: int, agent: Agent) -> None:
        """Decisions that have come into replay. At once, so that a run that fails now can be saved."""
        assert self.envs is not None
        self.counters.agent_steps += decisions
        self.counters.env_steps += decisions * self.envs.action_repeat
        if agent is self.explorer:
            self.counters.prefill_agent_steps = self.counters.agent_steps

    @contextlib.contextmanager
    def rollback(self, learns: bool = False) -> Iterator[None]:
        """What is interrupted inside is dropped, also what was learned, and repeated with the same random numbers after
        resuming.
        """
        before, played = self.agent.random_state(), self.counters.fitness_env_steps
        learned = self.agent.tensors() if learns else {}
        known = {file: {name: value.clone() for name, value in tensors.items()} for file, tensors in learned.items()}
        try:
            yield
        except BaseException:
            self.agent.set_random_state(before)
            self.counters.fitness_env_steps = played
            if known:
                self.agent.restore(known)
            raise

    def play(self, actor: Actor, episodes: int, number: int) -> torch.Tensor:
        """The returns of an actor in the real environments; see agents.base.Play."""
        if self.envs is None:
            raise ValueError("the actor learns in the real environments, but there is none: actor.evaluate_in=model")
        seeds = [episode_seed(self.seed, streams.PLAY, number * 1_000_000 + row) for row in range(episodes)]
        noise = episode_seed(self.seed, streams.PLAY, number)
        results = evaluation.play(self.agent, actor, self.idle_envs(), seeds, noise, self.stop)
        self.counters.fitness_env_steps += sum(result.length for result in results) * self.envs.action_repeat
        return torch.tensor([result.episode_return for result in results])

    # ---- learning ----

    def learn(self) -> None:
        """Updates of the stage whose turn it is, up to the next report. Interrupted, it goes on after resuming."""
        began = time.perf_counter()
        turn, counters = self.schedule.turn(), self.counters
        stage, by_itself = turn.stage, "actor" in turn.parts and not self.agent.actor.has_loss
        updates = range(counters.updates, counters.updates + self.schedule.next_updates())

        def draw(update: int) -> Batch:
            rng = np.random.default_rng([self.seed, streams.SAMPLE, update])
            return self.replay.sample(rng, stage.batch_size, stage.batch_length, self.leader.share)

        batches = prefetched(draw, updates, self.replay.storage.prefetch)
        with contextlib.closing(batches), self.leader.learning(turn, updates, self.replay) as together:
            for number, batch in enumerate(batches, turn.done + 1):
                if self.stop():
                    raise Interrupted
                self.between_updates()
                # gradients never stop amid an update
                with self.rollback(learns=by_itself), together():
                    metrics = shares.learn(self.agent, self.replay, batch, turn.parts, self.play)
                counters.updates += 1
                self.reporter.add(metrics)
                if stage.updates > self.config.report_every or by_itself:
                    self.reporter.bar.update(number, stage.updates, stage=turn.name)
        self.reporter.learned(began)

    def between_updates(self) -> None:
        """What else is to be done meanwhile."""

    # ---- evaluating and saving ----

    def evaluate(self) -> None:
        """Noise-free episodes and their dreams."""
        counters, values, episodes = self.counters, dict[str, float](), self.validation
        if self.envs:
            seed = functools.partial(episode_seed, self.seed, streams.EVALUATE_WHILE_TRAINING)
            seeds = [seed(number) for number in range(self.config.eval_episodes)]
            results, values = evaluation.evaluate(self.agent, self.idle_envs(), seeds, self.seed, self.stop)
            self.reporter.show_episodes(results, evaluation.critic_discount(self.agent))
            episodes = [result.episode for result in results]
        for temperature in self.config.temperatures:
            dream, errors = evaluation.dreams(self.agent, episodes, self.seed, temperature)
            self.reporter.show_dream(dream, temperature)
            values |= errors if temperature == 1 else {}
        counters.last_eval_collected, counters.last_eval_updates = self.schedule.collected, counters.updates
        counters.evaluations += 1
        self.reporter.log(values)
        self.reporter.draw_curves()
        said = f"{values['evaluate/return']:.1f}" if self.envs else f"dreams of {len(episodes)} validation episodes"
        console.print(f"{counters.env_steps:>9,} env steps  evaluation {said}")

    def save(self) -> None:
        self.leader.compare(self)
        name, self.saved_at = self.schedule.saved(), time.monotonic()
        tensors = self.agent.tensors() | {"rng": self.agent.random_state()}
        tensors |= {"context": self.replay.context()} if self.replay.states else {}
        state = {"counters": dataclasses.asdict(self.counters), **self.reporter.state(), **self.more_state()}
        if self.collector:
            state["collector"], tensors["collector"] = self.collector.state()
        self.run.save(name, tensors, state, self.replay, self.config.keep_checkpoints)

    def more_state(self) -> dict[str, Any]:
        """What else a checkpoint's state.json holds."""
        return {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore everything but replay, which is loaded already."""
        state = checkpoint.state
        self.agent.restore({name: checkpoint.tensors(name) for name in ("model", "actor", "optim")}, console.print)
        self.agent.set_random_state(checkpoint.tensors("rng"))
        self.use_counters(Counters(**state["counters"]), has_data=len(self.replay) > 0)
        self.reporter.restore(state)
        self.run.metrics.rewind(state["metrics_bytes"], state.get("event_bytes"), self.counters.env_steps)
        if self.collector and "collector" in state:
            tensors = checkpoint.tensors("collector")
            explored = self.counters.agent_steps == self.counters.prefill_agent_steps  # whose memory it is
            if not self.collector.restore(state["collector"], tensors, self.explorer if explored else self.agent):
                console.print("the environments do not repeat themselves: the episodes under way are begun anew")
