"""Learning curves of the six tasks, drawn by benchmarks/table.py: one picture over env steps, one over hours.

Thin: single seeds. Thick: their interquartile mean (Agarwal et al. 2021), with a 95 % bootstrap interval over seeds.
For a few seeds such an interval is too narrow, which is why the table has a t-interval. It is drawn only as far as all
seeds went.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.scores import PUBLISHED, RECIPES, Result, of
from training.reporting.pictures import figure

NONE = "no run yet"
PICTURES = ("planet.png", "planet-hours.png")
RESAMPLES, POINTS = 2000, 100


def draw(path: Path, results: list[Result]) -> None:
    """Six panels, over hours if the file's name says so."""
    over_hours = path.stem.endswith("hours")
    drawn = {result.file: points(result, over_hours) for result in results if result.task in PUBLISHED}
    end = max([x[-1] for x, _ in drawn.values() if len(x)], default=1.0)
    sheet = figure(11, 6)
    for number, (task, published) in enumerate(PUBLISHED.items()):
        axes = sheet.add_subplot(2, 3, number + 1)
        axes.axhline(published, color="0.3", linestyle="--", linewidth=1, label="PlaNet, after 1,000 episodes")
        for colour, recipe in enumerate(RECIPES):
            curves = [drawn[run.file] for run in of(results, task, recipe) if len(drawn[run.file][0])]
            panel(axes, curves, recipe, f"C{colour}")
        count = len(of(results, task))
        if not count:
            axes.text(0.5, 0.5, NONE, transform=axes.transAxes, ha="center", va="center", color="0.5")
        axes.set_title(f"{task}{f', {count} run' + 's' * (count > 1) if count else ''}", fontsize=10)
        axes.set(xlim=(0, 1.02 * end), ylim=(0, 1000))
        if not over_hours:
            axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
        axes.set_xlabel("hours of the processor (of wall clock with a GPU)" if over_hours else "env steps", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    handles: dict[str, Any] = {}
    for axes in sheet.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    sheet.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8)
    sheet.suptitle("From pixels: return of noise-free episodes", fontsize=11)
    sheet.savefig(path)


def points(result: Result, over_hours: bool) -> tuple[np.ndarray, np.ndarray]:
    """x and return of every evaluation; over hours those whose time was recorded."""
    steps = [step for step in sorted(result.curve) if not over_hours or step in result.hours]
    x = [result.hours[step] if over_hours else step for step in steps]
    return np.array(x, float), np.array([result.curve[step] for step in steps])


def panel(axes: Any, curves: list[tuple[np.ndarray, np.ndarray]], recipe: str, colour: str) -> None:
    """The curves of one recipe."""
    for number, (x, y) in enumerate(curves):
        style = {"color": colour, "linewidth": 0.8, "alpha": 0.5, "marker": "o" if len(x) < 3 else "", "markersize": 3}
        axes.plot(x, y, label="" if number else f"{recipe}, single seeds", **style)
    grid, scores = shared(curves)
    if not len(grid):
        return
    low, high = interval(scores)
    axes.plot(grid, iqm(scores), color=colour, label=f"{recipe}, interquartile mean and 95 % bootstrap interval")
    axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)


def shared(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Where all curves are, and their values there (seeds, points): at the x that all have, if these are two or more,
    else between their evaluations. Nothing is extrapolated.
    """
    if len(curves) < 2:
        return np.empty(0), np.empty((0, 0))
    grid = np.array(sorted(set.intersection(*(set(x) for x, _ in curves))))
    if len(grid) < 2:
        first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
        grid = np.linspace(first, last, POINTS) if first < last else np.empty(0)
    return grid, np.array([np.interp(grid, x, y) for x, y in curves])


def iqm(scores: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean of what is left when the lowest and the highest quarter are cut off, of three seeds none."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def interval(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap's 95 % interval of the interquartile mean: (seeds, points) -> twice (points,)."""
    drawn = stats.bootstrap((scores,), iqm, axis=0, n_resamples=RESAMPLES, method="percentile", rng=0)
    return drawn.confidence_interval.low, drawn.confidence_interval.high
