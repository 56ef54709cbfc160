"""Tiny runs for the tests: a config composed in this process, a run in a folder, and digests of all that it leaves."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import envs
import train
from training.configuration import command_line
from training.configuration.components import ROOT
from training.configuration.config import Config
from training.loop import open_trainer
from training.run_folder import checkpoint
from training.run_folder.run import Run, RunError
from training.signals import SignalHandler
from worldmodel.base import ConfigError
from worldmodel.replay.episodes import Chunk

HANG = 3600  # seconds after which a program hangs, however busy the machine is; no test depends on being faster
# exp=smoke, made smaller still: 12 episodes of 5 decisions in a second or two.
TINY = (  # noqa: SIM905
    "exp=smoke env.time_limit=5 train.env_steps=60 train.prefill=2 train.learn.model.updates=2 train.eval_every=4 "
    "train.eval_episodes=1 train.save_every=3 replay.batch_size=2 replay.batch_length=4 model.deter=8 model.stoch=4 "
    "model.hidden=8 model.depths=[4,8] model.reward_units=8 actor.horizon=3 actor.candidates=6 actor.elites=2 "
    "agent.device=cpu agent.precision=fp32 agent.threads=1"
).split()


def composed(*overrides: str) -> Config:
    """What train.py makes of these words."""
    return command_line.parse(overrides)


def wait_for(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + HANG
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class StopAt(SignalHandler):
    """Asks to stop at its n-th question, once; as a signal would."""

    def __init__(self, question: int | None = None) -> None:
        super().__init__()
        self.asked, self.question = 0, question

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked == self.question:
            self.signal = 15
        return super().__call__()


def go(folder: Path, *overrides: str, stop: SignalHandler | None = None, recipe: Sequence[str] = TINY) -> int:
    """Train folder/r in this process, or go on with it; the exit code."""
    stop = stop or SignalHandler()
    try:
        config = composed(*recipe, "run=r", f"runs={folder}", *overrides)
        trainer = open_trainer(config, stop)
    except (ConfigError, RunError, envs.EnvError, MemoryError, ValueError, OSError) as error:
        return train.failed(error, 2 if isinstance(error, ConfigError) else 1)
    try:
        return train.train(trainer, stop, config.changes)
    except (envs.EnvError, OSError) as error:
        return train.failed(error, 1)
    finally:
        trainer.close()


def digests(run: Path) -> dict[str, Any]:
    """All that the newest checkpoint holds, by name: tensors as digests, counters, the replay's digest."""
    newest = checkpoint.verify(run / "checkpoints" / checkpoint.names(run / "checkpoints")[0])
    found: dict[str, Any] = dict(newest.state["counters"])
    for name in ("evaluations", "last_save_evaluations"):  # a run that ended early was evaluated at that end, too
        del found[name]
    for file in ("model", "actor", "optim", "rng"):
        for name, tensor in newest.tensors(file).items():
            found[f"{file}/{name}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    return found | {"replay": replay_digest(newest.chunks)}


def replay_digest(chunks: list[Chunk]) -> str:
    """What they hold, and how they follow each other."""
    return hashlib.sha256(json.dumps([list(chunk) for chunk in chunks]).encode()).hexdigest()


def logged(run: Path, prefix: str = "learn/") -> list[tuple[int, str, float]]:
    """(step, name, value) of every metric that begins so, in the order of metrics.jsonl."""
    rows = [(row["step"], row) for row in Run.read(run).metrics.history()]
    return [(step, name, value) for step, row in rows for name, value in row.items() if name.startswith(prefix)]


def command(*overrides: str, folder: Path, before: str = "", recipe: Sequence[str] = TINY) -> list[str]:
    """train.py as a process of its own; `before` is Python that runs in it first."""
    script = f"{before}\nimport runpy, sys; sys.argv[0] = 'train.py'; runpy.run_path('train.py', run_name='__main__')"
    return [sys.executable, "-c", script, *recipe, "run=r", f"runs={folder}", *overrides]


def process(
    *overrides: str, folder: Path, before: str = "", recipe: Sequence[str] = TINY, **options: Any
) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    words = command(*overrides, folder=folder, before=before, recipe=recipe)
    return subprocess.Popen(words, cwd=ROOT, env=environment, text=True, **pipes)
