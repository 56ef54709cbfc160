"""Recordings of other projects arrive with each action at the picture that it led to; where that is not certain, they
are refused with both readings.
"""

import itertools
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
from layouts import LENGTHS, SIZE, WRITERS, at, dots, lives, of_pictures, save, shown, z

from worldmodel.base import Spec
from worldmodel.replay import check, evidence
from worldmodel.replay.recorded import Options, RecordedError, Recordings, read

DEATHS = [False, True, False, True]
# What is expected where a project does not keep all: the layout's name, lengths in rows, terminals.
LOST = {
    "planet": ("planet", None, [False] * 4),
    "vd4rl_hdf5": ("vd4rl", [10, 3, 4, 8, 5, 7], [False, False, True, False, False, True]),
    "dreamer_v3_broken": ("dreamer_v3", [10, 7, 3, 10, 7], [False, True, False, False, True]),
    "world_models": ("world_models", [9, 6, 12, 6], [False] * 4),
    "world_models_last": ("action_follows_image", None, [False] * 4),
    "world_models_ctallec": ("world_models_ctallec", [9, 12, 6, 6], [True, False, True, True]),  # 12: the time limit
    "drqv2": ("drqv2", None, [False] * 4),
    "ogbench": ("ogbench", [9, 6, 12, 6], [False] * 4),
}


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(RecordedError) as caught:
        list(read(folder, Options(**options)))
    return str(caught.value)


def paired(found: Recordings) -> bool:
    """Whether each action is at the picture that it led to, and each reward."""
    rewards = "no rewards" not in " ".join(found.found)
    return all(
        np.allclose(shown(episode.image)[1:], episode.action[1:, 0], atol=0.006)
        and np.allclose(episode.reward[1:], episode.action[1:, 0] if rewards else 0, atol=2e-3)
        and not episode.action[0].any()
        and not episode.reward[0]
        for episode in found
    )


# ---- every project ----


@pytest.mark.parametrize("writer", WRITERS)
def test_a_project_is_recognised_and_its_rows_are_paired(writer: str, tmp_path: Path) -> None:
    WRITERS[writer](tmp_path)
    found = read(tmp_path)
    name, rows, terminals = LOST.get(writer, (writer, None, DEATHS))
    assert (found.layout.name, found.spec) == (name, Spec((3, SIZE, SIZE), 2, False))
    assert found.lengths == (rows or [n + 1 for n in LENGTHS])
    assert paired(found) and [bool(episode.terminal[-1]) for episode in found] == terminals
    assert not any(episode.terminal[:-1].any() for episode in found)
    assert name in found.found[0] and (
        name == "minari" or "because" in found.found[0]
    )  # it says what it found, and why


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "minari"])
def test_named_rightly_it_is_read_alike_and_wrongly_it_is_not(writer: str, tmp_path: Path) -> None:
    WRITERS[writer](tmp_path)
    found = read(tmp_path)
    again = read(tmp_path, Options(found.layout.name))
    assert [one.digest() for one in found] == [one.digest() for one in again]
    other = "action_follows_image" if found.layout.action == "led" else "action_led_to_image"
    try:
        assert not paired(read(tmp_path, Options(other)))
    except RecordedError as error:
        assert "data_layout=" in str(error) or "must be" in str(error)


def test_chunks_that_are_linked_make_whole_episodes(tmp_path: Path) -> None:
    layouts.dreamer_v3(tmp_path)
    for one, other in zip(read(tmp_path), lives(), strict=True):
        assert np.array_equal(one.image, other.image.transpose(0, 3, 1, 2)) and np.array_equal(
            one.action[1:], other.action
        )
    assert len(list(tmp_path.iterdir())) == 4


def test_chunks_with_discrete_actions(tmp_path: Path) -> None:
    layouts.dreamer_v3(tmp_path, discrete=True)
    found = read(tmp_path)
    assert (found.spec.action_dim, found.spec.discrete) == (4, True)
    for episode in found:
        value = shown(episode.image)[1:]
        clear = np.abs(value % 0.5) > 0.01  # not at a step between two actions
        assert (episode.action[1:].argmax(1) == (value > 0) + 2 * (value > 0.5))[clear].all()


# ---- brothers: what tells DreamerV2 from DreamerV3 when names do not ----


def rows_alone(folder: Path, first: np.ndarray, last: np.ndarray) -> None:
    for number, e in enumerate(lives()):
        t = len(e.image)
        action = np.concatenate([first[None], e.action[1:], last[None]]).astype(np.float32)
        save(folder / f"{number}.npz", image=e.image, action=action, reward=z(e.reward), is_first=at(t, 0),
             is_last=at(t, -1), is_terminal=at(t, -1) & e.died)  # fmt: skip


def test_two_dreamers_are_told_apart_by_rows_without_an_action(tmp_path: Path) -> None:
    zero, some = np.zeros(2), np.full(2, 0.5)
    for first, last, name in ((zero, some, "dreamer_v2"), (some, zero, "dreamer_v3")):
        rows_alone(tmp_path, first, last)
        assert read(tmp_path).layout.name == name
    for first, last, what in ((zero, zero, "both first and last"), (some, some, "neither first nor last")):
        rows_alone(tmp_path, first, last)
        said = refusal(tmp_path)
        assert (
            f"{what} rows hold zeros" in said and "data_layout=dreamer_v2" in said and "data_layout=dreamer_v3" in said
        )


def test_names_of_files_alone_do_not_make_a_layout(tmp_path: Path) -> None:
    """PlaNet's names, but first rows that are not its."""
    for number, e in enumerate(lives()):
        save(tmp_path / f"20190803T120000-{number:032x}.npz", image=e.image[:-1], action=e.action, reward=e.reward)
    said = refusal(tmp_path)
    assert "data_layout=action_led_to_image" in said and "data_layout=action_follows_image" in said
    assert paired(read(tmp_path, Options("action_follows_image")))


@pytest.mark.parametrize("named", ["worldmodel", "action_led_to_image"])
def test_a_run_is_read_from_its_replay(named: str, tmp_path: Path) -> None:
    episodes = [e.image.transpose(0, 3, 1, 2) for e in lives()]
    for number, (image, e) in enumerate(zip(episodes, lives())):
        name = f"{number:064x}" if named == "worldmodel" else str(number)
        save(tmp_path / "replay" / f"{name}.npz", image=image, action=z(e.action), reward=z(e.reward),
             terminal=at(len(image), -1) & e.died)  # fmt: skip
    save(tmp_path / "validation" / "0.npz", image=np.zeros(3))
    (tmp_path / "run.json").write_text("{}")
    found = read(tmp_path, Options(None if named == "worldmodel" else named))
    assert found.layout.name == named and paired(found)


# ---- brothers: numbers, forms and marks of other kinds ----


def generic(folder: Path, image: Any = lambda image: image, **change: Any) -> None:
    """Rows of the reading action_led_to_image; each array goes through its function."""
    for number, e in enumerate(lives()):
        t = len(e.image)
        arrays = dict(action=z(e.action), reward=z(e.reward), terminal=at(t, -1) & e.died)
        save(folder / f"{number}.npz", image=image(e.image),
             **{name: change.get(name, lambda a: a)(array) for name, array in arrays.items()})  # fmt: skip


def led(folder: Path, **options: Any) -> Recordings:
    return read(folder, Options("action_led_to_image", **options))


IMAGES = {
    "float": lambda image: image / 255,
    "half": lambda image: (image / 255).astype(np.float16),
    "a rounding error above": lambda image: np.where(image == image.max(), 1.0003, image / 255),
    "0..255 as float": lambda image: image.astype(np.float32),
    "int64": lambda image: image.astype(np.int64),
    "channels first": lambda image: image.transpose(0, 3, 1, 2),
    "alpha": lambda image: np.concatenate([image, np.full_like(image[..., :1], 255)], 3),
    "stack": lambda image: np.concatenate([image[[0, *range(len(image) - 1)]], image], 3),
    "stack, newest first": lambda image: np.concatenate([image, image[[0, *range(len(image) - 1)]]], 3),
    "stack in its own axis": lambda image: np.stack([image[[0, *range(len(image) - 1)]], image], 1),
    "stack of gray": lambda image: np.stack([image[[0, *range(len(image) - 1)], ..., 0], image[..., 0]], 1),
    "gray": lambda image: image[..., 0],
    "one channel": lambda image: image[..., :1],
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_any_kind_become_ours(kind: str, tmp_path: Path) -> None:
    generic(tmp_path, image=IMAGES[kind])
    found = led(tmp_path)
    channels = 1 if kind in ("gray", "one channel", "stack of gray") else 3
    assert found.spec.image_shape == (channels, SIZE, SIZE)
    if kind != "a rounding error above":
        assert paired(found)
    for one, other in zip(found, lives(), strict=True):
        wrong = np.abs(one.image.astype(int) - other.image.transpose(0, 3, 1, 2)[:, :channels])
        assert wrong[:, :, 8:].max() == 0 and wrong.max() <= (60 if kind == "a rounding error above" else 0)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (lambda image: image / 255 - 0.5, "its images are float64 in -0.5"),
        (lambda image: image.astype(np.int32) * 9, "its images are int32 in 0.."),
        (lambda image: image.astype(np.uint8)[..., [0, 1, 2, 0, 1]], "5 channels could be a stack of frames"),
        (lambda image: np.concatenate([image] * 2, 3), "6 channels could be a stack of frames"),
        (lambda image: image > 5, "its images are bool"),
        (lambda image: np.where(image > 100, np.nan, image / 255), "its images are float64 in nan..nan"),
    ],
)
def test_images_that_cannot_be_taken_are_explained(kind: Any, said: str, tmp_path: Path) -> None:
    generic(tmp_path, image=kind)
    assert said in refusal(tmp_path, layout="action_led_to_image")


def test_images_of_several_sizes_are_brought_to_one(tmp_path: Path) -> None:
    sizes = itertools.cycle((1, 2))
    generic(tmp_path, image=lambda image: image.repeat(step := next(sizes), 1).repeat(step, 2))
    assert "data_size=[Y,X]" in refusal(tmp_path, layout="action_led_to_image")
    found = led(tmp_path, size=(16, 16))
    assert found.spec.image_shape == (3, 16, 16) and paired(found)
    assert led(tmp_path, size=(48, 40), gray=True).spec.image_shape == (1, 48, 40)
    assert {episode.image.shape[1:] for episode in led(tmp_path, size=(48, 40), gray=True)} == {(1, 48, 40)}


@pytest.mark.parametrize("form", ["(n,)", "(n, 1)", "one-hot", "one-hot integers", "bool"])
def test_discrete_actions_of_any_form(form: str, tmp_path: Path) -> None:
    def chosen(action: np.ndarray) -> np.ndarray:
        number = np.digitize(action[:, 0], [-0.5, 0, 0.5])
        eye = np.eye(4, dtype=int)[number]
        eye[0] = 0
        return {"(n,)": number, "(n, 1)": number[:, None], "one-hot": eye.astype(np.float32),
                "one-hot integers": eye, "bool": eye.astype(bool)}[form]  # fmt: skip

    generic(tmp_path, action=chosen)
    found = led(tmp_path)
    assert (found.spec.action_dim, found.spec.discrete) == (4, True)
    for one, other in zip(found, lives(), strict=True):
        assert np.array_equal(one.action[1:].argmax(1), np.digitize(other.action[:, 0], [-0.5, 0, 0.5]))
        assert (one.action[1:].sum(1) == 1).all() and not one.action[0].any()


def test_actions_a_rounding_error_above_one_are_cut(tmp_path: Path) -> None:
    generic(tmp_path, action=lambda action: action / np.abs(action).max() * 1.0009)
    assert max(np.abs(episode.action).max() for episode in led(tmp_path)) == 1
    generic(tmp_path, action=lambda action: action / np.abs(action).max() * 1.002)
    assert "must be scaled to [-1, 1]" in refusal(tmp_path, layout="action_led_to_image")


@pytest.mark.parametrize(
    ("names", "died"),
    [
        (("terminated",), DEATHS),
        (("terminated", "truncated"), DEATHS),
        (("done", "truncated"), DEATHS),
        (("done",), [True, True, False, True]),  # the longest one was cut by a time limit
        (("discount",), DEATHS),
        (("terminals", "timeouts"), DEATHS),
    ],
)
def test_ends_and_terminals_by_any_name(names: tuple[str, ...], died: list[bool], tmp_path: Path) -> None:
    """All episodes in one file where their ends are marked, else a file each."""
    episodes = []
    for e in lives():
        t = len(e.image)
        marks = {"terminated": at(t, -1) & e.died, "terminals": at(t, -1) & e.died, "done": at(t, -1),
                 "discount": 1.0 - (at(t, -1) & e.died), "truncated": at(t, -1) & (not e.died),
                 "timeouts": at(t, -1) & (not e.died)}  # fmt: skip
        arrays = dict(pixels=e.image, actions=z(e.action), rewards=z(e.reward))
        episodes.append(arrays | {name: marks[name] for name in names})
    if names in (("terminated",), ("discount",)):
        for number, arrays in enumerate(episodes):
            save(tmp_path / f"{number}.npz", **arrays)
    else:
        whole = {name: np.concatenate([arrays[name] for arrays in episodes]) for name in episodes[0]}
        save(tmp_path / "all.npz", **whole)
    found = led(tmp_path)
    assert paired(found) and found.lengths == [n + 1 for n in LENGTHS]
    assert [bool(episode.terminal[-1]) for episode in found] == died


@pytest.mark.parametrize("ends", ["first", "done"])
def test_one_image_more_and_several_episodes_in_a_file(ends: str, tmp_path: Path) -> None:
    found = lives()
    marks = {"first": np.concatenate([at(len(e.image), 0) for e in found])}
    marks["done"] = np.concatenate([at(len(e.action), -1) for e in found])
    save(tmp_path / "all.npz", image=np.concatenate([e.image for e in found]),
         action=np.concatenate([e.action for e in found]), reward=np.concatenate([e.reward for e in found]),
         **{ends: marks[ends]})  # fmt: skip
    read_back = read(tmp_path)
    assert paired(read_back) and read_back.lengths == [n + 1 for n in LENGTHS]
    assert "one image more than actions" in read_back.found[0]


def test_terminals_after_the_last_image_are_counted(tmp_path: Path) -> None:
    for number, e in enumerate(lives()):
        save(tmp_path / f"{number}.npz", image=e.image[:-1], action=e.action, reward=e.reward,
             terminal=at(len(e.action), -1) & e.died)  # fmt: skip
    found = read(tmp_path, Options("action_follows_image"))
    assert paired(found) and "2 terminals came after an episode's last image, and cannot be learned" in found.found


# ---- what the pictures say ----


def test_pictures_tell_which_row_an_action_belongs_to() -> None:
    for shift, verdict in ((0, "led"), (-1, "follows"), (1, "earlier")):
        told = evidence.gather(dots(shift))
        assert told is not None and told.verdict == verdict, told
    (still,) = [np.zeros((200, 1, SIZE, SIZE), np.uint8)]
    action = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    told = evidence.gather([of_pictures(still, action)])
    assert told is not None and told.verdict == "" and max(told[:3]) < 0.02
    assert evidence.gather([of_pictures(still[:9], action[:9])]) is None


def test_a_refusal_shows_what_the_pictures_say(tmp_path: Path) -> None:
    for number, (moved, name) in enumerate(zip(dots(-1), "abcdef")):
        save(tmp_path / f"{name}{number}.npz", image=moved.image, action=moved.action)
    assert refusal(tmp_path).splitlines()[-1].endswith("that speaks for action_follows_image")


def test_the_check_tells_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, moved in enumerate(dots(-1)):
        save(tmp_path / f"{number}.npz", obs=moved.image, action=moved.action)
    assert check.main([str(tmp_path), "--size", "16", "16"]) == 0
    said = capsys.readouterr().out
    for words in ("read as world_models", "there are no rewards", "6 of 40 to 40 actions, 240 in all",
                  "16 x 16, 1 channel", "2 numbers, in -1..1, -0.99..0.98", "0 of 6 episodes", "as it is read",
                  f"python train.py data={tmp_path} exp=offline 'data_size=[16,16]'"):  # fmt: skip
        assert words in said, said
    assert check.main([str(tmp_path), "--layout", "action_led_to_image"]) == 0
    assert "NOT as it is read" in capsys.readouterr().out
    assert check.main([str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_another_camera_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, moved in enumerate(dots(-1)):
        save(tmp_path / f"{number}.npz", obs=moved.image, wrist=moved.image, action=moved.action)
    assert check.main([str(tmp_path), "--layout", "action_follows_image"]) == 0
    assert "the images are 'obs'; wrist could be images, too, and are not read" in capsys.readouterr().out


@pytest.mark.parametrize("size", [["99999", "99999"], ["2", "64"], ["x", "64"]])
def test_sizes_that_no_run_would_take_are_not_checked(
    size: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        check.main([str(tmp_path), "--size", *size])
    assert "4 to 1024 pixels" in capsys.readouterr().err
