"""PlaNet's six control-suite tasks, ours beside the published scores:  python benchmarks/table.py

Reads benchmarks/results/*.json (benchmarks/record.py writes them), rewrites the table between the two marker comments
in README.md and draws benchmarks/results/planet.png. With --check it writes nothing and fails if the table is out of
date.

A run counts if it was started with exp=planet on one of the six tasks. Its score is the mean return of noise-free
episodes: those of evaluate.py if they are of the final checkpoint, else the last evaluation during training. Over seeds
a 95 % t-interval is given. Runs stand where they ended; nothing is extrapolated.

Published: Hafner et al., Learning Latent Dynamics for Planning from Pixels, ICML 2019, Table 1: PlaNet after 1,000
episodes, the mean over 5 seeds of 10 trajectories each.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training.pictures import figure  # noqa: E402

BEGIN, END = "<!-- table.py: begin -->", "<!-- table.py: end -->"
PUBLISHED = {
    "cartpole_swingup": 821,
    "reacher_easy": 832,
    "cheetah_run": 662,
    "finger_spin": 700,
    "cup_catch": 930,
    "walker_walk": 951,
}
EPISODES = 1000  # of the published runs
ALIASES = {"ball_in_cup_catch": "cup_catch"}
NONE = "no run yet"
# What tells runs apart, or where they end; train.steps: in results of earlier versions.
NAMES = ("exp", "env", "env.task", "seed", "run", "runs", "train.env_steps", "train.steps")


class TableError(ValueError):
    """A result that cannot be read, or a README without the markers."""


class Result(NamedTuple):
    """A run that counts."""

    file: str
    task: str
    seed: int
    score: float
    curve: dict[int, float]  # env steps -> return of the evaluation there
    steps: int
    episodes: int
    seconds: float  # of training, without the pauses between
    hardware: list[str]
    settings: list[str]  # overrides that change more than which run it is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the table is out of date")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    try:
        sys.exit(update(options.results, options.readme, options.check))
    except TableError as error:
        sys.exit(f"error: {error}")


def update(folder: Path, readme: Path, check: bool) -> int:
    """The exit code. Without a run there is no picture, and no link to one."""
    results, picture = read(folder), folder / "planet.png"
    before = readme.read_text("utf8")
    after = laid_in(before, table(results), readme.name)
    if check:
        current = before == after and (picture.exists() or not results)
        print(f"{readme.name}: the table is {'up to date' if current else 'out of date: python benchmarks/table.py'}")
        return 0 if current else 1
    readme.write_text(after, "utf8")
    if results:
        draw(picture, results)
    else:
        picture.unlink(missing_ok=True)
    print(f"{readme.name}: {len(results)} runs of {len({result.task for result in results})} tasks")
    return 0


# ---- what was recorded ----


def read(folder: Path) -> list[Result]:
    """The runs that count, of all that lies in the folder, by task and seed. Errors: TableError names the file."""
    found: dict[tuple[str, int], Result] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = parse(path.name, json.loads(path.read_text("utf8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableError(f"{path}: damaged, or not written by benchmarks/record.py: {error!r}") from error
        if result is None:
            continue
        other = found.setdefault((result.task, result.seed), result)
        if other is not result:
            raise TableError(f"{path}: the same task and seed as {other.file}; a seed counts once, so keep one of them")
    return [result for task in PUBLISHED for (name, _), result in sorted(found.items()) if name == task]


def parse(name: str, recorded: Any) -> Result | None:
    """One file's content; None if it is not a run of exp=planet on one of the six tasks."""
    words = str(recorded.get("command", "")).split() if isinstance(recorded, dict) else []
    overrides = [word.lstrip("+") for word in words if "=" in word]
    if "exp=planet" not in overrides or (recorded["env"] or {}).get("name") != "dmc":
        return None
    task = ALIASES.get(recorded["env"]["task"], recorded["env"]["task"])
    if task not in PUBLISHED:
        return None
    curve = {row["step"]: float(row["evaluate/return"]) for row in recorded["curve"] if "evaluate/return" in row}
    steps, last = recorded["counters"]["env_steps"], recorded.get("evaluation", {})
    if last.get("env_steps") == steps and last["actor"] == recorded["actor"]:
        score = last["return"]
    elif curve:
        score = curve[max(curve)]
    else:
        raise ValueError("it has no evaluation: python evaluate.py runs/..., then benchmarks/record.py again")
    return Result(
        file=name,
        task=task,
        seed=recorded["seed"],
        score=float(score),
        curve=curve,
        steps=steps,
        episodes=recorded["counters"]["episodes"],
        seconds=recorded["training_seconds"],
        hardware=recorded["hardware"],
        settings=[word for word in overrides if word.partition("=")[0] not in NAMES],
    )


def interval(scores: list[float]) -> float:
    """Half the 95 % t-interval of their mean; NaN for a single one. For a few seeds a bootstrap would be too narrow."""
    if len(scores) < 2:
        return math.nan
    return float(stats.t.ppf(0.975, len(scores) - 1)) * float(np.std(scores, ddof=1)) / math.sqrt(len(scores))


# ---- the table ----


def table(results: list[Result]) -> str:
    """What stands between the markers."""
    head = ("task", "ours", "seeds", "ended after", "training, per run", "hardware", "PlaNet, published")
    rows = [head, ("---",) * len(head), *(row(task, of(results, task)) for task in PUBLISHED)]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    text = [
        "Ours: the mean over seeds of the noise-free return at the end, +- half its 95 % t-interval over seeds.",
        "Published: Hafner et al. 2019, Table 1, after 1,000 episodes, the mean of 5 seeds x 10 trajectories.",
        "`benchmarks/gpu.sh` trains them in pieces, `python benchmarks/table.py` writes this table.",
    ]
    if not results:
        setup = "The six tasks are set up as published (`exp=planet env=dmc`) but have not been trained here yet"
        text.insert(0, f"{setup}: that needs a GPU.")
    picture = ["", "![returns](benchmarks/results/planet.png)"] if results else []
    return "\n".join([*lines, "", *text, *picture])


def of(results: list[Result], task: str) -> list[Result]:
    return [result for result in results if result.task == task]


def row(task: str, runs: list[Result]) -> tuple[str, ...]:
    published = str(PUBLISHED[task])
    if not runs:
        return (task, NONE, "", "", "", "", published)
    scores = [run.score for run in runs]
    half = interval(scores)
    ours = f"**{np.mean(scores):.0f}** " + ("(one seed: no interval)" if math.isnan(half) else f"+- {half:.0f}")
    settings = sorted({word for run in runs for word in run.settings})
    episodes = span(run.episodes for run in runs)
    if min(run.episodes for run in runs) < EPISODES:
        episodes += f" of {EPISODES:,}"
    return (
        " ".join([task, *(f"`{word}`" for word in settings)]),
        ours,
        str(len(runs)),
        f"{episodes} episodes, {span(run.steps for run in runs)} env steps",
        duration(float(np.mean([run.seconds for run in runs]))),
        "; ".join(sorted({name for run in runs for name in run.hardware})),
        published,
    )


def span(values: Iterable[int]) -> str:
    """ "500", or "300 to 500"."""
    known = sorted(set(values))
    return " to ".join(f"{value:,}" for value in ([known[0], known[-1]] if len(known) > 1 else known))


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def laid_in(text: str, block: str, name: str) -> str:
    """A README's text with this block between its markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise TableError(f"{name}: the table's place is between one line {BEGIN} and one line {END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}"


# ---- the picture ----


def draw(path: Path, results: list[Result]) -> None:
    """Six panels: single seeds, their mean with its interval where all of them were evaluated, the published score."""
    sheet = figure(11, 6)
    end = max(result.steps for result in results)
    for number, (task, published) in enumerate(PUBLISHED.items()):
        axes = sheet.add_subplot(2, 3, number + 1)
        runs = of(results, task)
        axes.axhline(published, color="C3", linestyle="--", linewidth=1, label="published, after 1,000 episodes")
        for index, run in enumerate(runs):
            axes.plot(
                *zip(*sorted(run.curve.items()), strict=True) if run.curve else ([], []),
                color="0.6",
                linewidth=0.8,
                marker="o" if len(run.curve) < 3 else "",
                markersize=3,
                label="" if index else "single seeds",
            )
        shared = sorted(set.intersection(*(set(run.curve) for run in runs))) if len(runs) > 1 else []
        if shared:
            scores = [[run.curve[step] for run in runs] for step in shared]
            mean, half = np.mean(scores, 1), np.array([interval(there) for there in scores])
            axes.plot(shared, mean, color="C0", label="mean over seeds")
            band = {"color": "C0", "alpha": 0.2, "linewidth": 0, "label": "95 % t-interval over seeds"}
            axes.fill_between(shared, mean - half, mean + half, **band)
        if not runs:
            axes.text(0.5, 0.5, NONE, transform=axes.transAxes, ha="center", va="center", color="0.5")
        seeds = f", {len(runs)} seed{'s' if len(runs) > 1 else ''}" if runs else ""
        axes.set_title(f"{task}{seeds}", fontsize=10)
        axes.set(xlim=(0, 1.02 * end), ylim=(0, 1000))
        axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
        axes.set_xlabel("env steps", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    handles: dict[str, Any] = {}
    for axes in sheet.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    sheet.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8)
    sheet.suptitle("PlaNet from pixels: return of noise-free episodes", fontsize=11)
    sheet.savefig(path)


if __name__ == "__main__":
    main()
