"""Pictures of curves, with matplotlib. Films are in films.py."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import files

# What `curves` draws of a history.
DRAWN = re.compile(r".*/return|evaluate/ci95|.*/loss_.*|learn/actor/(generation|population_\w+|mean_solution)")


def curves(folder: Path, history: Sequence[dict[str, float]]) -> None:
    """All that a run's history can be drawn as, into its folder: curve.png, losses.png and generations.png."""
    if any(name.endswith("/return") for row in history for name in row):
        curve(folder / "curve.png", history, folder.name)
    losses(folder / "losses.png", history, folder.name)
    if any("learn/actor/population_best" in row for row in history):
        generations(folder / "generations.png", history, folder.name)


def figure(width: float, height: float) -> Any:
    """An empty figure that needs no screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save(sheet: Any, path: Path) -> None:
    """A figure as a PNG."""
    buffer = io.BytesIO()
    sheet.savefig(buffer, format="png")
    files.write(path, buffer.getvalue())


def losses(path: Path, history: Sequence[dict[str, float]], title: str) -> None:
    """Every loss over updates, one panel each."""
    names = sorted({name for row in history for name in row if "/loss_" in name})
    if not names:
        return
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    sheet = figure(3.2 * columns, 2.4 * lines)
    for number, name in enumerate(names):
        axes = sheet.add_subplot(lines, columns, number + 1)
        axes.plot(*zip(*[(row["updates"], row[name]) for row in history if name in row], strict=True))
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    sheet.suptitle(f"{title}: losses over updates", fontsize=10)
    save(sheet, path)


def curve(path: Path, history: Sequence[dict[str, float]], title: str) -> None:
    """The learning curve as a picture: returns while collecting, and of noise-free evaluations, over env steps; or over
    updates, if the run learned without collecting in between.
    """
    evaluated = [row for row in history if "evaluate/return" in row]
    x = "updates" if len(evaluated) > 1 and len({row["step"] for row in evaluated}) == 1 else "step"
    sheet = figure(7, 4)
    axes = sheet.add_subplot()
    for key, label, colour in (
        ("collect/return", "collected (with exploration noise)", "0.6"),
        ("evaluate/return", "evaluated (no noise)", "C0"),
    ):
        points = [(row[x], row[key]) for row in history if key in row]
        if x == "updates" and key == "collect/return":
            continue  # all of them before the first update
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=label,
                color=colour,
                marker="o" if len(points) < 30 else "",
                markersize=3,
            )
    spread = [(row[x], row["evaluate/return"], row["evaluate/ci95"]) for row in history if "evaluate/ci95" in row]
    if spread:
        steps, mean, half = np.array(spread).T
        axes.fill_between(steps, mean - half, mean + half, alpha=0.2, color="C0", linewidth=0)
    axes.set(xlabel="updates" if x == "updates" else "env steps (action repeat included)", ylabel="return", title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    save(sheet, path)


def values(predicted: np.ndarray, obtained: np.ndarray, title: str) -> bytes:
    """What a critic said at each decision of an episode, and the discounted return that was obtained then, both (N,). A
    PNG.
    """
    sheet = figure(6, 3.5)
    axes = sheet.add_subplot()
    axes.plot(predicted, label="critic's value", color="C1")
    axes.plot(obtained, label="discounted return obtained", color="C0")
    axes.set(xlabel="decision of an evaluation episode", ylabel="discounted return to come", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    sheet.savefig(buffer, format="png")
    return buffer.getvalue()


def temperatures(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Scores over the dream's temperature, in the dream and in the environment, with 95 % intervals."""
    sheet = figure(6, 4)
    axes = sheet.add_subplot()
    x = [row["temperature"] for row in rows]
    for place, label, colour in (("dream", "in the dream", "C1"), ("env", "in the environment", "C0")):
        spread = [row[f"{place}_ci95"] or 0 for row in rows]
        axes.errorbar(x, [row[place] for row in rows], spread, label=label, color=colour, marker="o", capsize=3)
    axes.set(xlabel="temperature of the dream in which the controller was evolved", ylabel="return", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    save(sheet, path)


def generations(path: Path, history: Sequence[dict[str, float]], title: str) -> None:
    """The scores of an evolved population as a picture, over generations: its worst to its best, its mean, and the
    mean solution's, which was evaluated on other starts and noise. A best far above it is luck (trap 40).
    What lies far below most of the means is cut off.
    """
    sheet = figure(7, 4)
    axes = sheet.add_subplot()
    rows = [row for row in history if "learn/actor/generation" in row]

    def points(*names: str) -> np.ndarray:
        """Generation and values (1 + names, rows), where all of them were logged and are finite."""
        wanted = [[row.get(f"learn/actor/{name}", np.nan) for name in ("generation", *names)] for row in rows]
        found = np.array(wanted, float).reshape(-1, 1 + len(names))
        return found[np.isfinite(found).all(1)].T

    number, worst, best = points("population_worst", "population_best")
    if len(number):
        axes.fill_between(number, worst, best, color="0.85", linewidth=0, label="population, worst to best")
    (_, means), (_, judged) = lines = [points("population_mean"), points("mean_solution")]
    for (number, value), label, colour in zip(
        lines, ("population, mean", "mean_solution, judged afresh"), ("0.5", "C0"), strict=True
    ):
        if len(number):
            marker = "o" if len(number) < 30 else ""
            axes.plot(number, value, label=label, color=colour, marker=marker, markersize=3)
    if len(means):  # one very low score must not flatten all curves
        low = min([np.quantile(means, 0.1), *judged, *best])
        high = max([*means, *judged, *best])
        axes.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
    axes.set(xlabel="generation", ylabel="return", title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    save(sheet, path)
