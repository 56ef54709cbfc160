"""Any image environment gets the one interface; bad output is refused; repeat, limits and rendering are right."""

import re
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pydantic
import pytest
from bad_envs import HWC, SIDE, Odd, fill
from gymnasium import spaces

from envs import adapter, pixels, rendering
from envs.errors import EnvError
from envs.suites import gym
from training.configuration import components, working_folder
from training.configuration.words import modules_named
from worldmodel.base import ConfigError

BOX = spaces.Box(-1, 1, (2,), np.float32)


def config(**changes: Any) -> adapter.Config:
    values = dict(name="odd", size=(16, 20), gray=False, action_repeat=1, time_limit=None, num_envs=1)
    return adapter.Config(**{**values, "vectorization_mode": "sync", "timeout": 10.0, **changes})


def image_box(*shape: int, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, 1 if np.issubdtype(dtype, np.floating) else 255, shape, dtype)


GOOD = {
    "hwc": HWC,
    "chw": image_box(3, SIDE, SIDE),
    "gray yx": image_box(SIDE, SIDE),
    "gray yx1": image_box(SIDE, SIDE, 1),
    "gray 1yx": image_box(1, SIDE, SIDE),
    "rgba": image_box(SIDE, SIDE, 4),
    "float": image_box(SIDE, SIDE, 3, dtype=np.float32),
    "float64 chw": image_box(3, SIDE, SIDE, dtype=np.float64),
    "larger": image_box(300, 200, 3),
    "dict": spaces.Dict({"camera": HWC, "speed": BOX}),
    "int64": image_box(SIDE, SIDE, 3, dtype=np.int64),
    "int32 chw": image_box(3, SIDE, SIDE, dtype=np.int32),
    "nested": spaces.Dict({"sensors": spaces.Dict({"rgb": HWC, "depth": BOX}), "goal": BOX}),
    "tuple": spaces.Tuple([BOX, HWC]),
    "tuple in a dict": spaces.Dict({"cameras": spaces.Tuple([image_box(SIDE, SIDE, dtype=np.int64)])}),
}


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_image_becomes_uint8_cyx(kind: str, gray: bool) -> None:
    env = adapter.wrap_env(Odd(GOOD[kind]), config(gray=gray))
    assert env.observation_space == image_box(1 if gray else 3, 16, 20)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(np.zeros(2, np.float32))
    assert second.dtype == np.uint8 and second.shape == (1 if gray else 3, 16, 20)
    assert (first == 0).all() and (second == 10).all()


def test_axes_and_colours_are_kept() -> None:
    picture = np.zeros((16, 20, 3), np.uint8)
    picture[2, 5] = 10, 20, 30
    expected = picture.transpose(2, 0, 1)
    for space, image in [(image_box(16, 20, 3), picture), (image_box(3, 16, 20), expected)]:
        env = adapter.wrap_env(Odd(space, make=lambda step, image=image: image), config())
        assert (env.reset()[0] == expected).all()
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    gray = pixels.convert(picture, "YXC", (16, 20), gray=True)
    assert abs(gray[0, 2, 5] - picture[2, 5] @ weights) <= 0.5


def test_shrinking_averages() -> None:
    stripes = np.zeros((32, 32), np.uint8)
    stripes[:, ::2] = 200
    assert (pixels.convert(stripes, "YX", (16, 16), gray=True) == 100).all()


def test_a_picture_that_shrinks_in_one_direction_only_loses_nothing() -> None:
    thin = np.zeros((48, 640), np.uint8)
    thin[:, 100:104] = 255
    for size in ((64, 64), (48, 64)):
        found = pixels.resize(thin, size)
        assert found.shape == size and found.max() == 102  # 4 of 10 columns
    assert pixels.resize(np.ascontiguousarray(thin.T), (64, 64)).max() == 102


def test_an_image_is_rendered_where_the_observation_has_none() -> None:
    env = adapter.wrap_env(Odd(BOX, render_mode="rgb_array"), config())
    env.reset()
    image, *_ = env.step(np.zeros(2, np.float32))
    assert image.shape == (3, 16, 20) and (image == 10).all()
    assert env.get_wrapper_attr("rendering") > 0


def test_the_dict_key_can_be_chosen_and_small_images_only_so() -> None:
    two = spaces.Dict({"left": HWC, "right": HWC, "map": image_box(7, 7, 3)})
    with pytest.raises(EnvError, match="several parts of the observation hold an image: left, right"):
        adapter.wrap_env(Odd(two), config())
    assert adapter.wrap_env(Odd(two), config(), image="map").reset()[0].shape == (3, 16, 20)
    with pytest.raises(EnvError, match="there is no 'middle'; choose from left, map, right, render"):
        adapter.wrap_env(Odd(two), config(), image="middle")


NEAR = {  # what looks like an image, and cannot be taken as one: how its numbers are meant is not known
    "stack of gray": (image_box(4, SIDE, SIDE), "frame stack"),
    "stack of colour": (image_box(4, SIDE, SIDE, 3), "frame stack"),
    "stack in channels": (image_box(SIDE, SIDE, 12), "frame stack"),
    "float 0..255": (spaces.Box(0, 255, (SIDE, SIDE, 3), np.float32), "float32 values in 0..255; wanted: integers in"),
    "uint8 0..1": (spaces.Box(0, 1, (SIDE, SIDE, 3), np.uint8), "uint8 values in 0..1; wanted: integers in 0..255"),
    "int64 without bounds": (
        spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (SIDE, SIDE, 3), np.int64),
        "int64 values in",
    ),
    "float without bounds": (spaces.Box(-np.inf, np.inf, (SIDE, SIDE, 3), np.float32), "float32 values in -inf..inf"),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("case", NEAR)
def test_what_looks_like_an_image_is_named_instead_of_passed_over(case: str, inside: bool) -> None:
    """Rendering instead would learn from another picture, in silence. It is done when asked for."""
    space, message = NEAR[case]
    observation = spaces.Dict({"sensors": spaces.Dict({"rgb": space})}) if inside else space
    with pytest.raises(
        EnvError, match=rf"^odd: {'sensors/rgb' if inside else 'observation'}: the image.*{message}"
    ) as e:
        adapter.wrap_env(Odd(observation, render_mode="rgb_array"), config())
    assert "env.image=render" in str(e.value)
    env = adapter.wrap_env(Odd(observation, render_mode="rgb_array"), config(), image="render")
    assert env.reset()[0].shape == (3, 16, 20)
    with pytest.raises(EnvError, match=f"is no image: the image.*{message}"):
        adapter.wrap_env(Odd(observation), config(), image="sensors/rgb" if inside else "observation")


def test_what_was_not_taken_beside_an_image_is_noted() -> None:
    parts = {"rgb": HWC, "depth": spaces.Box(0, 99, (SIDE, SIDE, 1), np.float32), "map": image_box(7, 7, 3), "v": BOX}
    env = adapter.wrap_env(Odd(spaces.Dict(parts)), config())
    small, far = env.metadata["notes"]
    assert small == (
        "odd: map (7, 7, 3) is not taken for an image, as it is smaller than 16 pixels; to take it: env.image=map"
    )
    assert far.startswith("odd: depth: the image (24, 24, 1) has float32 values in 0..99")
    rendered = adapter.wrap_env(Odd(spaces.Dict({"map": parts["map"]}), render_mode="rgb_array"), config())
    assert rendered.metadata["notes"] == [small]
    assert adapter.wrap_env(Odd(parts["map"]), config(), image="observation").reset()[0].shape == (3, 16, 20)
    assert adapter.wrap_env(Odd(), config()).metadata["notes"] == []


RENDERS = {
    "rgba": np.full((SIDE, SIDE, 4), (9, 9, 9, 77), np.uint8),
    "gray": np.full((SIDE, SIDE), 9, np.uint8),
    "gray yx1": np.full((SIDE, SIDE, 1), 9, np.uint8),
    "int64": np.full((SIDE, SIDE, 3), 9),
    "chw": np.full((3, SIDE, SIDE), 9, np.uint8),
    "float": np.full((SIDE, SIDE, 3), 9 / 255, np.float32),
}


class Renders(Odd):
    """Renders what it is told to."""

    frame: Any = None

    def render(self) -> Any:
        return self.frame


@pytest.mark.parametrize("case", RENDERS)
def test_rendered_pictures_follow_the_rule_of_observed_ones(case: str) -> None:
    odd = Renders(BOX, render_mode="rgb_array")
    odd.frame = RENDERS[case]
    image, _ = adapter.wrap_env(odd, config()).reset()
    assert image.shape == (3, 16, 20) and (image == 9).all()


@pytest.mark.parametrize("frame", [None, [RENDERS["gray"]], "picture", np.full((SIDE, SIDE, 3), 1.5), np.full(7, 1)])
def test_what_is_rendered_and_is_no_picture_is_refused_in_one_line(frame: Any) -> None:
    odd = Renders(BOX, render_mode="rgb_array")
    odd.frame = frame
    with pytest.raises(EnvError, match=r"^odd \(.*\): rendered image .*") as error:
        adapter.wrap_env(odd, config())
    assert "\n" not in str(error.value) and error.value.advice


FITS = {  # of a picture of 8 x 16 with a white middle, at 8 x 8: columns that are black, gray, white
    "stretch": [0, 0, 255, 255, 255, 255, 0, 0],
    "crop": [255] * 8,
    "letterbox": None,
}


@pytest.mark.parametrize("fit", FITS)
def test_a_wide_picture_is_stretched_cropped_or_boxed(fit: str) -> None:
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 255
    env = adapter.wrap_env(Odd(image_box(16, 32, 3), make=lambda step: wide), config(size=(8, 8), fit=fit))
    image, _ = env.reset()
    if fit == "letterbox":
        assert (image[:, [0, 1, 6, 7]] == 0).all() and (image[:, 2:6] == FITS["stretch"]).all()
    else:
        assert (image == FITS[fit]).all()
    tall = pixels.convert(wide.transpose(1, 0, 2), "YXC", (8, 8), True, fit)  # type: ignore[arg-type]
    assert np.array_equal(tall[0], image[0].T)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (16, 20), (100, 125)])
def test_every_fit_gives_the_size_that_was_asked_for(fit: Any, shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for gray in (False, True):
        image = pixels.convert(picture, "YXC", (16, 20), gray, fit)
        assert image.shape == (1 if gray else 3, 16, 20) and image.flags.c_contiguous
        assert shape != (100, 125) or np.array_equal(image, pixels.convert(picture, "YXC", (16, 20), gray))


REFUSED = {
    "no image": (BOX, BOX, "no image in the observation"),
    "unbounded": (HWC, spaces.Box(-np.inf, np.inf, (2,)), "TransformAction"),
    "half bounded": (HWC, spaces.Box(0, np.inf, (2,)), "no finite bounds"),
    "absurd bounds": (HWC, spaces.Box(-3e38, 3e38, (2,), np.float32), r"beyond 1e\+06.*gymnasium\.wrappers\.Transform"),
    "one absurd bound": (HWC, spaces.Box(-1, 2e6, (2,), np.float32), r"beyond 1e\+06.*gymnasium\.wrappers\.Transform"),
    "too many choices": (HWC, spaces.MultiBinary(12), "has 4,096 combinations.*at most 1,024: keep a table"),
    "choices and numbers": (HWC, spaces.Dict({"a": BOX, "b": spaces.Discrete(2)}), "mixes choices and numbers"),
    "integers and numbers": (
        HWC,
        spaces.Dict({"move": BOX, "gear": spaces.Box(-1, 1, (1,), np.int64)}),
        "mixes choices and numbers",
    ),
    "all integers": (
        HWC,
        spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
        "combinations, agents here choose among at most",
    ),
    "text": (HWC, spaces.Text(5), "supported: Box with finite bounds, Discrete, MultiDiscrete"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_spaces_that_are_not_supported_are_refused_with_advice(case: str) -> None:
    observation, action, message = REFUSED[case]
    with pytest.raises(EnvError, match=message) as error:
        adapter.wrap_env(Odd(observation, action), config())
    assert str(error.value).startswith("odd: ")


CHOICES = {
    "MultiDiscrete": (spaces.MultiDiscrete([3, 2]), 6),
    "MultiDiscrete with a start": (spaces.MultiDiscrete([[3, 2], [1, 2]], start=[[1, 5], [0, -1]]), 12),
    "MultiBinary": (spaces.MultiBinary(3), 8),
    "MultiBinary of two axes": (spaces.MultiBinary((2, 2)), 16),
    "integer Box": (spaces.Box(-1, 1, (2,), np.int64), 9),
    "Dict": (spaces.Dict({"move": spaces.Discrete(3, start=2), "jump": spaces.MultiBinary(2)}), 12),
    "Tuple": (spaces.Tuple([spaces.Discrete(2), spaces.Tuple([spaces.Discrete(3)])]), 6),
}


@pytest.mark.parametrize("case", CHOICES)
def test_combinations_become_choices_and_the_count_is_said(case: str) -> None:
    """Every combination once, each in the environment's own space, as its own sample would be."""
    space, count = CHOICES[case]
    odd = Odd(HWC, space, length=1000)
    env = adapter.wrap_env(odd, config())
    assert env.action_space == spaces.Discrete(count)
    assert f"one of {count} choices" in env.metadata["notes"][0]
    env.reset()
    for number in range(count):
        env.step(number)
    assert all(odd.action_space.contains(action) for action in odd.actions)
    assert len({str(action) for action in odd.actions}) == count


def test_boxes_side_by_side_become_one_vector() -> None:
    low = spaces.Box(0, np.array([[1, 2]], np.float32))
    for space in (spaces.Dict({"arm": low, "base": BOX}), spaces.Tuple([low, BOX])):
        odd = Odd(HWC, space)
        env = adapter.wrap_env(odd, config())
        assert env.action_space == spaces.Box(-1, 1, (4,), np.float32) and "4 numbers" in env.metadata["notes"][0]
        env.reset()
        env.step(np.array([-1, 1, 0.5, -0.5], np.float32))
        assert odd.action_space.contains(odd.actions[0])
        arm, base = odd.actions[0].values() if isinstance(space, spaces.Dict) else odd.actions[0]
        assert np.allclose(arm, [[0, 2]]) and np.allclose(base, [0.5, -0.5])


def test_gymnasiums_frame_stack_is_refused_even_with_three_frames() -> None:
    env = gymnasium.wrappers.FrameStackObservation(Odd(image_box(SIDE, SIDE)), 3)
    with pytest.raises(EnvError, match="frame stack"):
        adapter.wrap_env(env, config())


def test_box_actions_are_rescaled_flattened_and_clipped() -> None:
    low, high = np.array([[0, -2], [1, -1]], np.float32), np.array([[1, 6], [3, 0]], np.float32)
    odd = Odd(HWC, spaces.Box(low, high))
    env = adapter.wrap_env(odd, config())
    assert env.action_space == spaces.Box(-1, 1, (4,), np.float32)
    env.reset()
    for action in ([-1, -1, -1, -1], [1, 1, 1, 1], [0, 0, 0, 0], [9, -9, 9, -9]):
        env.step(np.array(action, np.float32))
    expected = [low, high, (low + high) / 2, [[1, -2], [3, -1]]]
    assert np.allclose(odd.actions, expected, atol=1e-6)
    assert all(odd.action_space.contains(action) for action in odd.actions)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_action_lies_in_the_environments_own_space_to_the_last_bit(dtype: Any) -> None:
    """Rescaling in float32 leaves a bound by one bit, at which environments that assert their space end a run."""
    rng = np.random.default_rng(0)
    low = np.append(rng.uniform(-3, 0, 200), -1).astype(dtype)
    high = np.append(rng.uniform(0.01, 3, 200), 0.2).astype(dtype)
    odd = Odd(HWC, spaces.Box(low, high, dtype=dtype), length=1000)
    env = adapter.wrap_env(odd, config())
    env.reset()
    one = np.ones(201, np.float32)
    for action in (one, -one, 0 * one, *rng.uniform(-1, 1, (5, 201)).astype(np.float32)):
        env.step(action)
    assert all(odd.action_space.contains(action) and action.dtype == dtype for action in odd.actions)
    assert np.allclose(odd.actions[0], high) and np.allclose(odd.actions[1], low)


class WritesIntoItsAction(Odd):
    """Changes the array that it was given, and keeps what it was."""

    def step(self, action: Any) -> Any:
        result = super().step(action.copy())
        action[...] = 99
        return result


def test_the_action_that_an_environment_is_given_is_a_copy() -> None:
    """Or the second simulator step of a repeat, and what the agent remembers, would be another."""
    for space in (BOX, spaces.Box(-2, 2, (2,), np.float64)):
        odd = WritesIntoItsAction(HWC, space)
        env = adapter.wrap_env(odd, config(action_repeat=3))
        env.reset()
        action = np.array([0.25, -0.5], np.float32)
        env.step(action)
        assert action.tolist() == [0.25, -0.5]
        assert len(odd.actions) == 3 and np.array_equal(odd.actions, [odd.actions[0]] * 3)
        assert np.allclose(odd.actions[0], action * space.high)


def test_a_discrete_action_is_given_as_its_space_gives_it() -> None:
    odd = Odd(HWC, spaces.Discrete(3))
    env = adapter.wrap_env(odd, config())
    env.reset()
    env.step(2)
    assert odd.actions[0].item() == 2 and type(odd.actions[0]) is type(odd.action_space.sample())


def test_the_largest_bounds_that_mean_something_pass() -> None:
    odd = Odd(HWC, spaces.Box(-1e6, 1e6, (2,), np.float32))
    env = adapter.wrap_env(odd, config())
    env.reset()
    env.step(np.array([1, -1], np.float32))
    assert np.array_equal(odd.actions[0], np.array([1e6, -1e6], np.float32))


def test_discrete_actions_start_at_zero() -> None:
    odd = Odd(HWC, spaces.Discrete(3, start=5))
    env = adapter.wrap_env(odd, config())
    assert env.action_space == spaces.Discrete(3)
    env.reset()
    env.step(0)
    env.step(np.int64(2))
    assert odd.actions == [5, 7]


def test_repeat_sums_stops_at_the_end_and_renders_once() -> None:
    odd = Odd(BOX, length=10, reward=0.5, render_mode="rgb_array")
    env = adapter.wrap_env(odd, config(action_repeat=4))
    for _ in range(2):  # a second episode repeats as well
        env.reset()
        odd.renders = 0
        steps = [env.step(np.zeros(2, np.float32)) for _ in range(3)]
        assert [reward for _, reward, *_ in steps] == [2.0, 2.0, 1.0]
        assert [terminated for _, _, terminated, *_ in steps] == [False, False, True]
        assert odd.renders == 3 and odd.steps == 10


@pytest.mark.parametrize("limit, decisions", [(8, 2), (9, 3), (1, 1)])
def test_the_time_limit_counts_simulator_steps_and_truncates(limit: int, decisions: int) -> None:
    odd = Odd(length=1000)
    env = adapter.wrap_env(odd, config(action_repeat=4, time_limit=limit))
    assert env.metadata["time_limit"] == limit
    env.reset()
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(decisions)]
    assert ends == [(False, False)] * (decisions - 1) + [(False, True)]
    assert odd.steps == limit


def test_a_death_is_terminated_and_an_episode_may_last_one_step() -> None:
    env = adapter.wrap_env(Odd(length=1), config(time_limit=5))
    for _ in range(3):
        env.reset()
        assert env.step(np.zeros(2, np.float32))[2:4] == (True, False)


def test_a_reused_buffer_does_not_change_images_that_were_given_out() -> None:
    buffer = np.zeros((3, 16, 20), np.uint8)

    def make(step: int) -> np.ndarray:
        buffer[:] = 10 * step
        return buffer

    env = adapter.wrap_env(Odd(image_box(3, 16, 20), make=make), config())  # no resizing that would copy by chance
    first, _ = env.reset()
    env.step(np.zeros(2, np.float32))
    assert (first == 0).all()


def spoil(good: Any, bad: Any, at: int) -> Any:
    return lambda step: bad if step == at else good


FLOAT = image_box(SIDE, SIDE, 3, dtype=np.float32)
IMAGE, FLOATS = fill(HWC, 7), fill(FLOAT, 7)
BAD_IMAGES = {
    "dtype": (HWC, IMAGE, IMAGE.astype(np.int64)),
    "float for uint8": (HWC, IMAGE, IMAGE / 255),
    "shape": (HWC, IMAGE, IMAGE[:-1]),
    "channels": (HWC, IMAGE, IMAGE[..., :1]),
    "none": (HWC, IMAGE, None),
    "list": (HWC, IMAGE, IMAGE.tolist()),
    "nan": (FLOAT, FLOATS, np.where(np.arange(3) == 1, np.nan, FLOATS).astype(np.float32)),
    "inf": (FLOAT, FLOATS, np.where(np.arange(3) == 1, np.inf, FLOATS).astype(np.float32)),
    "above": (FLOAT, FLOATS, FLOATS + 1),
    "below": (FLOAT, FLOATS, FLOATS - 1),
    "missing key": (spaces.Dict({"pixels": HWC}), {"pixels": IMAGE}, {"pixel": IMAGE}),
    "bad at key": (spaces.Dict({"pixels": HWC}), {"pixels": IMAGE}, {"pixels": IMAGE[:, :-1]}),
}


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_refused_by_name(case: str, at: int) -> None:
    space, good, bad = BAD_IMAGES[case]
    env = adapter.wrap_env(Odd(space, make=spoil(good, bad, at)), config())
    place = "env step 4" if at == 4 else "env step 1" if at else "reset"
    with pytest.raises(EnvError, match=rf"odd \(worker 3, seed 5, episode 9, {place}\): ") as error:
        env.reset(seed=5, options={"worker": 3, "episode": 9})
        for _ in range(4):
            env.step(np.zeros(2, np.float32))
    assert ("pixel" if "key" in case else "image") in str(error.value)


BAD_STEPS = {
    "reward nan": dict(reward=float("nan")),
    "reward inf": dict(reward=np.float32(-np.inf)),
    "reward huge": dict(reward=1e30),
    "reward array": dict(reward=np.ones(1)),
    "reward none": dict(reward=None),
    "reward text": dict(reward="1"),
    "reward complex": dict(reward=1j),
    "terminated int": dict(terminated=0),
    "terminated float": dict(terminated=1.0),
    "terminated none": dict(terminated=np.zeros(1, bool)),
}


@pytest.mark.parametrize("case", BAD_STEPS)
def test_bad_rewards_and_ends_are_refused_by_name(case: str) -> None:
    env = adapter.wrap_env(Odd(**BAD_STEPS[case]), config())
    env.reset(seed=5)
    with pytest.raises(EnvError, match=rf"worker 0, seed 5, episode 0, env step 1\): {case.split()[0]} "):
        env.step(np.zeros(2, np.float32))


OLD = {
    "reset": (dict(result=("image",)), "reset()'s result"),
    "step": (dict(stepped=(0, 1.0, False, {})), "step()'s result"),
}


class Old(Odd):
    """Speaks the interface of old gym, in one way or another."""

    result: Any = None
    stepped: Any = None

    def reset(self, **options: Any) -> Any:
        return self.result or super().reset(**options)

    def step(self, action: Any) -> Any:
        return self.stepped or super().step(action)


@pytest.mark.parametrize("case", OLD)
def test_the_old_interface_is_explained(case: str) -> None:
    values, message = OLD[case]
    odd = Old()
    vars(odd).update(values)
    env = adapter.wrap_env(odd, config())
    with pytest.raises(EnvError, match=re.escape(message)) as error:
        env.reset()
        env.step(np.zeros(2, np.float32))
    assert "not Gymnasium's interface" in error.value.advice


def test_usual_types_of_reward_and_end_pass() -> None:
    for reward in (1, 1.0, np.float32(1), np.float64(1), np.array(1.0), True):
        for terminated in (False, np.bool_(False)):
            env = adapter.wrap_env(Odd(reward=reward, terminated=terminated), config())
            env.reset()
            assert env.step(np.zeros(2, np.float32))[1:3] == (1.0, False)


def test_what_the_environment_raises_is_named_and_kept_as_cause() -> None:
    def make(step: int) -> np.ndarray:
        if step == 2:
            raise KeyError("door")
        return IMAGE

    env = adapter.wrap_env(Odd(make=make), config())
    env.reset(seed=1)
    env.step(np.zeros(2, np.float32))
    with pytest.raises(EnvError, match=r"odd \(.* env step 2\): KeyError: 'door'") as error:
        env.step(np.zeros(2, np.float32))
    assert isinstance(error.value.__cause__, KeyError)


def test_an_exception_without_a_message_is_named_by_its_place() -> None:
    def make(step: int) -> np.ndarray:
        if step:
            raise AssertionError
        return IMAGE

    env = adapter.wrap_env(Odd(make=make), config())
    env.reset()
    with pytest.raises(EnvError, match=r"AssertionError: in make, .*test_envs_adapter\.py:\d+: raise AssertionError$"):
        env.step(np.zeros(2, np.float32))


class Halved(gymnasium.RewardWrapper):
    def reward(self, reward: Any) -> float:
        return reward / 2


def test_the_users_own_wrappers_are_around_the_bare_environment() -> None:
    name = f"{__name__}:Halved"
    odd = Odd(reward=1.0)
    env = adapter.wrap_env(odd, config(wrappers=[name, name], action_repeat=2))
    env.reset()
    assert env.step(np.zeros(2, np.float32))[1] == 0.5
    for wrong in ("no_such_package:Wrap", f"{__name__}:Nothing", f"{__name__}:config"):
        with pytest.raises(EnvError, match=f"env.wrappers: {wrong}"):
            adapter.wrap_env(Odd(), config(wrappers=[wrong]))
    with pytest.raises(pydantic.ValidationError, match="not of the form my_package:Wrapper"):
        config(wrappers=["os.system"])


@pytest.mark.parametrize(
    "change", [dict(size=(3, 16)), dict(size=(16, 2000)), dict(num_envs=0), dict(num_envs=257),
               dict(action_repeat=0),
               dict(timeout=0), dict(time_limit=0), dict(colour=True), dict(fit="squeeze")]
)  # fmt: skip
def test_config_refuses_what_makes_no_sense(change: dict) -> None:
    with pytest.raises(pydantic.ValidationError):
        config(**change)


def gym_config(name: str, **changes: Any) -> gym.Config:
    values = {**config().model_dump(), "name": "gym", "id": name, "image": None, "kwargs": {}}
    return gym.Config(**{**values, **changes})


def test_a_gymnasium_id_renders_and_keeps_or_loses_its_own_limit() -> None:
    env = gym.build(gym_config("Pendulum-v1", action_repeat=50))
    assert env.metadata["time_limit"] == 200 and env.action_space.shape == (1,)
    image, _ = env.reset(seed=0)
    assert image.std() > 0
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(4)] == [False, False, False, True]
    env.close()
    env = gym.build(gym_config("Pendulum-v1", action_repeat=50, time_limit=250))
    env.reset(seed=0)
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(5)] == [False] * 4 + [True]
    env.close()


def test_a_wrong_gymnasium_id_names_the_nearest() -> None:
    with pytest.raises(EnvError, match=r"pendulum-v1: no such Gymnasium id; nearest: Pendulum-v1"):
        gym.build(gym_config("pendulum-v1"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that registers Small-Room-v0, in the current folder only; and what belongs to old gym."""
    (tmp_path / "my_rooms.py").write_text(
        "import gymnasium\nfrom bad_envs import Odd\ngymnasium.register('Small-Room-v0', entry_point=Odd)\n"
    )
    (tmp_path / "old_rooms.py").write_text("import gym\n")
    (tmp_path / "gym.py").write_text("import types\nenvs = types.SimpleNamespace(registry={'Old-Room-v0': None})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(working_folder, "WORKING_FOLDER", [])
    monkeypatch.setattr(rendering, "choose", lambda: "egl")
    yield tmp_path
    gymnasium.registry.pop("Small-Room-v0", None)
    for name in ("my_rooms", "old_rooms", "gym"):
        sys.modules.pop(name, None)


def test_a_module_of_the_current_folder_is_found_if_it_was_typed(package: Path) -> None:
    """As `python -m envs.check` finds it. A run that names it could be a stranger's, and so could the folder."""
    with pytest.raises(EnvError, match=rf"'my_rooms' lies in the current folder, {package}, .*PYTHONPATH=\. before"):
        gym.build(gym_config("my_rooms:Small-Room-v0"))
    assert "my_rooms" not in sys.modules
    working_folder.use_working_folder(modules_named(["env.id=my_rooms:Small-Room-v0"]))
    assert gym.build(gym_config("my_rooms:Small-Room-v0")).reset()[0].shape == (3, 16, 20)


def test_the_nearest_id_is_told_with_its_prefix(package: Path) -> None:
    sys.path.append(str(package))
    with pytest.raises(
        EnvError, match=r"my_rooms:Smal-Room-v0: no such Gymnasium id; nearest: my_rooms:Small-Room-v0\b"
    ):
        gym.build(gym_config("my_rooms:Smal-Room-v0"))


def test_a_package_that_registers_by_a_function_is_asked_to(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MinAtar does: the function is declared as Gymnasium's plugin."""
    monkeypatch.syspath_prepend(package)
    (package / "shy_rooms.py").write_text(
        "import gymnasium\nfrom bad_envs import Odd\n\n\ndef register_envs():\n"
        "    gymnasium.register('Shy/Room-v0', entry_point=Odd)\n"
    )
    (package / "shy_rooms-1.0.dist-info").mkdir()
    (package / "shy_rooms-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: shy-rooms\nVersion: 1.0\n"
    )
    entry = "[gymnasium.envs]\nShy = shy_rooms:register_envs\n"
    (package / "shy_rooms-1.0.dist-info" / "entry_points.txt").write_text(entry)
    assert gym.build(gym_config("shy_rooms:Shy/Room-v0")).reset()[0].shape == (3, 16, 20)
    gymnasium.registry.pop("Shy/Room-v0")
    sys.modules.pop("shy_rooms")


def test_an_id_of_old_gym_is_told_as_that(package: Path) -> None:
    sys.path.append(str(package))
    with pytest.raises(
        EnvError, match=r"old package `gym`.*env\.id=shimmy:GymV21Environment-v0 env\.kwargs\.env_id=Old-Room"
    ):
        gym.build(gym_config("old_rooms:Old-Room-v0"))


def test_a_package_that_is_not_there_is_told_with_the_folder(package: Path) -> None:
    with pytest.raises(EnvError, match=f"there is no package 'her_rooms', neither installed nor in .*{package}"):
        gym.build(gym_config("her_rooms:Room-v0"))


def test_names_are_the_files_that_build() -> None:
    assert components.names("env") == ["atari", "car_racing", "catch", "crafter", "dmc", "dot", "gym", "take_cover"]
    with pytest.raises(ConfigError, match=r"env\.name: 'os' is not one of atari, car_racing, catch, crafter, dmc"):
        components.find("env", "os")
