"""When a run collects, and which part learns when: a function of the config and the counters alone, so that a run that
was interrupted anywhere continues with exactly what was next.

Learning comes in rounds; a round is one stage after the other, and a stage names what learns in it, from one batch for
each update. PlaNet: after every episode a round of {model: 100 updates}. World Models: once, or again after more
episodes, a round of {vision: ..., memory: ..., actor: ...}. Dreamer: after every few steps {joint: [model, actor]}.
"""

import dataclasses
import math
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field, field_validator, model_validator

from worldmodel.base import StrictConfig

MOST = 10**12  # steps or updates: beyond what anyone computes, and far from where counters overflow
MOST_STAGES = 100
Temperature = Annotated[float, Field(ge=0, le=1000)]


class Stage(StrictConfig):
    """What learns, and for how long. What a recipe leaves out, or sets to null, is as in `replay`."""

    # together, from each batch; null: the stage's name
    parts: list[str] | None = Field(default=None, min_length=1, max_length=100)
    updates: int = Field(ge=0, le=MOST)
    batch_size: int | None = Field(default=None, ge=1, le=65536)
    batch_length: int | None = Field(default=None, ge=2, le=65536)
    eval_every: int | None = Field(default=None, ge=1, le=MOST)  # updates; besides the evaluations between rounds


class Collect(StrictConfig):
    """How env steps are gathered between two rounds of learning."""

    # episodes: whole ones, all or nothing. steps: env steps, action repeat included; environments then keep running
    # between rounds, and unfinished episodes are learned from
    unit: Literal["episodes", "steps"]
    per_round: int = Field(ge=1, le=MOST)  # of that unit
    # async: collectors in processes of their own go on while it learns (training/distributed)
    mode: Literal["sync", "async"]
    workers: int = Field(ge=1, le=10_000)  # collectors, each with env.num_envs environments
    max_staleness: int = Field(ge=0, le=MOST)  # updates that are owed, at most, when a collector begins


class Learn(StrictConfig):
    """A round of learning: its stages by their names, in this order; and two words that name none."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"maxProperties": MOST_STAGES + 2})
    __pydantic_extra__: dict[str, Stage] = Field(init=False)

    # async: the actor learns in a process of its own, beside the model (training/distributed)
    mode: Literal["alternate", "async"]
    max_staleness: int = Field(ge=0, le=MOST)  # updates by which the model is ahead of the actor's copy

    @property
    def stages(self) -> dict[str, Stage]:
        return self.__pydantic_extra__

    @field_validator("mode", "max_staleness", mode="before")
    @classmethod
    def reserved(cls, value: object) -> object:
        if isinstance(value, (dict, Stage)):
            raise ValueError("no stage can have this name, which is a setting's: choose another one")
        return value

    @model_validator(mode="after")
    def some(self) -> "Learn":
        if not 1 <= len(self.stages) <= MOST_STAGES:
            raise ValueError(f"1 to {MOST_STAGES} stages are wanted; there are {len(self.stages)}")
        return self


class Config(StrictConfig):
    env_steps: int = Field(ge=0, le=MOST)  # action repeat included; 0: no more than the prefill
    prefill: int = Field(ge=0, le=MOST)  # collect.unit, by the explorer, before the first round of learning
    pretrain: int = Field(ge=0, le=MOST)  # rounds of learning after the prefill, besides those of the rest
    collect: Collect
    # replayed rows per decision after the prefill; null: a round of learning whenever `per_round` was collected
    ratio: float | None = Field(gt=0, le=1e6)
    learn: Learn
    # episodes in a row that may fail in their simulator; each is dropped and told. So many end the run
    max_failures: int = Field(ge=1, le=100_000)
    report_every: int = Field(ge=1, le=MOST)  # updates; and at the end of every stage, unless there is a ratio
    eval_every: int = Field(ge=1, le=MOST)  # collect.unit
    eval_episodes: int = Field(ge=1, le=100_000)
    temperatures: list[Temperature] = Field(min_length=1, max_length=100)  # of the dreams that are shown
    save_every: int = Field(ge=1, le=MOST)  # collect.unit
    save_minutes: float = Field(gt=0, le=1e6)  # and at least so often while it learns
    keep_checkpoints: int = Field(ge=2, le=100_000)  # one may be in the process of being written

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if not any(stage.updates for stage in self.learn.stages.values()) and self.ratio:
            raise ValueError("ratio is set, but no stage of learn has updates: give one updates=1")
        return self


@dataclasses.dataclass
class Counters:
    """Where a run is. Counted separately, because people mean different things by a step."""

    env_steps: int = 0  # simulator steps, action repeat included: the x-axis of every curve
    agent_steps: int = 0  # decisions
    episodes: int = 0  # finished ones
    failed_episodes: int = 0  # that were collected in vain: their simulator failed
    updates: int = 0
    fitness_env_steps: int = 0  # of episodes from which an actor learned by their returns alone; they are not in replay
    prefill_agent_steps: int = 0  # decisions in the prefill
    evaluations: int = 0
    decisions_left: int = 0  # of a round of collecting that was interrupted
    last_eval_collected: int = 0  # at the last evaluation
    last_eval_updates: int = 0
    last_save_collected: int = 0  # at the last save
    last_save_updates: int = 0
    last_save_evaluations: int = 0
    actor_updates: int = 0  # of an actor that learns beside the model, learn.mode=async; `updates` are the model's then


class StageProgress(NamedTuple):
    """Which stage it is, and which of its updates comes next."""

    name: str
    stage: Stage
    done: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The actor comes last, wherever it is named: it learns from the states that the model has just computed."""
        return tuple(sorted(self.stage.parts or [self.name], key="actor".__eq__))


class Schedule:
    """What is next. has_data: a run that starts with recorded episodes may learn before it collects. batch: the rows of
    a batch that a stage does not name itself. by_generation: an update of the actor is a whole generation, of hours.
    """

    def __init__(
        self, config: Config, counters: Counters, has_data: bool, batch: tuple[int, int], by_generation: bool = False
    ) -> None:
        self.config, self.counters, self.has_data, self.by_generation = config, counters, has_data, by_generation
        stages = config.learn.stages.values()
        self.round = sum(stage.updates for stage in stages)  # updates
        self.round_rows = sum(
            stage.updates * (stage.batch_size or batch[0]) * (stage.batch_length or batch[1]) for stage in stages
        )

    @property
    def collected(self) -> int:
        """In collect.unit."""
        return self.counters.env_steps if self.config.collect.unit == "steps" else self.counters.episodes

    @property
    def prefilled(self) -> bool:
        return self.collected >= self.config.prefill

    def collecting_done(self) -> bool:
        return self.collected_enough()

    def collected_enough(self) -> bool:
        return not self.counters.decisions_left and self.prefilled and self.counters.env_steps >= self.config.env_steps

    def decisions_due(self, at_once: int) -> int:
        """In every environment, up to the next round or the end of the prefill, also after an interruption amid a
        round. at_once: env steps that one decision in each of them takes.
        """
        over, per_round = self.counters.env_steps - self.config.prefill, self.config.collect.per_round
        wanted = -over if over < 0 else per_round - over % per_round
        return self.counters.decisions_left or max(1, math.ceil(wanted / at_once))

    def updates_due(self) -> int:
        """Updates owed: a round after the prefill and one for every `per_round` since, or what the ratio asks for; and
        `pretrain` rounds more.
        """
        if self.counters.decisions_left or not self.prefilled or (self.collected == 0 and not self.has_data):
            return 0
        if self.config.ratio is not None:
            decisions = self.counters.agent_steps - self.counters.prefill_agent_steps
            rounds = int(decisions * self.config.ratio / self.round_rows)
        else:
            rounds = 1 + (self.collected - self.config.prefill) // self.config.collect.per_round
        return (self.config.pretrain + rounds) * self.round - self.counters.updates

    def owed(self) -> int:
        """Updates that are due, by whoever is most behind."""
        return self.updates_due()

    def learned_once(self) -> bool:
        """Whether a whole round was learned."""
        return self.counters.updates >= self.round

    def turn(self, update: int | None = None) -> StageProgress:
        """The stage of an update, by default of the next one."""
        done = (self.counters.updates if update is None else update) % self.round
        for name, stage in self.config.learn.stages.items():
            if done < stage.updates:
                return StageProgress(name, stage, done)
            done -= stage.updates
        raise AssertionError("the stages are shorter than their round")

    def next_updates(self) -> int:
        """How many updates come before the next report, evaluation or change of stage."""
        turn, every = self.turn(), self.config.report_every
        stage, done = turn.stage, turn.done
        if self.config.ratio is not None and len(self.config.learn.stages) == 1:
            until_evaluated = [stage.eval_every - done % stage.eval_every] if stage.eval_every else []
            return min(self.updates_due(), every - self.counters.updates % every, *until_evaluated)
        if self.by_generation and turn.parts == ("actor",):
            every = 1
        reported = done if self.config.ratio is None else self.counters.updates  # see should_report
        left = [stage.updates - done, every - reported % every]
        return min(*left, stage.eval_every - done % stage.eval_every if stage.eval_every else stage.updates)

    def should_report(self) -> bool:
        return self.config.ratio is None or self.counters.updates % self.config.report_every == 0

    def should_evaluate(self) -> bool:
        """After every so many updates of a stage, after every so much collected, and at the end."""
        counters = self.counters
        if counters.updates > counters.last_eval_updates:
            _, stage, done = self.turn(counters.updates - 1)
            if stage.eval_every and (done + 1) % stage.eval_every == 0:
                return True
        if self.counters.decisions_left or self.updates_due() > 0 or not self.prefilled:
            return False
        if self.collecting_done():
            return (counters.last_eval_collected, counters.last_eval_updates) != (self.collected, counters.updates)
        return self.collected - counters.last_eval_collected >= self.config.eval_every

    def should_save(self, minutes: float) -> bool:
        """After every so much collected, so many minutes of learning, and at the end."""
        counters = self.counters
        now = self.collected, counters.updates, counters.evaluations
        changed = (counters.last_save_collected, counters.last_save_updates, counters.last_save_evaluations) != now
        if minutes >= self.config.save_minutes and changed:
            return True
        if self.counters.decisions_left or self.updates_due() > 0:
            return False
        if self.collecting_done():
            return changed
        return self.collected - counters.last_save_collected >= self.config.save_every

    def saved(self) -> str:
        """A checkpoint is about to be written: its name."""
        counters = self.counters
        counters.last_save_collected, counters.last_save_updates = self.collected, counters.updates
        counters.last_save_evaluations = counters.evaluations
        name = "step-{env_steps:08d}-{updates:08d}-{evaluations:04d}".format(**dataclasses.asdict(counters))
        failed = counters.failed_episodes  # they may be all that is new
        return f"{name}-{failed:04d}" if failed else name
