"""Plays a session: step after step at some speed, by the agent or by whoever holds the keys. It waits and says what is
next; everything of the session is computed in one other thread, since an environment may be stepped only by the thread
that made it.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from envs import EnvError
from viewer import messages
from viewer.futures import Futures
from viewer.messages import Command
from viewer.opening import Opened
from viewer.recording import Recording
from viewer.session import View
from worldmodel.base import Spec

HISTORY = 600  # steps whose numbers a new visitor gets
PAUSE_AT_END = 1.0  # seconds before another episode begins
SELDOM = 0.5  # seconds between two drawings of the futures, where they take too long to be drawn at every step
EARLIEST = 0.25  # of the time between two steps: no sooner does a new key bring the next one forward
T = TypeVar("T")


class Player:
    """tell(kind, message): to all visitors; of each kind only the newest message matters."""

    def __init__(self, tell: Callable[[str, bytes | dict[str, Any]], None], speed: float = 15.0) -> None:
        self.tell, self.speed = tell, speed
        self.thread = ThreadPoolExecutor(1)
        self.opened: Opened | None = None
        self.changed = asyncio.Event()
        self.watched = False  # with nobody there it stands still
        self.paused, self.steps, self.shows_futures = False, 0, True
        self.human_acts, self.heard, self.new_key = False, 0, False
        self.jobs: deque[Callable[[], View]] = deque()  # what was asked for and is still to be done
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self.recording: Recording | None = None
        self.film: Recording | None = None  # the newest that is finished
        self.films = 0  # how many are finished
        self.view: View | None = None
        self.futures: Futures | None = None
        self.began = self.due = self.seconds = 0.0  # of the last step: when it began, when the next is due, how long
        self.drawing, self.drawn = 0.0, -math.inf  # seconds that drawing futures took, and when it ended
        self.told: dict[str, Any] = {}
        self.fresh = False  # whether the curves begin anew

    async def call(self, function: Callable[..., T], *given: Any) -> T:
        """In the session's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *given)

    async def open(self, opening: Callable[[], Opened]) -> None:
        """Errors: those of opening."""
        self.opened = await self.call(opening)
        self.session, self.facts, self.with_horizon = self.opened
        self.let_go()
        self.jobs.append(self.session.view)

    def let_go(self) -> None:
        """Nobody presses anything."""
        self.human = idle(self.session.agent.spec, self.facts["meanings"])

    async def close(self) -> None:
        if self.opened and self.opened.session.env is not None:
            await self.call(self.opened.session.env.close)
        self.thread.shutdown()

    # ---- step after step ----

    async def play(self) -> None:
        """Until it is cancelled. What goes wrong is told, and then it waits."""
        while True:
            try:
                await self.wait()
                await self.next()
            except (EnvError, ValueError, RuntimeError) as error:  # of an environment, or on a GPU
                self.paused, self.steps = True, 0
                self.jobs.clear()
                self.tell("error", {"kind": "error", "text": str(error)})
                self.tell_state()

    async def wait(self) -> None:
        """Until there is something to do."""
        while not (self.jobs or self.is_due()):
            self.changed.clear()
            seconds = max(0.0, self.due - time.monotonic()) if self.running else None
            if self.new_key and self.running:
                seconds = max(0.0, self.earliest - time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), seconds)

    @property
    def running(self) -> bool:
        return self.watched and not self.paused

    @property
    def earliest(self) -> float:
        return min(self.due, self.began + EARLIEST / self.speed)

    def is_due(self) -> bool:
        next_one = self.earliest if self.new_key else self.due
        return self.steps > 0 or (self.running and time.monotonic() >= next_one)

    async def next(self) -> None:
        """One step, or what was asked for; and then what the agent considers, if there is time."""
        began, heard = time.monotonic(), self.heard
        if self.jobs:
            self.view = await self.call(self.jobs.popleft())
            self.drawn = -math.inf
        else:
            self.began, self.steps, self.new_key = began, max(0, self.steps - 1), False
            self.view = await self.call(self.session.step, self.human.copy() if self.human_acts else None)
            self.seconds = time.monotonic() - began
        self.due = began + (PAUSE_AT_END if self.view.ended else 1 / self.speed)
        self.tell_state()
        self.tell_view(heard)
        if self.shows_futures and self.has_time_to_draw():
            await self.draw_futures()
        if self.recording is not None:
            await self.call(self.recording.add, self.view, self.futures if self.shows_futures else None)

    def has_time_to_draw(self) -> bool:
        """While it is paused; before the next step is due; or where there never is that much time, now and then, so
        that keys are still answered soon.
        """
        now = time.monotonic()
        return not self.running or now + self.drawing <= self.due or now - self.drawn >= max(SELDOM, 2 * self.drawing)

    async def draw_futures(self) -> None:
        assert self.view is not None
        began = time.monotonic()
        self.futures = await self.call(self.session.futures)
        self.tell("futures", messages.of_futures(self.futures, self.view.step))
        self.drawn = time.monotonic()
        self.drawing = self.drawn - began

    # ---- what is told ----

    def tell_view(self, heard: int) -> None:
        assert self.view is not None
        outlooks = self.session.outlooks()
        numbers = messages.numbers_of_view(self.view, outlooks)
        self.history.append(numbers)
        more = {"heard": heard, "ms": round(1000 * self.seconds, 1), "fresh": self.fresh}
        self.fresh = False
        self.tell("view", messages.of_view(self.view, numbers | more))

    def tell_state(self, anew: bool = False) -> None:
        """The switches, if they have changed. anew: to somebody who has not heard of them yet."""
        session = self.session
        state = {
            "control": "human" if self.human_acts else "agent",
            "place": session.place,
            "paused": self.paused,
            "seed": session.seed,
            "speed": self.speed,
            "temperature": session.temperature,
            "horizon": session.horizon,
            "open_loop": session.open_loop,
            "futures": self.shows_futures,
            "recording": self.recording is not None,
            "films": self.films,
        }
        if anew or state != self.told:
            self.told = state
            self.tell("state", {"kind": "state", **state})

    # ---- what is asked for ----

    def do(self, command: Command) -> None:
        """Everything that a command names. Errors: ValueError, for an action of another size."""
        session = self.session
        if command.action is not None:
            if len(command.action) != session.agent.spec.action_dim:
                raise ValueError(f"an action has {session.agent.spec.action_dim} numbers, not {len(command.action)}")
            action = np.array(command.action, np.float32)
            self.new_key = self.new_key or not np.array_equal(action, self.human)
            self.human, self.heard = action, command.heard or 0
        self.human_acts = command.control == "human" if command.control else self.human_acts
        self.paused = command.paused if command.paused is not None else self.paused
        self.speed = command.speed or self.speed
        self.shows_futures = command.futures if command.futures is not None else self.shows_futures
        if command.reset is not None:
            self.steps = 0  # those that were asked for before are the old episode's
        if command.step:
            self.paused, self.steps = True, self.steps + 1
        for name in ("temperature", "open_loop"):
            if getattr(command, name) is not None:
                setattr(session, name, getattr(command, name))
        if command.record is not None:
            self.record(command.record)
        self.jobs.extend(self.jobs_of(command))
        self.changed.set()
        self.tell_state()

    def jobs_of(self, command: Command) -> list[Callable[[], View]]:
        """What is computed: in the session's thread, one thing after the other."""
        session = self.session
        jobs: list[Callable[[], View]] = []
        if command.reset is not None:
            jobs.append(functools.partial(self.reset, command.reset))
        if command.place is not None:
            jobs.append(functools.partial(session.go, command.place))
        if command.wake:
            jobs.append(session.wake)
        if command.horizon is not None:
            jobs.append(functools.partial(self.set_horizon, command.horizon))
        return jobs

    def reset(self, seed: int) -> View:
        """Begin anew, and the curves, too."""
        self.history.clear()
        self.fresh = True
        return self.session.reset(seed)

    def set_horizon(self, horizon: int) -> View:
        return self.session.set_horizon(horizon, self.with_horizon(horizon))

    def record(self, on: bool) -> None:
        if on:
            self.recording = Recording()
        elif self.recording is not None:
            if self.recording.frames:
                self.film, self.films = self.recording, self.films + 1
            self.recording = None


def idle(spec: Spec, meanings: Sequence[str]) -> np.ndarray:
    """The action of a human who presses nothing: none, or of discrete ones the one that is named so, else the first."""
    action = np.zeros(spec.action_dim, np.float32)
    if spec.discrete:
        action[meanings.index("NOOP") if "NOOP" in meanings else 0] = 1
    return action
