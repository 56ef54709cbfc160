"""Planners on worlds whose best plan is known."""

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from agents.base import add_exploration_noise, random_actions
from agents.imagination import evaluate_sequences
from agents.objectives.reward import Reward
from agents.planners import cem, proposal, shooting
from agents.planners.proposal import Carry, first_mean, mean_of_sound
from training.configuration.config import check_section
from worldmodel.base import ConfigError, Spec

LINE, PLANE = Spec((1, 16, 16), 1, False), Spec((1, 16, 16), 2, False)
PUBLISHED = dict(horizon=12, iterations=10, candidates=1000, elites=100, init_std=1.0, min_std=0.0, momentum=0.0)


@pytest.fixture(autouse=True)
def seeded() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def make(model: Any, spec: Spec = LINE, **changes: Any) -> cem.CEM:
    values = {"name": "cem", **PUBLISHED, "warm_start": False, "choose": "mean", "exploration_noise": 0.3, **changes}
    return cem.build(cem.Config(**values), model, spec, tiny.REWARD)


def shoot(model: Any, spec: Spec = LINE, horizon: int = 12, candidates: int = 10_000) -> shooting.Shooting:
    config = shooting.Config(name="shooting", horizon=horizon, candidates=candidates, exploration_noise=0.3)
    return shooting.build(config, model, spec, tiny.REWARD)


def record(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[tuple[Tensor, Tensor]]:
    """What is evaluated from here on, and its returns."""
    seen: list[tuple[Tensor, Tensor]] = []

    def listen(model: Any, objective: Any, state: Any, actions: Tensor) -> Tensor:
        seen.append((actions, evaluate_sequences(model, objective, state, actions)))
        return seen[-1][1]

    monkeypatch.setattr(module, "evaluate_sequences", listen)
    return seen


# ---- the return of imagined actions ----


def test_rewards_are_read_after_each_action_and_die_with_the_world() -> None:
    """x: 1 -> 2 -> 4 -> 7 earns 2 + 4 / 2 + 7 / 2 / 4, if being at x goes on with probability 1 / x (T26)."""

    def move(point: tiny.Point, action: Tensor) -> tiny.Point:
        x = point.x + action
        return tiny.Point(x, x[:, 0], 1 / x[:, 0])

    model = tiny.Fake(move)
    start = model.at(torch.tensor([[1.0], [10.0]]), earned=1000.0)  # the start's own reward counts for nothing
    actions = torch.tensor([[1.0, 2, 3], [1, 0, 0]])[None, :, :, None].repeat(2, 1, 1, 1)
    ten = [11 + 13 / 11 + 16 / 11 / 13, 11 + 11 / 11 + 11 / 121]
    wanted = torch.tensor([[2 + 4 / 2 + 7 / 8, 2 + 2 / 2 + 2 / 4], ten])
    torch.testing.assert_close(evaluate_sequences(model, tiny.REWARD, start, actions), wanted)


def test_every_candidate_starts_from_its_own_state() -> None:
    model = tiny.Fake(
        lambda point, action: tiny.Point(point.x, 10 * point.x[:, 0] + action[:, 0], torch.ones(len(action)))
    )
    actions = torch.arange(6.0).view(3, 2, 1, 1)
    got = evaluate_sequences(model, tiny.REWARD, model.at(torch.tensor([[1.0], [2.0], [3.0]])), actions)
    assert got.tolist() == [[10, 11], [22, 23], [34, 35]]


def test_a_world_that_goes_on_pays_the_plain_sum() -> None:
    model, start = tiny.linear()
    actions = torch.rand(1, 5, 12, 1) * 2 - 1
    for k in range(5):
        x, cost = start.x[0], (start.x[0].square() * tiny.Q).sum()
        for u in actions[0, k]:
            x = tiny.A @ x + tiny.B @ u
            cost = cost + (x.square() * tiny.Q).sum() + tiny.R * u.square().sum()
        assert evaluate_sequences(model, tiny.REWARD, start, actions)[0, k].item() == pytest.approx(
            -cost.item(), rel=1e-5
        )


class Goal(Reward):
    """Beyond the horizon a state is worth its place, x."""

    def terminal_value(self, model: Any, state: Any) -> Tensor:
        return state.x[:, 0]


def test_a_terminal_value_counts_as_far_as_one_survives_to_the_horizon() -> None:
    """x: 1 -> 2 -> 4 earns 2 + 4 / 2, and then 4 / 2 / 4, if being at x goes on with probability 1 / x."""
    model = tiny.Fake(lambda point, action: tiny.Point(x := point.x + action, x[:, 0], 1 / x[:, 0]))
    actions = torch.tensor([1.0, 2]).view(1, 1, 2, 1)
    assert evaluate_sequences(model, Goal(), model.at(torch.tensor([[1.0]])), actions).item() == 2 + 4 / 2 + 4 / 2 / 4
    assert evaluate_sequences(model, Goal(), model.at(torch.tensor([[1.0]])), actions[:, :, :1]).item() == 2 + 2 / 2


# ---- planning on known problems ----


def riccati(steps: int) -> tuple[float, float]:
    """The least cost of LIN2 from (.1, 0), and the first action that reaches it."""
    a, b, q, r = (np.asarray(m, float) for m in (tiny.A, tiny.B, torch.diag(tiny.Q), [[tiny.R]]))
    value, gain, x = q, np.zeros((1, 2)), np.array([0.1, 0.0])
    for _ in range(steps):
        gain = -np.linalg.solve(r + b.T @ value @ b, b.T @ value @ a)
        value = q + a.T @ value @ a + a.T @ value @ b @ gain
    return float(x @ value @ x), float((gain @ x)[0])


def test_cem_finds_the_linear_quadratic_optimum_and_shooting_does_not() -> None:
    least, action = riccati(12)
    assert least == pytest.approx(0.0599838187, rel=1e-6)
    model, start = tiny.linear()
    planner = make(model)
    plan, promised = planner.plan(start, planner.initial(1))[:2]
    cost = -evaluate_sequences(model, tiny.REWARD, start, plan[:, None]).item()
    assert 0 <= cost / least - 1 < 1e-3
    assert plan[0, 0, 0].item() == pytest.approx(action, abs=0.03)
    assert -promised.item() == pytest.approx(least, rel=0.01)  # what the plan promises is what it costs
    _, _, info = shoot(model).act(start, shoot(model).initial(1), mode="evaluate")
    assert -info.predicted_return.item() / least - 1 > 0.1 and info.plan.shape == (1, 12, 1)


def test_cem_finds_every_number_of_a_separable_plan() -> None:
    goal = torch.rand(6, 2) * 1.6 - 0.8
    model = tiny.quadratic(goal)
    errors = [
        (make(model, PLANE, horizon=6).plan(model.initial(1), carry)[0][0] - goal).abs().max()
        for carry in [make(model, PLANE, horizon=6).initial(1)] * 3
    ]
    assert max(errors) < 0.02 and sum(errors) / 3 < 0.01


@pytest.mark.parametrize("choose", ["mean", "best"])
def test_bounds_hold_although_the_reward_pulls_outside(monkeypatch: pytest.MonkeyPatch, choose: str) -> None:
    model, seen = tiny.quadratic(torch.tensor([[3.0], [-3.0]])), record(monkeypatch, cem)
    planner = make(model, horizon=2, iterations=4, candidates=100, elites=10, min_std=0.2, choose=choose)
    state = model.initial(2)
    _, carry, info = planner.act(state, planner.initial(2), mode="evaluate")
    assert all(sequences.abs().max() <= 1 for sequences, _ in seen)
    assert info.plan[:, 0].min() > 0.8 and info.plan[:, 1].max() < -0.8
    for mode in ("evaluate", "explore"):
        for _ in range(20):
            assert planner.act(state, carry, mode)[0].abs().max() <= 1


def test_discrete_cem_finds_the_best_leaf_of_a_tree() -> None:
    """The best first step earns least at once: only a plan of three steps finds the leaf behind it."""
    spec, leaf = Spec((1, 16, 16), 3, True), (2, 0, 1)

    def move(point: tiny.Point, action: Tensor) -> tiny.Point:
        x = 3 * point.x + action.argmax(-1, keepdim=True)  # the path so far, in base 3, after a leading 1
        lure = -0.1 * action[:, 2]
        return tiny.Point(
            x, torch.where(x[:, 0] == 27 + 9 * leaf[0] + 3 * leaf[1] + leaf[2], 1.0, lure), torch.ones(len(x))
        )

    model = tiny.Fake(move, start=(1.0,))
    planner = make(model, spec, horizon=3, iterations=5, candidates=100, elites=10)
    action, carry, info = planner.act(model.initial(2), planner.initial(2), mode="evaluate")
    assert info.plan.argmax(-1).tolist() == [list(leaf)] * 2 and info.predicted_return.tolist() == pytest.approx(
        [0.9, 0.9]
    )
    assert action.tolist() == [[0, 0, 1]] * 2
    torch.testing.assert_close(info.plan.sum(-1), torch.ones(2, 3))
    assert torch.equal(carry.mean, info.plan)


def test_discrete_candidates_are_drawn_from_the_proposal() -> None:
    chances = torch.tensor([[[0.7, 0.3, 0.0]]])
    got = proposal.sample(Spec((1, 16, 16), 3, True), chances, torch.ones(1, 1, 3), 20_000, None).mean(1)
    assert (got - chances).abs().max() < 0.015


# ---- identities ----


def test_a_batch_of_states_plans_as_each_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.linear()[0]
    states = model.at(torch.tensor([[0.1, 0.0], [-1.0, 0.5], [0.3, -0.8]]))
    planner = make(model, iterations=3, candidates=50, elites=5, warm_start=True, momentum=0.1)
    carry = Carry(torch.rand(3, 12, 1) - 0.5)
    bank, rows, draw = torch.randn(3, 3, 50, 12, 1), slice(None), iter(())  # [iteration, state]
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(draw)[rows])
    draw = iter(bank)
    together = planner.plan(states, carry)
    for i in range(3):
        rows, draw = slice(i, i + 1), iter(bank)
        alone = planner.plan(tiny.Point(*(a[rows] for a in states)), Carry(carry.mean[rows]))
        for whole, one in zip(pytree.tree_leaves(together), pytree.tree_leaves(tuple(alone)), strict=True):
            torch.testing.assert_close(whole[rows], one)


def test_with_only_elites_the_plan_is_the_mean_of_the_clipped_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.quadratic(torch.tensor([[0.7, -0.2]]))
    seen = record(monkeypatch, cem)
    planner = make(model, PLANE, horizon=4, iterations=1, candidates=200, elites=200)
    plan, value = planner.plan(model.initial(2), planner.initial(2))[:2]
    samples, scores = seen[0]
    assert (samples.abs() == 1).any()  # some were clipped
    torch.testing.assert_close(plan, samples.mean(1))
    torch.testing.assert_close(value, scores.mean(1))


def proposals(monkeypatch: pytest.MonkeyPatch, planner: cem.CEM) -> list[tuple[Tensor, Tensor]]:
    """The mean and std of every iteration."""
    seen: list[tuple[Tensor, Tensor]] = []

    def listen(spec: Spec, mean: Tensor, std: Tensor, *more: Any) -> Tensor:
        seen.append((mean, std))
        return proposal.sample(spec, mean, std, *more)

    monkeypatch.setattr(cem, "sample", listen)
    planner.plan(planner.model.initial(1), planner.initial(1))
    return seen


def test_the_proposal_is_refitted_to_the_elites_with_their_population_variance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, seen = tiny.quadratic(torch.tensor([[0.3]])), record(monkeypatch, cem)
    for momentum in (0.0, 0.25):
        planner = make(model, horizon=3, iterations=2, candidates=30, elites=4, momentum=momentum, init_std=0.5)
        (old, width), (mean, std) = proposals(monkeypatch, planner)
        samples, value = seen[-2]
        elites = samples[0, value[0].argsort(descending=True)[:4]]
        assert (old == 0).all() and (width == 0.5).all()
        torch.testing.assert_close(mean[0], (1 - momentum) * elites.mean(0))
        deviation = ((elites - elites.mean(0)).square().mean(0) + 1e-6).sqrt()
        torch.testing.assert_close(std[0], momentum * 0.5 + (1 - momentum) * deviation)


def test_all_momentum_keeps_the_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = make(tiny.quadratic(torch.tensor([[0.9]])), momentum=1 - 1e-6, candidates=50, elites=5)
    for mean, std in proposals(monkeypatch, planner):
        assert mean.abs().max() < 1e-4 and (std - 1).abs().max() < 1e-4


def test_the_floor_keeps_the_proposal_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.quadratic(torch.tensor([[0.5]]))
    for floor, low, high in ((0.0, 0.0, 0.05), (0.2, 0.2, 0.200001)):
        planner = make(model, min_std=floor, horizon=2, candidates=200, elites=20, iterations=8)
        last = proposals(monkeypatch, planner)[-1][1]
        assert low <= last.min() and last.max() < high


def test_best_is_a_sequence_that_was_evaluated_and_no_other_brought_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.linear()[0], record(monkeypatch, cem)
    planner = make(model, choose="best", iterations=3, candidates=40, elites=7)
    plan, value = planner.plan(model.at(torch.tensor([[0.1, 0.0], [1.0, 0.0]])), planner.initial(2))[:2]
    samples, scores = seen[-1]
    for row in range(2):
        assert torch.equal(plan[row], samples[row, scores[row].argmax()])
        assert value[row].item() == pytest.approx(scores[row].topk(7).values.mean().item())


def test_a_warm_start_is_the_last_plan_shifted_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    carry = Carry(torch.arange(8.0).view(2, 4, 1))
    assert first_mean(LINE, carry, warm_start=True)[..., 0].tolist() == [[1, 2, 3, 0], [5, 6, 7, 0]]
    assert (first_mean(LINE, carry, warm_start=False) == 0).all()
    two = Spec((1, 16, 16), 2, True)
    uniform = make(tiny.linear()[0], two, horizon=4).initial(1)
    assert all(first_mean(two, uniform, warm_start).unique().tolist() == [0.5] for warm_start in (False, True))
    for warm_start, wanted in ((True, [1, 2, 3, 0]), (False, [0] * 4)):  # and this is where a plan begins
        with monkeypatch.context() as patch:
            planner = make(tiny.linear()[0], horizon=4, warm_start=warm_start, candidates=20, elites=5)
            patch.setattr(planner, "initial", lambda n: Carry(carry.mean[:n] / 10))
            mean, std = proposals(patch, planner)[0]
            torch.testing.assert_close(10 * mean[0, :, 0], torch.tensor(wanted).float())
            assert (std == 1).all()


def test_a_warm_start_helps_where_iterations_are_few() -> None:
    goal = torch.tensor([[0.6, -0.4]])  # the same at every step, so that a plan goes on being right
    model, errors = tiny.quadratic(goal), {}
    for warm in (False, True):
        planner = make(model, PLANE, iterations=1, candidates=64, elites=8, min_std=0.05, warm_start=warm)
        carry = planner.initial(20)
        for _ in range(8):
            _, carry, info = planner.act(model.initial(20), carry, mode="evaluate")
        errors[warm] = (info.plan[:, 0] - goal).abs().mean().item()
    assert errors[True] < 0.5 * errors[False]


def test_shooting_is_the_best_of_its_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.linear()[0], record(monkeypatch, shooting)
    planner = shoot(model, candidates=50)
    states = model.at(torch.tensor([[0.1, 0.0], [2.0, 0.0]]))
    action, _, info = planner.act(states, planner.initial(2), mode="evaluate")
    samples, scores = seen[0]
    assert samples.shape == (2, 50, 12, 1) and not torch.equal(samples[0], samples[1])
    for row in range(2):
        best = max(range(50), key=lambda k, row=row: scores[row, k])
        assert torch.equal(info.plan[row], samples[row, best]) and info.predicted_return[row] == scores[row, best]
        assert torch.equal(action[row], samples[row, best, 0])


def test_the_seed_decides() -> None:
    model, start = tiny.linear()
    for planner in (make(model, candidates=50, elites=5), shoot(model, candidates=50)):
        plans = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            plans.append(planner.act(start, planner.initial(1), mode="explore"))
        assert torch.equal(plans[0][0], plans[1][0]) and torch.equal(plans[0][2].plan, plans[1][2].plan)
        assert not torch.equal(plans[0][2].plan, plans[2][2].plan)


# ---- exploration ----


def test_exploration_adds_noise_of_that_standard_deviation_then_clips() -> None:
    """T23: 0.3 is not the variance."""
    got = add_exploration_noise(PLANE, torch.zeros(50_000, 2), 0.3)
    assert got.std(0).tolist() == pytest.approx([0.3, 0.3], rel=0.02) and got.mean().abs() < 0.005
    edge = add_exploration_noise(PLANE, torch.ones(50_000, 2), 0.3)
    assert edge.max() == 1 and (edge == 1).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_discrete_exploration_replaces_with_that_probability() -> None:
    spec = Spec((1, 16, 16), 4, True)
    action = torch.eye(4)[torch.ones(50_000, dtype=torch.long)]
    got = add_exploration_noise(spec, action, 0.4)
    assert (got.sum(-1) == 1).all() and set(got.unique().tolist()) == {0, 1}
    assert got.mean(0).tolist() == pytest.approx([0.1, 0.7, 0.1, 0.1], abs=0.01)
    assert torch.equal(add_exploration_noise(spec, action, 0.0), action)


def test_proposals_are_uniform_over_all_actions() -> None:
    drawn = random_actions(PLANE, 20_000, 3)
    assert drawn.shape == (20_000, 3, 2) and drawn.abs().max() <= 1
    assert drawn.mean().abs() < 0.01 and drawn.std().item() == pytest.approx(2 / math.sqrt(12), rel=0.01)
    discrete = random_actions(Spec((1, 16, 16), 4, True), 20_000)
    assert (discrete.sum(-1) == 1).all() and discrete.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.015)


@pytest.mark.parametrize("planner", [make, shoot])
def test_without_exploring_the_plan_is_followed_and_noise_never_enters_it(planner: Any) -> None:
    model, start = tiny.linear()
    actor = planner(model, candidates=50, **({"elites": 5} if planner is make else {}))
    results = []
    for mode in ("evaluate", "explore"):
        torch.manual_seed(1)
        results.append(actor.act(start, actor.initial(1), mode))
    (quiet, carry, info), (noisy, same, other) = results
    assert torch.equal(quiet, info.plan[:, 0]) and not torch.equal(noisy, quiet)
    pairs = zip(pytree.tree_leaves((info, carry)), pytree.tree_leaves((other, same)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_more_elites_than_candidates_are_refused_with_advice() -> None:
    values = {
        "name": "cem",
        **PUBLISHED,
        "warm_start": False,
        "choose": "mean",
        "exploration_noise": 0.3,
        "elites": 1001,
    }
    with pytest.raises(ConfigError, match="elites is 1001 but there are only 1000 candidates: use fewer elites"):
        check_section("actor", {"actor": values})


def test_one_broken_elite_is_no_prediction() -> None:
    """Of every row the mean of those that are finite; NaN where there is none."""
    returns = torch.tensor([[3.0, 1.0, -math.inf], [2.0, 4.0, 6.0], [-math.inf] * 3])
    assert mean_of_sound(returns)[:2].tolist() == [2, 4] and mean_of_sound(returns)[2].isnan()

    def move(point: tiny.Point, action: Tensor) -> tiny.Point:
        earned = torch.where(action[:, 0] > 0, math.nan, action[:, 0])  # about half of the candidates
        return tiny.Point(point.x, earned, torch.ones(len(action)))

    model = tiny.Fake(move)
    planner = make(model, horizon=1, iterations=1, candidates=40, elites=40)
    _, _, info = planner.act(model.initial(3), planner.initial(3), "evaluate")
    assert info.predicted_return.isfinite().all() and (info.predicted_return < 0).all()
