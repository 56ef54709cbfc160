"""iCEM: its noise, what it keeps, how many candidates it tries, and CEM where nothing is added."""

from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from test_mppi import LINE, PLANE, THREE, make_cem, make_icem
from torch import Tensor

from agents.imagination import evaluate_sequences
from agents.planners import icem
from agents.planners.icem import Carry, colouring, sample
from training.configuration.config import check_section
from worldmodel.base import ConfigError, Spec

USUAL = dict(iterations=3, candidates=40, elites=4)


@pytest.fixture(autouse=True)
def seeded() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def make(model: Any, spec: Spec = LINE, **changes: Any) -> icem.ICEM:
    return make_icem(model, spec, **{"horizon": 12, **USUAL, **changes})


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What is evaluated from here on, and its returns."""
    seen: list[tuple[Tensor, Tensor]] = []

    def listen(model: Any, objective: Any, state: Any, actions: Tensor) -> Tensor:
        seen.append((actions, evaluate_sequences(model, objective, state, actions)))
        return seen[-1][1]

    monkeypatch.setattr(icem, "evaluate_sequences", listen)
    return seen


# ---- noise ----


@pytest.mark.parametrize("horizon", [1, 2, 7, 12])
def test_coloured_noise_has_variance_one_and_at_exponent_zero_is_white(horizon: int) -> None:
    torch.testing.assert_close(colouring(horizon, 0), torch.eye(horizon))
    for exponent in (0.5, 2.0, 4.0):
        matrix = colouring(horizon, exponent)
        torch.testing.assert_close(matrix, matrix.T)
        torch.testing.assert_close((matrix @ matrix.T).diagonal(), torch.ones(horizon))


@pytest.mark.parametrize("exponent", [1.0, 2.5])
def test_its_power_falls_with_the_frequency(exponent: float) -> None:
    noise = torch.randn(20_000, 16) @ colouring(16, exponent)
    power = torch.fft.rfft(noise).abs().square().mean(0)  # at frequencies 0, 1/16, ... 8/16
    wanted = torch.arange(1, 9).float() ** -exponent
    torch.testing.assert_close(power[1:] / power[1], wanted, rtol=0.1, atol=0.002)
    assert power[0] == pytest.approx(power[1].item(), rel=0.05)  # the constant is as strong as the lowest frequency


def test_samples_have_the_proposals_mean_and_std_and_keep_their_direction() -> None:
    mean, std = torch.tensor([[[0.1, -0.2]]]).expand(2, 12, 2), torch.full((2, 12, 2), 0.2)
    for exponent, least, most in ((0.0, -0.1, 0.1), (3.0, 0.8, 1.0)):
        drawn = sample(PLANE, mean, std, 5000, colouring(12, exponent), None)
        assert drawn.shape == (2, 5000, 12, 2)
        torch.testing.assert_close(drawn.mean(1), mean, rtol=0, atol=0.02)
        torch.testing.assert_close(drawn.std(1), std, rtol=0.1, atol=0)
        noise = (drawn - mean[:, None]) / std[:, None]
        assert least < (noise[:, :, 3] * noise[:, :, 4]).mean() < most
        assert (noise[..., 0] * noise[..., 1]).mean().abs() < 0.05  # other dimensions have noise of their own


def test_discrete_samples_keep_each_steps_probabilities_and_repeat_themselves() -> None:
    probabilities = torch.tensor([[[0.7, 0.2, 0.1]]]).expand(1, 8, 3)
    repeats = []
    for exponent in (0.0, 3.0):
        drawn = sample(THREE, probabilities, probabilities, 20_000, colouring(8, exponent), None)
        torch.testing.assert_close(drawn.mean(1), probabilities, rtol=0, atol=0.02)
        repeats.append((drawn[:, :, 3] * drawn[:, :, 4]).sum(-1).mean().item())
    assert repeats[0] == pytest.approx(0.7**2 + 0.2**2 + 0.1**2, abs=0.02) and repeats[1] > 0.7


# ---- candidates ----


def test_every_iteration_tries_fewer_and_the_kept_ones_and_the_last_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.linear()[0], record(monkeypatch)
    planner = make(model, iterations=5, candidates=40, elites=8, shrink=2.0)
    assert planner.config.populations == [40, 20, 16, 16, 16] and planner.config.kept == 3  # 0.3 * 8, rounded up
    planner.plan(model.initial(2), planner.initial(2))
    assert [len(actions[0]) for actions, _ in seen] == [43, 23, 19, 19, 20]


def test_elites_are_candidates_once_more_and_shifted_in_the_next_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.linear()[0], record(monkeypatch)
    planner = make(model, elites=8)
    state = model.at(torch.tensor([[0.1, 0.0], [-0.2, 0.1]]))
    _, carry, _ = planner.act(state, planner.initial(2), mode="evaluate")
    for (before, returns), (actions, _) in pairwise(seen):
        for row in range(2):
            best = before[row, returns[row].argsort(descending=True)[:3]]
            assert all((actions[row] == sequence).all(-1).all(-1).any() for sequence in best)
    last, returns = seen[-1]
    for row in range(2):
        assert torch.equal(carry.elites[row], last[row, returns[row].argsort(descending=True)[:3]])
    seen.clear()
    planner.plan(state, carry)
    assert torch.equal(seen[0][0][:, 40:, :-1], carry.elites[:, :, 1:])
    assert torch.equal(seen[0][0][:, 40:, -1], carry.elites[:, :, -1])


def test_the_best_of_the_last_iteration_is_acted_on_or_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.linear()[0], record(monkeypatch)
    for choose in ("best", "mean"):
        planner = make(model, choose=choose)
        action, carry, info = planner.act(model.initial(1), planner.initial(1), mode="evaluate")
        actions, returns = seen[-1]
        best = actions[0, returns[0].argmax()]
        assert torch.equal(info.plan[0], best if choose == "best" else carry.mean[0])
        assert torch.equal(action[0], info.plan[0, 0]) and not torch.equal(best, carry.mean[0])
        assert info.predicted_return[0] == pytest.approx(returns[0].topk(4).values.mean().item())


def test_the_mean_is_a_candidate_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proposal that the last iteration draws from."""
    model, seen, means = tiny.linear()[0], record(monkeypatch), []

    def listen(spec: Spec, mean: Tensor, *more: Any) -> Tensor:
        means.append(mean)
        return sample(spec, mean, *more)

    monkeypatch.setattr(icem, "sample", listen)
    planner = make(model)
    planner.plan(model.initial(1), planner.initial(1))
    assert torch.equal(seen[-1][0][:, -1], means[-1])


@pytest.mark.parametrize("spec", [PLANE, THREE], ids=["continuous", "discrete"])
def test_with_nothing_added_it_is_cem(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """White noise, as many candidates in every iteration, nothing kept, and the mean out of the race."""
    model, same = tiny.quadratic(torch.rand(4, spec.action_dim)), dict(horizon=4, iterations=3, momentum=0.1)
    planner = make(model, spec, **same, kept_elites=0.0, shrink=1.0, noise_exponent=0.0, choose="mean")
    cem = make_cem(model, spec, **same, candidates=40, elites=4, init_std=0.5, min_std=0.0, warm_start=True)

    def without_the_mean(*given: Any) -> Tensor:
        returns = evaluate_sequences(*given)
        returns[:, 40:] = -torch.inf
        return returns

    monkeypatch.setattr(icem, "evaluate_sequences", without_the_mean)
    noise = torch.randn(2, 3, 2, 40, 4, spec.action_dim)  # CEM's own discrete noise comes from other numbers
    gumbel = -(-torch.special.ndtr(noise).clamp(1e-6, 1 - 1e-6).log()).log()
    draw = iter(noise.flatten(0, 1))
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(draw))
    carry, mine = planner.initial(2), []
    for _ in range(2):
        actions, value, carry, _ = planner.plan(model.initial(2), carry)
        mine.append((actions, value))
    draw = iter(noise.flatten(0, 1))
    exponential = iter((-gumbel).exp().flatten(0, 1))
    monkeypatch.setattr(Tensor, "exponential_", lambda self, **_: self.copy_(next(exponential)))
    other = cem.initial(2)
    for actions, value in mine:
        _, other, info = cem.act(model.initial(2), other, mode="evaluate")
        torch.testing.assert_close(actions, info.plan, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(value, info.predicted_return, rtol=1e-4, atol=1e-5)


def test_steady_plans_need_fewer_evaluations_than_cems() -> None:
    """The action that is wanted for 20 steps on end is far off, and white noise gets nowhere."""
    model = tiny.quadratic(torch.tensor([[0.9]]))
    mine = make(model, horizon=20)
    cem = make_cem(model, horizon=20, **USUAL, init_std=0.5, min_std=0.0)
    assert sum(mine.config.populations) + 3 * mine.config.kept + 1 <= 3 * 40
    errors = []
    for planner in (mine, cem):
        _, _, info = planner.act(model.initial(30), planner.initial(30), mode="evaluate")
        errors.append((info.plan - 0.9).square().mean().item())
    assert errors[0] < 0.5 * errors[1]


def test_what_is_remembered_has_rows_first_and_discrete_plans_are_actions() -> None:
    planner = make(tiny.quadratic(torch.zeros(1, 3)), THREE, horizon=4, elites=8)
    carry = planner.initial(2)
    assert type(carry) is Carry and carry.mean.shape == (2, 4, 3) and carry.elites.shape == (2, 3, 4, 3)
    _, carry, info = planner.act(planner.model.initial(2), carry, mode="evaluate")
    assert set(info.plan.unique().tolist()) == {0.0, 1.0} and set(carry.elites.unique().tolist()) == {0.0, 1.0}


def test_contradictions_are_refused_with_advice() -> None:
    values = tiny.command_line.component_section(("actor",), "icem")
    with pytest.raises(ConfigError, match=r"elites is 60 but there are only 100 candidates.*use fewer elites"):
        check_section("actor", {"actor": values | {"elites": 60}})
