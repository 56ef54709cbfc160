"""Who may collect next, with what, and what has come of it: the rules, without any processes.

A collector has at most one open request. It may begin one only while learning owes at most `max_staleness` updates for
what was collected so far, so nothing piles up: if learning is slow, collectors wait. Every request has a name,
(collector, incarnation, sequence); an answer counts once, and only if its request is still open. A process that is lost
costs what it had not answered, and its place is taken by the next incarnation.

Episodes have the numbers, and so the seeds, that they have in a run that collects by itself. Those that were under way
when a checkpoint was written are given out again after resuming; those of a lost process are not, since it may be
their seed that it died of.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from training.distributed.messages import Request
from training.schedule import Schedule


@dataclasses.dataclass
class Seat:
    """A collector's place, whichever process sits in it."""

    incarnation: int = 0
    sequence: int = 0
    begun: int = 0  # episodes, if it collects by steps
    open: Request | None = None


class Scheduler:
    """schedule: of the run, always as it stands now."""

    def __init__(self, workers: int, num_envs: int, action_repeat: int) -> None:
        self.num_envs, self.action_repeat = num_envs, action_repeat
        self.seats = [Seat() for _ in range(workers)]
        self.next_number = self.requests = 0
        self.again: list[int] = []  # numbers to give out once more

    def exact(self, schedule: Schedule) -> bool:
        """Whether a run must equal one that collects by itself, bit for bit."""
        return len(self.seats) == 1 and schedule.config.collect.max_staleness == 0

    # ---- asking ----

    def next(self, collector: int, schedule: Schedule) -> Request | None:
        """Opens a request; None: it has one, or has to wait."""
        seat = self.seats[collector]
        if seat.open or not self.may_begin(schedule):
            return None
        decisions, number = 0, seat.begun
        if schedule.config.collect.unit == "steps":
            decisions = self.decisions(schedule)
        elif self.again:
            number = self.again.pop(0)
        else:
            number = self.next_number
            self.next_number += self.num_envs
        counters = schedule.counters
        seat.open = Request(collector, seat.incarnation, seat.sequence, number, decisions, not schedule.prefilled,
                            counters.updates, counters.actor_updates, self.requests)  # fmt: skip
        self.requests += 1
        return seat.open

    def may_begin(self, schedule: Schedule) -> bool:
        """What others have open does not count: one that is slow, or lost, must not hold them up. So more may be begun
        than is needed; what is late is dropped.
        """
        config = schedule.config
        if not schedule.prefilled:
            return True
        if schedule.counters.env_steps >= config.env_steps:
            return False
        owed = schedule.owed()  # nobody acts as the agent before it has learned from the prefill
        return owed == 0 or (owed <= config.collect.max_staleness and schedule.learned_once())

    def decisions(self, schedule: Schedule) -> int:
        """Of a request by steps, in each environment: a collector's share of what is due before the next round, or what
        costs `max_staleness` updates, if that is more.
        """
        config, at_once = schedule.config, self.action_repeat * self.num_envs
        share = schedule.decisions_due(at_once * len(self.seats))
        if self.exact(schedule):
            return share
        if schedule.prefilled and schedule.round:
            if config.ratio is not None:
                each = schedule.round_rows / (config.ratio * schedule.round)  # decisions that one update is for
            else:
                each = config.collect.per_round / (self.action_repeat * schedule.round)
            share = max(share, int(config.collect.max_staleness * each / (self.num_envs * len(self.seats))))
        target = config.env_steps if schedule.prefilled else config.prefill
        left = target - schedule.counters.env_steps
        return max(1, min(share, math.ceil(left / (at_once * len(self.seats)))))

    # ---- answers ----

    def accept(self, request: Request, schedule: Schedule, failed: int = 0, begun: int = 0) -> bool:
        """Whether an answer counts; its request is closed then. failed: episodes that were played in vain; begun: by
        steps, of all episodes of this collector.
        """
        seat = self.seats[request.collector]
        if seat.open != request:
            return False
        seat.open, seat.sequence, seat.begun = None, seat.sequence + 1, begun
        if len(self.seats) == 1:  # the next numbers were played in their place
            self.next_number += failed
        if not schedule.prefilled:
            return True
        random = request.explorer and not request.decisions  # random episodes beyond the prefill
        return not random and schedule.counters.env_steps < schedule.config.env_steps  # and nothing beyond the end

    def lost(self, request: Request) -> bool:
        """The process that had a request is gone; False, if that is known already."""
        seat = self.seats[request.collector]
        if seat.incarnation != request.incarnation:
            return False
        # What had been begun since is not known: one in each environment at least.
        seat.open, seat.incarnation, seat.sequence = None, seat.incarnation + 1, 0
        seat.begun += self.num_envs if request.decisions else 0
        return True

    # ---- what a checkpoint holds ----

    def state(self) -> dict[str, Any]:
        by_episodes = [seat.open.number for seat in self.seats if seat.open and not seat.open.decisions]
        more = [self.num_envs if seat.open and seat.open.decisions else 0 for seat in self.seats]
        return {
            "next_number": self.next_number,
            "requests": self.requests,
            "again": sorted([*self.again, *by_episodes]),
            "begun": [seat.begun + number for seat, number in zip(self.seats, more)],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.next_number, self.requests, self.again = state["next_number"], state["requests"], list(state["again"])
        for seat, begun in zip(self.seats, state["begun"]):
            seat.begun = begun
