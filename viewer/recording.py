"""A film of what was seen: the three pictures with their names, the agent's plan below, as an animated GIF."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.reporting.films import gif
from viewer.futures import Futures
from viewer.messages import to_image
from viewer.session import View

PANE, GAP, LINE = 200, 8, 22  # pixels
LONGEST = 900  # frames
BACKGROUND, INK, QUIET, OPEN, CLOSED = (16, 18, 24), (236, 239, 244), (150, 158, 170), (88, 196, 120), (240, 96, 88)


class Recording:
    """Frames (Y, X, 3) uint8, the newest ones if there are too many."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def add(self, view: View, futures: Futures | None) -> None:
        self.frames = [*self.frames, frame(view, futures)][-LONGEST:]

    def gif(self, speed: float) -> bytes:
        """speed: frames per second; GIFs count in hundredths of a second, and browsers slow down below two."""
        return gif(self.frames, 10 * max(2, round(100 / speed)))


def frame(view: View, futures: Futures | None) -> np.ndarray:
    """One picture of all that there is to see. Its size does not depend on whether futures are drawn."""
    width = 3 * PANE + 4 * GAP
    font = ImageFont.load_default(14)
    height = round(PANE * view.dream.shape[1] / view.dream.shape[2])
    strip = (width - GAP) // 12 - GAP
    sheet = Image.new("RGB", (width, GAP + LINE + height + LINE + strip + 2 * GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    closed = f"Dream, {view.eyes_closed} steps" if view.eyes_closed else "Dream, looking"
    panes = (("Environment", view.environment), ("Reconstruction", view.reconstruction), (closed, view.dream))
    for number, (name, image) in enumerate(panes):
        left = GAP + number * (PANE + GAP)
        colour = INK if number < 2 else CLOSED if view.eyes_closed else OPEN
        draw.text((left, GAP - 2), name, colour, font)
        sheet.paste(enlarged(image, PANE, height), (left, GAP + LINE))
    below = GAP + LINE + height
    says = f"step {view.step}    return {view.total:.1f}    {view.ended}"
    draw.text((GAP, below + 3), says, QUIET, font)
    if futures is not None:
        draw.text((width - GAP, below + 3), f"what it means to do, {futures.horizon} steps ahead", QUIET, font, "ra")
        for number, image in enumerate(futures.pictures[0][:12]):
            place = GAP + number * (strip + GAP), below + LINE + GAP // 2
            sheet.paste(enlarged(image, strip, strip), place)
    return np.asarray(sheet)


def enlarged(image: np.ndarray, width: int, height: int) -> Image.Image:
    """(C, Y, X) uint8 with every pixel crisp."""
    return to_image(image).convert("RGB").resize((width, height), Image.Resampling.NEAREST)
