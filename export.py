"""A trained agent as one file to take home:  python export.py runs/cartpole1 cartpole.agent

The file holds weights, config and score, without the run's episodes and history, and needs no folder:
agents.load("cartpole.agent"), python evaluate.py cartpole.agent --video. The score is that of evaluate.py, of the same
checkpoint and with the run's own actor, changed as here if at all (actor.candidates=400); so that is called first.
Weights are stored as they are if the file is small enough for that, else in bf16, which has three digits.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import early

if __name__ == "__main__":
    early.begin()  # before torch is loaded

from training.configuration.hints import command
from training.reporting.progress import print_error
from training.run_folder import agent_file
from training.run_folder.run import RunError
from training.run_folder.trained import TrainedRun, recorded_evaluation
from worldmodel import files
from worldmodel.base import ConfigError


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    options = parse_arguments(arguments)
    try:
        plugins = options.plugins.split(",")
        size = export(options.run, options.file, options.weights, options.megabytes, plugins, options.overrides)
        print(f"{options.file}: {size / 1e6:.2f} MB. Next: {command('evaluate.py', str(options.file), '--video')}")
    except (RunError, ConfigError, OSError, ValueError, MemoryError) as error:
        print_error(error)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def export(
    folder: Path, file: Path, weights: str, megabytes: float, plugins: Sequence[str], overrides: Sequence[str]
) -> int:
    """The number of bytes. overrides: of the actor, with which it was evaluated, and acts from now on. Errors:
    RunError, ConfigError, OSError, ValueError.
    """
    if file.suffix != agent_file.SUFFIX:
        raise ValueError(f"{file}: the file's name ends with {agent_file.SUFFIX}")
    if file.exists():
        raise ValueError(f"{file} exists already: delete it, or choose another name")
    if not file.parent.is_dir():
        raise ValueError(f"{file}: there is no folder {file.parent}: make it, or choose another")
    trained = TrainedRun(folder, "cpu", 0, [name for name in plugins if name], needs_env=False)
    run, checkpoint = trained.run, trained.checkpoint
    if isinstance(checkpoint, agent_file.StoredAgent):
        raise ValueError(f"{folder} is an agent's file already: copy it")
    evaluation = recorded_evaluation(run, checkpoint, overrides)
    run.config["actor"] = trained.overridden("actor", ("actor",), None, overrides)
    agent, _ = trained.prepare_agent(None, 0, overrides)
    tensors: dict[str, Any] = {part: agent.tensors()[part] for part in agent_file.PARTS}
    content = agent_file.serialised(run, checkpoint, tensors, evaluation)
    if weights == "bf16" or (weights == "auto" and len(content) > megabytes * 1e6):
        for part, module in (("model", agent.model), ("actor", agent.actor)):
            tensors[part] = agent_file.in_half(tensors[part], dict(module.named_parameters()))
        content = agent_file.serialised(run, checkpoint, tensors, evaluation)
    if len(content) > megabytes * 1e6:
        raise ValueError(f"it has {len(content) / 1e6:.1f} MB, more than {megabytes:g}: --megabytes raises the limit")
    files.write(file, content)
    return len(content)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a trained agent as one file.")
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/cartpole1")
    parser.add_argument("file", type=Path, help="what to write, such as cartpole.agent")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of the actor, as it was evaluated: actor.candidates=400"
    )
    parser.add_argument("--weights", choices=["auto", "fp32", "bf16"], default="auto", help="auto: fp32 if it fits")
    parser.add_argument("--megabytes", type=float, default=3.0, help="the largest file that is written (default 3)")
    parser.add_argument("--plugins", default="", help="packages of your own that the run's components come from")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
