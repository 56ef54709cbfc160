"""Finds the image in an observation space, whatever its form, and brings it to uint8 (C, Y, X) at a given size.

Axes: `C` channel, `Y` row, `X` column. The same rule holds for images in the observation and for rendered ones. What
looks like an image and is not taken is named. Errors: EnvError, which says how to wrap the environment.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from envs.errors import EnvError

SMALLEST = 16  # an image side; smaller "images" are mostly symbols (MiniGrid's 7x7x3), unless named by the user
BARE, RENDER = "observation", "render"  # what env.image calls the whole observation, and the rendered picture
Fit: TypeAlias = Literal["stretch", "letterbox", "crop"]
Path: TypeAlias = tuple[str | int, ...]  # keys of Dicts and places in Tuples

STACK = (
    "looks like a frame stack: remove the stacking wrapper; the world model keeps "
    "its own memory and reads one frame at a time"
)
WANTED = "wanted: integers in 0..255 or floats in 0..1. Rescale it with gymnasium.wrappers.TransformObservation"
INSTEAD = f"or take the rendered picture: env.image={RENDER}"


class Found(NamedTuple):
    """Where the image is."""

    path: Path  # in the observation; () is all of it
    box: spaces.Box | None  # None: there is none, it must be rendered
    axes: str  # their order: "YX", "YXC" or "CYX"
    notes: list[str]  # what looks like an image and was not taken

    @property
    def name(self) -> str:
        return name_of(self.path)


def name_of(path: Path) -> str:
    """As env.image has it: sensors/rgb."""
    return "/".join(map(str, path)) or BARE


def shape_axes(shape: tuple[int, ...], smallest: int) -> str | None:
    """The order of axes of an array that can be one image; "stack" for several; None for neither."""
    sides = [side >= smallest for side in shape]
    if len(sides) == 2 and all(sides):
        return "YX"
    if len(sides) == 3 and all(sides[:2]) and shape[2] in (1, 3, 4):
        return "YXC"
    if len(sides) == 3 and all(sides[1:]) and shape[0] in (1, 3):  # 4 in front: four frames, not RGBA
        return "CYX"
    return "stack" if len(sides) in (3, 4) and sum(sides) >= 2 else None


def layout(space: spaces.Space, smallest: int = SMALLEST) -> tuple[str | None, str | None]:
    """(axes, None) of a Box that holds one image, (None, why not) of one that looks like an image and cannot be taken,
    (None, None) of all others.
    """
    if not isinstance(space, spaces.Box) or space.dtype.kind not in "uif":
        return None, None
    axes = shape_axes(space.shape, smallest)
    if axes is None:
        return None, None
    if axes == "stack":
        bounded = space.dtype == np.uint8 or bool(space.is_bounded())
        return None, f"the image {space.shape} {STACK}" if bounded else None  # unbounded: features, not pixels
    low, high = space.low.min(), space.high.max()
    if (low, high) == ((0, 1) if space.dtype.kind == "f" else (0, 255)):
        return axes, None
    if axes == "YX" and space.dtype != np.uint8:
        return None, None  # a table of numbers
    return None, f"the image {space.shape} has {space.dtype} values in {low:g}..{high:g}; {WANTED}"


def leaves(space: spaces.Space, path: Path = ()) -> Iterator[tuple[Path, spaces.Space]]:
    """All parts of nested Dicts and Tuples."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from leaves(part, (*path, key))
    else:
        yield path, space


def find(env: gymnasium.Env, name: str | None = None) -> Found:
    """Where the image is.

    name: of the part of the observation to take, as in name_of, or `render`; None finds it. Errors: EnvError for a
    wrong name, several candidates, or what looks like an image and cannot be taken: what is rendered may be another.
    """
    parts = {name_of(path): (path, space) for path, space in leaves(env.observation_space)}
    rendered = Found((), None, "YXC", [])
    if name == RENDER and name not in parts:
        return rendered
    wrapper = env
    while isinstance(wrapper, gymnasium.Wrapper):
        if isinstance(wrapper, gymnasium.wrappers.FrameStackObservation):
            raise EnvError(f"the observation {STACK}; {INSTEAD}")
        wrapper = wrapper.env
    if name is not None:
        return named(name, parts)
    found: list[Found] = []
    refused: list[str] = []
    small: list[str] = []
    for part, (path, space) in parts.items():
        axes, problem = layout(space)
        if axes and isinstance(space, spaces.Box):
            found.append(Found(path, space, axes, small))
        elif problem:
            refused.append(f"{part}: {problem}")
        elif len(space.shape or ()) == 3 and min(space.shape or (0,)) > 1 and layout(space, 2)[0]:
            small.append(
                f"{part} {space.shape} is not taken for an image, as it is smaller than {SMALLEST} pixels; to take it: "
                f"env.image={part}"
            )
    if len(found) > 1:
        several = ", ".join(one.name for one in found)
        raise EnvError(f"several parts of the observation hold an image: {several}; choose one: env.image=")
    if not found and refused:
        raise EnvError(f"{'; '.join(refused)}; {INSTEAD}")
    return found[0]._replace(notes=small + refused) if found else rendered._replace(notes=small)


def named(name: str, parts: dict[str, tuple[Path, spaces.Space]]) -> Found:
    """The part that the user has named. Errors: EnvError."""
    if name not in parts:
        raise EnvError(f"image: there is no '{name}'; choose from {', '.join(parts)}, {RENDER}")
    path, space = parts[name]
    axes, problem = layout(space, smallest=1)
    if axes is None or not isinstance(space, spaces.Box):
        others = ", ".join(part for part, (_, other) in parts.items() if layout(other, 2)[0]) or RENDER
        why = f": {problem}" if problem else f", but {space}"
        raise EnvError(f"image: '{name}' is no image{why}; images: {others}")
    return Found(path, space, axes, [])


def take(observation: Any, path: Path) -> Any:
    """The part of an observation. Errors: KeyError, IndexError or TypeError, where it is not there."""
    for key in path:
        observation = observation[key]
    return observation


def flat(image: np.ndarray, axes: str) -> np.ndarray:
    """One image in the order `axes`, integers in 0..255 or floats in [0, 1] -> uint8 (Y, X) or (Y, X, 3)."""
    if axes == "CYX":
        image = image.transpose(1, 2, 0)  # (Y, X, C)
    if axes == "YX" or image.shape[2] == 1:
        image = image.reshape(image.shape[:2])  # (Y, X)
    elif image.shape[2] == 4:
        image = image[..., :3]  # alpha says nothing
    if image.dtype.kind == "f":
        image = np.rint(image * 255)
    return np.ascontiguousarray(image, np.uint8)


def convert(image: np.ndarray, axes: str, size: tuple[int, int], gray: bool, fit: Fit = "stretch") -> np.ndarray:
    """One image in the order `axes` -> uint8 (C, Y, X) of `size` (Y, X), C 1 or 3.

    fit: an image of another aspect is stretched, or keeps it: `letterbox` adds black margins, `crop` cuts the longer
    side.
    """
    image = flat(image, axes)
    rows, columns = image.shape[:2]
    if fit == "crop":
        keep_rows = min(rows, max(1, round(columns * size[0] / size[1])))
        keep_columns = min(columns, max(1, round(rows * size[1] / size[0])))
        top, left = (rows - keep_rows) // 2, (columns - keep_columns) // 2
        image = resize(image[top : top + keep_rows, left : left + keep_columns], size)
    elif fit == "letterbox":
        scale = min(size[0] / rows, size[1] / columns)
        inner = max(1, round(rows * scale)), max(1, round(columns * scale))
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        canvas = np.zeros((*size, *image.shape[2:]), np.uint8)
        canvas[top : top + inner[0], left : left + inner[1]] = resize(image, inner)
        image = canvas
    else:
        image = resize(image, size)
    if gray and image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if image.ndim == 2:
        return np.repeat(image[None], 1 if gray else 3, axis=0)  # (C, Y, X)
    return np.ascontiguousarray(image.transpose(2, 0, 1))  # (C, Y, X)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (Y, X) or (Y, X, 3) -> the same of `size`."""
    if image.shape[:2] == tuple(size):
        return image
    # INTER_AREA averages, so that thin lines survive shrinking; enlarged with it, pixels turn into blocks
    y, x = (min(wanted, there) for wanted, there in zip(size, image.shape[:2], strict=True))
    smaller = cv2.resize(np.ascontiguousarray(image), (x, y), interpolation=cv2.INTER_AREA)
    return smaller if (y, x) == tuple(size) else cv2.resize(smaller, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
