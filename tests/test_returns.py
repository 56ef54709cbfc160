"""Returns: golden numbers of the published code, identities, and the range of returns."""

import numpy as np
import pytest
import torch
from dreams import NoHostReads
from torch import Tensor

from agents.returns import (
    ReturnScale,
    backward_recursion,
    lambda_return,
    lambda_return_with_own_reward,
    replay_return,
    survival,
    survival_before,
)

REWARD, CONTINUES, VALUE = (
    torch.tensor([[9.0], [1], [2], [3]]),
    torch.tensor([[0.9], [0.8], [1], [0.5]]),
    torch.tensor([[0.5], [0.6], [0.7], [0.8]]),
)  # (H + 1, N)


def rows(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def close(found: Tensor, *values: float) -> bool:
    return found.flatten().tolist() == pytest.approx(values, rel=2e-6)


def test_fault_1_the_reward_is_that_of_the_next_state() -> None:
    """And fault 15: what does not go on does not count. The current state's reward, 9, is in none of V3's returns."""
    assert close(lambda_return(REWARD, CONTINUES, VALUE, 0.95), 5.0254, 5.265, 3.4)
    assert close(lambda_return(REWARD, 0.99 * CONTINUES, VALUE, 0.95), 4.9577496, 5.228588, 3.396)


def test_v2_counts_the_states_own_reward() -> None:
    assert close(lambda_return_with_own_reward(REWARD, CONTINUES, VALUE, 0.95), 11.72538, 3.156, 2.8)


def test_v1_with_a_bootstrap() -> None:
    """r = (1, 2, 3), v = (.5, .6, .7), then .8."""
    reward, value = rows(1, 2, 3, 0), rows(0.5, 0.6, 0.7, 0.8)
    found = lambda_return_with_own_reward(reward, torch.full_like(reward, 0.9), value, 0.95)
    assert close(found, 5.4833455, 5.2121, 3.72)


def test_fault_15_survival_is_in_the_return() -> None:
    assert close(backward_recursion(rows(1, 2, 3), rows(0.5, 0.5, 0.5), rows(10, 20, 30), 0.5), 6.375, 11.5, 18)


def test_fault_2_one_step_sees_the_next_value() -> None:
    assert close(lambda_return(rows(7, 1), rows(1, 0.5), rows(100, 20), 0.95), 1 + 0.5 * 20)


def test_fault_16_v3s_weights_begin_with_the_first_state() -> None:
    assert close(survival(CONTINUES), 0.9, 0.72, 0.72, 0.36)
    assert close(survival_before(CONTINUES), 1, 0.9, 0.72, 0.72)


def test_lambda_1_is_monte_carlo() -> None:
    reward, value = torch.randn(6, 3), torch.randn(6, 3)
    discount = torch.full_like(reward, 0.9)
    power = 0.9 ** torch.arange(5)[:, None]
    expected = (power * reward[1:]).sum(0) + 0.9**5 * value[-1]
    torch.testing.assert_close(lambda_return(reward, discount, value, 1.0)[0], expected)
    expected = (power * reward[:-1]).sum(0) + 0.9**5 * value[-1]
    torch.testing.assert_close(lambda_return_with_own_reward(reward, discount, value, 1.0)[0], expected)


def test_lambda_0_looks_one_step_ahead() -> None:
    reward, discount, value = torch.randn(6, 3), torch.rand(6, 3), torch.randn(6, 3)
    one_step = reward[1:] + discount[1:] * value[1:]
    torch.testing.assert_close(lambda_return(reward, discount, value, 0.0), one_step)
    one_step = reward[:-1] + discount[:-1] * value[1:]
    torch.testing.assert_close(lambda_return_with_own_reward(reward, discount, value, 0.0), one_step)


def test_exact_values_are_their_own_return() -> None:
    """Whatever lambda is: v_i = r_{i+1} + d_{i+1} v_{i+1}."""
    reward, discount, value = torch.randn(6, 3), torch.rand(6, 3), torch.zeros(6, 3)
    value[-1] = torch.randn(3)
    for i in reversed(range(5)):
        value[i] = reward[i + 1] + discount[i + 1] * value[i + 1]
    for lambda_ in (0.0, 0.3, 1.0):
        torch.testing.assert_close(lambda_return(reward, discount, value, lambda_), value[:-1])


def test_returns_are_differentiable_everywhere() -> None:
    inputs = [torch.rand(4, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    for function in (lambda_return, lambda_return_with_own_reward):
        assert torch.autograd.gradcheck(lambda r, d, v, f=function: f(r, d, v, 0.7), inputs)


# ---- replayed rows ----


def replayed(
    first: int | None = None, terminal: int | None = None, horizon: float = 333, lambda_: float = 0.95
) -> tuple[Tensor, Tensor]:
    reward, bootstrap = rows(0, 1, 2, 0, 3), rows(10, 20, 30, 40, 50)
    starts, ends = torch.zeros(5, 1, dtype=torch.bool), torch.zeros(5, 1, dtype=torch.bool)
    if first is not None:
        starts[first] = True
    if terminal is not None:
        ends[terminal] = True
    return replay_return(reward, starts, ends, bootstrap, 1 - 1 / horizon, lambda_)


def test_replayed_returns_end_at_a_time_limit() -> None:
    returns, counts = replayed(first=3)
    assert close(returns, 32.220377, 31.909910, 52.050579, 52.849850)
    assert close(counts, 1, 1, 0, 1)


def test_replayed_returns_stop_at_a_terminal_row() -> None:
    for first in (3, None):  # the next row is another episode's, or it is not there to tell
        returns, counts = replayed(first=first, terminal=2)
        assert close(returns, 3.8912913, 2, 52.050579, 52.849850)
        assert close(counts, 1, 1, 0, 1)


def test_replayed_returns_of_one_episode() -> None:
    blank = torch.zeros(4, 1, dtype=torch.bool)
    returns, _ = replay_return(rows(0, 1, 2, 3), blank, blank, rows(10, 20, 30, 40), 0.5, 0.5)
    assert close(returns, 9.8125, 15.25, 23)


def test_a_last_row_at_the_end_of_the_sequence_needs_no_flag() -> None:
    """Whether its episode ended there by a time limit is not in the batch, and does not matter."""
    reward, value = torch.randn(4, 2), torch.randn(4, 2)
    blank = torch.zeros(4, 2, dtype=torch.bool)
    returns, _ = replay_return(reward, blank, blank, value, 0.9, 0.95)
    torch.testing.assert_close(returns[-1], reward[-1] + 0.9 * value[-1])


# ---- the range of returns ----


def test_the_range_of_returns_follows_slowly() -> None:
    scale, batch = ReturnScale(0.01), torch.arange(21.0)
    for factor, low, wanted in ((1, 0.01, 1.0), (10, 0.1099, 1.9782), (100, 1.108801, 19.958414)):
        found = scale.update(factor * batch)
        assert (scale.low.item(), found.item()) == pytest.approx((low, wanted), rel=2e-6)
    for _ in range(100):
        found = scale.update(100 * batch)
    assert (scale.low.item(), found.item()) == pytest.approx((63.80266, 1148.4476), rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 15 * 50])
def test_percentiles_are_numpys(count: int) -> None:
    torch.manual_seed(count)
    returns, scale = torch.randn(count) * 100, ReturnScale(1.0)
    found = scale.update(returns.reshape(-1, 1))
    low, high = np.percentile(returns.numpy(), [5, 95])
    assert (scale.low.item(), scale.high.item()) == pytest.approx((low, high), rel=1e-5)
    assert found.item() == pytest.approx(max(1, high - low), rel=1e-5)


def test_small_returns_are_not_blown_up() -> None:
    assert ReturnScale(1.0).update(torch.linspace(0, 0.1, 10)) == 1


def test_the_range_survives_a_bad_batch_and_is_saved() -> None:
    scale = ReturnScale(0.5)
    scale.update(torch.arange(21.0))
    before = {key: value.clone() for key, value in scale.state_dict().items()}
    assert set(before) == {"low", "high"}
    with NoHostReads():
        scale.update(torch.full((21,), torch.nan))
    assert all(torch.equal(before[key], value) for key, value in scale.state_dict().items())


def test_a_skipped_update_leaves_the_return_scale_as_it_was() -> None:
    scale = ReturnScale(0.5)
    scale.update(torch.arange(100.0))
    scale.keep_if(torch.ones(()))
    low, high = scale.low.clone(), scale.high.clone()
    scale.update(1e6 * torch.arange(100.0))
    assert scale.high != high
    scale.keep_if(torch.zeros(()))
    assert scale.low == low and scale.high == high
