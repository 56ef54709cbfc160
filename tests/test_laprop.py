"""LaProp and AGC against DreamerV3's own optimiser (golden numbers), and the laws of a step that may be recorded."""

import math
from typing import Any

import pytest
import torch
from dreams import NoHostReads
from torch import Tensor, nn

from agents.laprop import LaProp, clip

FREE: dict[str, Any] = dict(agc=math.inf, warmup=0)  # neither clipping nor warm-up


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float32))


def laprop(parameters: Any, lr: float = 0.1, **changes: Any) -> LaProp:
    return LaProp(parameters, torch.tensor(lr, dtype=torch.float64), **{**FREE, **changes})


def follow(p: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: list[float]) -> list[float]:
    found = []
    for gradient in gradients:
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
        found.append(p.item())
    return found


def descend(p: nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """f = x^2 / 2."""
    found = []
    for _ in range(steps):
        p.grad = p.detach().clone()
        optimizer.step()
        found.append(p.item())
    return found


@pytest.mark.parametrize(
    ("p", "g", "clipped"),
    [((3, 4), (6, 8), (0.9, 1.2)), ((0, 0), (1, 0), (0.0003, 0)), ((1e-4, 0), (1e-4, 0), (1e-4, 0))],
)
def test_agc_of_one_tensor(p: tuple[float, ...], g: tuple[float, ...], clipped: tuple[float, ...]) -> None:
    gradient = torch.tensor(g, dtype=torch.float32)
    clip([torch.tensor(p, dtype=torch.float32)], [gradient], 0.3)
    torch.testing.assert_close(gradient, torch.tensor(clipped, dtype=torch.float32), rtol=2e-6, atol=0)


def test_agc_has_a_norm_for_each_tensor() -> None:
    """A long kernel must not let its bias jump."""
    gradients = [torch.ones(100), torch.ones(1)]
    clip([torch.full((100,), 10.0), torch.ones(1)], gradients, 0.3)
    assert gradients[0].eq(1).all() and gradients[1].item() == pytest.approx(0.3)


def test_a_parabola() -> None:
    p = parameter(1)
    golden = [0.9, 0.802838, 0.708775, 0.618089, 0.531074]
    assert descend(p, laprop([p]), 5) == pytest.approx(golden, rel=2e-6)


def test_the_warm_up_begins_with_a_rate_of_zero() -> None:
    p = parameter(1)
    golden = [1.0, 0.975, 0.925311, 0.851765, 0.755801, 0.662826]
    assert descend(p, laprop([p], warmup=4), 6) == pytest.approx(golden, rel=2e-6)


@pytest.mark.parametrize(
    ("agc", "start", "golden"),
    [(math.inf, 0, [-0.1, -0.080804, -0.124460]), (0.3, 2, [1.9, 1.903898, 1.870053])],
)
def test_given_gradients(agc: float, start: float, golden: list[float]) -> None:
    p = parameter(start)
    assert follow(p, laprop([p], agc=agc), [1, -2, 4]) == pytest.approx(golden, rel=5e-6)


def by_hand(p: Tensor, gradients: list[Tensor], lr: float, agc: float, warmup: int) -> Tensor:
    """The docstring's equations, one tensor, double precision."""
    p, v, m = p.double(), 0.0, 0.0
    for n, gradient in enumerate(gradients, 1):
        g = gradient.double()
        g = g / max(1.0, float(g.norm() / (agc * max(1e-3, float(p.norm())))))
        v = 0.999 * v + 0.001 * g**2
        m = 0.9 * m + 0.1 * g / ((v / (1 - 0.999**n)).sqrt() + 1e-20)
        p = p - lr * min(1.0, (n - 1) / warmup) * m / (1 - 0.9**n)
    return p


def test_many_tensors_follow_the_equations_one_by_one() -> None:
    torch.manual_seed(0)
    start = [torch.randn(3, 4), torch.zeros(5), torch.randn(()) * 1e-4]
    gradients = [[torch.randn_like(p) * 10**scale for scale in (-3.0, 0.0, 2.0, -6.0)] for p in start]
    parameters = [nn.Parameter(p.clone()) for p in start]
    optimizer = laprop(parameters, 1e-2, agc=0.3, warmup=3)
    for step in range(4):
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g[step].clone()
        optimizer.step()
    for p, before, g in zip(parameters, start, gradients, strict=True):
        torch.testing.assert_close(p.detach().double(), by_hand(before, g, 1e-2, 0.3, 3), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(p.grad, g[3], rtol=0, atol=0)  # gradients stay as they are: others may look at them


# ---- laws that both optimisers obey; tests/test_adam_tf.py asks them of the other one ----


def test_bad_gradients_change_nothing() -> None:
    check_that_bad_gradients_change_nothing(lambda p: laprop(p, agc=0.3))


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    check_that_a_loaded_state_goes_on(lambda p: laprop(p, agc=0.3, warmup=5))


def test_no_step_waits_for_a_number() -> None:
    check_that_no_step_waits(lambda p: laprop(p, agc=0.3, warmup=5))


def test_what_has_no_gradient_is_left_alone() -> None:
    check_that_what_has_no_gradient_is_left_alone(laprop)


def test_the_rate_may_change() -> None:
    check_that_the_rate_may_change(laprop)


def check_that_bad_gradients_change_nothing(make: Any) -> None:
    """At the first step, too, where there are no moments yet; and later steps are those that would have come."""
    p, q = parameter(1, 2), parameter(1, 2)
    watched, plain = make([p]), make([q])
    for gradient in (math.nan, 1.0, math.inf, -2.0, 3.0):
        good = math.isfinite(gradient)
        watched.found_inf = torch.tensor(0.0 if good else 1.0)
        p.grad, q.grad = torch.tensor([gradient, 0.5]), torch.tensor([gradient, 0.5])
        before = [p.detach().clone(), *(a.clone() for a in watched.state[p].values())]
        watched.step()
        if good:
            plain.step()
        elif before[1:]:
            assert all(map(torch.equal, before, [p.detach(), *watched.state[p].values()]))
        assert torch.equal(p, q) and p.isfinite().all()


def check_that_a_loaded_state_goes_on(make: Any) -> None:
    p = parameter(1, -2)
    optimizer = make([p])
    descend_vector(p, optimizer, 3)
    state = optimizer.state_dict()["state"][0]
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    assert all(isinstance(a, Tensor) and a.dtype == torch.float32 for a in state.values())
    other = nn.Parameter(p.detach().clone())
    resumed = make([other])
    resumed.load_state_dict(
        {**resumed.state_dict(), "state": {0: {key: value.clone() for key, value in state.items()}}}
    )
    descend_vector(p, optimizer, 3)
    descend_vector(other, resumed, 3)
    assert torch.equal(p, other)


def descend_vector(p: nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        p.grad = p.detach().clone()
        optimizer.step()


def check_that_no_step_waits(make: Any) -> None:
    p = parameter(1, -2)
    optimizer = make([p])
    optimizer.found_inf = torch.zeros(())
    p.grad = torch.ones(2)
    with NoHostReads():
        optimizer.step()
        optimizer.step()


def check_that_what_has_no_gradient_is_left_alone(make: Any) -> None:
    """And does not fall behind in the bias correction: each parameter counts its own steps."""
    p, q = parameter(1), parameter(1)
    optimizer = make([p, q])
    p.grad = torch.ones(1)
    optimizer.step()
    assert q.item() == 1 and not optimizer.state[q]
    p.grad, q.grad = None, torch.ones(1)
    first = p.item()
    optimizer.step()
    assert p.item() == first and q.item() == first
    p.grad = q.grad = None
    optimizer.step()


def check_that_the_rate_may_change(make: Any) -> None:
    p = parameter(1)
    optimizer = make([p])
    optimizer.param_groups[0]["lr"].mul_(0)
    p.grad = torch.ones(1)
    optimizer.step()
    assert p.item() == 1
