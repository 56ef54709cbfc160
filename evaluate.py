"""Evaluate a trained run:  python evaluate.py runs/cartpole1 --episodes 20 --seed 0 --video

Loads the newest complete checkpoint, acts without exploration noise, prints returns and writes into the run's folder:
evaluation.json and, with --video, films of what happened beside what the agent dreams; with --compare a table of
several actors on the same trained model (comparison.json); with --temperatures the scores of controllers that were
evolved in dreams of these temperatures, in the dream and in the world (temperatures.json, temperatures.png).
"""

import argparse
import functools
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.table import Table
from torch import Tensor

import agents
import envs
from agents.agent import Agent
from agents.evaluation import dream_scores, dreams, evaluate, practise
from agents.graphs import GraphError
from agents.rollout import Trial, confidence, episode_seed
from worldmodel import pictures, replay, storage
from worldmodel.checkpoint import Checkpoint
from worldmodel.config import ROOT, ConfigError, check, nearest
from worldmodel.display import Bar, console
from worldmodel.replay import Replay
from worldmodel.run import Run, RunError, commit, replace

EVALUATE = 3  # stream of randomness: other episodes than those that training evaluates on
FILMS = 3
DREAMS = 256  # that a controller's score in the dream is the mean of


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a trained run.")
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/cartpole1")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the episodes and of the agent's noise")
    parser.add_argument("--actor", help="act with another actor on the same model, such as shooting (configs/actor/)")
    parser.add_argument(
        "--compare", action="store_true", help="a table of several: --actor cem,mppi,shooting,evolution"
    )
    parser.add_argument("--temperatures", help="evolve and compare controllers in dreams of these: 0.5,1,1.15,1.3")
    parser.add_argument(
        "--generations", type=int, default=100, help="of an actor that learns and is not the run's own (default 100)"
    )
    parser.add_argument("--video", action="store_true", help="write films into the run's videos/")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args()
    if options.episodes < 1 or options.seed < 0 or options.generations < 1:
        parser.error("--episodes and --generations must be at least 1 and --seed at least 0")
    if "," in (options.actor or "") and not options.compare:
        parser.error("several actors are compared: add --compare")
    try:
        Evaluation(options).report()
    except (RunError, ConfigError, GraphError, envs.EnvError, OSError, ValueError, MemoryError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


class Evaluation:
    """A trained run, and what was asked about it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.run, self.agent = Run.read(options.run), agents.load(options.run, options.device)
        self.seeds = [episode_seed(options.seed, EVALUATE, number) for number in range(options.episodes)]
        section = self.run.config.get("env")
        if section is None:
            raise RunError(
                f"{options.run} was trained on recorded episodes, without an environment: to evaluate it, train with "
                "data=... env=..., or build your own loop with agents.load"
            )
        self.env = check({"env": section}, {"env": "envs"})["env"]

    def report(self) -> None:
        console.print(f"{self.options.run}: evaluating on {self.agent.device} in {self.agent.precision}")
        if self.options.temperatures:
            self.temperatures()
        elif self.options.compare:
            self.compare()
        else:
            self.one()

    def one(self) -> None:
        """evaluation.json, and films."""
        options = self.options
        name = options.actor or self.run.config["actor"]["name"]
        agent, _ = self.acting(name)
        trials, values = self.lived(agent)
        result = self.result(name, agent, trials, values)
        replace(options.run / "evaluation.json", json.dumps(result, indent=2))
        scores = result["returns"]
        interval = f" +- {result['interval_95']:.1f} (95 %)" if result["interval_95"] is not None else ""
        console.print(
            f"return {result['return']:.1f}{interval} over {options.episodes} episodes; lowest {min(scores):.1f}, "
            f"highest {max(scores):.1f}; {result['milliseconds_per_action']:.1f} ms per action"
        )
        if options.video:
            films(options.run / "videos", agent, trials, options.seed)

    def compare(self) -> None:
        """comparison.json, and a table: every actor on the same model and the same episodes."""
        names = (self.options.actor or self.run.config["actor"]["name"]).split(",")
        for name in names:
            self.section(name)  # all mistakes before the first episode
        results = []
        for name in names:
            agent, seconds = self.acting(name)
            trials, values = self.lived(agent)
            results.append(self.result(name, agent, trials, values) | {"seconds_of_practice": seconds})
            console.print(f"{name}: {results[-1]['return']:.1f}")
        replace(self.options.run / "comparison.json", json.dumps(results, indent=2))
        table = Table(title=f"{self.options.run}, {self.options.episodes} episodes of seed {self.options.seed}")
        for column in ("actor", "return", "+- (95 %)", "ms per action", "env steps", "practice in dreams"):
            table.add_column(column, justify="left" if column == "actor" else "right")
        for result in results:
            practice = result["seconds_of_practice"]
            table.add_row(
                result["actor"],
                f"{result['return']:.1f}",
                "" if result["interval_95"] is None else f"{result['interval_95']:.1f}",
                f"{result['milliseconds_per_action']:.1f}",
                f"{result['env_steps']:,}",
                f"{practice:.0f} s" if practice else "",
            )
        console.print(table)

    def temperatures(self) -> None:
        """temperatures.json and .png: what a controller gains in the dream that it learned in, and in the world."""
        try:
            asked = [float(word) for word in self.options.temperatures.split(",")]
        except ValueError as error:
            raise ConfigError([f"--temperatures: numbers with commas between them are wanted ({error})"]) from error
        name = self.options.actor or "evolution"
        if not agents.build_actor(self.section(name), self.agent.model, self.agent.spec).learns:
            raise ConfigError([f"--temperatures: {name} does not learn in dreams; evolution does"])
        rows: list[dict[str, float | None]] = []
        for temperature in asked:
            agent, _ = self.acting(name, temperature=temperature)
            horizon = self.section(name).horizon
            imagined = dream_scores(agent, self.episodes, DREAMS, horizon, temperature, self.options.seed).tolist()
            trials, _ = self.lived(agent)
            real = [trial.score for trial in trials]
            dream, world = confidence(imagined), confidence(real)
            rows.append({"temperature": temperature})
            for place, (mean, interval), scores in (("dream", dream, imagined), ("world", world, real)):
                rows[-1] |= {place: mean, f"{place}_std": float(np.std(scores))}
                rows[-1][f"{place}_interval_95"] = None if math.isnan(interval) else interval
            console.print(f"temperature {temperature:g}: {dream[0]:.1f} in the dream, {world[0]:.1f} in the world")
        result = {
            "rows": rows,
            "dream_horizon": horizon,
            "generations": self.options.generations,
            "episodes": self.options.episodes,
            "seed": self.options.seed,
            "commit": commit(),
        }
        replace(self.options.run / "temperatures.json", json.dumps(result, indent=2))
        pictures.temperatures(self.options.run / "temperatures.png", rows, self.options.run.name)

    # ---- acting ----

    def section(self, name: str, **changes: Any) -> Any:
        """The checked config of an actor: the run's own; or configs/actor/<name>.yaml with the run's recipe laid on."""
        files = {path.stem: path for path in (ROOT / "configs" / "actor").glob("*.yaml")}
        if name not in files:
            raise ConfigError([f"--actor: {name!r} is not one of {', '.join(sorted(files))}{nearest(name, files)}"])
        own = self.run.config["actor"]
        recipe = self.run.config.get("parts", {}).get(name, {})
        values = own if own["name"] == name else yaml.safe_load(files[name].read_text()) | recipe
        return check({"actor": values | changes}, {"actor": "agents"})["actor"]

    def acting(self, name: str, **changes: Any) -> tuple[Agent, float]:
        """An agent with this actor on the trained model, and the seconds that it practised: the run's own actor is as
        trained; another one that learns does so now, in dreams that start from the run's episodes.
        """
        if name == self.run.config["actor"]["name"] and not changes:
            return self.agent, 0.0
        section = self.section(name, **changes)
        if getattr(section, "world", False):
            section = section.model_copy(update={"world": False})  # what practises here does so in dreams
        agent = self.agent.with_actor(agents.build_actor(section, self.agent.model, self.agent.spec))
        if not agent.actor.learns:
            return agent, 0.0
        began, count = time.perf_counter(), self.options.generations
        torch.manual_seed(self.options.seed)
        with Bar(count, 0) as bar:
            practise(
                agent, self.episodes, count, self.options.seed, lambda done, text: bar.update(done, count, text=text)
            )
        return agent, time.perf_counter() - began

    @functools.cached_property
    def episodes(self) -> Replay:
        """The episodes that the run collected."""
        section = check({"replay": self.run.config["replay"]}, {"replay": replay.Settings})["replay"]
        section = section.model_copy(update={"storage": "auto"})  # this may be another machine
        rows = sum(chunk.rows for chunk in self.checkpoint.chunks)
        plan = storage.plan(section, self.run.spec, rows, self.agent.device, self.options.run)
        collected = Replay(section, self.run.spec, rows, plan.place)
        collected.load(self.run.replay, self.checkpoint.chunks)
        return collected

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """The newest one; verifying it reads all of it."""
        return self.run.newest()

    def lived(self, agent: Agent) -> tuple[list[Trial], dict[str, float]]:
        world = envs.vector(self.env)
        try:
            return evaluate(agent, world, self.seeds, self.options.seed)
        finally:
            world.close()

    def result(self, name: str, agent: Agent, trials: list[Trial], values: dict[str, float]) -> dict[str, Any]:
        """What is written of an evaluation."""
        counters = self.checkpoint.state["counters"]
        return {
            "return": values["evaluate/return"],
            "interval_95": values.get("evaluate/interval"),
            "returns": [trial.score for trial in trials],
            "episodes": self.options.episodes,
            "seed": self.options.seed,
            "actor": name,
            "checkpoint": self.checkpoint.folder.name,
            "env_steps": counters["env_steps"] + counters.get("played", 0),
            "milliseconds_per_action": values["evaluate/act_ms"],
            "planned_return": values.get("evaluate/planned_return"),
            "obtained_return": values.get("evaluate/obtained_return"),
            "device": str(agent.device),
            "precision": agent.precision,
            "commit": commit(),
        }


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
