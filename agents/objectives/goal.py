"""Reaching a picture: minus the latent distance to what the model believes when it sees the goal image, at rest.

    g = features(s_L),  s_l = observe(s_{l-1}, no action, goal image),  s_0 = initial, first in l = 1
    value of a step = -|features(s_t) - g|, the plain norm

The goal is observed L times (`observe_steps`), not once. After one step the recurrent part is that of an episode's
start, which no imagined path comes back to, and the posterior, which corrects it, differs from that of the same place
amid an episode: on DOT a linear map from the latent mean to the place, fitted amid episodes, misses by 4.4 pixels on
goals that were observed once, by 1.2 after two steps, by 1.0 after three. Of 100 goals one step reached 31 with that
mean; five steps reached 51, 58 and 51 with features (two draws of the noise), 52 with the recurrent part alone.
Squared, features reached 53 and the mean 50; with features averaged over eight posterior samples, 49. Two draws differ
by as much as these do: features are chosen because every model has them.
"""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from agents.base import Objective
from worldmodel.base import ConfigError, Spec, State, StrictConfig, WorldModel, merge_time
from worldmodel.networks.noise import common_random_numbers

LARGEST = 1 << 28  # bytes of an episode's images
LAYOUTS = "(T, C, Y, X), (T, Y, X, C) or (T, Y, X) with C 1 or 3"


class Config(StrictConfig):
    name: str
    image: str | None  # a picture, or a recorded episode (.npz), of which the last image is the goal
    observe_steps: int = Field(ge=1, le=100)  # at the goal image, without acting, until the belief has settled

    @model_validator(mode="after")
    def given(self) -> "Config":
        if not self.image:
            raise ValueError("there is no goal: objective.image=<a picture, or a recorded episode, .npz>")
        return self


def build(config: Config, model: WorldModel, spec: Spec) -> "Goal":
    """Errors: ConfigError, if the file is not there or holds no image."""
    return Goal(read_image(Path(str(config.image)), spec.image_shape), config.observe_steps, spec)


class Goal(Objective):
    in_reward_units = False
    image: Tensor  # (C, Y, X) uint8

    def __init__(self, image: np.ndarray, observe_steps: int, spec: Spec) -> None:
        super().__init__()
        # Given, not learned: no checkpoint holds it, so that a trained actor takes any goal.
        self.register_buffer("image", torch.from_numpy(image), persistent=False)
        self.observe_steps, self.action_dim = observe_steps, spec.action_dim

    def reward(self, model: WorldModel, path: State, actions: Tensor) -> Tensor:
        here = model.features(merge_time(path)).float()  # (H*N, F)
        return -torch.linalg.vector_norm(here - self.goal(model), dim=-1).view(actions.shape[:2])

    @torch.no_grad()
    def goal(self, model: WorldModel) -> Tensor:
        """g, (1, F), from the model as it is now: its weights change while it learns. One row, whatever the plan."""
        image = self.image[None]
        action = torch.zeros(1, self.action_dim, device=image.device)
        first = torch.ones(1, dtype=torch.bool, device=image.device)
        state = model.initial(1)
        with common_random_numbers(1):  # of its own: this row is in no block of candidates
            for _ in range(self.observe_steps):
                state = model.observe(state, action, image, first)
                first = torch.zeros_like(first)
        return model.features(state).float()


# ---- the file ----


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The image (C, Y, X) uint8 of a picture, or the last one of a recorded episode, brought to this shape as envs/
    does it. Errors: ConfigError.
    """
    if not path.is_file():
        raise ConfigError([f"objective.image: there is no file {path}"])
    try:
        picture = last_image(path) if path.suffix == ".npz" else opened(path)
    except Exception as error:  # damaged or hostile files make Pillow, zipfile and numpy raise nearly anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        wanted = "a picture that Pillow can read, or a recorded episode, .npz, with an array 'image'"
        raise ConfigError([f"objective.image: {path} holds no image ({reason}): give {wanted}"]) from error
    channels, *size = shape
    picture = picture.convert("RGB")  # alpha says nothing
    if (picture.height, picture.width) != tuple(size):
        smaller = size[0] <= picture.height and size[1] <= picture.width
        method = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR  # areas are averaged when it shrinks
        picture = picture.resize((size[1], size[0]), method)
    if channels == 1:
        return np.array(picture.convert("L"))[None]
    return np.ascontiguousarray(np.array(picture).transpose(2, 0, 1))


def opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture: Image.Image = Image.open(path)
        picture.load()
    if picture.mode[0] in "IF":
        raise ValueError(f"its pixels are of mode {picture.mode}, not 8 bits")
    return picture


def last_image(path: Path) -> Image.Image:
    """Of the array 'image', in one of the layouts of worldmodel/replay/recorded.py; nothing is ever unpickled."""
    with zipfile.ZipFile(path) as archive:
        if "image.npy" not in archive.namelist():
            raise ValueError("it has no array 'image'")
        if archive.getinfo("image.npy").file_size > LARGEST:  # no more than that is unpacked
            raise ValueError(f"'image' would unpack to more than {LARGEST:,} bytes")
    with np.load(path, allow_pickle=False) as arrays:
        images = arrays["image"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise ValueError(f"'image' is {images.dtype} {images.shape}, not uint8 {LAYOUTS}")
    last: np.ndarray = images[-1]
    if last.ndim == 3 and last.shape[2] not in (1, 3):  # colours last is tried first, as in recorded.py
        if last.shape[0] not in (1, 3):
            raise ValueError(f"'image' is {images.shape}, not {LAYOUTS}")
        last = last.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(last.squeeze(2) if last.shape[2:] == (1,) else last))
