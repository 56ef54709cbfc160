"""The signals that ask a run to stop."""

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

PEOPLE = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, kill
# A closed terminal, and what cluster managers send some time before they kill. Others may have other plans for these.
MACHINES = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class SignalHandler:
    """Remembers a signal; the loop asks where it can stop. A third one from a person ends the program at once.

    What is ignored already, as SIGHUP under nohup, stays ignored; SIGHUP, SIGUSR1 and SIGUSR2 are left to whoever
    handles them already.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.count = 0

    def __enter__(self) -> "SignalHandler":
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            for number in (*PEOPLE, *MACHINES):
                known = signal.getsignal(number)
                if known == signal.SIG_DFL or (number in PEOPLE and known != signal.SIG_IGN):
                    self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self.count += number in PEOPLE
        if self.count > 2:
            raise SystemExit(128 + number)

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.signal or 0)


def leave_quietly_on_ctrl_c() -> None:
    """Where there is nothing to save, Ctrl-C ends the program without a traceback."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:

        def leave(number: int, _: FrameType | None) -> None:
            raise SystemExit(128 + number)

        with contextlib.suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGINT, leave)
