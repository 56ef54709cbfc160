"""Finds the image in an observation space, whatever its form, and brings it to uint8 (C, Y, X) at a given
size.

Axes: `C` channel, `Y` row, `X` column. Errors: EnvError, which says how to wrap the environment.
"""

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from envs.checks import EnvError

SMALLEST = 16  # an image side; smaller "images" are mostly symbols (MiniGrid's 7x7x3), unless named by the user

STACK = (
    "looks like a frame stack: remove the stacking wrapper; the world model keeps "
    "its own memory and reads one frame at a time"
)


def layout(space: spaces.Space, smallest: int = SMALLEST) -> str | None:
    """The order of axes, "YX", "YXC" or "CYX", of a Box that holds one image; None: it holds none.

    Errors: EnvError for a Box that looks like an image but cannot be taken as one.
    """
    if not isinstance(space, spaces.Box):
        return None
    if space.dtype != np.uint8 and not np.issubdtype(space.dtype, np.floating):
        return None
    sides = [side >= smallest for side in space.shape]
    if space.dtype != np.uint8 and not space.is_bounded():
        return None  # features, not pixels
    if len(sides) == 2 and all(sides):
        axes = "YX"
    elif len(sides) == 3 and all(sides[:2]) and space.shape[2] in (1, 3, 4):
        axes = "YXC"
    elif len(sides) == 3 and all(sides[1:]) and space.shape[0] in (1, 3):  # 4 in front: four frames, not RGBA
        axes = "CYX"
    elif len(sides) in (3, 4) and sum(sides) >= 2:
        raise EnvError(f"the image {space.shape} {STACK}")
    else:
        return None
    low, high = space.low.min(), space.high.max()
    if (low, high) != ((0, 255) if space.dtype == np.uint8 else (0, 1)):
        if axes == "YX" and space.dtype != np.uint8:
            return None  # a table of numbers
        raise EnvError(
            f"the image has {space.dtype} values in {low:g}..{high:g}; wanted: uint8 in 0..255 or "
            "float in 0..1. Rescale it with gymnasium.wrappers.TransformObservation"
        )
    return axes


def find(env: gymnasium.Env, key: str | None = None) -> tuple[str | None, spaces.Box | None]:
    """Where the image is: (None, Box) bare, (key, Box) in a Dict observation, (None, None) it must be
    rendered.

    key: the one to take; None finds it. Errors: EnvError for a wrong key, several candidates, or a frame
    stack."""
    wrapper = env
    while isinstance(wrapper, gymnasium.Wrapper):
        if isinstance(wrapper, gymnasium.wrappers.FrameStackObservation):
            raise EnvError(f"the observation {STACK}")
        wrapper = wrapper.env
    space = env.observation_space
    if not isinstance(space, spaces.Dict):
        if key is not None:
            raise EnvError(f"image: '{key}' is given, but the observation is not a Dict: {space}")
        return (None, space) if layout(space) and isinstance(space, spaces.Box) else (None, None)
    if key is not None:
        named = space.spaces.get(key)
        if not isinstance(named, spaces.Box) or layout(named, smallest=1) is None:
            raise EnvError(f"image: '{key}' is no image. The keys are {', '.join(space.spaces)}")
        return key, named
    boxes = {name: part for name, part in space.spaces.items() if isinstance(part, spaces.Box)}
    found = {name: part for name, part in boxes.items() if layout(part)}
    if len(found) > 1:
        raise EnvError(f"several keys hold an image: {', '.join(found)}; choose one: env.image=")
    return next(iter(found.items())) if found else (None, None)


def convert(image: np.ndarray, axes: str, size: tuple[int, int], gray: bool) -> np.ndarray:
    """One image in the order `axes`, uint8 or float in [0, 1] -> uint8 (C, Y, X) of `size` (Y, X), C 1 or
    3."""
    if axes == "CYX":
        image = image.transpose(1, 2, 0)  # (Y, X, C)
    if axes == "YX" or image.shape[2] == 1:
        image = image.reshape(image.shape[:2])  # (Y, X)
    elif image.shape[2] == 4:
        image = image[..., :3]  # alpha says nothing
    if image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    if image.shape[:2] != tuple(size):
        smaller = size[0] <= image.shape[0] and size[1] <= image.shape[1]
        # INTER_AREA averages, so that thin lines survive shrinking; enlarged with it, pixels turn into blocks
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        image = cv2.resize(np.ascontiguousarray(image), (size[1], size[0]), interpolation=method)
    if gray and image.ndim == 3:
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    if image.ndim == 2:
        return np.repeat(image[None], 1 if gray else 3, axis=0)  # (C, Y, X)
    return np.ascontiguousarray(image.transpose(2, 0, 1))  # (C, Y, X)
