"""One loop for collecting and evaluating: the right seeds, the right rows, in the right order, or nothing."""

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from agents.agent import Memory
from agents.base import ActorInfo
from training.collecting.rollout import (
    EpisodeResult,
    Interrupted,
    episode_seed,
    mean_ci95,
    planned_vs_obtained,
    rollout,
)

LENGTHS = (3, 1, 5, 2, 2, 7, 1)


def world(count: int) -> tiny.Worlds:
    """Every picture says whose it is; the reward says it, too. Odd seeds die."""
    return tiny.Worlds(
        count,
        lambda seed, step, action: np.full((1, 16, 16), 10 * seed + step),
        lambda seed, step, action: 100 * seed + step,
        lambda seed: LENGTHS[seed],
        lambda seed: seed % 2 == 1,
    )


class Actor:
    """Its actions tell which image and which call they answer; it predicts the number of that call."""

    def __init__(self) -> None:
        self.firsts: list[list[bool]] = []
        self.modes: list[str] = []
        self.memories: list[Any] = []

    def act(self, memory: Any, images: np.ndarray, first: np.ndarray, mode: str) -> tuple[np.ndarray, Memory]:
        self.firsts.append(first.tolist())
        self.modes.append(mode)
        self.memories.append(memory)
        n, call = len(images), len(self.firsts)
        action = np.stack([images[:, 0, 0, 0] / 255, np.full(n, call / 100)], 1).astype(np.float32)
        info = ActorInfo(torch.full((n,), float(call)), torch.zeros(n, 4, 2))
        return action, Memory(call, torch.from_numpy(action), None, info)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_results_come_in_the_seeds_order_with_their_own_rows(count: int) -> None:
    envs, seeds = world(count), [4, 0, 6, 2, 5, 1, 3]
    results, seconds = rollout(Actor().act, envs, seeds, mode="evaluate")
    assert sorted(envs.used) == sorted(seeds)  # each once
    for seed, (episode, predicted, horizon, truncated) in zip(seeds, results, strict=True):
        steps = LENGTHS[seed]
        assert episode.image[:, 0, 0, 0].tolist() == [10 * seed + t for t in range(steps + 1)]
        assert episode.reward.tolist() == [0] + [100 * seed + t for t in range(1, steps + 1)]
        answers = [0] + [np.float32((10 * seed + t) / 255) for t in range(steps)]
        assert episode.action[:, 0].tolist() == answers and episode.action[0, 1] == 0
        assert np.array_equal(episode.action[1:], np.stack(envs.taken[seed]))
        assert np.array_equal(predicted, np.round(100 * episode.action[1:, 1]))
        assert (np.diff(predicted) == 1).all() and horizon == 4
        assert truncated == (seed % 2 == 0)
        assert episode.terminal.tolist() == [False] * steps + [seed % 2 == 1]
        assert [part.dtype for part in episode] == [np.uint8, np.float32, np.float32, bool]
    assert min(seconds) >= 0 and seconds.render == 0


def test_every_episode_begins_with_first_and_memory_is_handed_on() -> None:
    actor = Actor()
    rollout(actor.act, world(2), [0, 1, 2], mode="explore")  # 3, 1 and then 5 steps
    assert actor.firsts == [[True, True], [False, True]] + [[False, False]] * 4
    assert [memory and memory.state for memory in actor.memories] == [None, 1, 2, 3, 4, 5]
    assert actor.modes == ["explore"] * 6


def test_images_are_kept_although_the_environment_reuses_its_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = world(1)
    step, reset = envs.step, envs.reset
    monkeypatch.setattr(envs, "step", lambda actions: (lambda _, *rest: (envs.image, *rest))(*step(actions)))
    monkeypatch.setattr(envs, "reset", lambda seeds: (lambda _: envs.image)(reset(seeds)))
    (result,), _ = rollout(Actor().act, envs, [2], mode="evaluate")
    assert result.episode.image[:, 0, 0, 0].tolist() == [20, 21, 22, 23, 24, 25]


def test_a_stop_is_noticed_before_the_next_action() -> None:
    actor = Actor()
    with pytest.raises(Interrupted):
        rollout(actor.act, world(2), [0, 2, 5], mode="evaluate", stop=lambda: len(actor.firsts) == 4)
    assert len(actor.firsts) == 4


def test_seeds_depend_on_run_stream_and_number() -> None:
    seeds = [episode_seed(run, stream, number) for run in range(5) for stream in range(3) for number in range(200)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(1, 2, 3) == episode_seed(1, 2, 3)


def result(rewards: list[float], predicted: list[float], horizon: int) -> EpisodeResult:
    episode = tiny.episode(len(rewards))._replace(reward=np.array([0, *rewards], np.float32))
    return EpisodeResult(episode, np.array(predicted, np.float32), horizon, True)


def test_predictions_are_compared_with_what_followed_over_their_horizon() -> None:
    """Steps 0, 1 and 2 look two rewards ahead: 1 + 2, 2 + 4 and 4 + 8. The last step looks beyond the end."""
    one = result([1, 2, 4, 8], [5, 6, 7, 1000], horizon=2)
    assert planned_vs_obtained(one) == pytest.approx((6, (3 + 6 + 12) / 3))
    assert planned_vs_obtained(result([1, 2], [5, 6], horizon=2)) == pytest.approx((5, 3))
    assert planned_vs_obtained(result([1, 2], [5, 6], horizon=1)) == pytest.approx((5.5, 1.5))


@pytest.mark.parametrize("horizon", [0, 3])
def test_without_a_horizon_inside_the_episode_there_is_no_prediction(horizon: int) -> None:
    assert all(math.isnan(value) for value in planned_vs_obtained(result([1, 2], [5, 6], horizon)))


def test_the_interval_is_that_of_the_means_standard_error() -> None:
    mean, half = mean_ci95([1, 2, 3, 6])
    assert mean == 3 and half == pytest.approx(1.96 * math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert mean_ci95([5])[0] == 5 and math.isnan(mean_ci95([5])[1])
    assert mean_ci95([2, 2]) == (2, 0)


def test_the_score_is_the_plain_sum_in_double_precision() -> None:
    assert result([1e8, 1, 1, -1e8], [0] * 4, 1).episode_return == 2
