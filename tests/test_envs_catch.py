"""Catch: its rules, its picture, the optimum and what chance gets."""

import itertools
from typing import Any

import numpy as np
import pydantic
import pytest

import envs
from envs.suites import catch
from training.configuration.config import check_section


def config(**changes: Any) -> catch.Config:
    values = dict(name="catch", rows=10, columns=5, size=(32, 32), gray=False, action_repeat=1, time_limit=None)
    return catch.Config(**{**values, "num_envs": 1, "vectorization_mode": "sync", "timeout": 10.0, **changes})


def play(env: Any, seed: int, policy: Any) -> tuple[float, int]:
    """The return and the length of an episode."""
    env.reset(seed=seed)
    for step in itertools.count(1):
        _, reward, terminated, truncated, _ = env.step(policy(env.unwrapped))
        if terminated:
            return reward, step
        assert reward == 0 and not truncated


def towards_the_ball(env: catch.Catch) -> int:
    return 1 + int(np.sign(env.ball[1] - env.paddle))


@pytest.mark.parametrize("rows, columns", [(10, 5), (4, 3), (12, 7)])
def test_whoever_follows_the_ball_catches_it_and_whoever_flees_never_does(rows: int, columns: int) -> None:
    env = catch.build(config(rows=rows, columns=columns))
    assert env.metadata["time_limit"] == rows - 1
    for seed in range(20):
        assert play(env, seed, towards_the_ball) == (1.0, rows - 1)
        assert play(env, seed, lambda env: 0 if env.ball[1] > columns // 2 else 2) == (-1.0, rows - 1)


def test_chance_gets_what_is_computed() -> None:
    """-0.6: four standard errors of 1,000 episodes are 0.10."""
    env, rng = catch.build(config()), np.random.default_rng(0)
    returns = [play(env, seed, lambda _: rng.integers(3))[0] for seed in range(1000)]
    assert catch.random_return(10, 5) == pytest.approx(-0.6)
    assert abs(np.mean(returns) + 0.6) < 0.10


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (33, 21), (64, 64)])
def test_every_cell_is_a_block_at_any_size(size: tuple[int, int], gray: bool) -> None:
    env = catch.build(config(size=size, gray=gray))
    colours = []
    for seed in range(5):
        image, _ = env.reset(seed=seed)
        state = env.unwrapped
        for _ in range(9):
            for cell in (state.ball, (9, state.paddle)):
                block = image[:, state.row_of == cell[0]][:, :, state.column_of == cell[1]]
                assert block.size >= (1 if gray else 3) and (block == block[:, :1, :1]).all()
                colours.append(tuple(block[:, 0, 0]))
            assert (image.max(0) > 0).mean() <= 2 * np.ceil(size[0] / 10) * np.ceil(size[1] / 5) / size[0] / size[1]
            image, *_ = env.step(1)
    assert len(set(colours)) == 2  # the ball's and the paddle's, also in gray


def test_the_picture_tells_the_reward() -> None:
    env = catch.build(config(size=(20, 20)))
    for policy, reward, lit in ((towards_the_ball, 1, 1), (lambda env: 0 if env.ball[1] else 2, -1, 2)):
        env.reset(seed=1)
        for _ in range(9):
            image, got, *_ = env.step(policy(env.unwrapped))
        assert got == reward and (image[:, 19].max(0) > 0).sum() == 4 * lit


def test_a_board_that_cannot_be_seen_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="less than a pixel for each of 10 rows"):
        config(size=(8, 16))


def test_it_is_chosen_by_name() -> None:
    import yaml

    from training.configuration.components import ROOT

    plain = yaml.safe_load((ROOT / "configs/env/catch.yaml").read_text("utf8"))
    vector = envs.vector(check_section("env", {"env": plain}))
    assert (vector.discrete, vector.action_dim, vector.image_shape, vector.time_limit) == (True, 3, (3, 32, 32), 9)
    vector.close()
