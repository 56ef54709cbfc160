"""Random actions that persist: repeated ones, and random walks. They plan nothing and predict nothing."""

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from agents.base import Actor, random_actions
from agents.explorers import brownian, repeated_random
from agents.explorers.brownian import Walk, reflected
from agents.explorers.repeated_random import Repetition
from training.collecting.rollout import EpisodeResult, planned_vs_obtained, rollout
from training.configuration.config import check_section
from training.evaluation import planned_metrics
from worldmodel.base import ConfigError, Spec, tree_map, tree_where
from worldmodel.replay.episodes import Episode

PLANE, THREE = Spec((1, 16, 16), 2, False), Spec((1, 16, 16), 3, True)
both = pytest.mark.parametrize("spec", [PLANE, THREE], ids=["continuous", "discrete"])
each_explorer = pytest.mark.parametrize("name", ["repeated_random", "brownian"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def repeat(spec: Spec, shortest: int = 1, longest: int = 10) -> repeated_random.RepeatedRandom:
    config = repeated_random.Config(name="repeated_random", shortest=shortest, longest=longest)
    return repeated_random.build(config, tiny.quadratic(torch.zeros(1)), spec, tiny.REWARD)


def walk(spec: Spec, scale: float = 0.1414) -> brownian.Brownian:
    config = brownian.Config(name="brownian", scale=scale)
    return brownian.build(config, tiny.quadratic(torch.zeros(1)), spec, tiny.REWARD)


def make(name: str, spec: Spec) -> Actor:
    return repeat(spec) if name == "repeated_random" else walk(spec)


def live(actor: Actor, n: int, steps: int) -> Tensor:
    """The actions (N, T, A) of n episodes."""
    carry, actions = actor.initial(n), []
    for _ in range(steps):
        action, carry, info = actor.act(None, carry, mode="explore")
        assert info.predicted_return.isnan().all() and info.predicted_return.shape == (n,)
        assert info.plan.shape == (n, 0, actor.spec.action_dim)
        actions.append(action)
    return torch.stack(actions, 1)


def runs(actions: Tensor) -> list[int]:
    """The lengths of the runs of equal actions (T, A) in an episode; the last one, which was cut off, is left out."""
    changes = (actions[1:] != actions[:-1]).any(-1).nonzero()[:, 0] + 1
    return np.diff([0, *changes.tolist()]).tolist()


# ---- repeated actions ----


@pytest.mark.parametrize(("shortest", "longest"), [(1, 10), (3, 5), (4, 4), (1, 1)])
def test_actions_are_repeated_for_a_uniformly_random_number_of_steps(shortest: int, longest: int) -> None:
    actions = live(repeat(PLANE, shortest, longest), 40, 500)
    lengths = [length for episode in actions for length in runs(episode)]
    counts = np.bincount(lengths, minlength=longest + 1)
    assert counts[:shortest].sum() == 0 and len(counts) == longest + 1
    # Long repetitions are cut off at the end a little more often than short ones: 1 % of all at most.
    wanted = len(lengths) / (longest - shortest + 1)
    chi_square = ((counts[shortest:] - wanted) ** 2 / wanted).sum()
    assert chi_square < 28  # 9 degrees of freedom: exceeded once in 1000 times
    assert len(lengths) == pytest.approx(40 * 500 / ((shortest + longest) / 2), rel=0.05)


def test_repeated_actions_are_uniform() -> None:
    actions = live(repeat(PLANE), 20_000, 1)
    assert actions.abs().max() <= 1 and actions.mean().abs() < 0.01
    assert actions.std().item() == pytest.approx(2 / math.sqrt(12), rel=0.01)
    discrete = live(repeat(THREE), 20_000, 1)[:, 0]
    assert (discrete.sum(-1) == 1).all() and discrete.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.015)


@both
def test_the_carry_is_the_action_and_how_often_it_is_still_to_be_taken(spec: Spec) -> None:
    actor = repeat(spec, 2, 6)
    carry = actor.initial(50)
    assert carry.action.shape == (50, spec.action_dim) and carry.steps_left.shape == (50, 1)
    assert not carry.action.any() and not carry.steps_left.any()
    action, carry, _ = actor.act(None, carry, mode="evaluate")
    left = carry.steps_left[:, 0] + 1  # of the first action, the step that was taken included
    assert set(left.tolist()) == {2, 3, 4, 5, 6}
    for t in range(5):
        assert torch.equal(carry.action, action)
        for row in range(50):
            if t < left[row]:
                assert carry.steps_left[row] == left[row] - t - 1
        before, (action, carry, _) = action, actor.act(None, carry, mode="evaluate")
        same = (action == before).all(-1)
        assert same[left > t + 1].all() and (spec.discrete or not same[left == t + 1].any())


# ---- brownian ----


def test_the_walks_steps_have_their_std_inside_and_stop_at_the_bounds() -> None:
    for scale in (0.1414, 0.02):
        actions = live(walk(PLANE, scale), 300, 60)
        assert actions.abs().max() <= 1 and (actions[:, 0].abs() < 1).all()
        before, steps = actions[:, :-1], actions.diff(dim=1)
        inside = before.abs() < 1 - 4.5 * scale  # from where a step does not reach the bounds
        assert steps[inside].std().item() == pytest.approx(scale, rel=0.03)
        assert steps[inside].mean().abs() < 0.05 * scale
        edge = steps[before == 1]  # half of the steps go outside and are clipped
        if scale > 0.1:
            assert len(edge) > 500 and (edge == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
        both_steps = steps[inside.all(-1)]
        assert torch.corrcoef(both_steps.T)[0, 1].abs() < 0.05  # dimensions walk by themselves


def test_the_walk_starts_anywhere() -> None:
    first = live(walk(PLANE), 20_000, 1)[:, 0]
    assert first.abs().max() <= 1 and first.mean().abs() < 0.01
    assert first.std().item() == pytest.approx(2 / math.sqrt(12), rel=0.01)


def test_reflection_folds_the_line() -> None:
    x = torch.tensor([-3.5, -1.25, -1, -0.5, 0, 0.75, 1, 1.25, 3, 3.5])
    assert reflected(x).tolist() == [0.5, -0.75, -1, -0.5, 0, 0.75, 1, 0.75, -1, -0.5]


def test_a_discrete_walk_persists_and_prefers_no_action() -> None:
    for spec in (THREE, Spec((1, 16, 16), 6, True)):
        actions = live(walk(spec), 200, 300)
        assert ((actions == 0) | (actions == 1)).all() and (actions.sum(-1) == 1).all()
        lengths = [length for episode in actions for length in runs(episode)]
        assert np.mean(lengths) > 2 * spec.action_dim / (spec.action_dim - 1)  # twice as long as chance
        assert actions.mean((0, 1)).tolist() == pytest.approx([1 / spec.action_dim] * spec.action_dim, abs=0.03)
        assert actions[:, -50:].mean((0, 1)).tolist() == pytest.approx(
            [1 / spec.action_dim] * spec.action_dim, abs=0.06
        )


def test_a_discrete_walk_has_no_ties_for_the_first_of_many_actions_to_win() -> None:
    """Clipped, 18 walkers in steps of 0.3 would take the first action in 10 % of all steps and the last in 3 %."""
    actions = live(walk(Spec((1, 16, 16), 18, True), 0.3), 1000, 100)
    assert actions.mean((0, 1)).tolist() == pytest.approx([1 / 18] * 18, abs=0.008)


# ---- both ----


@each_explorer
@both
def test_they_persist_where_uniform_actions_do_not(name: str, spec: Spec) -> None:
    """Correlation of an action with the next one: 0 for uniform ones."""
    actions = live(make(name, spec), 100, 100)[..., 0]
    still = random_actions(spec, 100, 100)[..., 0]

    def correlation(a: Tensor) -> float:
        return torch.corrcoef(torch.stack([a[:, :-1].flatten(), a[:, 1:].flatten()]))[0, 1].item()

    assert correlation(actions) > 0.6 and abs(correlation(still)) < 0.05


@each_explorer
@both
def test_an_episodes_start_knows_nothing_of_the_episode_before(name: str, spec: Spec) -> None:
    """After 30 steps, half of the rows start afresh: their actions are as random as first ones, the others go on."""
    actor, n = make(name, spec), 4000
    carry = actor.initial(n)
    for _ in range(30):
        action, carry, _ = actor.act(None, carry, mode="explore")
    first = torch.arange(n) % 2 == 0
    then, _, _ = actor.act(None, tree_where(first, actor.initial(n), carry), mode="explore")
    last, then = action[:, 0], then[:, 0]
    assert torch.corrcoef(torch.stack([last[first], then[first]]))[0, 1].abs() < 0.06
    assert torch.corrcoef(torch.stack([last[~first], then[~first]]))[0, 1] > 0.6


@each_explorer
@both
def test_rows_do_not_depend_on_each_other(name: str, spec: Spec) -> None:
    """What a row does, given its noise, is not changed by what the other rows are in the middle of."""
    actor = make(name, spec)
    fresh = actor.initial(6)
    carry = fresh
    for _ in range(4):
        carry = actor.act(None, carry, mode="explore")[1]
    results = []
    for others in (fresh, carry):
        mixed = tree_where(torch.arange(6) == 2, carry, others)
        torch.manual_seed(3)
        action, new, _ = actor.act(None, mixed, mode="explore")
        results.append((action[2], *(part[2] for part in new)))
    assert len(results[0]) == 3 and all(torch.equal(*pair) for pair in zip(*results, strict=True))
    actions = live(actor, 50, 20)
    assert not any(torch.equal(actions[0], other) for other in actions[1:])


@each_explorer
@both
def test_the_seed_decides_and_the_carry_that_is_given_is_left_alone(name: str, spec: Spec) -> None:
    lives = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        lives.append(live(make(name, spec), 3, 20))
    assert torch.equal(lives[0], lives[1]) and not torch.equal(lives[0], lives[2])
    actor = make(name, spec)
    carry = actor.act(None, actor.initial(3), mode="explore")[1]
    kept = tree_map(torch.clone, carry)
    actor.act(None, carry, mode="explore")
    assert all(torch.equal(*pair) for pair in zip(carry, kept, strict=True))


@each_explorer
@both
def test_whole_episodes_predict_nothing_and_warn_of_nothing(name: str, spec: Spec) -> None:
    """Three episodes in two rows: a row's second one starts afresh, and predictions are not numbers, silently."""
    spec = Spec((1, 16, 16), spec.action_dim, spec.discrete)
    envs = tiny.Worlds(2, lambda *_: np.zeros((1, 16, 16)), lambda *_: 1.0, lambda seed: (3, 30, 12)[seed], spec=spec)
    agent = tiny.make_agent(lambda model, spec: make(name, spec), spec)
    results, _ = rollout(agent.act, envs, [0, 1, 2], mode="explore")
    assert [result.length for result in results] == [3, 30, 12]
    for result in results:
        assert np.isnan(result.predicted_return).all() and math.isnan(planned_vs_obtained(result)[0])
        action = result.episode.action[1:]
        assert np.isfinite(action).all() and np.abs(action).max() <= 1
        assert (spec.discrete and (action.sum(-1) == 1).all()) or not spec.discrete
    values = planned_metrics(results, "collect")
    assert math.isnan(values["collect/planned_return"]) and math.isnan(values["collect/planned_minus_obtained"])


def test_an_episode_that_is_shorter_than_the_horizon_takes_no_other_ones_prediction_away() -> None:
    def episode(length: int, predicted: float) -> EpisodeResult:
        rows = np.zeros(length + 1, np.float32)
        played = Episode(np.zeros((length + 1, 1, 4, 4), np.uint8), rows[:, None], rows + 1, rows > 0)
        return EpisodeResult(played, np.full(length, predicted, np.float32), 4, True)

    long, short, broken = episode(9, 5.0), episode(3, 7.0), episode(9, -np.inf)
    long.predicted_return[3] = -np.inf  # once
    values = planned_metrics([long, short, broken], "evaluate")
    assert values["evaluate/planned_return"] == 5 and values["evaluate/obtained_return"] == 4
    assert math.isnan(planned_metrics([short, broken], "evaluate")["evaluate/planned_return"])


def test_contradictions_are_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match="shortest is 5 but longest only 4: exchange them"):
        check_section("explorer", {"explorer": dict(name="repeated_random", shortest=5, longest=4)})


def test_the_configs_are_those_of_the_papers() -> None:
    values: Any = tiny.section("explorer", "repeated_random")
    assert (values.shortest, values.longest) == (1, 10)
    assert tiny.section("explorer", "brownian").scale == pytest.approx(math.sqrt(1 / 50), abs=1e-4)


def test_each_has_a_carry_of_its_own() -> None:
    assert isinstance(make("repeated_random", PLANE).initial(2), Repetition)
    assert isinstance(make("brownian", PLANE).initial(2), Walk)
