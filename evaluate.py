"""Evaluate a trained run:  python evaluate.py runs/cartpole1 --episodes 20 --seed 0 --video

Loads the newest complete checkpoint, or a file that export.py wrote (what is said here of the run's folder is then a
folder beside the file), acts without exploration noise, prints returns and writes into the run's folder:
evaluation.json and, with --video, videos of episodes and of open-loop predictions; with --compare a table of
several actors on the same trained model (comparison.json); with --temperatures the returns of controllers that were
evolved in dreams of these temperatures, in the dream and in the environment (temperatures.json, temperatures.png).
Planners can be changed on the trained model, actor.horizon=20 actor.candidates=500, and so can what they are to reach:
objective=goal objective.image=goal.png.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training import early

if __name__ == "__main__":
    early.begin()  # before torch is loaded

import envs
from agents.graphs import GraphError
from training.configuration.working_folder import use_working_folder
from training.reporting import results
from training.reporting.progress import console, print_error
from training.run_folder.run import RunError
from training.run_folder.trained import TrainedRun
from worldmodel.base import ConfigError


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    options = parse_arguments(arguments)
    try:
        plugins = [name for name in options.plugins.split(",") if name]
        use_working_folder(plugins)
        trained = TrainedRun(options.run, options.device, options.seed, plugins)
        console.print(f"{options.run}: evaluating on {trained.agent.device} in {trained.agent.precision}")
        generations = options.generations or results.GENERATIONS
        words = [word.strip() for word in (options.actor or "").split(",") if word.strip()]
        names = list(dict.fromkeys(trained.actor_name(word) for word in words or [None]))
        if options.temperatures:
            results.temperatures(trained, options.temperatures, names[0], options.episodes, generations)
        elif options.compare:
            results.compare(trained, names, options.episodes, generations, options.overrides)
        else:
            results.evaluate_one(
                trained, names[0], options.episodes, options.generations, options.overrides, options.video
            )
    except (RunError, ConfigError, GraphError, envs.EnvError, OSError, ValueError, MemoryError) as error:
        print_error(error)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a trained run.")
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/cartpole1, or an agent's file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="actor.horizon=20, objective=goal")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the episodes and of the agent's noise")
    parser.add_argument(
        "--actor",
        help="act with another actor on the same model, such as shooting (configs/actor/, configs/explorer/); "
        "actor_critic is the run's own Dreamer",
    )
    parser.add_argument(
        "--compare", action="store_true", help="a table of several: --actor actor_critic,cem,mppi,evolution"
    )
    parser.add_argument("--temperatures", help="evolve and compare controllers in dreams of these: 0.5,1,1.15,1.3")
    parser.add_argument(
        "--generations", type=int, help="of an actor that learns and is not the run's own (default 100)"
    )
    parser.add_argument("--video", action="store_true", help="write videos into the run's videos/")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--plugins", default="", help="packages of your own that the run's components come from")
    options = parser.parse_intermixed_args(arguments)
    if options.episodes < 1 or options.seed < 0 or (options.generations or 1) < 1:
        parser.error("--episodes and --generations must be at least 1 and --seed at least 0")
    if "," in (options.actor or "") and not options.compare:
        parser.error("several actors are compared: add --compare")
    tables = [word for word in ("--compare", "--temperatures") if getattr(options, word.strip("-"))]
    if len(tables) == 2:
        parser.error("--compare and --temperatures are two tables: leave one out")
    if tables and options.video:
        parser.error(f"--video is of one actor's episodes: leave out {tables[0]}, or --video")
    if options.temperatures and options.overrides:
        parser.error("--temperatures takes the actor as its file has it: leave out " + " ".join(options.overrides))
    options.run = options.run.expanduser()
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
