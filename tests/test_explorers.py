"""Random actions that move: held, and walking. Their memory is a plan without a promise."""

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from agents import brownian, held
from agents.base import Actor, Plan, random_actions
from agents.brownian import reflected
from agents.evaluation import planned
from agents.rollout import planned_vs_obtained, rollout
from worldmodel.base import Spec, where
from worldmodel.config import ConfigError, check

PLANE, THREE = Spec((1, 16, 16), 2, False), Spec((1, 16, 16), 3, True)
both = pytest.mark.parametrize("spec", [PLANE, THREE], ids=["continuous", "discrete"])
each_explorer = pytest.mark.parametrize("name", ["held", "brownian"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def hold(spec: Spec, shortest: int = 1, longest: int = 10) -> held.Held:
    return held.build(
        held.Config(name="held", shortest=shortest, longest=longest), tiny.quadratic(torch.zeros(1)), spec
    )


def walk(spec: Spec, scale: float = 0.1414) -> brownian.Brownian:
    return brownian.build(brownian.Config(name="brownian", scale=scale), tiny.quadratic(torch.zeros(1)), spec)


def make(name: str, spec: Spec) -> Actor:
    return hold(spec) if name == "held" else walk(spec)


def live(actor: Actor, n: int, steps: int) -> Tensor:
    """The actions (N, T, A) of n episodes."""
    plan, actions = actor.initial(n), []
    for _ in range(steps):
        action, plan = actor.act(None, plan, explore=True)
        assert plan.value.isnan().all() and plan.value.shape == (n,)
        actions.append(action)
    return torch.stack(actions, 1)


def runs(actions: Tensor) -> list[int]:
    """The lengths of the runs of equal actions (T, A) in an episode; the last one, which was cut off, is left out."""
    changes = (actions[1:] != actions[:-1]).any(-1).nonzero()[:, 0] + 1
    return np.diff([0, *changes.tolist()]).tolist()


# ---- held ----


@pytest.mark.parametrize(("shortest", "longest"), [(1, 10), (3, 5), (4, 4), (1, 1)])
def test_actions_are_held_for_a_uniformly_random_number_of_steps(shortest: int, longest: int) -> None:
    actions = live(hold(PLANE, shortest, longest), 40, 500)
    lengths = [length for episode in actions for length in runs(episode)]
    counts = np.bincount(lengths, minlength=longest + 1)
    assert counts[:shortest].sum() == 0 and len(counts) == longest + 1
    # Long holds are cut off at the end a little more often than short ones: 1 % of all at most.
    wanted = len(lengths) / (longest - shortest + 1)
    chi_square = ((counts[shortest:] - wanted) ** 2 / wanted).sum()
    assert chi_square < 28  # 9 degrees of freedom: exceeded once in 1000 times
    assert len(lengths) == pytest.approx(40 * 500 / ((shortest + longest) / 2), rel=0.05)


def test_held_actions_are_uniform() -> None:
    actions = live(hold(PLANE), 20_000, 1)
    assert actions.abs().max() <= 1 and actions.mean().abs() < 0.01
    assert actions.std().item() == pytest.approx(2 / math.sqrt(12), rel=0.01)
    discrete = live(hold(THREE), 20_000, 1)[:, 0]
    assert (discrete.sum(-1) == 1).all() and discrete.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.015)


@both
def test_the_plan_is_what_is_still_to_come_and_then_nothing(spec: Spec) -> None:
    actor = hold(spec, 2, 6)
    plan = actor.initial(50)
    assert plan.actions.shape == (50, 6, spec.action_dim) and plan.actions.isnan().all()
    action, plan = actor.act(None, plan, explore=False)
    left = (~plan.actions[..., 0].isnan()).sum(1)
    assert set(left.tolist()) == {2, 3, 4, 5, 6}
    for t in range(5):
        assert torch.equal(plan.actions[:, 0], action)  # the next one first, and it is taken
        for row in range(50):
            if t < left[row]:
                rest = plan.actions[row, : left[row] - t]
                assert (rest == action[row]).all() and plan.actions[row, left[row] - t :].isnan().all()
        before, (action, plan) = action, actor.act(None, plan, explore=False)
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
        assert actions[:, -50:].mean((0, 1)).tolist() == pytest.approx([1 / spec.action_dim] * spec.action_dim, abs=0.06)


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
    plan = actor.initial(n)
    for _ in range(30):
        action, plan = actor.act(None, plan, explore=True)
    first = torch.arange(n) % 2 == 0
    then, _ = actor.act(None, where(first, actor.initial(n), plan), explore=True)
    last, then = action[:, 0], then[:, 0]
    assert torch.corrcoef(torch.stack([last[first], then[first]]))[0, 1].abs() < 0.06
    assert torch.corrcoef(torch.stack([last[~first], then[~first]]))[0, 1] > 0.6


@each_explorer
@both
def test_rows_do_not_depend_on_each_other(name: str, spec: Spec) -> None:
    """What a row does, given its noise, is not changed by what the other rows are in the middle of."""
    actor = make(name, spec)
    fresh = actor.initial(6)
    plan = fresh
    for _ in range(4):
        plan = actor.act(None, plan, explore=True)[1]
    results = []
    for others in (fresh, plan):
        mixed = where(torch.arange(6) == 2, plan, others)
        torch.manual_seed(3)
        action, new = actor.act(None, mixed, explore=True)
        results.append((action[2], new.actions[2].nan_to_num(7)))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    actions = live(actor, 50, 20)
    assert not any(torch.equal(actions[0], other) for other in actions[1:])


@each_explorer
@both
def test_the_seed_decides_and_the_plan_that_is_given_is_left_alone(name: str, spec: Spec) -> None:
    lives = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        lives.append(live(make(name, spec), 3, 20))
    assert torch.equal(lives[0], lives[1]) and not torch.equal(lives[0], lives[2])
    actor = make(name, spec)
    plan = actor.act(None, actor.initial(3), explore=True)[1]
    kept = plan.actions.clone()
    actor.act(None, plan, explore=True)
    assert torch.equal(plan.actions.nan_to_num(7), kept.nan_to_num(7))


@each_explorer
@both
def test_whole_episodes_make_no_promise_and_no_warning(name: str, spec: Spec) -> None:
    """Three episodes in two rows: a row's second one starts afresh, and what was planned is not a number, silently."""
    spec = Spec((1, 16, 16), spec.action_dim, spec.discrete)
    envs = tiny.Worlds(2, lambda *_: np.zeros((1, 16, 16)), lambda *_: 1.0, lambda seed: (3, 30, 12)[seed], spec=spec)
    agent = tiny.make_agent(lambda model, spec: make(name, spec), spec)
    trials, _ = rollout(agent.act, envs, [0, 1, 2], explore=True)
    assert [len(trial.predicted) for trial in trials] == [3, 30, 12]
    for trial in trials:
        assert np.isnan(trial.predicted).all() and math.isnan(planned_vs_obtained(trial)[0])
        action = trial.episode.action[1:]
        assert np.isfinite(action).all() and np.abs(action).max() <= 1
        assert (spec.discrete and (action.sum(-1) == 1).all()) or not spec.discrete
    values = planned(trials, "collect")
    assert math.isnan(values["collect/planned_return"]) and math.isnan(values["collect/exploitation"])


def test_contradictions_are_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match="shortest is 5 but longest only 4: exchange them"):
        check({"actor": dict(name="held", shortest=5, longest=4)}, {"actor": "agents"})


def test_the_configs_are_those_of_the_papers() -> None:
    values: Any = tiny.section("actor", "held")
    assert (values.shortest, values.longest) == (1, 10)
    assert tiny.section("actor", "brownian").scale == pytest.approx(math.sqrt(1 / 50), abs=1e-4)


def test_the_memory_is_a_plan() -> None:
    assert all(isinstance(make(name, PLANE).initial(2), Plan) for name in ("held", "brownian"))
