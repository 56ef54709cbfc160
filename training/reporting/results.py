"""Results of a trained run: one actor's returns, a table of several, controllers of several temperatures."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from training import evaluation
from training.collecting.rollout import mean_ci95
from training.reporting import pictures, videos
from training.reporting.progress import console
from training.run_folder.trained import TrainedRun
from training.run_folder.versions import commit
from worldmodel import files
from worldmodel.base import ConfigError

GENERATIONS = 100  # of an actor that learns before it is evaluated, if nothing else is asked for
DREAMS = 256  # that a controller's return in the dream is the mean of


@contextlib.contextmanager
def written(path: Path, results: Any, about: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Results are shown inside and written then, as far as there are any, also if something failed: neither a folder
    that cannot be written nor a closed pipe costs any. about: what is written beside a list of them.
    """
    try:
        yield
    finally:
        if results:
            content = results if about is None else {"rows": results, **about}
            files.write(path, json.dumps(content, indent=2).encode())


def evaluate_one(
    trained: TrainedRun,
    name: str | None,
    episodes: int,
    generations: int | None,
    overrides: Sequence[str] = (),
    video: bool = False,
) -> None:
    """evaluation.json, and videos."""
    trained.section(name, overrides)
    folder = trained.results_folder()  # before anything is played
    agent, seconds = trained.prepare_agent(name, generations or GENERATIONS, overrides)
    if generations is not None and not seconds:
        raise ConfigError(["--generations: this actor learns nothing here: leave it out"])
    results, values = trained.evaluate(agent, episodes)
    result = trained.result(name, agent, results, values) | told(overrides)
    returns = result["returns"]
    interval = f" +- {result['ci95']:.1f} (95 %)" if result["ci95"] is not None else ""
    with written(folder / "evaluation.json", result):
        console.print(
            f"return {result['return']:.1f}{interval} over {episodes} episodes; lowest {min(returns):.1f}, "
            f"highest {max(returns):.1f}; {result['milliseconds_per_action']:.1f} ms per action"
        )
        if trained.recorded:
            score, count = trained.recorded["return"], trained.recorded["episodes"]
            console.print(f"recorded when it was exported: return {score:.1f} over {count} episodes")
    if video:
        videos.write(trained, agent, results)


def compare(
    trained: TrainedRun,
    names: Sequence[str | None],
    episodes: int,
    generations: int,
    overrides: Sequence[str] = (),
) -> None:
    """comparison.json, and a table: every actor on the same model and the same episodes."""
    for name in names:
        trained.section(name, overrides)  # all mistakes before the first episode
    found: list[dict[str, Any]] = []
    folder = trained.results_folder()
    with written(folder / "comparison.json", found):
        for name in names:
            agent, seconds = trained.prepare_agent(name, generations, overrides)
            results, values = trained.evaluate(agent, episodes)
            result = trained.result(name, agent, results, values) | told(overrides)
            found.append(result | {"seconds_of_learning": seconds})
            console.print(f"{found[-1]['actor']}: {found[-1]['return']:.1f}")
        console.print(table_of(found, ", ".join([f"{folder}, {episodes} episodes of seed {trained.seed}", *overrides])))


def told(overrides: Sequence[str]) -> dict[str, Any]:
    """What was changed of the run's config, if anything."""
    return {"overrides": list(overrides)} if overrides else {}


def table_of(found: Sequence[dict[str, Any]], title: str) -> Table:
    """One line for each actor."""
    table = Table(title=title)
    for column in ("actor", "return", "+- (95 %)", "ms per action", "env steps", "learned in dreams"):
        table.add_column(column, justify="left" if column == "actor" else "right", overflow="fold")
    for result in found:
        seconds = result["seconds_of_learning"]
        table.add_row(
            result["actor"],
            f"{result['return']:.1f}",
            "" if result["ci95"] is None else f"{result['ci95']:.1f}",
            f"{result['milliseconds_per_action']:.1f}",
            f"{result['env_steps']:,}",
            f"{seconds:.0f} s" if seconds else "",
        )
    return table


def temperatures(trained: TrainedRun, asked: str, name: str | None, episodes: int, generations: int) -> None:
    """temperatures.json and .png: a controller's return in the dream that it was evolved in, and in the environment."""
    name = name or "evolution"
    try:
        wanted = [float(word) for word in asked.split(",")]
    except ValueError as error:
        raise ConfigError([f"--temperatures: numbers with commas between them are wanted ({error})"]) from error
    section = trained.section(name)
    if not hasattr(section, "temperature"):
        raise ConfigError([f"--temperatures: {name} does not learn in dreams; evolution does"])
    rows: list[dict[str, float | None]] = []
    result: dict[str, Any] = {"dream_horizon": section.horizon, "generations": generations, "episodes": episodes}
    result |= {"seed": trained.seed, "commit": commit()}
    folder = trained.results_folder()
    with written(folder / "temperatures.json", rows, result):
        for temperature in wanted:
            agent, _ = trained.prepare_agent(name, generations, temperature=temperature)
            imagined = evaluation.dream_returns(
                agent, trained.replay, DREAMS, section.horizon, temperature, trained.seed
            ).tolist()
            results, _ = trained.evaluate(agent, episodes)
            real = [played.episode_return for played in results]
            rows.append({"temperature": temperature})
            for place, returns in (("dream", imagined), ("env", real)):
                mean, interval = mean_ci95(returns)
                rows[-1] |= {place: mean, f"{place}_std": float(np.std(returns))}
                rows[-1][f"{place}_ci95"] = None if math.isnan(interval) else interval
            console.print(
                f"temperature {temperature:g}: {rows[-1]['dream']:.1f} in the dream, "
                f"{rows[-1]['env']:.1f} in the environment"
            )
    pictures.temperatures(folder / "temperatures.png", rows, folder.name)
