"""The signals that ask a run to stop."""

import signal
import threading
from types import FrameType
from typing import Any


class SignalHandler:
    """Remembers SIGINT and SIGTERM; the loop asks where it can stop. A third signal ends the program at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.count = 0

    def __enter__(self) -> "SignalHandler":
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, _: FrameType | None) -> None:
        self.signal, self.count = number, self.count + 1
        if self.count > 2:
            raise SystemExit(128 + number)

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.signal or 0)
