"""Minari datasets in and out, through Minari's own package, which is imported only when one is read or written
(`pip install worldmodel[recordings]`; it brings Gymnasium along, whose spaces are what a dataset says of itself).

An episode of N actions has N + 1 observations, and action[t] is taken at observation[t]. Environments are never made: a
dataset's env_spec can name any code.
"""

import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.base import Spec
from worldmodel.replay import hdf5, images
from worldmodel.replay.align import in_range
from worldmodel.replay.episodes import Episode
from worldmodel.replay.images import Form
from worldmodel.replay.layouts import LAYOUTS
from worldmodel.replay.npz import RecordedError, too_large
from worldmodel.replay.scan import looks_like_images

SPACES = ("observation_space", "action_space")
LAYOUT = LAYOUTS["minari"]


def package() -> Any:
    try:
        import minari
        from minari.data_collector.episode_buffer import EpisodeBuffer  # noqa: F401
    except ImportError as error:
        raise RecordedError(
            f"Minari datasets need its package ({error}): pip install worldmodel[recordings]"
        ) from error
    return minari


class MinariEpisodes:
    """The episodes of a dataset, in their order. path: the folder of its metadata.json."""

    layout = LAYOUT

    def __init__(self, path: Path, limit: int, size: Sequence[int] | None = None, gray: bool = False) -> None:
        self.path, self.limit = path, limit
        self.storage = opened(path, limit)
        self.key, picture = image_space(self.storage.observation_space)
        self.frame = tuple(picture.shape)
        check_frames(path, self.key, self.frame, picture)
        steps = [int(episode["total_steps"]) for episode in self.storage.get_episode_metadata(self.indices)]
        self.lengths = [count + 1 for count in steps]
        if not self.lengths or min(self.lengths) < 2:
            raise RecordedError(f"{path} holds {len(steps)} episodes, or one without an action")
        self.form: Form = images.form(self.images(next(iter(self.episodes([0])))), size, gray)
        self.count, self.discrete, said = action_form(self.storage.action_space)
        self.spec = Spec(self.form.shape, self.count, self.discrete)
        self.found = [
            f"{path} is read as minari, because that is what its metadata.json says: {LAYOUT.meaning}",
            *filter(None, (said, self.form.note)),
        ]

    @property
    def indices(self) -> range:
        return range(self.storage.total_episodes)

    def episodes(self, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
        try:
            yield from self.storage.get_episodes(indices)
        except Exception as error:  # what h5py, Pillow and Minari's assertions raise on damaged data
            raise RecordedError(f"{self.path} is damaged ({str(error) or type(error).__name__})") from error

    def images(self, episode: dict[str, Any]) -> np.ndarray:
        found = episode["observations"]
        return np.asarray(found if self.key is None else found[self.key])

    def __iter__(self) -> Iterator[Episode]:
        for number, rows in enumerate(self.lengths):
            if rows * math.prod(self.frame) > self.limit:
                raise too_large(f"episode_{number}", rows * math.prod(self.frame), self.limit)
            (episode,) = self.episodes([number])
            try:
                yield self.ours(episode, rows)
            except RecordedError as error:
                raise RecordedError(f"{self.path} cannot be used: episode {number}: {error}") from error

    def ours(self, episode: dict[str, Any], rows: int) -> Episode:
        """In our time, range and form."""
        image = images.convert(self.images(episode), self.form)
        reward = np.asarray(episode["rewards"], np.float32)
        done = np.asarray(episode["terminations"], bool)
        action = to_ours(np.asarray(episode["actions"]), self.storage.action_space)
        counts = {len(image) - 1, len(reward), len(done), len(action)}
        if counts != {rows - 1} or not np.isfinite(reward).all() or done[:-1].any():
            raise RecordedError("its parts differ in length, a reward is not finite, or it goes on after a termination")
        zero = np.zeros((1, self.count), np.float32)
        return Episode(
            image, np.concatenate([zero, action]), np.append(np.float32(0), reward), np.append(False, done)
        ).plain()


def opened(path: Path, limit: int) -> Any:
    """A dataset's storage. Errors: RecordedError."""
    package()
    from minari.dataset.minari_storage import MinariStorage

    try:
        metadata = json.loads((path / "metadata.json").read_text("utf8"))
        missing = [name for name in SPACES if not isinstance(metadata.get(name), str)]
        if missing:  # Minari would make the environment to find them, and so run what env_spec names
            raise RecordedError(f"{path / 'metadata.json'} has no {' and no '.join(missing)}: it must say them itself")
        if metadata.get("data_format", "hdf5") != "hdf5":
            raise RecordedError(f"{path} has the format {metadata['data_format']!r}: only hdf5 is read")
        return MinariStorage.read(path)
    except RecordedError:
        raise
    except Exception as error:
        raise RecordedError(
            f"{path} is no Minari dataset that can be read ({str(error) or type(error).__name__})"
        ) from error


def image_space(space: Any) -> tuple[str | None, Any]:
    """The key in a Dict observation, or None, and the space of its images. Errors: RecordedError."""
    parts = getattr(space, "spaces", {None: space})
    found = [(key, part) for key, part in (parts.items() if isinstance(parts, dict) else ())
             if getattr(part, "shape", None) and looks_like_images((1, *part.shape))]  # fmt: skip
    if len(found) != 1:
        raise RecordedError(f"one image is wanted in the observation space, there are {len(found)}: {space}")
    return found[0]


def check_frames(path: Path, key: str | None, frame: tuple[int, ...], space: Any) -> None:
    """The file holds all that it names, and pictures as large as they should be: seen before any is unpacked."""
    with hdf5.opened(path / "main_data.hdf5") as arrays:
        for name in arrays.names:
            if not name.endswith("/observations" if key is None else f"/observations/{key}"):
                continue
            stored = arrays.file[name]
            if (stored.dtype == np.uint8 and stored.shape[1:] == frame) or stored.dtype.kind == "f":
                continue
            if not len(stored) or stored.ndim not in (1, 2):
                raise RecordedError(f"{path}: '{name}' is {stored.dtype} {stored.shape}, not images {frame}")
            with Image.open(io.BytesIO(np.asarray(stored[0], np.uint8).tobytes())) as picture:  # only its header
                if (picture.height, picture.width) != frame[:2]:
                    raise RecordedError(f"{path}: '{name}' holds pictures of {picture.size}, not of {frame}")


# ---- actions ----


def action_form(space: Any) -> tuple[int, bool, str]:
    """How many numbers, whether they are discrete, and what is done to them. Errors: RecordedError."""
    kind = type(space).__name__
    if kind == "Discrete":
        return int(space.n), True, ""
    if kind != "Box" or len(space.shape) > 1:
        raise RecordedError(f"the action space is {space}: wanted Discrete, or a Box of one axis")
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    if ((low == -1).all() and (high == 1).all()) or not np.isfinite([*low, *high]).all():
        return len(low), False, ""
    return len(low), False, f"actions are rescaled from {low.min():g}..{high.max():g} to [-1, 1]"


def to_ours(action: np.ndarray, space: Any) -> np.ndarray:
    """(N, A) in [-1, 1], or one-hot."""
    count, discrete, said = action_form(space)
    if discrete:
        chosen = action.reshape(-1) - int(space.start)
        if action.dtype.kind not in "iu" or not ((chosen >= 0) & (chosen < count)).all():
            raise RecordedError(f"its actions are not in {space}")
        return np.eye(count, dtype=np.float32)[chosen]
    action = action.reshape(-1, count).astype(np.float64)
    if said:
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
        action = 2 * (action - low) / (high - low) - 1
    return in_range(action.astype(np.float32))


# ---- out ----


def write(folder: Path, episodes: Iterable[Episode], spec: Spec, dataset_id: str) -> None:
    """A dataset that minari.load_dataset finds if MINARI_DATASETS_PATH is the folder above; images not compressed."""
    minari = package()
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    (c, y, x), count = spec.image_shape, spec.action_dim
    action_space = spaces.Discrete(count) if spec.discrete else spaces.Box(-1, 1, (count,), np.float32)
    data = folder / "data"
    data.mkdir(parents=True)
    storage = MinariStorage.new(
        data, spaces.Box(0, 255, (y, x, c), np.uint8), action_space, data_format="hdf5", jpeg_encoding=False
    )
    storage.update_metadata({"dataset_id": dataset_id, "minari_version": minari.__version__})
    for episode in episodes:
        truncation = np.zeros(len(episode.reward) - 1, bool)
        truncation[-1] = not episode.terminal[-1]
        action = episode.action[1:]
        buffer = EpisodeBuffer(
            observations=episode.image.transpose(0, 2, 3, 1),
            actions=action.argmax(1) if spec.discrete else action,
            rewards=episode.reward[1:],
            terminations=episode.terminal[1:],
            truncations=truncation,
            infos={},
        )
        storage.update_episodes([buffer])
