"""Any image environment gets the one interface; bad output is refused; repeat, limits and rendering are right."""

from typing import Any

import gymnasium
import numpy as np
import pydantic
import pytest
from bad_envs import HWC, SIDE, Odd, fill
from gymnasium import spaces

from envs import adapter, pixels
from envs.checks import EnvError
from envs.suites import gym
from training import components
from worldmodel.base import ConfigError

BOX = spaces.Box(-1, 1, (2,), np.float32)


def config(**changes: Any) -> adapter.Config:
    values = dict(name="odd", size=(16, 20), gray=False, action_repeat=1, time_limit=None, num_envs=1)
    return adapter.Config(**{**values, "vectorization_mode": "sync", "timeout": 10.0, **changes})


def image_box(*shape: int, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)


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


def test_an_image_is_rendered_where_the_observation_has_none() -> None:
    env = adapter.wrap_env(Odd(BOX, render_mode="rgb_array"), config())
    env.reset()
    image, *_ = env.step(np.zeros(2, np.float32))
    assert image.shape == (3, 16, 20) and (image == 10).all()
    assert env.get_wrapper_attr("rendering") > 0


def test_the_dict_key_can_be_chosen_and_small_images_only_so() -> None:
    two = spaces.Dict({"left": HWC, "right": HWC, "map": image_box(7, 7, 3)})
    with pytest.raises(EnvError, match="several keys hold an image: left, right"):
        adapter.wrap_env(Odd(two), config())
    assert adapter.wrap_env(Odd(two), config(), image="map").reset()[0].shape == (3, 16, 20)
    with pytest.raises(EnvError, match=r"'middle' is no image\. The keys are left, map, right"):
        adapter.wrap_env(Odd(two), config(), image="middle")


REFUSED = {
    "stack of gray": (image_box(4, SIDE, SIDE), BOX, "frame stack"),
    "stack of colour": (image_box(4, SIDE, SIDE, 3), BOX, "frame stack"),
    "stack in channels": (image_box(SIDE, SIDE, 12), BOX, "frame stack"),
    "float 0..255": (spaces.Box(0, 255, (SIDE, SIDE, 3), np.float32), BOX, "float in 0..1"),
    "uint8 0..1": (spaces.Box(0, 1, (SIDE, SIDE, 3), np.uint8), BOX, "uint8 in 0..255"),
    "no image": (BOX, BOX, "no image in the observation"),
    "unbounded": (HWC, spaces.Box(-np.inf, np.inf, (2,)), "TransformAction"),
    "half bounded": (HWC, spaces.Box(0, np.inf, (2,)), "no finite bounds"),
    "absurd bounds": (HWC, spaces.Box(-3e38, 3e38, (2,), np.float32), r"beyond 1e\+06.*gymnasium\.wrappers\.Transform"),
    "one absurd bound": (HWC, spaces.Box(-1, 2e6, (2,), np.float32), r"beyond 1e\+06.*gymnasium\.wrappers\.Transform"),
    "MultiDiscrete": (HWC, spaces.MultiDiscrete([2, 3]), "supported: Box"),
    "Dict action": (HWC, spaces.Dict({"a": BOX}), "supported: Box"),
    "integer Box": (HWC, spaces.Box(0, 5, (2,), np.int64), "supported: Box"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_spaces_that_are_not_supported_are_refused_with_advice(case: str) -> None:
    observation, action, message = REFUSED[case]
    with pytest.raises(EnvError, match=message) as error:
        adapter.wrap_env(Odd(observation, action), config())
    assert str(error.value).startswith("odd: ")


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


@pytest.mark.parametrize(
    "change", [dict(size=(3, 16)), dict(size=(16, 2000)), dict(num_envs=0), dict(num_envs=257),
               dict(action_repeat=0),
               dict(timeout=0), dict(time_limit=0), dict(colour=True)]
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


def test_names_are_the_files_that_build() -> None:
    assert components.names("env") == ["atari", "car_racing", "catch", "dmc", "dot", "gym", "take_cover"]
    with pytest.raises(ConfigError, match=r"env\.name: 'os' is not one of atari, car_racing, catch, dmc"):
        components.find("env", "os")
