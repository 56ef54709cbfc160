"""The runs that count, of all that lies in benchmarks/results/, and what others have published (published.json)."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent

OTHERS: list[dict[str, Any]] = json.loads((ROOT / "benchmarks" / "published.json").read_text("utf8"))
PLANET = OTHERS.pop(0)
PUBLISHED: dict[str, int] = PLANET["scores"]["1000000"]
TASKS = (*PUBLISHED, "cartpole_balance", "walker_stand")  # of the last two PlaNet has published nothing
EPISODES = 1000  # of the published runs

RECIPES = ("planet_small", "dreamer_small", "planet")
ALIASES = {"ball_in_cup_catch": "cup_catch"}
# What tells runs apart, or where they end; train.steps: in results of earlier versions.
NAMES = ("exp", "env", "env.task", "seed", "run", "runs", "train.env_steps", "train.steps", "agent.threads")


class TableError(ValueError):
    """A result that cannot be read, or a README without the markers."""


class Result(NamedTuple):
    """A run that counts."""

    file: str
    recipe: str
    task: str
    seed: int
    score: float
    curve: dict[int, float]  # env steps -> return of the evaluation there
    hours: dict[int, float]  # env steps -> hours until there, of the processor or with a GPU of wall clock
    steps: int
    episodes: int
    seconds: float  # of training, without the pauses between
    cpu_seconds: float | None  # of the processor; None: not recorded
    hardware: list[str]
    settings: list[str]  # overrides that change more than which run it is
    evaluated_with: list[str]  # another actor than the run's, or changes of it, for the score alone


def read(folder: Path) -> list[Result]:
    """The runs that count, of all that lies in the folder, by task and seed. Errors: TableError names the file."""
    found: dict[tuple[str, str, int], Result] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = parse(path.name, json.loads(path.read_text("utf8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableError(f"{path}: damaged, or not written by benchmarks/record.py: {error!r}") from error
        if result is None:
            continue
        other = found.setdefault((result.recipe, result.task, result.seed), result)
        if other is not result:
            raise TableError(
                f"{path}: the same recipe, task and seed as {other.file}; a seed counts once, so keep one of them"
            )
    return [found[key] for key in sorted(found, key=lambda key: (TASKS.index(key[1]), key))]


def parse(name: str, recorded: Any) -> Result | None:
    """One file's content; None if it is not a run of one of the recipes on one of the tasks."""
    words = str(recorded.get("command", "")).split() if isinstance(recorded, dict) else []
    overrides = [word.lstrip("+") for word in words if "=" in word]
    recipe = next((word[4:] for word in overrides if word.startswith("exp=") and word[4:] in RECIPES), None)
    if recipe is None or (recorded["env"] or {}).get("name") != "dmc":
        return None
    task = ALIASES.get(recorded["env"]["task"], recorded["env"]["task"])
    if task not in TASKS:
        return None
    evaluations = [row for row in recorded["curve"] if "evaluate/return" in row]
    curve = {row["step"]: float(row["evaluate/return"]) for row in evaluations}
    clock = "hours" if str(recorded.get("device")).startswith("cuda") else "cpu_hours"
    steps, last = recorded["counters"]["env_steps"], recorded.get("evaluation", {})
    changed: list[str] = []
    if last.get("env_steps") == steps:
        score = last["return"]
        changed = [f"--actor {last['actor']}"] if last["actor"] != recorded["actor"] else []
        changed += last.get("overrides", [])
    elif curve:
        score = curve[max(curve)]
    else:
        raise ValueError("it has no evaluation: python evaluate.py runs/..., then benchmarks/record.py again")
    return Result(
        file=name,
        recipe=recipe,
        task=task,
        seed=recorded["seed"],
        score=float(score),
        curve=curve,
        hours={row["step"]: float(row[clock]) for row in evaluations if clock in row},
        steps=steps,
        episodes=recorded["counters"]["episodes"],
        seconds=recorded["training_seconds"],
        cpu_seconds=recorded.get("cpu_seconds"),
        hardware=recorded["hardware"],
        settings=[word for word in overrides if word.partition("=")[0] not in NAMES],
        evaluated_with=changed,
    )


def interval(scores: list[float]) -> float:
    """Half the 95 % t-interval of their mean; NaN for a single one. For a few seeds a bootstrap would be too narrow."""
    if len(scores) < 2:
        return math.nan
    return float(stats.t.ppf(0.975, len(scores) - 1)) * float(np.std(scores, ddof=1)) / math.sqrt(len(scores))


def of(results: list[Result], task: str, recipe: str | None = None) -> list[Result]:
    """The runs of a task, by one recipe or by all."""
    return [result for result in results if result.task == task and recipe in (None, result.recipe)]
