"""A member of a sweep: one run, trained by processes of its own from wherever it is to its end."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from training import early
from training.run_folder.run import Run, RunError
from training.shadowing import HOME
from worldmodel import files

LOOK = 0.2  # seconds after which a run under way is looked at
SIGNALLED = 128  # and more are exit codes of what a signal has ended
DONE = "done.txt"  # in a run's folder: with which words it came to its end
LARGEST = 1 << 20  # bytes of what is read there
FAILED, FINISHED, STOPPED, WAS_DONE, NOT_BEGUN = "failed", "finished", "stopped", "was done", "not begun"


class Member(NamedTuple):
    words: tuple[str, ...]  # of train.py
    folder: Path  # of the run


class Result(NamedTuple):
    member: Member
    state: str
    code: int  # that it ended with
    score: float | None = None  # the newest return without noise

    @property
    def name(self) -> str:
        return self.member.folder.name


def member_of(words: Sequence[str], template: str | None = None) -> Member:
    """template: of the run's name, in which {key} stands for a value of the words: {exp}-{env.task}-seed{seed}."""
    if template:
        given = {key: value for key, _, value in (word.lstrip("+").partition("=") for word in words)}
        words = [*words, "run=" + re.sub(r"\{([\w.]+)\}", lambda found: given.get(found[1], found[0]), template)]
    folder = early.asked_folder(words)
    assert folder is not None
    return Member(tuple(words), folder)


def train(
    member: Member,
    episodes: int = 0,
    alone: bool = True,
    stopping: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] = os.environ,
) -> Result:
    """Go on with a run until it ends, and evaluate it in so many episodes. What it prints comes into <run>.log beside
    its folder. One that has ended before with these words is left alone. alone: on this machine; else it has one
    thread. stopping: whether it is to be saved, and left.
    """
    if is_done(member, episodes):
        return Result(member, WAS_DONE, 0, score(member.folder))
    words = [*member.words, f"run={member.folder.name}"]
    if not alone:
        environment = dict(environment) | {"OMP_NUM_THREADS": "1"}
        words += [] if any(word.startswith("agent.threads=") for word in words) else ["agent.threads=1"]
    commands = [["train.py", *dict.fromkeys(words)]]
    if episodes:
        commands.append(["evaluate.py", str(member.folder), "--episodes", str(episodes), "--seed", "0"])
    files.make_folder(member.folder.parent)
    code = 0
    for script, *rest in commands:
        with files.appended(member.folder.with_name(f"{member.folder.name}.log")) as log:
            process = subprocess.Popen(
                [sys.executable, str(HOME / script), *rest],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment) | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # a terminal's Ctrl-C is the sweep's
            )
        code = ended(process, stopping)
        if code:
            break
    else:
        mark_done(member, episodes)
    state = FINISHED if code == 0 else STOPPED if code >= SIGNALLED else FAILED
    return Result(member, state, code, score(member.folder))


def ended(process: "subprocess.Popen[bytes]", stopping: Callable[[], bool]) -> int:
    """The exit code of a process, as a shell says it. It is asked to stop once: it saves first."""
    asked = False
    while process.poll() is None:
        if stopping() and not asked:
            asked = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        time.sleep(LOOK)
    code = process.returncode
    return SIGNALLED - code if code < 0 else code


def done_words(member: Member, episodes: int) -> str:
    words = [word for word in member.words if not word.startswith(("run=", "runs="))]
    return f"{episodes} episodes of {' '.join(words)}"


def is_done(member: Member, episodes: int = 0) -> bool:
    """Whether it has come to its end with these words before."""
    try:
        return files.read(member.folder / DONE, LARGEST).decode().strip() == done_words(member, episodes)
    except (OSError, UnicodeDecodeError):
        return False


def mark_done(member: Member, episodes: int = 0) -> None:
    files.write(member.folder / DONE, f"{done_words(member, episodes)}\n".encode())


def score(folder: Path) -> float | None:
    """Of evaluation.json, or of the newest evaluation while it trained."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads(files.read(folder / "evaluation.json", 16 * LARGEST))["return"])
    with contextlib.suppress(RunError, OSError):
        found = [row["evaluate/return"] for row in Run.read(folder).metrics.history() if "evaluate/return" in row]
        return float(found[-1]) if found else None
    return None
