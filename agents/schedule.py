"""When a run collects and when which part learns: told by the config and the counters alone, so that a run that was
interrupted anywhere goes on with just what was next.

Learning comes in rounds; a round is one stage after the other, and in a stage one part learns while the rest is frozen.
PlaNet: after every episode a round of {model: 100 updates}. World Models: once, or again after more episodes that the
controller lived through, a round of {vision: ..., memory: ..., actor: ...}.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

from pydantic import Field, NonNegativeFloat

from worldmodel.config import Section


class Stage(Section):
    """A part's turn: 'model', a part of it, or 'actor', whose updates are those of its method learn. What a recipe
    leaves out, or sets to null, is as in `replay` and `agent`.
    """

    updates: int = Field(ge=0)
    batch: int | None = Field(default=None, ge=1)
    length: int | None = Field(default=None, ge=2)
    learning_rate: float | None = Field(default=None, gt=0, lt=1)
    eval_every: int | None = Field(default=None, ge=1)  # updates; besides the evaluations every so many episodes


class Config(Section):
    steps: int = Field(ge=0)  # env steps, action repeat included; 0: no more than the random episodes
    seed_episodes: int = Field(ge=0)  # random ones (by the `explorer`), before the first round of learning
    round_episodes: int = Field(ge=1)  # collected between two rounds
    collect: Literal["sync", "overlap"]  # overlap: beside the round before, by the agent as it was when that began
    learn: dict[str, Stage] = Field(min_length=1)  # a round of learning: these stages, in this order
    report_every: int = Field(ge=1)  # updates; and at the end of every stage
    eval_every: int = Field(ge=1)  # episodes
    eval_episodes: int = Field(ge=1)
    temperatures: list[NonNegativeFloat] = Field(min_length=1)  # of the dreams that are shown
    save_every: int = Field(ge=1)  # episodes
    save_minutes: float = Field(gt=0)  # and at least so often while it learns
    keep: int = Field(ge=2)  # checkpoints; one may be in the process of being written


@dataclasses.dataclass
class Counters:
    """Where a run is. Counted separately, because people mean different things by a step."""

    env_steps: int = 0  # simulator steps, action repeat included: the x-axis of every curve
    agent_steps: int = 0  # decisions
    episodes: int = 0
    updates: int = 0
    played: int = 0  # env steps of episodes from which an actor learned by their returns alone; they are not in replay
    evaluated: int = 0  # episodes at the last evaluation
    evaluated_updates: int = 0  # updates at the last evaluation
    evaluations: int = 0
    saved: int = 0  # episodes at the last save
    saved_updates: int = 0  # updates at the last save
    saved_evaluations: int = 0  # evaluations at the last save


class Turn(NamedTuple):
    """Whose turn it is, and which update of its stage comes next."""

    part: str
    stage: Stage
    done: int


class Schedule:
    """What is next. `given`: a run that starts with recorded episodes may learn before it collects."""

    def __init__(self, config: Config, counters: Counters, given: bool) -> None:
        self.config, self.counters, self.given = config, counters, given
        self.round = sum(stage.updates for stage in config.learn.values())  # updates

    def enough(self) -> bool:
        """Whether all episodes were collected."""
        counters, config = self.counters, self.config
        return counters.episodes >= config.seed_episodes and counters.env_steps >= config.steps

    def due(self) -> int:
        """Updates owed: a round after the random episodes, and one for every `round_episodes` since."""
        since = self.counters.episodes - self.config.seed_episodes
        if since < 0 or (self.counters.episodes == 0 and not self.given):
            return 0
        return (1 + since // self.config.round_episodes) * self.round - self.counters.updates

    def ahead(self, count: int) -> int:
        """Rollouts of `count` episodes each from here, where a round begins or goes on, to the next one."""
        since = self.counters.episodes - self.config.seed_episodes
        return math.ceil((self.config.round_episodes - since % self.config.round_episodes) / count)

    def turn(self, update: int | None = None) -> Turn:
        """Whose turn an update is, by default the next one's."""
        done = (self.counters.updates if update is None else update) % self.round
        for part, stage in self.config.learn.items():
            if done < stage.updates:
                return Turn(part, stage, done)
            done -= stage.updates
        raise AssertionError("the stages are shorter than their round")

    def chunk(self) -> int:
        """How many updates come before the next report, evaluation or change of turn."""
        part, stage, done = self.turn()
        report_every = 1 if part == "actor" else self.config.report_every  # an actor's update is a whole generation
        return min(every - done % every for every in (stage.updates, report_every, stage.eval_every or stage.updates))

    def to_evaluate(self) -> bool:
        """After every so many updates of a stage, after every so many episodes, and at the end."""
        counters = self.counters
        if counters.updates > counters.evaluated_updates:
            _, stage, done = self.turn(counters.updates - 1)
            if stage.eval_every and (done + 1) % stage.eval_every == 0:
                return True
        if self.due() > 0 or counters.episodes < self.config.seed_episodes:
            return False
        if self.enough():
            return (counters.evaluated, counters.evaluated_updates) != (counters.episodes, counters.updates)
        return counters.episodes - counters.evaluated >= self.config.eval_every

    def to_save(self, minutes: float) -> bool:
        """After every so many episodes, so many minutes of learning, and at the end."""
        counters = self.counters
        now = counters.episodes, counters.updates, counters.evaluations
        changed = (counters.saved, counters.saved_updates, counters.saved_evaluations) != now
        if minutes >= self.config.save_minutes and changed:
            return True
        if self.due() > 0:
            return False
        return changed if self.enough() else counters.episodes - counters.saved >= self.config.save_every
