"""The one error that environments give, and the words for it."""

import sys
import traceback

import gymnasium


class EnvError(RuntimeError):
    """Every failure of an environment that a user should read: one clear message. advice: what to do, where one line is
    not enough.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def where(name: str, worker: int, seed: int | None, episode: int, moment: str) -> str:
    """The place of a failure in words, e.g. "Pendulum-v1 (worker 0, seed 3, episode 5, env step 17)"."""
    return f"{name} (worker {worker}, seed {seed}, episode {episode}, {moment})"


def told(error: BaseException) -> str:
    """An exception in words. One without a message, as a bare assert has it, is told by its place."""
    text = str(error).strip()
    if not text:
        place = traceback.extract_tb(error.__traceback__)[-1:]
        text = "".join(f"in {frame.name}, {frame.filename}:{frame.lineno}: {frame.line}" for frame in place)
    return f"{type(error).__name__}: {text or '(no message)'}"


def close(env: gymnasium.Env, label: str) -> None:
    """Never fails: what was played is worth more than a simulator that ends well."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        print(f"warning: {label}: close() failed: {told(error)}", file=sys.stderr)


class WorkerLost(EnvError):
    """A worker's process has died or hangs."""


def as_error(failure: EnvError | str, trace: str | None) -> EnvError:
    """What a worker has told; from another process as text."""
    if isinstance(failure, EnvError):
        return failure
    error = EnvError(failure)
    error.__cause__ = RuntimeError(f"in the worker:\n{trace}")
    return error
