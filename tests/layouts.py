"""Small recordings in the layouts of other projects, written as those write them. In this world a picture shows the
action that led to it, and the reward is that action: rows that are paired wrongly cannot go unseen.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldmodel.replay.episodes import Episode

SIZE = 32
LENGTHS = (9, 6, 12, 6)  # actions of the episodes


class Lived(NamedTuple):
    """N actions, N + 1 pictures."""

    image: np.ndarray  # (N + 1, Y, X, 3)
    action: np.ndarray  # (N, 2)
    reward: np.ndarray  # (N,)
    died: bool


def lives() -> list[Lived]:
    rng = np.random.default_rng(0)
    found = []
    for number, length in enumerate(LENGTHS):
        action = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        image = rng.integers(60, size=(length + 1, SIZE, SIZE, 3)).astype(np.uint8)
        image[1:, :8] = np.rint(128 + 100 * action[:, 0]).astype(np.uint8)[:, None, None, None]
        found.append(Lived(image, action, action[:, 0].copy(), bool(number % 2)))
    return found


def shown(image: np.ndarray) -> np.ndarray:
    """The action that led to pictures (T, C, Y, X)."""
    return (image[:, 0, 1, 1].astype(np.float32) - 128) / 100


def z(rows: np.ndarray) -> np.ndarray:
    """With zeros in front."""
    return np.concatenate([np.zeros_like(rows[:1]), rows])


def at(rows: int, place: int) -> np.ndarray:
    return np.arange(rows) == place % rows


def save(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def hdf5(path: Path, **arrays: Any) -> None:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip")


def dots(shift: int, episodes: int = 6) -> Iterator[Episode]:
    """A dot that actions move, with every action moved by so many rows."""
    rng = np.random.default_rng(1)
    for _ in range(episodes):
        place, image = np.full(2, 0.5), []
        action = rng.uniform(-1, 1, (41, 2)).astype(np.float32)
        for row in action:
            place = (place + 0.08 * row).clip(0.1, 0.9)
            y, x = (place * SIZE).astype(int)
            image.append(np.zeros((1, SIZE, SIZE), np.uint8))
            image[-1][0, y - 2 : y + 2, x - 2 : x + 2] = 255
        yield of_pictures(np.array(image), np.roll(action, shift, 0))


def of_pictures(image: np.ndarray, action: np.ndarray) -> Episode:
    t = len(image)
    return Episode(image, action, np.zeros(t, np.float32), np.zeros(t, bool))


# ---- one function a project ----


def planet(folder: Path) -> None:
    for number, e in enumerate(lives()):
        name = f"20190803T120000-{number:032x}"
        save(folder / f"{name}.npz", image=e.image, action=z(e.action), reward=z(e.reward).astype(np.float64),
             position=np.zeros((len(e.image), 3)))  # fmt: skip


def dreamer_v1(folder: Path) -> None:
    for number, e in enumerate(lives()):
        rows = len(e.image)
        discount = np.ones(rows, np.float16)
        discount[-1] = not e.died
        save(folder / f"20210503T120000-{number:032x}-{rows}.npz", image=e.image, action=z(e.action).astype(np.float16),
             reward=z(e.reward), discount=discount, orientations=np.zeros((rows, 14)))  # fmt: skip


def dreamer_v2(folder: Path, **more: Any) -> None:
    for number, e in enumerate(lives()):
        rows = len(e.image)
        save(folder / f"20220503T120000-{number:032x}-{rows - 1}.npz", image=e.image, action=z(e.action),
             reward=z(e.reward), is_first=at(rows, 0), is_last=at(rows, -1),
             is_terminal=at(rows, -1) & e.died, **more)  # fmt: skip


def vd4rl(folder: Path) -> None:
    """The npz files; their terminals are all false, as there. Here not, to see that they are read."""
    for number, e in enumerate(lives()):
        rows = len(e.image)
        save(folder / f"20220601T120000-{number:032x}-{rows}.npz", image=e.image, action=z(e.action),
             reward=z(e.reward), discount=np.ones(rows), is_first=at(rows, 0), is_last=at(rows, -1),
             is_terminal=at(rows, -1) & e.died)  # fmt: skip


def vd4rl_hdf5(folder: Path) -> None:
    """Episodes after each other, in shards that are cut anywhere."""
    parts: dict[str, list[np.ndarray]] = {
        "observation": [],
        "action": [],
        "reward": [],
        "discount": [],
        "step_type": [],
    }
    for e in lives():
        rows = len(e.image)
        step = np.ones(rows)
        step[0], step[-1] = 0, 2
        for name, rows_of in zip(parts, (e.image.transpose(0, 3, 1, 2), z(e.action), z(e.reward),
                                         1.0 - (at(rows, -1) & e.died), step)):  # fmt: skip
            parts[name].append(rows_of)
    whole = {name: np.concatenate(rows) for name, rows in parts.items()}
    for number, cut in enumerate(np.array_split(np.arange(len(whole["reward"])), 3)):
        hdf5(folder / f"{number}.hdf5", **{name: rows[cut] for name, rows in whole.items()})


def dreamer_v3(folder: Path, linked: bool = True, discrete: bool = False, **more: Any) -> None:
    """A stream of steps, cut every 10. The action is the one chosen at the row, none in last rows."""
    rows: dict[str, list[np.ndarray]] = {}
    for e in lives():
        t = len(e.image)
        action: np.ndarray = np.concatenate([e.action, np.zeros_like(e.action[:1])])
        if discrete:
            action = ((action[:, 0] > 0) + 2 * (action[:, 0] > 0.5)).astype(np.int32)
        parts = dict(image=e.image, reward=z(e.reward), is_first=at(t, 0), is_last=at(t, -1),
                     is_terminal=at(t, -1) & e.died, action=action, stepid=np.zeros((t, 20), np.uint8))  # fmt: skip
        for name, part in parts.items():
            rows.setdefault(name, []).append(part)
    rows["dyn/deter"] = [np.zeros((sum(LENGTHS) + len(LENGTHS), 8), np.float16)]
    whole = {name: np.concatenate(parts) for name, parts in rows.items()} | more
    names = [f"{number:022x}" for number in (5, 3, 9, 1, 0)]  # not in the order of time; the last one is none
    for number, begin in enumerate(range(0, len(whole["reward"]), 10)):
        part = {name: values[begin : begin + 10] for name, values in whole.items()}
        after = names[number + 1] if linked else f"{77 + number:022x}"
        name = f"20260525T120000F{number:06}-{names[number]}-{after}-{len(part['reward'])}"
        save(folder / f"{name}.npz", **part)


def dreamer_v3_broken(folder: Path) -> None:
    dreamer_v3(folder, linked=False)


def world_models(folder: Path, last: bool = False) -> None:
    """hardmaru: a picture before each action; 16 bits, no rewards, no terminals."""
    for number, e in enumerate(lives()):
        save(
            folder / "record" / f"{7**number}.npz",
            obs=e.image if last else e.image[:-1],
            action=e.action.astype(np.float16),
        )


def world_models_last(folder: Path) -> None:
    world_models(folder, last=True)


def world_models_ctallec(folder: Path, planned: int = 12) -> None:
    """A picture after each action, none at reset; all actions that were planned; done at the time limit, too."""
    for number, e in enumerate(lives()):
        n = len(e.action)
        action = np.concatenate([e.action, np.ones((planned - n, 2), np.float32)])
        save(folder / f"thread_{number % 2}" / f"rollout_{number}.npz", observations=e.image[1:], rewards=e.reward,
             actions=action, terminals=at(n, -1))  # fmt: skip


def drqv2(folder: Path) -> None:
    for number, e in enumerate(lives()):
        frames = e.image.transpose(0, 3, 1, 2)
        past = [np.concatenate([frames[:1]] * lag + [frames[: len(frames) - lag]]) for lag in (2, 1, 0)]
        save(folder / f"20210719T120000_{number}_{len(e.action)}.npz", observation=np.concatenate(past, 1),
             action=z(e.action), reward=z(e.reward)[:, None],
             discount=np.ones((len(e.image), 1), np.float32))  # fmt: skip


def ogbench(folder: Path) -> None:
    """All in one file, a picture before each action; no rewards, and terminals that are mere ends."""
    found = lives()
    ends = np.concatenate([at(len(e.action), -1) for e in found])
    save(folder / "visual-dot-play-v0.npz", observations=np.concatenate([e.image[:-1] for e in found]),
         actions=np.concatenate([e.action for e in found]), terminals=ends, qpos=np.zeros((len(ends), 4)))  # fmt: skip


def stable_worldmodel(folder: Path) -> None:
    """Actions moved a row ahead, so that the last one is not a number; where episodes begin is in a table."""
    found = lives()
    lengths = np.array([len(e.image) for e in found])
    nan = np.full((1, 2), np.nan, np.float32)
    hdf5(folder / "dot.h5", pixels=np.concatenate([e.image for e in found]),
         action=np.concatenate([np.concatenate([e.action, nan]) for e in found]),
         reward=np.concatenate([np.append(np.nan, e.reward) for e in found]),
         terminated=np.concatenate([at(len(e.image), -1) & e.died for e in found]),
         ep_len=lengths, ep_offset=np.cumsum(lengths) - lengths)  # fmt: skip


def minari(folder: Path, nested: bool = True, jpeg: bool = False, **space: Any) -> None:
    """Through its package: a Dict observation, and actions in -2..2."""
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    data = folder / "dot" / "play-v0" / "data"
    data.mkdir(parents=True)
    picture = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    seen = spaces.Dict({"pixels": picture, "state": spaces.Box(-1, 1, (3,), np.float64)}) if nested else picture
    storage = MinariStorage.new(data, seen, spaces.Box(-2, 2, (2,), np.float32), data_format="hdf5", jpeg_encoding=jpeg)
    buffers = []
    for e in lives():
        n = len(e.action)
        image = e.image if not jpeg else np.repeat(e.image[:, :1, :1], SIZE, 1).repeat(SIZE, 2)  # as JPEG keeps it
        buffers.append(EpisodeBuffer(
            observations={"pixels": list(image), "state": list(np.zeros((n + 1, 3)))} if nested else list(image),
            actions=list(2 * e.action), rewards=list(e.reward), terminations=list(at(n, -1) & e.died),
            truncations=list(at(n, -1) & (not e.died)), infos={},
        ))  # fmt: skip
    storage.update_episodes(buffers)


def metadata(folder: Path, **changes: Any) -> None:
    """Change what a Minari dataset says of itself; None takes a key out."""
    (path,) = folder.rglob("metadata.json")
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


WRITERS: dict[str, Callable[[Path], None]] = {
    writer.__name__: writer
    for writer in (planet, dreamer_v1, dreamer_v2, vd4rl, vd4rl_hdf5, dreamer_v3, dreamer_v3_broken, world_models,
                   world_models_last, world_models_ctallec, drqv2, ogbench, stable_worldmodel, minari)
}  # fmt: skip
