"""MPPI on worlds whose best plan is known, and beside CEM; and discrete plans, by every planner."""

import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from agents.imagination import evaluate_sequences
from agents.planners import cem, icem, mppi, proposal, shooting
from agents.planners.mppi import weights
from agents.planners.proposal import Carry, first_mean
from training.configuration.config import check_section
from worldmodel.base import ConfigError, Spec, tree_map

LINE, PLANE, THREE = Spec((1, 16, 16), 1, False), Spec((1, 16, 16), 2, False), Spec((1, 16, 16), 3, True)
PUBLISHED = dict(iterations=6, candidates=512, elites=64, inverse_temperature=0.5, min_std=0.05, max_std=2.0)
LEAST = 0.0599838187  # of LIN2 from (.1, 0) in 12 steps: test_planners.py computes it


@pytest.fixture(autouse=True)
def seeded() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def make(model: Any, spec: Spec = LINE, **changes: Any) -> mppi.MPPI:
    values = dict(name="mppi", horizon=12, **PUBLISHED, momentum=0.0, warm_start=False, choose="mean")
    return mppi.build(
        mppi.Config(**{**values, "proposal_noise": False, "exploration_noise": 0.3, **changes}),
        model,
        spec,
        tiny.REWARD,
    )


def make_cem(model: Any, spec: Spec = LINE, **changes: Any) -> cem.CEM:
    values = dict(name="cem", horizon=12, iterations=6, candidates=512, elites=64, init_std=2.0, min_std=0.05)
    rest = dict(momentum=0.0, warm_start=False, choose="mean", exploration_noise=0.3)
    return cem.build(cem.Config(**{**values, **rest, **changes}), model, spec, tiny.REWARD)


def make_icem(model: Any, spec: Spec, **changes: Any) -> icem.ICEM:
    values = dict(name="icem", shrink=1.25, kept_elites=0.3, noise_exponent=2.0, init_std=0.5, momentum=0.1)
    rest = dict(choose="best", exploration_noise=0.3)
    return icem.build(icem.Config(**{**values, **rest, **changes}), model, spec, tiny.REWARD)


def record(monkeypatch: pytest.MonkeyPatch, module: Any = mppi) -> list[tuple[Tensor, Tensor]]:
    """What is evaluated from here on, and its returns."""
    seen: list[tuple[Tensor, Tensor]] = []

    def listen(model: Any, objective: Any, state: Any, actions: Tensor) -> Tensor:
        seen.append((actions, evaluate_sequences(model, objective, state, actions)))
        return seen[-1][1]

    monkeypatch.setattr(module, "evaluate_sequences", listen)
    return seen


def proposals(monkeypatch: pytest.MonkeyPatch, planner: Any, carry: Carry, state: Any) -> list[tuple[Tensor, Tensor]]:
    """The mean and std with which every iteration draws."""
    seen: list[tuple[Tensor, Tensor]] = []

    def listen(spec: Spec, mean: Tensor, std: Tensor, *more: Any) -> Tensor:
        seen.append((mean, std))
        return proposal.sample(spec, mean, std, *more)

    monkeypatch.setattr(mppi, "sample", listen)
    planner.plan(state, carry)
    return seen


def broken(bad: Any, start: float = 0.0) -> tiny.Fake:
    """The reward is the action, but not a number where bad(x, action) says so."""

    def move(point: tiny.Point, action: Tensor) -> tiny.Point:
        earned = torch.where(bad(point.x[:, 0], action[:, 0]), math.nan, action[:, 0])
        return tiny.Point(point.x, earned, torch.ones(len(action)))

    return tiny.Fake(move, (start,))


def row(parts: Any, i: int) -> Any:
    """Row i of all tensors, as the only one."""
    return tree_map(lambda a: a[i : i + 1], parts)


# ---- weights ----


def test_weights_of_three_by_hand() -> None:
    """Returns 3, 1, 0 at inverse temperature 1/2: exp(0), exp(-1), exp(-1.5), over their sum 1.591010."""
    got = weights(torch.tensor([[3.0, 1.0, 0.0], [100.0, 103.0, 101.0]]), 0.5)
    torch.testing.assert_close(got, torch.tensor([[0.628532, 0.231224, 0.140244], [0.140244, 0.628532, 0.231224]]))


def test_the_refit_of_three_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions .5, -.5 and 1 with returns log 4, log 2 and log 1: at inverse temperature 1, weights 4/7, 2/7 and 1/7."""
    model = tiny.quadratic(torch.zeros(1, 1))
    planner = make(model, horizon=1, iterations=1, candidates=3, elites=3, inverse_temperature=1.0)
    monkeypatch.setattr(mppi, "sample", lambda *_: torch.tensor([0.5, -0.5, 1.0]).view(1, 3, 1, 1))
    monkeypatch.setattr(mppi, "evaluate_sequences", lambda *_: torch.tensor([[4.0, 2.0, 1.0]]).log())
    got = planner.plan(model.initial(1), planner.initial(1))
    mean = (4 * 0.5 - 2 * 0.5 + 1) / 7
    variance = (4 * (0.5 - mean) ** 2 + 2 * (0.5 + mean) ** 2 + (1 - mean) ** 2) / 7
    assert got.mean.item() == pytest.approx(mean) and got.std.item() == pytest.approx(math.sqrt(variance), rel=1e-5)
    assert got.value.item() == pytest.approx((4 * math.log(4) + 2 * math.log(2)) / 7)


def test_a_large_inverse_temperature_takes_the_best_and_zero_all_alike() -> None:
    value = torch.tensor([[3.0, 2.99, -5.0], [7.0, 7.0, 0.0]])
    assert weights(value, 1e9).tolist() == [[1, 0, 0], [0.5, 0.5, 0]]
    torch.testing.assert_close(weights(value, 0.0), torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("inverse_temperature", [0.0, 0.5, 1e30])
def test_broken_values_weigh_nothing_and_if_there_are_no_others_all_alike(inverse_temperature: float) -> None:
    nothing, least = -math.inf, torch.finfo(torch.float32).min
    got = weights(torch.tensor([[2.0, nothing, 2.0], [nothing] * 3, [-least, least, nothing]]), inverse_temperature)
    torch.testing.assert_close(got, torch.tensor([[0.5, 0, 0.5], [1 / 3] * 3, [1.0, 0, 0]]))


# ---- planning on known problems ----


@pytest.mark.parametrize("inverse_temperature", [0.5, 100.0])
def test_it_finds_the_linear_quadratic_optimum(inverse_temperature: float) -> None:
    """Over ten seeds the gap is 1e-4 on average and 1.7e-4 at most; with TD-MPC2's own budget (6, 512, 64) 2e-3."""
    model, start = tiny.linear()
    planner = make(model, iterations=10, candidates=1000, elites=100, inverse_temperature=inverse_temperature)
    got = planner.plan(start, planner.initial(1))
    cost = -evaluate_sequences(model, tiny.REWARD, start, got.mean[:, None]).item()
    assert -1e-5 < cost / LEAST - 1 < 1e-3
    # What it promises is what its elites bring, which are drawn with at least min_std.
    assert -evaluate_sequences(model, tiny.REWARD, start, got.elites)[0].dot(got.weight[0]).item() == pytest.approx(
        -got.value.item()
    )
    assert LEAST < -got.value.item() < 1.5 * LEAST


def test_it_finds_every_number_of_a_separable_plan() -> None:
    goal = torch.rand(6, 2) * 1.6 - 0.8
    model = tiny.quadratic(goal)
    planner = make(model, PLANE, horizon=6, iterations=10, candidates=1000, elites=100)
    got = planner.plan(model.initial(3), planner.initial(3)).mean
    assert (got - goal).abs().max() < 0.03 and (got - goal).abs().mean() < 0.01


def test_weighing_tilts_the_proposal_exponentially() -> None:
    """N(0, s^2) times exp(-t (a - g)^2) is a Gaussian, too: precision 1/s^2 + 2 t, mean 2 t g over it."""
    goal, s, t = 0.5, 0.2, 10.0
    model = tiny.quadratic(torch.tensor([[goal]]))
    one = dict(horizon=1, iterations=1, candidates=200_000, elites=200_000, min_std=0.0)
    planner = make(model, **one, max_std=s, inverse_temperature=t)
    got, precision = planner.plan(model.initial(1), planner.initial(1)), 1 / s**2 + 2 * t
    assert got.mean.item() == pytest.approx(2 * t * goal / precision, abs=0.002)
    assert got.std.item() == pytest.approx(precision**-0.5, abs=0.002)


@pytest.mark.parametrize("choose", ["mean", "sample"])
def test_bounds_hold_although_the_reward_pulls_outside(monkeypatch: pytest.MonkeyPatch, choose: str) -> None:
    model, seen = tiny.quadratic(torch.tensor([[3.0], [-3.0]])), record(monkeypatch)
    planner = make(model, horizon=2, candidates=100, elites=10, choose=choose, proposal_noise=True, warm_start=True)
    state = model.initial(2)
    _, carry, info = planner.act(state, planner.initial(2), mode="evaluate")
    assert info.plan[:, 0].min() > 0.9 and info.plan[:, 1].max() < -0.9 and info.plan.abs().max() <= 1
    for mode in ("evaluate", "explore"):
        for _ in range(20):
            assert planner.act(state, carry, mode)[0].abs().max() <= 1
    assert all(sequences.abs().max() <= 1 for sequences, _ in seen)


def test_the_std_is_clamped_on_both_sides_and_begins_at_its_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.quadratic(torch.tensor([[0.5]]))
    for low, high in ((0.05, 2.0), (0.3, 0.4)):
        planner = make(model, horizon=2, iterations=8, min_std=low, max_std=high, warm_start=True)
        old = planner.plan(model.initial(1), planner.initial(1))
        seen = proposals(monkeypatch, planner, Carry(old.mean), model.initial(1))
        assert (seen[0][1] == high).all()  # a warm start's, too
        assert all(low <= std.min() and std.max() <= high for _, std in seen)
        assert seen[-1][1].max().item() == pytest.approx(low, abs=0.03)
    wide = make(model, horizon=2, candidates=2, elites=2, min_std=0.8, max_std=0.9)
    monkeypatch.setattr(mppi, "sample", lambda *_: torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).repeat(1, 1, 2, 1))
    monkeypatch.setattr(mppi, "evaluate_sequences", lambda *_: torch.zeros(1, 2))
    assert wide.plan(model.initial(1), wide.initial(1)).std.flatten().tolist() == pytest.approx([0.9, 0.9])  # not 1


# ---- identities ----


@pytest.mark.parametrize("momentum", [0.0, 0.25])
@pytest.mark.parametrize("spec", [PLANE, THREE], ids=["continuous", "discrete"])
def test_at_inverse_temperature_zero_it_is_cem(spec: Spec, momentum: float) -> None:
    model, same = tiny.quadratic(torch.rand(4, spec.action_dim)), dict(horizon=4, momentum=momentum)
    planner, other = make(model, spec, inverse_temperature=0.0, **same), make_cem(model, spec, **same)
    torch.manual_seed(1)
    mean, value = other.plan(model.initial(2), other.initial(2))[:2]
    torch.manual_seed(1)
    got = planner.plan(model.initial(2), planner.initial(2))
    torch.testing.assert_close((got.mean, got.value), (mean, value), rtol=1e-4, atol=1e-5)


def test_at_a_large_inverse_temperature_the_plan_is_the_best_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.linear()[0], record(monkeypatch)
    planner = make(model, inverse_temperature=1e9, iterations=3, candidates=40, elites=7)
    got = planner.plan(model.at(torch.tensor([[0.1, 0.0], [1.0, 0.0]])), planner.initial(2))
    samples, scores = seen[-1]
    for row in range(2):
        assert torch.equal(got.mean[row], samples[row, scores[row].argmax()])
        assert got.value[row] == scores[row].max()
    torch.testing.assert_close(got.std, torch.full_like(got.std, 0.05))


def test_the_proposal_is_refitted_to_the_weighted_elites(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.quadratic(torch.tensor([[0.3]])), record(monkeypatch)
    for momentum in (0.0, 0.25):
        planner = make(
            model,
            horizon=3,
            iterations=2,
            candidates=30,
            elites=4,
            momentum=momentum,
            max_std=0.5,
            inverse_temperature=5.0,
        )
        (old, width), (mean, std) = proposals(monkeypatch, planner, planner.initial(1), model.initial(1))
        samples, value = seen[-2]
        order = value[0].argsort(descending=True)[:4]
        weight = (5 * value[0, order]).softmax(0).view(4, 1, 1)
        centre = (weight * samples[0, order]).sum(0)
        deviation = ((weight * (samples[0, order] - centre).square()).sum(0) + 1e-6).sqrt()
        assert (old == 0).all() and (width == 0.5).all() and weight.max() > 1.05 * weight.min()
        torch.testing.assert_close(mean[0], (1 - momentum) * centre)
        torch.testing.assert_close(std[0], (momentum * 0.5 + (1 - momentum) * deviation).clamp(0.05, 0.5))


@pytest.mark.parametrize("choose", ["mean", "sample"])
def test_a_batch_of_states_plans_as_each_state_alone(monkeypatch: pytest.MonkeyPatch, choose: str) -> None:
    model = tiny.linear()[0]
    states = model.at(torch.tensor([[0.1, 0.0], [-0.2, 0.1], [0.0, -0.1]]))
    few = dict(iterations=3, candidates=50, elites=5, inverse_temperature=5.0)
    planner = make(model, **few, warm_start=True, momentum=0.1, choose=choose, proposal_noise=True)
    carry = Carry(torch.rand(3, 12, 1) - 0.5)
    rows, draw = slice(None), iter(())
    # of every iteration, [state]; then the proposal's noise and that on top
    bank = [*torch.randn(3, 3, 50, 12, 1), *torch.rand(2, 3, 1) / 2]
    chances = torch.rand(3, 1)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(draw)[rows])
    monkeypatch.setattr(torch, "multinomial", lambda p, n, **_: (p.cumsum(1) < chances[rows]).sum(1, keepdim=True))
    draw = iter(bank)
    action, after, info = planner.act(states, carry, mode="explore")
    assert next(draw, None) is None
    assert action.unique().numel() > 1
    for i in range(3):
        rows, draw = slice(i, i + 1), iter(bank)
        alone = planner.act(row(states, i), row(carry, i), mode="explore")
        torch.testing.assert_close(row((action, after, info), i), alone)


def test_a_warm_start_is_the_last_mean_shifted_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    carry = Carry(torch.arange(8.0).view(2, 4, 1))
    model = tiny.linear()[0]
    wanted = {True: [[1, 2, 3, 0], [5, 6, 7, 0]], False: [[0] * 4] * 2}
    for warm_start in (True, False):
        planner = make(model, horizon=4, warm_start=warm_start)
        seen = proposals(monkeypatch, planner, Carry(carry.mean / 10), model.initial(2))
        torch.testing.assert_close(10 * seen[0][0][..., 0], torch.tensor(wanted[warm_start]).float())
    two = Spec((1, 16, 16), 2, True)
    discrete = make(tiny.quadratic(torch.zeros(1, 2)), two, horizon=2, warm_start=True)
    assert first_mean(two, discrete.initial(1), True).unique().tolist() == [0.5]
    sure = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # half of it stays uniform: nothing is ruled out for good
    assert first_mean(two, Carry(sure), True).tolist() == [[[0.25, 0.75], [0.5, 0.5]]]
    seen = proposals(monkeypatch, discrete, Carry(sure), discrete.model.initial(1))
    assert seen[0][0].tolist() == [[[0.25, 0.75], [0.5, 0.5]]]


def test_a_warm_start_helps_where_iterations_are_few() -> None:
    goal = torch.tensor([[0.6, -0.4]])  # the same at every step, so that a plan goes on being right
    model, errors = tiny.quadratic(goal), {}
    for warm in (False, True):
        planner = make(model, PLANE, iterations=1, candidates=64, elites=8, max_std=0.5, warm_start=warm)
        carry = planner.initial(20)
        for _ in range(8):
            _, carry, info = planner.act(model.initial(20), carry, mode="evaluate")
        errors[warm] = (info.plan[:, 0] - goal).abs().mean().item()
    assert errors[True] < 0.6 * errors[False]


def test_the_seed_decides() -> None:
    model, start = tiny.linear()
    planner, plans = make(model, candidates=50, elites=5, choose="sample", proposal_noise=True), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        plans.append(planner.act(start, planner.initial(1), mode="explore"))
    assert torch.equal(plans[0][0], plans[1][0]) and torch.equal(plans[0][2].plan, plans[1][2].plan)
    assert not torch.equal(plans[0][2].plan, plans[2][2].plan)


def test_discrete_candidates_are_drawn_from_the_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of all candidates is the proposal's: uniform, or half uniform in a warm start."""
    model, seen = tiny.quadratic(torch.zeros(1, 3)), record(monkeypatch)
    planner = make(model, THREE, candidates=20_000, horizon=1, iterations=1)
    planner.plan(model.initial(1), planner.initial(1))
    assert (seen[0][0].mean(1) - 1 / 3).abs().max() < 0.015
    warm = make(model, THREE, candidates=20_000, horizon=2, iterations=1, warm_start=True)
    chances = torch.tensor([0.7, 0.3, 0.0])
    warm.plan(model.initial(1), Carry(torch.stack([torch.zeros(3), chances])[None]))
    assert (seen[1][0][0, :, 0].mean(0) - (chances + 1 / 3) / 2).abs().max() < 0.015


# ---- broken candidates ----


@pytest.mark.parametrize("inverse_temperature", [0.0, 0.5])
def test_broken_candidates_are_ignored_although_they_are_among_the_elites(inverse_temperature: float) -> None:
    model = broken(lambda x, action: action < 0)  # about half of the candidates
    planner = make(model, horizon=1, iterations=1, candidates=100, elites=100, inverse_temperature=inverse_temperature)
    got = planner.plan(model.initial(1), planner.initial(1))
    value = evaluate_sequences(model, tiny.REWARD, model.initial(1), got.elites)[0]
    assert (got.weight[0, value == -math.inf] == 0).all() and (value == -math.inf).sum() > 20
    good = got.elites[0, value > -math.inf, 0, 0]
    wanted = (inverse_temperature * good).softmax(0) @ good
    assert got.mean.item() == pytest.approx(wanted.item(), rel=1e-5) and got.value.item() == pytest.approx(
        wanted.item()
    )


def test_where_all_are_broken_the_plan_is_finite_and_other_rows_do_not_notice() -> None:
    model = broken(lambda x, action: x > 0)
    states = model.at(torch.tensor([[1.0], [0.0]]))
    planner = make(model, horizon=3, choose="sample", warm_start=True, proposal_noise=True)
    carry = planner.initial(2)
    for _ in range(3):
        action, carry, info = planner.act(states, carry, mode="explore")
        assert action.isfinite().all() and carry.mean.isfinite().all() and info.plan.isfinite().all()
        got = planner.plan(states, carry)
        torch.testing.assert_close(got.weight[0], torch.full((64,), 1 / 64))
        assert got.std.isfinite().all() and info.predicted_return[0] == -math.inf and info.predicted_return[1] > 2
        assert info.plan[1].min() > 0.8


# ---- what is done with the plan ----


def test_an_elite_is_drawn_by_its_weight_also_when_not_exploring(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.quadratic(torch.zeros(1, 1))
    planner = make(model, horizon=1, iterations=1, candidates=3, elites=2, inverse_temperature=1.0, choose="sample")
    monkeypatch.setattr(
        mppi, "sample", lambda _, mean, *__: torch.tensor([0.5, -0.5, 1]).view(1, 3, 1, 1).repeat(len(mean), 1, 1, 1)
    )
    monkeypatch.setattr(
        mppi,
        "evaluate_sequences",
        lambda _, __, state, ___: torch.tensor([[4.0, 1.0, 3.0]]).log().repeat(len(state.x), 1),
    )
    action, carry, info = planner.act(model.initial(20_000), planner.initial(20_000), mode="evaluate")
    assert action.unique().tolist() == [0.5, 1] and (action == 1).float().mean().item() == pytest.approx(
        3 / 7, abs=0.01
    )
    assert carry.mean.unique().item() == pytest.approx((4 * 0.5 + 3) / 7)  # the memory is the mean
    assert torch.equal(info.plan[:, 0], action)  # and the plan what was drawn
    assert info.predicted_return[0].item() == pytest.approx((4 * math.log(4) + 3 * math.log(3)) / 7)


@pytest.mark.parametrize("choose", ["mean", "sample"])
def test_drawing_takes_whole_sequences_of_the_own_row(monkeypatch: pytest.MonkeyPatch, choose: str) -> None:
    model, seen = tiny.linear()[0], record(monkeypatch)
    planner = make(model, candidates=20, elites=5, choose=choose)
    got = planner.plan(model.at(torch.randn(4, 2)), planner.initial(4))
    chosen, samples = planner.choice(got), seen[-1][0]
    if choose == "mean":
        assert chosen is got.mean
    else:
        assert all(any(torch.equal(chosen[row], sample) for sample in samples[row]) for row in range(4))


def test_exploration_adds_the_proposals_std_and_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """T23, and TD-MPC2's N(0, std_0^2): their variances add up. Neither enters the plan, neither acts at evaluation."""
    n, model = 20_000, tiny.quadratic(torch.zeros(2, 1))
    std = torch.tensor([0.1, 9.0]).view(1, 2, 1).repeat(n, 1, 1)
    left = mppi.Proposal(torch.full((n, 2, 1), 0.2), std, torch.zeros(n, 1, 2, 1), torch.ones(n, 1), torch.zeros(n))
    for proposal_noise, noise, wanted in ((False, 0.0, 0), (False, 0.2, 0.2), (True, 0.0, 0.1), (True, 0.2, 0.05**0.5)):
        planner = make(model, horizon=2, proposal_noise=proposal_noise, exploration_noise=noise)
        monkeypatch.setattr(planner, "plan", lambda *_: left)
        quiet, carry, info = planner.act(model.initial(n), planner.initial(n), mode="evaluate")
        noisy, same, other = planner.act(model.initial(n), planner.initial(n), mode="explore")
        assert (quiet == 0.2).all() and (carry.mean == 0.2).all() and torch.equal(carry.mean, same.mean)
        assert torch.equal(info.plan, carry.mean) and torch.equal(other.plan, carry.mean)
        assert noisy.std().item() == pytest.approx(wanted, rel=0.03, abs=1e-6)
        assert noisy.mean().item() == pytest.approx(0.2, abs=0.01)


def test_discrete_exploration_replaces_with_that_probability() -> None:
    model = tiny.quadratic(torch.tensor([[0.0, 1.0, 0.0]]))
    planner = make(
        model, THREE, horizon=1, iterations=2, candidates=20, elites=3, exploration_noise=0.3, proposal_noise=True
    )
    action = planner.act(model.initial(10_000), planner.initial(10_000), mode="explore")[0]
    assert (action.sum(-1) == 1).all() and action.mean(0).tolist() == pytest.approx([0.1, 0.8, 0.1], abs=0.015)


def test_contradictions_are_refused_with_advice() -> None:
    values = dict(name="mppi", horizon=12, **PUBLISHED, momentum=0.0, warm_start=True, choose="mean")
    values |= dict(proposal_noise=True, exploration_noise=0.0)
    for change, message in (
        (dict(elites=513), "elites is 513 but there are only 512 candidates: use fewer elites"),
        (dict(max_std=0.01), "min_std is 0.05 but max_std only 0.01: use a smaller min_std"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_section("actor", {"actor": values | change})


# ---- discrete plans, by all planners ----


def planners(model: Any, spec: Spec, horizon: int) -> dict[str, Any]:
    few = dict(horizon=horizon, iterations=5, candidates=300, elites=8)
    config = shooting.Config(name="shooting", horizon=horizon, candidates=1000, exploration_noise=0.3)
    return {
        "cem": make_cem(model, spec, **few),
        "mppi": make(model, spec, **few),
        "mppi that draws": make(model, spec, **few, choose="sample", inverse_temperature=1000.0),
        "icem": make_icem(model, spec, **few),
        "shooting": shooting.build(config, model, spec, tiny.REWARD),
    }


@pytest.mark.parametrize("name", planners(None, THREE, 1))
def test_every_planner_finds_a_sequence_of_discrete_actions_exactly(name: str) -> None:
    """The reward is -2 for each wrong action: 0 only for the one right sequence of 81."""
    wanted = [2, 0, 1, 1]
    model = tiny.quadratic(torch.eye(3)[wanted])
    planner = planners(model, THREE, 4)[name]
    action, _, info = planner.act(model.initial(5), planner.initial(5), mode="evaluate")
    assert info.plan.argmax(-1).tolist() == [wanted] * 5
    assert action.tolist() == [[0, 0, 1]] * 5
    torch.testing.assert_close(info.plan.sum(-1), torch.ones(5, 4))


@pytest.mark.parametrize("name", planners(None, THREE, 1))
def test_every_planner_finds_a_leaf_that_no_single_step_points_to(name: str) -> None:
    """The best first step earns least at once: only a plan of three steps finds the leaf behind it."""
    leaf = (2, 0, 1)

    def move(point: tiny.Point, action: Tensor) -> tiny.Point:
        x = 3 * point.x + action.argmax(-1, keepdim=True)  # the path so far, in base 3, after a leading 1
        there = x[:, 0] == 27 + 9 * leaf[0] + 3 * leaf[1] + leaf[2]
        return tiny.Point(x, torch.where(there, 1.0, -0.1 * action[:, 2]), torch.ones(len(x)))

    model = tiny.Fake(move, start=(1.0,))
    planner = planners(model, THREE, 3)[name]
    action, _, info = planner.act(model.initial(2), planner.initial(2), mode="evaluate")
    assert info.plan.argmax(-1).tolist() == [list(leaf)] * 2 and action.tolist() == [[0, 0, 1]] * 2
    assert info.predicted_return.tolist() == pytest.approx([0.9, 0.9], abs=0.01)
