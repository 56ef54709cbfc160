"""Recorded episodes arrive as they were recorded, whatever form they have; what is wrong is refused, and said."""

import io
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from worldmodel.base import Spec
from worldmodel.replay import npz, recorded
from worldmodel.replay.buffer import Replay, ReplayConfig
from worldmodel.replay.episodes import Episode
from worldmodel.replay.recorded import Options, RecordedError, Recordings

MIXED = Spec((3, 16, 20), 3, False)


def write(folder: Path, name: str, **arrays: Any) -> None:
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", **arrays)


def arrays(actions: int = 4, spec: Spec = tiny.SPEC, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """An episode's arrays in our time; a change of None leaves one out."""
    parts = tiny.episode(actions, spec, seed, terminal=True)._asdict() | changes
    return {name: part for name, part in parts.items() if part is not None}


def discrete(actions: int = 4, seed: int = 0) -> Episode:
    choice = np.random.default_rng(seed).integers(3, size=actions + 1)
    choice[1] = 2  # the largest is there
    action = np.eye(3, dtype=np.float32)[choice]
    action[0] = 0
    return tiny.episode(actions, tiny.DISCRETE, seed, terminal=True)._replace(action=action)


def read(folder: Path, layout: str | None = "action_led_to_image") -> Recordings:
    return recorded.read(folder, Options(layout))


def same(one: Episode, other: Episode) -> bool:
    return one.digest() == other.digest()  # values, shapes and types


def refusal(folder: Path, layout: str | None = "action_led_to_image") -> str:
    with pytest.raises(RecordedError) as caught:
        list(read(folder, layout))
    return str(caught.value)


# ---- our own chunks ----


@pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE], ids=["continuous", "discrete"])
def test_a_replay_that_was_saved_is_read_back(spec: Spec, tmp_path: Path) -> None:
    config = ReplayConfig(batch_size=2, batch_length=3, capacity=100, storage="memory", memory_gb=None, context=False)
    ring = Replay(config, spec)
    for number in range(5):
        ring.add(discrete(number + 1, number) if spec.discrete else tiny.episode(number + 1, spec, number))
    chunks = ring.save(tmp_path)
    found = read(tmp_path)
    assert found.spec == spec
    assert [episode.digest() for episode in found] == sorted(chunk.digest for chunk in chunks)
    assert found.lengths == [chunk.rows for chunk in sorted(chunks)]
    copy, again = (Replay(ring.config, found.spec) for _ in range(2))
    copy.load(tmp_path, sorted(chunks))
    for episode in found:  # a second time
        again.add(episode)
    assert again.digest() == copy.digest() and len(again) == len(ring)


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, name in enumerate("cab"):
        write(tmp_path, name, **arrays(number + 1))
    (tmp_path / "notes.txt").write_text("not an episode")
    assert read(tmp_path).lengths == [3, 4, 2]
    assert [len(episode.reward) for episode in read(tmp_path)] == [3, 4, 2]


def test_reading_a_folder_unpacks_no_images_and_the_episodes_one_file_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write(tmp_path, name, **arrays())
    unpacked: list[int] = []
    rows = npz.NpzRows.read
    monkeypatch.setattr(npz.NpzRows, "read", lambda self, count: unpacked.append(count) or rows(self, count))
    found = read(tmp_path)
    assert unpacked == [5]  # of one file, to see their form
    unpacked.clear()
    next(iter(found))
    assert unpacked == [5]


# ---- anybody's files ----


@pytest.mark.parametrize(
    ("axes", "channels"),
    [("CYX", 1), ("CYX", 3), ("YXC", 1), ("YXC", 3), ("fortran", 1), ("fortran", 3), ("YX", 1)],
)
def test_images_in_any_order_become_channels_rows_columns(axes: str, channels: int, tmp_path: Path) -> None:
    spec = MIXED._replace(image_shape=(channels, 16, 20))
    whole = tiny.episode(4, spec)
    image = {
        "CYX": whole.image,
        "YXC": whole.image.transpose(0, 2, 3, 1).copy(),
        "fortran": np.asfortranarray(whole.image),
        "YX": whole.image[:, 0],
    }[axes]
    write(tmp_path, "a", **whole._asdict() | {"image": image})
    found = read(tmp_path)
    assert found.spec == spec and all(map(same, found, [whole]))
    assert all(episode.image.flags.c_contiguous for episode in found)


def test_files_may_differ_in_the_order_of_axes(tmp_path: Path) -> None:
    one, other = tiny.episode(4, MIXED), tiny.episode(3, MIXED, seed=1)
    write(tmp_path, "a", **one._asdict())
    write(tmp_path, "b", **other._asdict() | {"image": other.image.transpose(0, 2, 3, 1)})
    assert all(map(same, read(tmp_path), [one, other]))


def test_colours_last_wins_where_both_orders_fit(tmp_path: Path) -> None:
    write(tmp_path, "a", **arrays(image=np.zeros((5, 3, 16, 3), np.uint8)))  # as envs/pixels.py decides
    assert read(tmp_path).spec.image_shape == (3, 3, 16)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f8", np.int8])
def test_numbers_of_any_type_become_ours(kind: Any, tmp_path: Path) -> None:
    whole = arrays(reward=np.array([0, 1, -2, 0, 3]), action=np.array([[0, 0], [1, -1], [0, 1], [-1, -1], [1, 0]]))
    wanted = Episode(
        whole["image"], *(whole[name].astype(np.float32) for name in ("action", "reward")), whole["terminal"]
    )
    whole |= {name: whole[name].astype(kind) for name in ("action", "reward", "terminal")}
    write(tmp_path, "a", **whole)
    assert all(map(same, read(tmp_path), [wanted]))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_arrays_of_every_version_of_the_format_are_read(version: tuple[int, int], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, array in arrays().items():
            with archive.open(f"{name}.npy", "w") as file, warnings.catch_warnings(action="ignore"):
                np.lib.format.write_array(file, array, version)
    assert all(map(same, read(tmp_path), [tiny.episode(4, terminal=True)]))


def test_extra_arrays_are_neither_read_nor_minded(tmp_path: Path) -> None:
    write(tmp_path, "a", **arrays(), info=np.array([{"a": 1}], object), discount=np.ones(5))
    assert all(map(same, read(tmp_path), [tiny.episode(4, terminal=True)]))


# ---- time ----


def test_actions_that_follow_their_image_are_shifted(tmp_path: Path) -> None:
    whole = tiny.episode(4, terminal=True)
    write(tmp_path, "a", image=whole.image, **{name: getattr(whole, name)[1:] for name in Episode._fields[1:]})
    assert all(map(same, read(tmp_path, None), [whole]))
    write(tmp_path, "a", image=whole.image, action=whole.action[1:], reward=whole.reward, terminal=whole.terminal)
    with pytest.raises(RecordedError, match="5 images, 4 actions, 5 rewards, 5 terminals, and 1 episode"):
        read(tmp_path, None)


@pytest.mark.parametrize("part", ["zero", "action", "reward", "integer"])
def test_as_many_actions_as_images_can_be_read_in_two_ways(part: str, tmp_path: Path) -> None:
    """Also if the first action and reward happen to be zero: that is no sign."""
    whole = arrays()
    if part == "integer":
        whole["action"] = np.array([1, 0, 0, 1, 0])
    elif part != "zero":
        whole[part][0] = 0.5
    write(tmp_path, "a", **whole)
    lines = refusal(tmp_path, None).splitlines()
    zero = "are" if part == "zero" else "are not"
    assert f"as many actions as images, their first rows {zero} zero, and neither the names of arrays" in lines[0]
    assert [line.split()[0] for line in lines[1:3]] == [
        "data_layout=action_led_to_image",
        "data_layout=action_follows_image",
    ]
    (led,), (follows,) = (read(tmp_path, f"action_{name}_image") for name in ("led_to", "follows"))
    action = whole["action"] if part != "integer" else np.eye(2)[whole["action"]]
    assert np.array_equal(led.action[1:], action[1:].astype(np.float32)) and not led.action[0].any()
    assert np.array_equal(follows.action[1:], action[:-1].astype(np.float32)) and not follows.action[0].any()
    assert np.array_equal(led.reward[1:], whole["reward"][1:]) and np.array_equal(
        follows.reward[1:], whole["reward"][:-1]
    )
    assert led.terminal[-1] and not follows.terminal.any()  # it came after the last image


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("kind", ["continuous", "one-hot", "integers"])
def test_a_file_may_hold_several_episodes(follows: bool, kind: str, tmp_path: Path) -> None:
    wanted = [(tiny.episode if kind == "continuous" else discrete)(n, seed=n) for n in (3, 1, 5)]
    wanted[1] = wanted[1]._replace(terminal=np.zeros(2, bool))
    first = np.concatenate([np.arange(len(episode.reward)) == 0 for episode in wanted])
    parts = {name: np.concatenate([getattr(episode, name) for episode in wanted]) for name in Episode._fields}
    if kind == "integers":
        parts["action"] = parts["action"].argmax(1)
    if follows:
        parts |= {name: parts[name][~first] for name in Episode._fields[1:]}
    write(tmp_path, "a", **parts, first=first.astype(np.uint8))
    found = read(tmp_path, None if follows else "action_led_to_image")
    assert found.lengths == [4, 2, 6] and found.spec.discrete == (kind != "continuous")
    assert len(list(found)) == 3 and all(map(same, found, wanted))


# ---- actions ----


def test_integers_are_discrete_and_count_over_all_files(tmp_path: Path) -> None:
    for name, action in (("a", [0, 0, 1, 1, 0]), ("b", [0, 4, 0, 1, 2]), ("c", [0, 0, 0, 0, 0])):
        write(tmp_path, name, **arrays(action=np.array(action, np.uint8)))
    found = read(tmp_path)
    assert (found.spec.action_dim, found.spec.discrete) == (5, True)
    actions = [episode.action for episode in found]
    assert all(action.dtype == np.float32 and not action[0].any() for action in actions)
    assert [action[1:].argmax(1).tolist() for action in actions] == [[0, 1, 1, 0], [4, 0, 1, 2], [0, 0, 0, 0]]
    assert all((np.sort(action[1:])[:, -2:] == [0, 1]).all() for action in actions)


def test_one_hot_rows_are_discrete_only_if_they_are_in_all_files(tmp_path: Path) -> None:
    rows = np.eye(2)[[0, 0, 1, 1, 0]] * [[0], [1], [1], [1], [1]]
    write(tmp_path, "a", **arrays(action=rows))
    assert read(tmp_path).spec == tiny.SPEC._replace(discrete=True)
    for other in (np.abs(rows - 0.25), rows * [[0], [1], [0], [1], [1]], (rows > 5) | [[0], [1], [1], [1], [1]]):
        write(tmp_path, "b", **arrays(action=other * [[0], [1], [1], [1], [1]]))  # fractions, no 1, two 1
        assert read(tmp_path).spec == tiny.SPEC
    write(tmp_path / "single", "a", **arrays(action=np.array([[0.0], [1], [1], [1], [1]])))
    assert not read(tmp_path / "single").spec.discrete  # one column says nothing


# ---- what is wrong, is said ----

LATE = np.array([0, 0, 1, 0, 1])
WRONG = {
    "frame stack": (
        dict(image=np.zeros((5, 4, 16, 16), np.uint8)),
        "its images are (5, 4, 16, 16): wanted (T, C, Y, X)",
    ),
    "alpha": (dict(image=np.zeros((5, 16, 16, 4), np.uint8)), "no alpha"),
    "flat image": (dict(image=np.zeros((5, 256), np.uint8)), "its images are (5, 256): wanted"),
    "no pixels": (dict(image=np.zeros((5, 1, 0, 16), np.uint8)), "its images are uint8 (5, 1, 0, 16): wanted"),
    "no rows": (dict(image=np.zeros((0, 1, 16, 16), np.uint8)), "'image' is (0, 1, 16, 16): there are no images in it"),
    "one image": (arrays(0), "an episode of a single image, without an action"),
    "no image array": (dict(image=None), "it has no array 'image'"),
    "too many actions": (dict(action=np.zeros((6, 2))), "5 images, 6 actions, 5 rewards, 5 terminals"),
    "too few actions": (dict(action=np.zeros((3, 2))), "5 images, 3 actions, 5 rewards, 5 terminals"),
    "NaN reward": (dict(reward=np.array([0, 1, np.nan, 0, 0])), "'reward' is nan somewhere: all must be finite"),
    "infinite reward": (dict(reward=np.array([0, 1, -np.inf, 0, 0])), "'reward' is -inf"),
    "reward beyond float32": (dict(reward=np.array([0, 1, 1e300, 0, 0])), "'reward' is inf"),
    "a single reward": (dict(reward=np.float32(0)), "'reward' () must be (T,)"),
    "early terminal": (dict(terminal=LATE), "'terminal' is true in row 2 of 5, before its episode's last one"),
    "terminal counts": (dict(terminal=LATE * 2), "'terminal' must be bool, or 0 and 1"),
    "NaN terminal": (dict(terminal=LATE * np.nan), "'terminal' must be bool"),
    "unscaled": (
        dict(action=np.array([[0, 0], [2.5, 1], [0, -3], [0, 0], [0, 0]])),
        "largest 'action' is 3: they must",
    ),
    "just unscaled": (dict(action=np.array([[0, 0], [1.001, 1], [0, 0], [0, 0], [0, 0]])), "is 1.001: they must be sc"),
    "NaN action": (dict(action=np.array([[0, 0], [np.nan, 1], [0, 0], [0, 0], [0, 0]])), "largest 'action' is nan"),
    "huge action": (dict(action=np.array([[0, 0], [1e300, 1], [0, 0], [0, 0], [0, 0]])), "largest 'action' is inf"),
    "flat floats": (dict(action=np.zeros(5)), "its actions are rows of 1 numbers, those of fair.npz rows of 2 numbers"),
    "no reward array": (dict(reward=None), "its arrays are no rewards and terminals, those of fair.npz rewards and"),
    "no terminal array": (dict(terminal=None), "its arrays are rewards and no terminals, those of fair.npz"),
    "several at once": (
        dict(image=None, action=None, reward=np.array(list("01234"))),
        "no array 'image'; there is reward, terminal; it has no array 'action'; 'reward' is <U1: save it as numbers",
    ),
    "several, of rows": (
        dict(image=np.zeros((5, 5, 16, 16), np.uint8), action=np.full((5, 2), 3), reward=np.full(5, np.nan)),
        "move on by one frame from row to row: keep one frame, and no alpha; 'reward' is nan somewhere: all must be "
        "finite; the largest 'action' is 3",
    ),
    "no columns": (dict(action=np.zeros((5, 0))), "'action' is float64 (5, 0)"),
    "a third axis": (dict(action=np.zeros((5, 2, 1))), "'action' is float64 (5, 2, 1)"),
    "negative integer": (dict(action=np.array([0, -1, 0, 0, 0])), "integers in -1..0: they must lie in 0..999"),
    "huge integer": (dict(action=np.array([0, 10**9, 0, 0, 0])), "integers in 0..1000000000"),
    "text": (dict(reward=np.array(list("01234"))), "'reward' is <U1: save it as numbers"),
    "complex": (dict(action=np.zeros((5, 2), complex)), "'action' is complex128: save it as numbers"),
    "first too short": (dict(first=np.array([1, 0, 0])), "'first' must be (5,), one for each image, not (3,)"),
    "first counts": (dict(first=np.arange(5)), "'first' must be bool, or 0 and 1"),
    "terminal inside": (
        dict(first=np.array([1, 0, 1, 0, 0]), terminal=LATE, action=np.zeros((5, 2)), reward=np.zeros(5)),
        "'terminal' is true in row 2 of 5",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_file_that_is_wrong_is_named_and_explained(fault: str, tmp_path: Path) -> None:
    changes, said = WRONG[fault]
    for name in ("fair", "good"):
        write(tmp_path, name, **arrays())
    write(tmp_path, "bad", **arrays(**changes))
    lines = refusal(tmp_path).splitlines()
    assert lines[0] == f"1 of 3 files in {tmp_path} cannot be used:"
    assert len(lines) == 2 and lines[1].startswith("  bad.npz: ") and said in lines[1]


def test_files_that_are_not_alike_are_named(tmp_path: Path) -> None:
    for name in "bcd":
        write(tmp_path, name, **arrays())
    write(tmp_path, "a", **arrays(4, MIXED._replace(action_dim=2)))
    write(tmp_path, "e", **arrays(4, tiny.SPEC._replace(action_dim=3)))
    write(tmp_path, "f", **arrays(action=np.arange(5)))
    assert refusal(tmp_path).splitlines()[1:] == [
        "  a.npz: its images are (3, 16, 20), those of b.npz (1, 16, 16): all files must be alike; "
        "data_size=[Y,X] makes them so, and data_gray=true",
        "  e.npz: its actions are rows of 3 numbers, those of a.npz rows of 2 numbers: all files must be alike",
        "  f.npz: its actions are integers, those of a.npz rows of 2 numbers: all files must be alike",
    ]


@pytest.mark.parametrize(("bad", "lines"), [(10, 11), (13, 12)])
def test_a_long_list_is_cut(bad: int, lines: int, tmp_path: Path) -> None:
    write(tmp_path, "good", **arrays())
    for number in range(bad):
        (tmp_path / f"{number:03}.npz").write_bytes(b"")
    said = refusal(tmp_path).splitlines()
    assert len(said) == lines and said[0].startswith(f"{bad} of {bad + 1} files")
    assert said[10].startswith("  009.npz") and (bad == 10 or said[11] == "  ... and 3 more")


def test_folders_without_episodes_are_refused(tmp_path: Path) -> None:
    assert "there is no folder" in refusal(tmp_path / "missing")
    assert refusal(tmp_path).endswith("holds no recorded episodes, .npz or .hdf5 files, nor do its folders")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_text("rows")
    assert "it holds .parquet files (LeRobot and others: write the episodes as .npz)" in refusal(tmp_path)


def test_a_file_or_a_folder_of_folders_is_read_too(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "episode", **arrays(4 + number))
    assert read(tmp_path).lengths == [5, 6]
    assert read(tmp_path / "b" / "episode.npz").lengths == [6]
    write(tmp_path / "b", "episode", **arrays(reward=None))
    assert "  b/episode.npz: its arrays are no rewards" in refusal(tmp_path)


# ---- damage and malice ----


@pytest.mark.parametrize("content", [b"", b"PK", b"hello, I am a text", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'"])
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, "good", **arrays())
    (tmp_path / "bad.npz").write_bytes(content)
    assert "bad.npz: damaged, or no .npz file" in refusal(tmp_path)
    (tmp_path / "bad.npz").unlink()
    (tmp_path / "bad.npz").mkdir()
    assert "bad.npz: damaged, or no .npz file" in refusal(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", **arrays())
    whole = (tmp_path / "a.npz").read_bytes()
    for size in (1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.npz").write_bytes(whole[:size])
        assert "a.npz: damaged, or no .npz file" in refusal(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_anywhere_is_found_or_harmless(save: Any, tmp_path: Path) -> None:
    path, whole, found = tmp_path / "a.npz", tiny.episode(2, Spec((1, 4, 4), 2, False)), 0
    save(path, **whole._asdict())
    good = path.read_bytes()
    for byte in range(0, len(good), 2):
        path.write_bytes(good[:byte] + bytes([good[byte] ^ 1 << byte // 2 % 8]) + good[byte + 1 :])
        try:
            assert all(map(same, read(tmp_path, "worldmodel"), [whole]))
        except RecordedError as error:
            assert str(error).count("a.npz") == 1
            found += 1
    assert found > len(good) / 2 / 2


def test_images_that_are_damaged_or_exchanged_later_are_found(tmp_path: Path) -> None:
    spec = tiny.SPEC._replace(image_shape=(3, 64, 64))
    for name in "ab":
        write(tmp_path, name, **arrays(4, spec))
    path = tmp_path / "b.npz"
    good = path.read_bytes()
    path.write_bytes(good[:50_000] + bytes([good[50_000] ^ 1]) + good[50_001:])  # far behind the images' header
    episodes = iter(read(tmp_path))
    next(episodes)
    with pytest.raises(RecordedError, match=r"b\.npz cannot be used: damaged"):
        next(episodes)
    for image in (np.zeros((6, 3, 64, 64), np.uint8), np.zeros((5, 3, 64, 64)), None):
        path.write_bytes(good)
        episodes = iter(read(tmp_path))
        write(tmp_path, "b", **arrays(4, spec, image=image))
        with pytest.raises(RecordedError, match=r"b\.npz cannot be used: its images changed|it has no array"):
            list(episodes)
    path.write_bytes(good)
    episodes = iter(read(tmp_path))
    path.unlink()
    with pytest.raises(RecordedError, match=r"b\.npz cannot be used: .*No such file"):
        list(episodes)


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (open, ("unpickled", "w"))


@pytest.mark.parametrize("name", [*Episode._fields, "first"])
def test_nothing_is_unpickled(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", "a", **arrays(**{name: np.array([Payload()] * 5, object)}))
    assert f"a.npz: '{name}' holds Python objects (dtype object), which are never loaded" in refusal(tmp_path / "data")
    assert not (tmp_path / "unpickled").exists()


def forge(path: Path, name: str, claim: tuple[int, ...], data: bytes = b"", descr: str = "|u1") -> None:
    """An episode in which one array's own header claims another shape than it has."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, array in arrays().items():
            file = io.BytesIO()
            shape, kind, content = (
                (claim, descr, data) if part == name else (array.shape, array.dtype.str, array.tobytes())
            )
            np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
            archive.writestr(f"{part}.npy", file.getvalue() + content)


@pytest.mark.parametrize("name", ["image", "action"])
@pytest.mark.parametrize("claim", [(1 << 50, 1, 2, 2), (-1, 1, 2, 2), (-5, -1), (5, 1, 1, 1), (1 << 70, 0)])
def test_a_header_that_lies_is_refused(name: str, claim: tuple[int, ...], tmp_path: Path) -> None:
    forge(
        tmp_path / "a.npz", name, claim, b"12345" if claim[0] == -5 else b"1234" if claim[0] > 0 and claim[1] else b""
    )
    assert "a.npz: " in refusal(tmp_path)


@pytest.mark.parametrize(
    "descr", ["", "[]", "()", "[5]", "[('a',)]", "{}", "[('a', '|O')]", "('<f4', (1 << 40,))", "('|u1', -1)", "(" * 500]
)
def test_headers_of_any_kind_are_refused(descr: str, tmp_path: Path) -> None:
    for text in (f"{{'descr': {descr}, 'fortran_order': False, 'shape': (5,)}}", descr, "{1: 2, 'a': 3, (): 4}"):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            for part in Episode._fields:
                archive.writestr(f"{part}.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
        assert "a.npz: " in refusal(tmp_path)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a", **arrays(999, tiny.SPEC))
    size = 1000 * 256  # of the images
    monkeypatch.setattr(recorded, "available_memory", lambda: 4 * size)
    assert read(tmp_path).lengths == [1000]
    monkeypatch.setattr(recorded, "available_memory", lambda: 4 * size - 4)
    assert f"'image' would unpack to {size:,} bytes; {size - 1:,} are allowed" in refusal(tmp_path)
    monkeypatch.setattr(recorded, "available_memory", lambda: 4 * size)
    write(tmp_path, "a", **arrays(999, reward=np.zeros(size // 8 // 8 + 1)))
    assert "'reward' would unpack to" in refusal(tmp_path)


@pytest.mark.parametrize("honest", [True, False])
def test_an_array_that_is_larger_than_it_says_is_not_unpacked(honest: bool, tmp_path: Path) -> None:
    """The images' header says a few bytes, and there are fifty million; the archive's directory tells, or lies too."""
    path, there, said = tmp_path / "a.npz", 50_000_000, 5 * 256
    forge(path, "image", (5, 1, 16, 16), bytes(there))
    content, (true, false) = path.read_bytes(), ((size + 128).to_bytes(4, "little") for size in (there, said))
    assert content.count(true) == 2
    path.write_bytes(content if honest else content.replace(true, false))
    del content
    tracemalloc.start()
    try:
        wanted = (
            "'image' says that it is uint8 (5, 1, 16, 16), but has 50,000,000 bytes" if honest else "a.npz: damaged"
        )
        assert wanted in refusal(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < there / 10
    finally:
        tracemalloc.stop()
