"""The two worlds of World Models: CarRacing as published, ViZDoom's TakeCover; and the quickstart's pendulum."""

import contextlib
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import pytest
import runs
import yaml
from bad_envs import Odd
from gymnasium import spaces

import envs
from envs import adapter
from envs.checks import EnvError
from envs.suites import car_racing, gym, take_cover
from training.configuration import command_line

CONFIGS = Path(__file__).parent.parent / "configs"
TRACK = spaces.Box(0, 255, (96, 96, 3), np.uint8)
PEDALS = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
ARM = sys.platform == "linux" and platform.machine() == "aarch64"
box2d = pytest.mark.skipif(ARM, reason="Box2D has no wheel for Linux on ARM, so the lock leaves it out there")
WORLDS = [pytest.param("car_racing", marks=box2d), "take_cover"]


def section(name: str, **changes: Any) -> adapter.Config:
    values = yaml.safe_load((CONFIGS / "env" / f"{name}.yaml").read_text("utf8"))
    return {"car_racing": car_racing, "take_cover": take_cover, "gym": gym}[values["name"]].Config(**values | changes)


def play(env: gymnasium.Env, seed: int, steps: int, actions: int = 0) -> tuple[np.ndarray, list]:
    """One episode of at most `steps` with random actions, held for five steps -> images (T + 1, C, Y, X), the rest."""
    env.action_space.seed(actions)
    images, rest, action = [env.reset(seed=seed)[0]], [], None
    for step in range(steps):
        if step % 5 == 0:
            action = env.action_space.sample()
        image, *outcome, _ = env.step(action)
        images.append(image)
        rest.append(tuple(outcome))
        if outcome[1] or outcome[2]:
            break
    return np.stack(images), rest


@pytest.mark.parametrize("name", WORLDS)
def test_the_interface(name: str) -> None:
    env = envs.make(section(name))
    assert env.observation_space == spaces.Box(0, 255, (3, 64, 64), np.uint8)
    assert env.metadata["time_limit"] == {"car_racing": 1000, "take_cover": 2100}[name]
    actions = {"car_racing": spaces.Box(-1, 1, (3,), np.float32), "take_cover": spaces.Discrete(3)}
    assert env.action_space == actions[name]
    images, rest = play(env, 0, 12)
    assert images.dtype == np.uint8 and images.shape == (13, 3, 64, 64)
    assert not any(terminated or truncated for _, terminated, truncated in rest)
    env.close()


@pytest.mark.parametrize("name", WORLDS)
def test_the_first_image_is_valid(name: str) -> None:
    env = envs.make(section(name))
    first, second = play(env, 3, 1)[0].astype(int)
    assert len(np.unique(first)) > 20 and first.mean() > 20
    assert np.abs(first - second).mean() < 20  # of the same kind as all that follow
    assert (env.reset(seed=3)[0] == first).all()  # nor is a process's very first frame special
    env.close()


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_seed_gives_the_same_episode(name: str) -> None:
    env, other = (envs.make(section(name)) for _ in range(2))
    images, rest = play(env, 3, 60)
    play(other, 4, 7)  # cut short; another episode before must not matter
    for again in (play(env, 3, 60), play(other, 3, 60)):
        assert np.array_equal(again[0], images) and again[1] == rest
    different, _ = play(env, 4, 60)
    assert different.shape != images.shape or (different != images).any()
    env.close()
    other.close()


@pytest.mark.parametrize("name", WORLDS)
def test_the_time_limit_truncates_and_repeat_counts_in_it(name: str) -> None:
    env = envs.make(section(name, time_limit=6, action_repeat=2))
    _, rest = play(env, 0, 10)
    assert [outcome[1:] for outcome in rest] == [(False, False), (False, False), (False, True)]
    env.close()


@pytest.mark.parametrize("name", WORLDS)
def test_workers_give_the_same(name: str) -> None:
    seen = []
    for mode in ("sync", "async"):
        vector = envs.vector(section(name, num_envs=2, vectorization_mode=mode))
        assert vector.discrete == (name == "take_cover") and vector.action_dim == 3
        images = [vector.reset({0: 1, 1: 2})]
        for _ in range(10):
            images.append(vector.step(np.array([[1, 0, 0], [0, 0, 1]], np.float32))[0])
        seen.append(np.stack(images))
        vector.close()
    assert (seen[0] == seen[1]).all() and (seen[0][:, 0] != seen[0][:, 1]).any()


@pytest.mark.parametrize("name, module", [("car_racing", "gymnasium.envs.box2d.car_racing"), ("take_cover", "vizdoom")])
def test_a_missing_package_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvError, match=rf"{name}: .*pip install .*(vizdoom|\[box2d\])"):
        envs.make(section(name))


# CarRacing


def faked(odd: Odd, **changes: Any) -> gymnasium.Env:
    return adapter.wrap_env(car_racing.crop_and_wrap(odd), section("car_racing", **changes))


@pytest.mark.parametrize(
    "action, driven",
    [
        ([0, 0, 0], [0, 0.5, 0]),
        ([-1, -1, -1], [-1, 0, 0]),
        ([1, 1, 1], [1, 1, 1]),
        ([0.5, -0.5, 0.25], [0.5, 0.25, 0.25]),
        ([-0.25, 0.5, -0.75], [-0.25, 0.75, 0]),
        ([3, -3, 3], [1, 0, 1]),
    ],
)
def test_car_racing_is_driven_as_published(action: list, driven: list) -> None:
    odd = Odd(TRACK, PEDALS)
    env = faked(odd)
    env.reset()
    env.step(np.array(action, np.float32))
    assert np.allclose(odd.actions, [driven], atol=1e-7) and odd.action_space.contains(odd.actions[0])


@pytest.mark.parametrize("row, seen", [(83, True), (84, False), (95, False)])
def test_car_racings_dashboard_is_cut_off(row: int, seen: bool) -> None:
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[row] = 200
    image, _ = faked(Odd(TRACK, PEDALS, make=lambda step: picture)).reset()
    assert image[:, :63].max() == 0 and (image[:, 63] > 100).all() == seen == image.any()
    image, _ = faked(Odd(TRACK, PEDALS, make=lambda step: picture), size=(84, 96)).reset()
    assert (image == picture[:84].transpose(2, 0, 1)).all()


@box2d
def test_car_racings_dashboard_is_where_it_is_cut() -> None:
    env = envs.make(section("car_racing", size=(84, 96)))
    env.reset(seed=0)
    for _ in range(50):  # until the camera is near the car, and sees nothing but grass and road at its sides
        image, *_ = env.step(np.array([0, -1, 0], np.float32))
    state = env.unwrapped.state
    assert (image == state[:84].transpose(2, 0, 1)).all()
    assert (state[:84, :20].max(2) > 90).all() and (state[84:, 30:44] == 0).all()
    env.close()


@box2d
@pytest.mark.parametrize("ending, reward", [("lap", None), ("field", -100.0)])
def test_car_racing_terminates_at_the_lap_and_off_the_field(ending: str, reward: float | None) -> None:
    env = envs.make(section("car_racing"))
    env.reset(seed=0)
    game: Any = env.unwrapped
    env.step(np.zeros(3, np.float32))  # the reward for the tiles under the wheels
    if ending == "lap":
        game.new_lap = True
    else:
        game.car.hull.position = (1000, 0)
    _, got, terminated, truncated, _ = env.step(np.zeros(3, np.float32))
    assert terminated and not truncated and got == pytest.approx(-0.1 if reward is None else reward)
    env.close()


# TakeCover


def simulators() -> list[psutil.Process]:
    """The simulators below this process that are alive."""
    below = psutil.Process().children(recursive=True)
    return [one for one in below if one.status() != psutil.STATUS_ZOMBIE and one.name() == "vizdoom"]


def test_take_cover_pays_one_per_tic_until_death_and_shows_the_last_image_then() -> None:
    env = envs.make(section("take_cover"))
    images, rest = play(env, 0, 2100)
    assert 100 < len(rest) < 2100 and {reward for reward, *_ in rest} == {1.0}
    assert rest[-1][1:] == (True, False) and not any(terminated for _, terminated, _ in rest[:-1])
    assert (images[-1] == images[-2]).all() and (images[-2] != images[-3]).any()
    assert images.max((1, 2, 3)).min() > 50  # none is black
    env.close()


def test_take_covers_actions_are_left_stay_right() -> None:
    env = envs.make(section("take_cover"))
    game: Any = env.unwrapped
    names = [button.name for button in game.game.get_available_buttons()]
    for action, pressed in enumerate((["MOVE_LEFT"], [], ["MOVE_RIGHT"])):
        env.reset(seed=0)
        env.step(action)
        assert [name for name, down in zip(names, game.game.get_last_action()) if down] == pressed
    env.close()


def test_take_cover_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared = Path("/dev/shm")
    before = set(shared.glob("ViZDoom*"))
    env = envs.make(section("take_cover"))
    play(env, 0, 3)
    assert len(simulators()) == 1
    for moment in ("running", "closed"):
        assert not list(tmp_path.iterdir()) and not set(shared.glob("ViZDoom*")) - before, moment
        env.close()
    assert not simulators() and capfd.readouterr() == ("", "")


def test_ctrl_c_leaves_take_cover_to_its_parent() -> None:
    env = envs.make(section("take_cover"))
    env.reset(seed=0)
    (simulator,) = simulators()
    os.kill(simulator.pid, signal.SIGINT)
    for _ in range(50):
        env.step(1)
    assert simulators() == [simulator]
    env.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a death that children hear of is Linux's")
def test_no_simulator_outlives_a_killed_worker() -> None:
    vector = envs.vector(section("take_cover", vectorization_mode="async", timeout=600))
    vector.reset({0: 0})
    (simulator,) = simulators()
    try:
        simulator.parent().kill()
        with pytest.raises(EnvError, match="killed by SIGKILL"):
            vector.step(np.eye(3)[[1]])
        simulator.wait(runs.HANG)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            simulator.kill()


# Pendulum


def test_pendulum_is_what_the_quickstart_sees() -> None:
    quickstart = command_line.parse(["exp=quickstart"]).env
    assert quickstart == section("pendulum", num_envs=4)  # how many there are side by side is the recipe's
    assert (quickstart.id, quickstart.size, quickstart.gray) == ("Pendulum-v1", (32, 32), True)
    assert (quickstart.action_repeat, quickstart.time_limit) == (2, None)
