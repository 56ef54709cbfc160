"""The critic's value against the return obtained."""

from pathlib import Path

import dreams
import numpy as np
import pytest
import runs
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import evaluation
from training.collecting.rollout import EpisodeResult, value_vs_obtained
from worldmodel.base import tree_map
from worldmodel.replay.episodes import Episode


def an_episode(rewards: list[float], values: list[float], truncated: bool) -> EpisodeResult:
    n = len(rewards)
    terminal = np.zeros(n + 1, bool)
    terminal[-1] = not truncated
    images, actions = np.zeros((n + 1, 1, 4, 4), np.uint8), np.zeros((n + 1, 2), np.float32)
    episode = Episode(images, actions, np.array([0, *rewards], np.float32), terminal)
    return EpisodeResult(episode, np.array(values, np.float32), 0, truncated)


def test_after_a_death_nothing_is_obtained() -> None:
    """G = 1 + (2 + 4/2)/2, 2 + 4/2, 4."""
    value, obtained = value_vs_obtained(an_episode([1, 2, 4], [9, 8, 7], truncated=False), 0.5)
    assert value.tolist() == [9, 8, 7] and obtained.tolist() == [3, 4, 4]


def test_what_follows_a_time_limit_is_the_critics_word() -> None:
    """G = 1 + (2 + 7/2)/2, 2 + 7/2; the last decision, whose value stands for the rest, is left out."""
    value, obtained = value_vs_obtained(an_episode([1, 2, 4], [9, 8, 7], truncated=True), 0.5)
    assert value.tolist() == [9, 8] and obtained.tolist() == [3.75, 5.5]


def test_the_means_are_over_all_decisions() -> None:
    results = [an_episode([1, 2, 4], [9, 8, 7], truncated=False), an_episode([5], [3], truncated=False)]
    found = evaluation.value_metrics(results, 0.5)
    assert found == {
        "evaluate/value": (9 + 8 + 7 + 3) / 4,
        "evaluate/value_obtained": (3 + 4 + 4 + 5) / 4,
        "evaluate/value_minus_obtained": (27 - 16) / 4,
    }
    assert evaluation.value_metrics(results, None) == {}  # no critic
    assert evaluation.value_metrics([an_episode([1], [2], truncated=True)], 0.5) == {}  # nothing to compare


@pytest.mark.parametrize("name", dreams.NAMES)
def test_an_actor_says_what_its_critic_expects(name: str) -> None:
    """V1's and V2's critics count the state's own reward and discount what follows; what is reported is the discounted
    return from the next reward on, which needs no discount.
    """
    model, actor = dreams.pair(name)
    batch = dreams.batch()
    _, states = dreams.states_of(model, batch)
    state = tree_map(lambda a: a[:, -1].detach(), states)
    with torch.no_grad():
        _, _, info = actor.act(state, actor.initial(2), "evaluate")
        value = actor.value(model.features(state))
        following = name.startswith("dreamer_v3")
        wanted = value if following else (value - model.reward(state)) / actor.config.discount
    assert info.plan.shape == (2, 0, 2) and torch.allclose(info.predicted_return, wanted)
    assert 0.9 < actor.discount < 1 and info.predicted_return.std() > 0


def test_a_run_with_a_critic_shows_its_values(tmp_path: Path) -> None:
    words = [word for word in runs.TINY if not word.startswith(("model.", "actor.")) or "hidden" in word]
    words += ["model=dreamer_v2_tiny", "actor=dreamer_v2_tiny", "+train.learn.model.parts=[model,actor]"]
    assert runs.go(tmp_path, "train.env_steps=20", recipe=words) == 0
    events = EventAccumulator(str(tmp_path / "r"), size_guidance={"images": 0}).Reload()
    for name in ("value", "value_obtained", "value_minus_obtained"):
        assert len(events.Scalars(f"evaluate/{name}")) == len(events.Images("evaluate/rollout/values")) > 0
    assert (tmp_path / "r" / "values.png").read_bytes() == events.Images("evaluate/rollout/values")[
        -1
    ].encoded_image_string
