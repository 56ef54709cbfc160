"""The schedule of a run whose actor learns in a process of its own, beside the model."""

from training.schedule import Config, Counters, Learn, Schedule, Stage


class SplitSchedule(Schedule):
    """The model's updates are the schedule's. Of the actor's, as many are due for each round of the model's as the
    config names in one; a stage in which both learn together counts for both.
    """

    def __init__(self, config: Config, counters: Counters, has_data: bool, batch: tuple[int, int]) -> None:
        own, actors = split(config.learn)
        learn = Learn(mode="async", max_staleness=config.learn.max_staleness, **own)
        super().__init__(config.model_copy(update={"learn": learn}), counters, has_data, batch)
        self.round_rows = Schedule(config, counters, has_data, batch).round_rows  # that `ratio` is about
        self.actor_stages = actors
        self.actor_round = sum(stage.updates for stage in actors)

    def actor_stage(self, update: int) -> Stage:
        """Of an update of the actor."""
        done = update % self.actor_round
        for stage in self.actor_stages:
            if done < stage.updates:
                return stage
            done -= stage.updates
        raise AssertionError("the stages are shorter than their round")

    def actor_updates_due(self) -> int:
        """For what the model has learned so far."""
        return self.counters.updates * self.actor_round // self.round - self.counters.actor_updates

    def behind(self) -> int:
        """Updates by which the model is ahead of the actor."""
        return -(-max(0, self.actor_updates_due()) * self.round // self.actor_round)

    def owed(self) -> int:
        return max(self.updates_due(), self.behind())

    def learned_once(self) -> bool:
        return super().learned_once() and self.counters.actor_updates >= self.actor_round

    def collecting_done(self) -> bool:
        """Also the actor has caught up with what was collected."""
        return self.collected_enough() and self.actor_updates_due() <= 0


def split(learn: Learn) -> tuple[dict[str, Stage], list[Stage]]:
    """The model's stages, and those of the actor."""
    own: dict[str, Stage] = {}
    actors = []
    for name, stage in learn.stages.items():
        parts = stage.parts or [name]
        others = [part for part in parts if part != "actor"]
        if stage.updates and "actor" in parts:
            actors.append(stage)
        if stage.updates and others:
            own[name] = stage.model_copy(update={"parts": others})
    return own, actors
