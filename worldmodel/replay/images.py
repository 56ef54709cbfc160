"""Recorded images, axes in any order, numbers of any type, stacked or with alpha -> uint8 (T, C, Y, X) of one size.

Axes as in worldmodel/base.py, and K: the frames of a stack. Colours last is tried first, as in envs/pixels.py, and
images are resized as there, so that recordings and an environment give the same picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from worldmodel.replay.npz import RecordedError

THINNEST = 12  # channels at most, of all frames of a stack together; an image's sides are larger
ROUNDING = 2**-10  # by which numbers may leave their range: the distance from 1 to float16's next number
WANTED = "wanted (T, C, Y, X), (T, Y, X, C) or (T, Y, X) with C 1 or 3"


class Form(NamedTuple):
    """How images lie in the files, and what becomes of them."""

    channels: int  # 1 or 3, of one frame
    begin: int  # its first channel
    unit: int  # 255 / the largest value
    size: tuple[int, int]  # (Y, X)
    gray: bool
    note: str  # what was done to them, for people

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1 if self.gray else self.channels, *self.size)


def form(image: np.ndarray, size: Sequence[int] | None = None, gray: bool = False) -> Form:
    """The form of a folder's images, from some rows of one episode. size: None keeps theirs. Errors: RecordedError."""
    lying = channels_first(image)
    channels, begin, notes = 3, 0, []
    if lying.shape[1] in (1, 3):
        channels = lying.shape[1]
    elif lying.shape[1] == 4 and image.shape[-1] == 4 and (lying[:, 3] == lying[:1, 3, :1, :1]).all() and image.any():
        notes.append("alpha is left out")
    else:
        channels, begin = newest_frame(lying, image.shape)
        notes.append(f"of {lying.shape[1] // channels} stacked frames the newest is taken")
    unit = 255 if image.dtype.kind == "f" and image.max() <= 1 + ROUNDING else 1
    if image.dtype != np.uint8:
        notes.append(f"{image.dtype} in 0..{255 // unit} becomes uint8")
    ours = tuple(lying.shape[2:])
    wanted = (size[0], size[1]) if size else ours
    if wanted != ours:
        notes.append(f"resized from {ours[0]} x {ours[1]} to {wanted[0]} x {wanted[1]}")
    if gray and channels == 3:
        notes.append("made gray")
    return Form(channels, begin, unit, wanted, gray, ", ".join(notes))


def convert(image: np.ndarray, form: Form) -> np.ndarray:
    """(T, ...) as in the file -> (T, C, Y, X) uint8. Errors: RecordedError, if they are not of the form."""
    frames = channels_first(image)[:, form.begin : form.begin + form.channels]
    if frames.shape[1] != form.channels:
        raise RecordedError(f"its images have {frames.shape[1]} channels, those of other files {form.channels}")
    frames = as_uint8(frames, form.unit)
    if frames.shape[2:] != form.size or (form.gray and form.channels == 3):
        frames = np.stack([redrawn(frame, form) for frame in frames])
    return np.ascontiguousarray(frames)


def as_uint8(frames: np.ndarray, unit: int) -> np.ndarray:
    if frames.dtype == np.uint8:
        return frames
    values = frames.astype(np.float32) * unit
    low, high = values.min(), values.max()
    if not (low >= -255 * ROUNDING and high <= 255 * (1 + ROUNDING)):  # NaN is not
        there = f"{frames.dtype} in {frames.min():g}..{frames.max():g}"
        raise RecordedError(f"its images are {there}: store intensities as uint8, or as numbers in 0..{255 // unit}")
    return np.rint(values).clip(0, 255).astype(np.uint8)


def redrawn(frame: np.ndarray, form: Form) -> np.ndarray:
    """One frame (C, Y, X), resized and made gray as envs/pixels.py does it."""
    picture = np.ascontiguousarray(frame.transpose(1, 2, 0))  # (Y, X, C)
    if picture.shape[:2] != form.size:
        smaller = form.size[0] <= picture.shape[0] and form.size[1] <= picture.shape[1]
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        picture = cv2.resize(picture, form.size[::-1], interpolation=method).reshape(*form.size, frame.shape[0])
    if form.gray and picture.shape[2] == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    return picture.transpose(2, 0, 1)


def channels_first(image: np.ndarray) -> np.ndarray:
    """Images in any order -> (T, K * C, Y, X), a view where there is no stack in an axis of its own."""
    shape = image.shape
    if image.dtype.kind not in "uif" or not image.size:
        raise RecordedError(f"its images are {image.dtype} {shape}: {WANTED}, as uint8 or as numbers in 0..1")
    if len(shape) == 3:
        return image[:, None]
    if len(shape) == 5:  # a stack in an axis of its own
        frames = image.transpose(0, 1, 4, 2, 3) if shape[4] in (1, 3) else image
        if frames.shape[2] in (1, 3):
            return frames.reshape(shape[0], -1, *frames.shape[3:])
    for few in ((1, 3), range(2, THINNEST + 1)):
        for axis in (3, 1) if len(shape) == 4 else ():
            if shape[axis] in few:
                return np.moveaxis(image, axis, 1)
    raise RecordedError(f"its images are {shape}: {WANTED}; or stacks of frames")


def newest_frame(lying: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int]:
    """Channels of a frame, and the first of the newest one. Stacks move on by a frame from row to row: that is looked
    at, for there is no rule on which end is new. Errors: RecordedError, if they do not.
    """
    count = lying.shape[1]
    for channels in (3, 1):
        if count % channels or count <= channels:
            continue
        moved = [np.array_equal(lying[1:, :-channels], lying[:-1, channels:]),
                 np.array_equal(lying[1:, channels:], lying[:-1, :-channels])]  # fmt: skip
        if sum(moved) == 1:
            return channels, count - channels if moved[0] else 0
    raise RecordedError(
        f"its images are {shape}: {WANTED}. {count} channels could be a stack of frames, but these do not move on by "
        "one frame from row to row: keep one frame, and no alpha"
    )
