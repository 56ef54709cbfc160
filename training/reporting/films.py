"""Films: open-loop dreams and episodes as labelled frames, and their files. Colours are those of the images.

PNG (animated, lossless) is what runs keep and TensorBoard shows; MP4 is for long films from the renderer; GIF, for
whoever asks for one, has 256 colours in all, chosen so that the worst is as near as can be.
"""

import functools
import io
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Frame = np.ndarray  # (Y, X, 3) uint8

PANE = 128  # pixels that the shorter side of a pane has about, so that it can be seen
MARGIN, LINE = 4, 24  # pixels between panes, and of a line of text
OPEN, CLOSED = (64, 191, 89), (230, 51, 51)  # the margin's colour while the model gets images, and without
MILLISECONDS = 80  # that a frame stays
MOST = 1 << 15  # colours that are told apart to choose the 256 of a GIF


# ---- frames ----


def dream_frames(dream: Any, temperature: float = 1.0) -> list[Frame]:
    """Real, reconstruction, imagined after `context` looks, and the error of the imagined: |imagined - real|. One line
    per sequence.
    """
    error = (dream.imagined - dream.real).abs().mean(2, keepdim=True)  # (B, T, 1, Y, X)
    imagined = "dream" if temperature == 1 else f"dream, temperature {temperature:g}"
    columns = {"real": dream.real, "reconstruction": dream.reconstruction, imagined: dream.imagined, "error": error}
    panes = np.stack([uint8(video) for video in columns.values()], 2)  # (B, T, columns, Y, X, 3)
    frames = []
    for t in range(panes.shape[1]):
        ahead = t - dream.context + 1
        eyes = "eyes open: it sees every image" if ahead < 1 else f"eyes closed: {ahead} steps from actions alone"
        frames.append(framed(panes[:, t], list(columns), f"step {t}   {eyes}", OPEN if ahead < 1 else CLOSED))
    return frames


def episode_frames(
    images: Iterable[np.ndarray], reward: np.ndarray, pane: int = PANE, every: int = 1
) -> Iterator[Frame]:
    """Images (1 or 3, Y, X) of an episode, every so many and the last one, with time, reward and return so far."""
    total = np.cumsum(reward, dtype=np.float64)
    for t, image in enumerate(images):
        if t % every == 0 or t == len(reward) - 1:
            coloured = np.moveaxis(image, 0, -1).repeat(3 // len(image), -1)  # (Y, X, 3)
            text = f"step {t}   reward {reward[t]:.3g}   return {total[t]:.5g}"
            yield framed(coloured[None, None], [], text, OPEN, pane)


def framed(
    panes: np.ndarray, labels: Sequence[str], text: str, colour: tuple[int, int, int], pane: int = PANE
) -> Frame:
    """Panes (rows, columns, Y, X, 3), enlarged without smoothing, with a label above each column, and a line of text
    below. Sides are even, as films in MP4 must be.
    """
    zoom = max(1, round(pane / min(panes.shape[2:4])))
    panes = panes.repeat(zoom, 2).repeat(zoom, 3)
    rows, columns, height, width = panes.shape[:4]
    top = LINE if labels else MARGIN
    high, wide = top + rows * (height + MARGIN) + LINE, MARGIN + columns * (width + MARGIN)
    frame = np.empty((high + high % 2, wide + wide % 2, 3), np.uint8)
    frame[:] = colour
    for row in range(rows):
        for column in range(columns):
            y, x = top + row * (height + MARGIN), MARGIN + column * (width + MARGIN)
            frame[y : y + height, x : x + width] = panes[row, column]
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    for column, label in enumerate(labels):
        write(draw, MARGIN + column * (width + MARGIN), 0, width, label)
    write(draw, MARGIN, high - LINE, wide - 2 * MARGIN, text)
    return np.asarray(picture)


def write(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, text: str) -> None:
    """Text in a line, smaller where it would not fit."""
    size = next((size for size in range(18, 6, -1) if font(size).getlength(text) <= width), 6)
    draw.text((x, y + LINE / 2 - 1), text, (0, 0, 0), font(size), anchor="lm")


@functools.cache
def font(size: int) -> Any:
    """Pillow's own."""
    return ImageFont.load_default(size)


def uint8(video: Tensor) -> np.ndarray:
    """(B, T, 1 or 3, Y, X) in [0, 1] -> (B, T, Y, X, 3) uint8."""
    coloured = video.expand(-1, -1, 3, -1, -1).movedim(2, -1)
    return (coloured.clamp(0, 1) * 255).round().byte().numpy()


# ---- files ----


def png(frames: Iterable[Frame], milliseconds: float = MILLISECONDS) -> bytes:
    """An endless animated PNG: lossless, and shown by browsers, also in TensorBoard."""
    pictures, buffer = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    more: dict[str, Any] = {"append_images": pictures[1:], "duration": milliseconds, "loop": 0}
    pictures[0].save(buffer, "PNG", save_all=len(pictures) > 1, **(more if len(pictures) > 1 else {}))
    return buffer.getvalue()


def mp4(frames: Iterator[Frame], milliseconds: float = MILLISECONDS) -> bytes | None:
    """A film in VP9, which browsers play; None, if the OpenCV here cannot write it. (Its H.264 needs hardware, and it
    has no encoder for AV1.) Sides must be even.
    """
    with tempfile.TemporaryDirectory(prefix="film-") as folder:
        path, first = Path(folder) / "film.mp4", next(frames)
        code, size = cv2.VideoWriter.fourcc(*"vp09"), (first.shape[1], first.shape[0])
        writer = cv2.VideoWriter(str(path), code, 1000 / milliseconds, size)
        try:
            if not writer.isOpened():
                return None
            for frame in itertools.chain([first], frames):
                writer.write(np.ascontiguousarray(frame[..., ::-1]))
        finally:
            writer.release()
        return path.read_bytes()


def gif(frames: Sequence[Frame], milliseconds: float = MILLISECONDS) -> bytes:
    """An endless animated GIF with one palette for all frames."""
    colours, index = palette(frames)
    pictures = [Image.fromarray(index[packed(frame)]) for frame in frames]
    for picture in pictures:
        picture.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=False
    )
    return buffer.getvalue()


def palette(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """At most 256 colours of the frames, (256, 3) uint8, and which one stands for each packed colour, (2^24,) uint8.

    Each next colour is the one that is farthest from all before, so that what is small and bright is not lost; the
    largest error is at most twice the least that is possible (Gonzalez 1985). Up to 256 colours are exact.
    """
    seen = np.zeros(1 << 24, bool)
    for frame in frames:
        seen[packed(frame)] = True
    codes = np.flatnonzero(seen)  # (n,)
    for bits in range(8):  # of each channel that are not told apart, in a film of very many colours
        mask = 0x010101 * (0xFF << bits & 0xFF)
        _, first, group = np.unique(codes & mask, return_index=True, return_inverse=True)
        if len(first) <= MOST:
            break
    points = np.stack([codes >> 16, codes >> 8, codes], -1)[first] & 0xFF  # (m, 3), one colour of each group
    nearest, distance = np.zeros(len(points), np.uint8), np.full(len(points), 256)
    chosen: list[int] = []
    while len(chosen) < min(256, len(points)):
        chosen.append(int(distance.argmax()))
        here = np.abs(points - points[chosen[-1]]).max(1)
        nearest[here < distance] = len(chosen) - 1
        distance = np.minimum(distance, here)
    index = np.zeros(1 << 24, np.uint8)
    index[codes] = nearest[group]
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(chosen)] = points[chosen]
    return colours, index


def packed(frame: Frame) -> np.ndarray:
    """(Y, X, 3) uint8 -> (Y, X), one number for each colour."""
    red, green, blue = np.moveaxis(frame.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue
