"""The rules of collecting in several processes, without any: the scheduler with collectors that are made up."""

import dataclasses
import random

import pytest
from test_schedule import config, schedule

from training.distributed.messages import Request
from training.distributed.scheduler import Scheduler
from training.distributed.split_schedule import SplitSchedule
from training.schedule import Config, Counters, Schedule

LENGTH = 10  # env steps of an episode


def spread(setting: Config, workers: int, max_staleness: int) -> Config:
    collect = setting.collect.model_copy(update={"mode": "async", "workers": workers, "max_staleness": max_staleness})
    return setting.model_copy(update={"collect": collect})


class Play:
    """A run in which chance says who answers, who is lost and when is learned."""

    def __init__(self, setting: Config, workers: int, num_envs: int = 1, seed: int = 0) -> None:
        self.schedule = Schedule(setting, Counters(), False, (4, 5))
        self.scheduler, self.rng = Scheduler(workers, num_envs, 1), random.Random(seed)
        self.num_envs, self.open = num_envs, dict[int, Request]()
        self.names: list[tuple[int, ...]] = []  # of accepted answers
        self.asked: list[Request] = []
        self.owed: list[int] = []  # when a request was opened
        self.lost = 0
        self.slow: set[int] = set()  # they never answer

    def ask(self) -> None:
        for collector in range(len(self.scheduler.seats)):
            owed = self.schedule.owed()
            request = self.scheduler.next(collector, self.schedule)
            if request:
                assert collector not in self.open
                assert request.explorer or self.schedule.counters.env_steps < self.schedule.config.env_steps
                self.open[collector] = request
                self.asked.append(request)
                self.owed.append(owed)

    def answer(self, collector: int) -> None:
        request, counters = self.open.pop(collector), self.schedule.counters
        if not self.scheduler.accept(request, self.schedule):
            return
        self.names.append(request[:3])
        explored = not self.schedule.prefilled
        steps = request.decisions * self.num_envs or LENGTH * self.num_envs
        counters.env_steps += steps
        counters.agent_steps += steps
        counters.episodes += self.num_envs
        if explored:
            counters.prefill_agent_steps = counters.agent_steps

    def lose(self, collector: int) -> None:
        request = self.open.pop(collector)
        assert self.scheduler.lost(request)
        assert not self.scheduler.lost(request)  # once is enough
        assert not self.scheduler.accept(request, self.schedule)  # and it is too late
        self.lost += 1

    def run(self, losses: float = 0.0) -> "Play":
        while not (self.schedule.collecting_done() and not self.schedule.updates_due()):
            self.ask()
            ready = sorted(self.open.keys() - self.slow)
            assert ready or self.schedule.updates_due()  # else nothing would ever happen again
            if self.schedule.updates_due() and (not ready or self.rng.random() < 0.5):
                self.schedule.counters.updates += 1
            else:
                collector = self.rng.choice(ready)
                (self.lose if self.rng.random() < losses else self.answer)(collector)
        return self


PLANET = config(learn={"model": 7}, prefill=5, env_steps=400)
STEPS = config(learn={"model": 1}, unit="steps", prefill=40, env_steps=400, per_round=4, ratio=7.5)


@pytest.mark.parametrize("setting", [PLANET, STEPS])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("workers", "staleness"), [(1, 0), (1, 20), (4, 0), (4, 14), (9, 50)])
def test_nothing_counts_twice_and_no_debt_is_larger_than_allowed(
    setting: Config, workers: int, staleness: int, seed: int
) -> None:
    play = Play(spread(setting, workers, staleness), workers, seed=seed).run(losses=0.1)
    assert len(play.names) == len(set(play.names))
    assert play.lost or len(play.asked) < 30
    counters = play.schedule.counters
    for request, owed in zip(play.asked, play.owed, strict=True):
        assert request.explorer or owed <= staleness
        assert request.explorer or request.updates >= play.schedule.round or owed == 0  # it has learned once
    assert setting.env_steps <= counters.env_steps < setting.env_steps + LENGTH  # what comes after the end is dropped
    for collector in range(workers):  # whatever was lost between
        own = [request for request in play.asked if request.collector == collector]
        assert [request.updates for request in own] == sorted(request.updates for request in own)
        assert [request[:3] for request in own] == sorted({request[:3] for request in own})


@pytest.mark.parametrize("setting", [PLANET, STEPS])
def test_as_much_is_learned_as_is_configured(setting: Config) -> None:
    counters = Play(spread(setting, 4, 20), 4).run().schedule.counters
    alone = schedule(setting, **dataclasses.asdict(counters) | {"updates": 0})
    assert counters.updates == alone.updates_due()


def test_a_slow_one_does_not_hold_up_the_others() -> None:
    for setting in (PLANET, STEPS):
        play = Play(spread(setting, 8, 20), 8)
        play.slow = {0}
        play.run()
        assert play.open[0].sequence == 0 and play.schedule.counters.env_steps >= 400


def test_random_episodes_beyond_the_prefill_are_dropped() -> None:
    play = Play(spread(config(learn={"model": 3}, prefill=2, env_steps=100), 4, 10), 4)
    play.ask()
    assert [request.explorer for request in play.asked] == [True] * 4
    for collector in range(4):
        play.answer(collector)
    assert play.schedule.counters.episodes == play.schedule.counters.prefill_agent_steps // LENGTH == 2
    play.ask()
    assert not play.open  # the agent has not learned yet
    play.schedule.counters.updates = 3
    play.ask()
    assert [request.explorer for request in play.open.values()] == [False] * 4


def test_alone_and_without_staleness_it_asks_for_what_a_run_collects_by_itself() -> None:
    for setting in (PLANET, config(learn={"model": 1}, unit="steps", prefill=12, env_steps=150, per_round=8)):
        play = Play(spread(setting, 1, 0), 1, num_envs=2)
        wanted = []
        while not play.schedule.collecting_done():
            play.schedule.counters.updates += max(0, play.schedule.updates_due())
            due = play.schedule.decisions_due(2) if setting.collect.unit == "steps" else 0
            wanted.append((play.schedule.counters.episodes, due, not play.schedule.prefilled))
            play.ask()
            play.answer(0)
        assert play.scheduler.exact(play.schedule)
        found = [(request.number, request.decisions, request.explorer) for request in play.asked]
        assert [row[1:] for row in found] == [row[1:] for row in wanted]
        assert setting.collect.unit == "steps" or found == wanted


def test_open_episodes_are_played_again_after_resuming_and_lost_ones_are_not() -> None:
    play = Play(spread(PLANET, 3, 100), 3)
    play.ask()
    play.lose(1)
    play.answer(2)
    state = play.scheduler.state()
    assert state == {"next_number": 3, "requests": 3, "again": [0], "begun": [0, 0, 0]}
    again = Scheduler(3, 1, 1)
    again.restore(state)
    asked = [again.next(collector, play.schedule) for collector in range(3)]
    assert [request.number for request in asked if request] == [0, 3, 4]
    assert [request.noise for request in asked if request] == [3, 4, 5]


def test_the_actor_is_owed_its_share_and_the_end_waits_for_it() -> None:
    learn = {"vision": 6, "joint": {"updates": 2, "parts": ["model", "actor"]}, "actor": 4}
    setting = config(learn=learn, prefill=1, env_steps=20)
    split = SplitSchedule(setting, Counters(episodes=2, env_steps=20), False, (4, 5))
    assert (split.round, split.actor_round) == (8, 6)
    assert [split.turn(update).parts for update in (0, 5, 6)] == [("vision",), ("vision",), ("model",)]
    assert [split.actor_stage(update).updates for update in (0, 1, 2, 5, 6)] == [2, 2, 4, 4, 2]
    assert split.updates_due() == 16
    split.counters.updates = 9
    assert (split.actor_updates_due(), split.behind()) == (6, 8)
    assert not split.learned_once()
    split.counters.updates, split.counters.actor_updates = 16, 11
    assert split.learned_once() and split.collected_enough() and not split.collecting_done()
    assert split.behind() == 2  # rounded up: as long as it is owed anything the model waits
    split.counters.actor_updates = 12
    assert split.behind() == 0 and split.collecting_done()
