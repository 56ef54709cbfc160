"""Episodes written in the layouts of other projects, so that their programs can learn from them."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from worldmodel.base import Spec
from worldmodel.replay import minari_dataset
from worldmodel.replay.episodes import Episode


def dreamer_v2(folder: Path, episodes: Iterable[Episode], spec: Spec) -> None:
    """DreamerV2's files (V-D4RL's, too): action[t] led to image[t] there as here, so that rows stay as they are. Names
    sort as the episodes do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    for number, episode in enumerate(episodes):
        row, rows = np.arange(len(episode.reward)), len(episode.reward)
        identifier = f"{number:08x}{episode.digest()[:24]}"
        np.savez_compressed(
            folder / f"{now}-{identifier}-{rows - 1}.npz",
            image=episode.image.transpose(0, 2, 3, 1),  # (T, Y, X, C)
            action=episode.action,
            reward=episode.reward,
            is_first=row == 0,
            is_last=row == rows - 1,
            is_terminal=episode.terminal,
        )


def minari(folder: Path, episodes: Iterable[Episode], spec: Spec) -> None:
    """A Minari dataset of the folder's name, for minari.load_dataset with MINARI_DATASETS_PATH=<the folder above>."""
    minari_dataset.write(folder, episodes, spec, folder.name)


FORMATS: dict[str, Callable[[Path, Iterable[Episode], Spec], None]] = {"dreamer_v2": dreamer_v2, "minari": minari}
