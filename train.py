"""Train an agent, or go on with one:  python train.py exp=quickstart seed=1 run=mine

In this order: read the command line, build or resume, loop. The loop itself is training/loop.py; what a run's steps do
is training/trainer.py; which recipes and keys there are is configs/.
"""

import functools
import sys
from collections.abc import Sequence

from training import early

if __name__ == "__main__":
    early.begin(sys.argv[1:])  # before torch is loaded

import torch

import envs
from agents.graphs import GraphError
from agents.optimizers import Diverged
from training.collecting.rollout import Interrupted
from training.configuration import command_line
from training.data_parallel.channel import ProcessLost
from training.data_parallel.launch import leading
from training.data_parallel.leader import RanksDiffer
from training.data_parallel.world import world
from training.loop import loop, open_trainer
from training.reporting.progress import console, print_error
from training.run_folder.run import RunError
from training.signals import SignalHandler
from training.sweeps.sweep import sweep
from training.trainer import Trainer
from worldmodel.base import ConfigError


def main(arguments: Sequence[str]) -> int:
    """One run, or all members of a sweep; the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(command_line.usage())
        return 0
    try:
        if command_line.is_sweep(arguments) and world().size > 1:
            raise ConfigError(["torchrun: it is for one run on several GPUs, not for a sweep: leave out -m"])
        return sweep(arguments, run) if command_line.is_sweep(arguments) else run(arguments)
    except (ConfigError, OSError) as error:
        return failed(error, 2 if isinstance(error, ConfigError) else 1)


def run(overrides: Sequence[str]) -> int:
    """One run, from what was asked to its end; the exit code."""
    try:
        with leading(overrides) as leader:
            if leader is None:  # this was one of the others that torchrun has started
                return 0
            config = command_line.parse(overrides)
            with SignalHandler() as stop:
                trainer = open_trainer(config, stop, leader=leader)
                try:
                    return train(trainer, stop, config.changes)
                finally:
                    trainer.close()
    except (ConfigError, RunError, envs.EnvError, MemoryError, ValueError, OSError, ProcessLost) as error:
        return failed(error, 2 if isinstance(error, ConfigError) else 1)


def train(trainer: Trainer, stop: SignalHandler, changes: Sequence[str] = ()) -> int:
    """Loop, and say how it ended and how to go on, with what was changed for this time; the exit code."""
    folder, agent = trainer.run.folder, trainer.agent
    again = functools.partial(trainer.run.command, *changes)
    device = f"{agent.device} in {agent.precision}, {torch.get_num_threads()} CPU threads"
    console.rule(f"{folder}: training on {device}")
    console.print(f"{agent.num_model_parameters():,} parameters")
    try:
        loop(trainer)
    except Interrupted:
        console.print(f"stopped and saved. To go on: {again()}")
        return stop.exit_code
    except GraphError as error:
        return failed(f"{error}; saved. To go on without graphs: {again('agent.compile=never')}", 1)
    except (Diverged, ProcessLost, RanksDiffer) as error:
        return failed(f"{error}; the last good checkpoint is kept: {again()} resumes from it", 1)
    hint = f". Next: {trainer.run.evaluation('--episodes', '20', '--seed', '0', '--video')}" if trainer.envs else ""
    console.print(f"finished{hint}")
    return 0


def failed(error: object, code: int) -> int:
    print_error(error)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
