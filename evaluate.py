"""Evaluate a trained run:  python evaluate.py runs/cartpole1 --episodes 20 --seed 0 --video

Loads the newest complete checkpoint, acts without exploration noise, prints returns and writes evaluation.json (and,
with --video, films of what happened beside what the agent dreams) into the run's folder.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import agents
import envs
from agents.agent import Agent
from agents.evaluation import dreams, evaluate
from agents.rollout import Trial, episode_seed
from worldmodel import pictures
from worldmodel.config import ROOT, ConfigError, check, nearest
from worldmodel.display import console
from worldmodel.run import Run, RunError, commit, replace

EVALUATE = 3  # stream of randomness: other episodes than those that training evaluates on
FILMS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a trained run.")
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/cartpole1")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the episodes and of the agent's noise")
    parser.add_argument("--actor", help="act with another actor on the same model, such as shooting (configs/actor/)")
    parser.add_argument("--video", action="store_true", help="write films into the run's videos/")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args()
    if options.episodes < 1 or options.seed < 0:
        parser.error("--episodes must be at least 1 and --seed at least 0")
    try:
        report(options)
    except (RunError, ConfigError, envs.EnvError, OSError, ValueError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def report(options: argparse.Namespace) -> None:
    """Evaluate, print and write."""
    run, agent = Run.read(options.run), agents.load(options.run, options.device)
    if options.actor:
        agent = agent.with_actor(agents.build_actor(actor_section(options.actor), agent.model, agent.spec))
    world = envs.vector(check({"env": run.config.get("env")}, {"env": "envs"})["env"])
    console.print(f"{options.run}: evaluating on {agent.device} in {agent.precision}")
    seeds = [episode_seed(options.seed, EVALUATE, number) for number in range(options.episodes)]
    trials, values = evaluate(agent, world, seeds, options.seed)
    world.close()
    scores = [trial.score for trial in trials]
    result = {
        "return": values["evaluate/return"],
        "interval_95": values.get("evaluate/interval"),
        "returns": scores,
        "episodes": options.episodes,
        "seed": options.seed,
        "actor": options.actor or run.config["actor"]["name"],
        "checkpoint": run.newest().folder.name,
        "milliseconds_per_action": values["evaluate/act_ms"],
        "planned_return": values.get("evaluate/planned_return"),
        "obtained_return": values.get("evaluate/obtained_return"),
        "device": str(agent.device),
        "precision": agent.precision,
        "commit": commit(),
    }
    replace(options.run / "evaluation.json", json.dumps(result, indent=2))
    interval = f" +- {result['interval_95']:.1f} (95 %)" if result["interval_95"] is not None else ""
    console.print(
        f"return {result['return']:.1f}{interval} over {options.episodes} episodes; "
        f"lowest {min(scores):.1f}, highest {max(scores):.1f}; {result['milliseconds_per_action']:.1f} ms per action"
    )
    if options.video:
        films(options.run / "videos", agent, trials, options.seed)


def actor_section(name: str) -> Any:
    """The checked config of an actor, from configs/actor/<name>.yaml."""
    files = {path.stem: path for path in (ROOT / "configs" / "actor").glob("*.yaml")}
    if name not in files:
        raise ConfigError([f"--actor: {name!r} is not one of {', '.join(sorted(files))}{nearest(name, files)}"])
    return check({"actor": yaml.safe_load(files[name].read_text())}, {"actor": "agents"})["actor"]


def films(folder: Path, agent: Agent, trials: list[Trial], seed: int) -> None:
    """Every episode of the first few as a GIF, and their open-loop dreams."""
    folder.mkdir(exist_ok=True)
    for number, trial in enumerate(trials[:FILMS]):
        picture: Tensor = torch.from_numpy(trial.episode.image[None]).float() / 255
        (folder / f"episode-{number}.gif").write_bytes(
            pictures.gif(pictures.panes([picture], len(trial.episode.image)))
        )
    film, _ = dreams(agent, [trial.episode for trial in trials], seed)
    (folder / "dream.gif").write_bytes(pictures.gif(pictures.dream_frames(film)))
    console.print(f"films are in {folder}")


if __name__ == "__main__":
    main()
