"""Pictures: open-loop predictions as animations, for TensorBoard and as files, and curves. Pillow, no ffmpeg."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from worldmodel import files

MIN_FRAME = 96  # pixels that a pane has at least, so that it can be seen
MARGIN = 3
# What `curves` draws of a history.
DRAWN = re.compile(r".*/return|evaluate/ci95|.*/loss_.*|learn/actor/(generation|population_\w+|mean_solution)")
OPEN, CLOSED = (0.25, 0.75, 0.35), (0.9, 0.2, 0.2)  # the margin's colour while the model gets images, and without


def video_frames(columns: Sequence[Tensor], context: int | None = None) -> list[np.ndarray]:
    """Frames of a video: every column is (B, T, C, Y, X) in [0, 1], shown side by side, one line per sequence.

    The margin is green for the first `context` frames and red afterwards, when the model imagines without images.
    """
    videos = torch.stack([video.expand(-1, -1, 3, -1, -1) for video in columns], 1)  # (B, columns, T, 3, Y, X)
    zoom = max(1, round(MIN_FRAME / videos.shape[-1]))
    videos = videos.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    frames = []
    for t in range(videos.shape[2]):
        cells = rearrange(videos[:, :, t], "b columns c y x -> (b columns) c y x")
        grid = make_grid(cells, nrow=len(columns), padding=MARGIN, pad_value=-1)
        colour = torch.tensor(OPEN if context is None or t < context else CLOSED)[:, None, None]
        grid = torch.where(grid < 0, colour, grid)
        frames.append((rearrange(grid, "c y x -> y x c") * 255).round().byte().numpy())
    return frames


def dream_frames(dream: Any) -> list[np.ndarray]:
    """Real, reconstruction, imagined after `context` looks, and the error of the imagined: |imagined - real|."""
    error = (dream.imagined - dream.real).abs().mean(2, keepdim=True)
    return video_frames([dream.real, dream.reconstruction, dream.imagined, error.clamp(0, 1)], dream.context)


def gif(frames: Sequence[np.ndarray], milliseconds: int = 80) -> bytes:
    """An endless animated GIF of frames (Y, X, 3) uint8."""
    pictures = [Image.fromarray(frame).quantize(128) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=False
    )
    return buffer.getvalue()


def curves(folder: Path, history: Sequence[dict[str, float]]) -> None:
    """All that a run's history can be drawn as, into its folder: curve.png, losses.png and generations.png."""
    if any(name.endswith("/return") for row in history for name in row):
        curve(folder / "curve.png", history, folder.name)
    losses(folder / "losses.png", history, folder.name)
    if any("learn/actor/population_best" in row for row in history):
        generations(folder / "generations.png", history, folder.name)


def figure(width: float, height: float) -> Any:
    """An empty figure that needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
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
