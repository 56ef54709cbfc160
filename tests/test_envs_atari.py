"""Atari: what the simulator does by itself and what is done here agree; limits, lives, no-ops, and bad input."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

import envs
from envs.checks import EnvError
from envs.suites import atari

ale_py = pytest.importorskip("ale_py", reason="the games are in the extra 'atari'")


def config(**changes: Any) -> atari.Config:
    values = dict(name="atari", id="ALE/Pong-v5", sticky_actions=0.0, all_actions=False, noops=30, lives="unused")
    values |= dict(size=(64, 64), gray=False, action_repeat=4, time_limit=108_000, num_envs=1)
    return atari.Config(**{**values, "vectorization_mode": "sync", "timeout": 60.0, **changes})


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_four_frames_and_sticky_actions_are_the_simulators_own(sticky: float) -> None:
    """Without no-ops and pooling, four single frames are one step of the simulator with frameskip 4."""
    ours = atari.build(config(id="ALE/Breakout-v5", sticky_actions=sticky, noops=0, size=(210, 160)))
    theirs = gymnasium.make("ALE/Breakout-v5", frameskip=4, repeat_action_probability=sticky, disable_env_checker=True)
    ours.reset(seed=3), theirs.reset(seed=3)
    rng, total = np.random.default_rng(0), 0.0
    for _ in range(150):
        action = int(rng.integers(4))
        _, reward, terminated, truncated, _ = ours.step(action)
        frame, expected, over, cut, _ = theirs.step(action)
        single = ours.get_wrapper_attr("last")  # frame, before the maximum
        assert np.array_equal(single, frame) and (reward, terminated, truncated) == (expected, over, cut)
        total += reward
        if over:
            ours.reset(seed=4), theirs.reset(seed=4)
    assert total > 0


def test_the_agent_sees_the_maximum_of_the_last_two_frames() -> None:
    env = atari.build(config(size=(210, 160), action_repeat=1, noops=0))
    before = env.reset(seed=0)[0]
    for _ in range(80):
        image, *_ = env.step(2)
        frame = env.get_wrapper_attr("last").transpose(2, 0, 1)
        assert np.array_equal(image, np.maximum(frame, before))
        before = frame


@pytest.mark.parametrize("gray", [False, True])
def test_gray_or_colour_and_the_same_again(gray: bool) -> None:
    vector = envs.vector(config(gray=gray))
    assert (vector.discrete, vector.action_dim, vector.image_shape) == (True, 6, (1 if gray else 3, 64, 64))
    assert vector.time_limit == 108_000 and vector.time_limit // vector.action_repeat == 27_000

    def episode() -> list[Any]:
        seen = [vector.reset({0: 7})]
        rng = np.random.default_rng(0)
        return seen + [part for _ in range(40) for part in vector.step(np.eye(6)[rng.integers(6, size=1)])[:4]]

    first, again = episode(), episode()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.ptp(first[-4]) > 50
    vector.close()


def test_episodes_begin_differently_by_their_seed_only() -> None:
    env = atari.build(config(noops=30))
    frames = [env.reset(seed=seed)[1]["episode_frame_number"] for seed in (*range(8), 0)]
    assert len(set(frames)) > 4 and max(frames) <= 30 and frames[0] == frames[-1]


def test_the_limit_counts_frames_and_truncates() -> None:
    env = atari.build(config(time_limit=102))
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(26)] == [(False, False)] * 25 + [(False, True)]
    own = atari.build(config(time_limit=None))
    assert own.metadata["time_limit"] == 108_000


@pytest.mark.parametrize("lives", ["unused", "end"])
def test_a_lost_life_ends_the_episode_if_asked(lives: str) -> None:
    env = atari.build(config(id="ALE/Breakout-v5", lives=lives, noops=0))
    env.reset(seed=0)
    for _ in range(500):
        _, _, terminated, _, info = env.step(1)  # fires and never moves
        if terminated:
            break
    assert terminated and info["lives"] == (4 if lives == "end" else 0)
    assert env.reset(seed=0)[1]["lives"] == 5


def test_all_actions_are_the_joysticks() -> None:
    assert atari.build(config(all_actions=True)).action_space.n == 18


@pytest.mark.parametrize("name", ["Pong", "ALE/Pnog-v5", "ALE/Pong-v4"])
def test_an_unknown_game_names_the_nearest(name: str) -> None:
    with pytest.raises(EnvError, match=rf"{name}: no such game; nearest: .*ALE/Pong-v5"):
        atari.build(config(id=name))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(EnvError, match="pip install ale-py"):
        atari.build(config())
