"""TensorFlow's Adam: where eps stands, against torch's and by hand; and the laws of a step that may be recorded."""

import math
from typing import Any

import pytest
import test_laprop as laws
import torch
from test_laprop import descend, follow, parameter

from agents.adam_tf import AdamTF


def adam(parameters: Any, lr: float = 0.1, **changes: Any) -> AdamTF:
    return AdamTF(parameters, torch.tensor(lr, dtype=torch.float64), **changes)


def test_a_parabola() -> None:
    p = parameter(1)
    golden = [0.9, 0.800412, 0.701586, 0.603939, 0.507964]
    assert descend(p, adam([p], eps=1e-12), 5) == pytest.approx(golden, rel=2e-6)


def test_given_gradients() -> None:
    p = parameter(0)
    assert follow(p, adam([p], eps=1e-12), [1, -2, 4]) == pytest.approx([-0.1, -0.063390, -0.105355], rel=1e-5)


def test_without_eps_it_is_torchs() -> None:
    torch.manual_seed(0)
    p, q = parameter(1, -2, 0.5), parameter(1, -2, 0.5)
    ours, theirs = adam([p], 0.01, eps=1e-30), torch.optim.Adam([q], 0.01, eps=1e-30)
    for _ in range(50):
        p.grad = torch.randn(3)
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_small_gradients_take_short_first_steps() -> None:
    """g = 1e-5, eps = 1e-4. m = (1 - .9^n) g, v = (1 - .999^n) g^2, and the n-th step is, with s = sqrt(1 - .999^n),

    TF  lr s g / (s g + eps)      torch  lr g / (g + eps) = lr / 11
    """
    p, q = parameter(0), parameter(0)
    ours = [0.0, *follow(p, adam([p], 1.0, eps=1e-4), [1e-5] * 8)]
    theirs = [0.0, *follow(q, torch.optim.Adam([q], 1.0, eps=1e-4), [1e-5] * 8)]
    for n in range(1, 9):
        s = math.sqrt(1 - 0.999**n)
        assert ours[n - 1] - ours[n] == pytest.approx(s * 1e-5 / (s * 1e-5 + 1e-4), rel=1e-4)
        assert theirs[n - 1] - theirs[n] == pytest.approx(1 / 11, rel=1e-4)
    assert ours[1] * 28.8 == pytest.approx(theirs[1], rel=0.01)  # 29 times shorter at first,
    assert ours[8] * 14.2 == pytest.approx(theirs[8], rel=0.01)  # 14 times over the first eight


def test_weight_decay_comes_first_and_has_no_rate() -> None:
    p = parameter(4)
    p.grad = torch.ones(1)
    adam([p], 0.1, eps=1e-12, weight_decay=0.25).step()
    assert p.item() == pytest.approx(4 * 0.75 - 0.1)
    adam([p], 0.0, weight_decay=0.5).step()
    assert p.item() == pytest.approx(2.9 * 0.5)


def test_bad_gradients_change_nothing() -> None:
    laws.check_that_bad_gradients_change_nothing(lambda p: adam(p, weight_decay=0.1))


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    laws.check_that_a_loaded_state_goes_on(adam)


def test_no_step_waits_for_a_number() -> None:
    laws.check_that_no_step_waits(lambda p: adam(p, weight_decay=0.1))


def test_what_has_no_gradient_is_left_alone() -> None:
    laws.check_that_what_has_no_gradient_is_left_alone(adam)


def test_the_rate_may_change() -> None:
    laws.check_that_the_rate_may_change(adam)
