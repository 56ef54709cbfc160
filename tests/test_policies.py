"""Distributions of actions: numbers from scipy and from the releases, and laws that all four keep."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from worldmodel.networks import policies
from worldmodel.networks.noise import common_random_numbers
from worldmodel.networks.policies import BoundedNormal, OneHotCategorical, TanhNormal, TruncatedNormal

CONTINUOUS = [TanhNormal, TruncatedNormal, BoundedNormal]
ALL = [*CONTINUOUS, OneHotCategorical]
every = pytest.mark.parametrize("kind", ALL)
continuous = pytest.mark.parametrize("kind", CONTINUOUS)


def close(got: Tensor, wanted: object, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype), rtol=tolerance, atol=1e-7)


def raw(std: float, mean: float = 0.3) -> Tensor:
    return torch.tensor([[mean, std]])


def outputs(rows: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("std", "wanted", "density", "outside", "entropy"),
    [(0, 0.8927173, -0.8327766, -1.4437979, 1.3054533), (-2, 0.55, -0.3930857, -2.0028374, 0.8211016)],
)
def test_fault_24_v3_is_a_normal_that_is_not_truncated(
    std: float, wanted: float, density: float, outside: float, entropy: float
) -> None:
    policy = BoundedNormal.from_output(raw(std))
    close(policy.mean, [[0.2913126]])
    close(policy.std, [[wanted]])
    close(policy.log_prob(torch.tensor([[0.5]])), [density])
    close(policy.log_prob(torch.tensor([[1.3]])), [outside])
    close(policy.entropy(), [entropy])


def test_the_entropy_of_v3_has_bounds() -> None:
    close(BoundedNormal.from_output(raw(-100)).entropy(), [-0.8836465])
    close(BoundedNormal.from_output(raw(100)).entropy(), [1.4189385])


@pytest.mark.parametrize(
    ("std", "wanted", "density", "entropy"),
    [(0, 1.1, -0.5543437, 0.6783486), (-4, 0.3384058, -0.0072183, 0.2690554)],
)
def test_v2_is_a_truncated_normal(std: float, wanted: float, density: float, entropy: float) -> None:
    policy = TruncatedNormal.from_output(raw(std))
    close(policy.mean, [[0.2913126]])
    close(policy.std, [[wanted]])
    close(policy.log_prob(torch.tensor([[0.5]])), [density], 1e-5)
    close(policy.entropy(), [entropy])
    assert policy.entropy() < math.log(2)  # the uniform distribution's


@pytest.mark.parametrize(("std", "wanted", "density"), [(0, 5.0001, -2.2419610), (-4, 1.3084237, -0.9182846)])
def test_v1_is_the_tanh_of_a_normal(std: float, wanted: float, density: float) -> None:
    policy = TanhNormal.from_output(raw(std))
    close(policy.mean, [[0.2996405]])
    close(policy.std, [[wanted]])
    close(policy.log_prob(torch.tensor([[0.5]])), [density])


def test_v1_starts_bang_bang() -> None:
    torch.manual_seed(0)
    drawn = TanhNormal.from_output(torch.zeros(20000, 2)).sample()
    assert abs((drawn.abs() > 0.99).float().mean().item() - 0.60) < 0.015  # four standard deviations


def test_v1_scores_actions_at_the_bounds() -> None:
    output = raw(0).requires_grad_()
    density = TanhNormal.from_output(output).log_prob(torch.tensor([[1.0], [-1.0]]))
    assert density.isfinite().all() and torch.autograd.grad(density.sum(), output)[0].isfinite().all()


def test_v1_evaluates_the_likeliest_of_100_samples() -> None:
    policy = TanhNormal.from_output(torch.tensor([[0.3, -2, -6, -6]] * 3))
    drawn = policy.samples(torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 100, 2)
    for row, chosen in enumerate(policy.mode(torch.Generator().manual_seed(0))):
        densities = [policy.log_prob(drawn[:, k])[row].item() for k in range(100)]
        assert torch.equal(chosen, drawn[row, max(range(100), key=densities.__getitem__)])


def test_discrete_actions() -> None:
    logits, third = torch.tensor([1.0, 0, -1]), torch.tensor([0.0, 0, 1])
    plain, mixed = OneHotCategorical.from_output(logits), OneHotCategorical.from_output(logits, unimix=0.01)
    close(plain.entropy(), 0.8323956)
    close(plain.log_prob(third), -2.4076060)
    close(mixed.entropy(), 0.8381052)
    close(mixed.log_prob(third), -2.3809402)
    assert plain.mode().tolist() == [1, 0, 0]


def narrow(kind: Any, rows: int = 1) -> Any:
    """A policy whose density a grid can follow; the tanh-normal's is infinite at the bounds if it is wide."""
    return kind.from_output(torch.tensor([0.4, -6.0 if kind is TanhNormal else -2.0]).expand(rows, 2))


def grid(kind: Any) -> Tensor:
    far = 6.0 if kind is BoundedNormal else 0.999999
    return torch.linspace(-far, far, 100001, dtype=torch.float64)


@continuous
def test_densities_integrate_to_one(kind: Any) -> None:
    policy, x = kind(*(a[0].double() for a in narrow(kind))), grid(kind)
    assert abs(torch.trapezoid(policy.log_prob(x[:, None]).double().exp(), x).item() - 1) < 2e-4


@continuous
def test_samples_follow_the_density_and_the_entropy_is_its_mean(kind: Any) -> None:
    torch.manual_seed(0)
    policy = narrow(kind, 20000)
    drawn, x = policy.sample(), grid(kind)
    density = kind(*(a[0].double() for a in policy)).log_prob(x[:, None]).double().exp()
    for power in (1, 2):
        wanted = torch.trapezoid(density * x**power, x).item()
        assert abs((drawn**power).mean().item() - wanted) < 0.02
    assert (policy.entropy().mean() + policy.log_prob(drawn).mean()).abs() < 0.03


@every
def test_sums_run_over_the_dimensions_of_the_action_alone(kind: Any) -> None:
    policy = kind.from_output(outputs())
    action = policy.sample(torch.Generator().manual_seed(0))
    assert policy.log_prob(action).shape == policy.entropy(torch.Generator().manual_seed(0)).shape == (6,)
    one = kind(*(a[2] for a in policy))
    close(policy.log_prob(action)[2], one.log_prob(action[2]))
    if kind is not OneHotCategorical:
        apart = [kind(*(a[..., k : k + 1] for a in policy)).log_prob(action[..., k : k + 1]) for k in range(2)]
        close(policy.log_prob(action), sum(apart), 1e-5)


@every
def test_the_generator_alone_decides(kind: Any) -> None:
    policy, before = kind.from_output(outputs()), torch.get_rng_state()
    for ask in ("sample", "mode", "entropy"):
        one, other = (getattr(policy, ask)(torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(0)
    with common_random_numbers(2):
        drawn = kind.from_output(outputs(3).repeat(2, 1)).sample()
    assert torch.equal(drawn[:3], drawn[3:])


@every
def test_samples_are_differentiable(kind: Any) -> None:
    output = outputs().requires_grad_()
    weights = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    drawn = kind.from_output(output).sample(torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((drawn * weights[:, : drawn.shape[-1]]).sum(), output)
    assert gradient.isfinite().all() and (gradient.abs().sum(-1) > 0).all()


@continuous
def test_the_gradient_of_a_sample_is_its_finite_difference(kind: Any) -> None:
    output, dual = outputs(1).double().requires_grad_(), 1e-6

    def drawn(output: Tensor) -> Tensor:
        # from_output computes in float32; here its equations are given numbers in float64
        mean, std = output.chunk(2, -1)
        return kind(mean.tanh(), 0.3 + std.sigmoid()).sample(torch.Generator().manual_seed(0)).sum()

    (gradient,) = torch.autograd.grad(drawn(output), output)
    for k in range(4):
        step = torch.eye(4, dtype=torch.float64)[k] * dual
        difference = (drawn(output + step) - drawn(output - step)) / (2 * dual)
        close(gradient[0, k], difference.detach(), 1e-5)


def test_truncated_samples_stay_inside_and_finite_in_every_corner() -> None:
    torch.manual_seed(0)
    corners = torch.tensor([[m, s] for m in (-20.0, 0, 20) for s in (-20.0, 0, 20)], requires_grad=True)
    policy = TruncatedNormal.from_output(corners.repeat(2000, 1))
    drawn = policy.sample()
    assert drawn.abs().max() <= 1 - 0.9e-6 and drawn.isfinite().all()
    total = drawn.sum() + policy.log_prob(drawn.detach()).sum() + policy.entropy().sum()
    (gradient,) = torch.autograd.grad(total, corners)
    assert total.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("drawn", [0.0, 1 - 2**-24])  # the least and the greatest that is ever drawn
def test_truncated_samples_at_the_ends_are_inside_and_have_a_gradient(
    drawn: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "uniform", lambda like: torch.full_like(like, drawn))
    mean = torch.tensor([0.5, 0.0, -0.9]).requires_grad_()
    action = TruncatedNormal(mean, torch.tensor([1.1, 0.1, 0.5])).sample()
    (gradient,) = torch.autograd.grad(action.sum(), mean)
    assert 0.5 < abs(action[1].item()) < 1  # five standard deviations, which float32 can tell from all
    assert (action.abs() <= 1 - 0.9e-6).all() and gradient.isfinite().all()


def test_truncated_normal_is_scipys() -> None:
    output = outputs(8, seed=2)
    policy = TruncatedNormal.from_output(output[:, :2])
    for mean, std, density, entropy in zip(
        policy.mean[:, 0], policy.std[:, 0], policy.log_prob(torch.tensor([0.7])), policy.entropy(), strict=True
    ):
        m, s = mean.item(), std.item()
        theirs = stats.truncnorm((-1 - m) / s, (1 - m) / s, m, s)
        close(density, theirs.logpdf(0.7), 1e-5)
        close(entropy, theirs.entropy(), 1e-5)


def test_it_is_computed_in_float32_whatever_the_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for kind in ALL:
            policy = kind.from_output(outputs().bfloat16())
            action = policy.sample()
            assert action.dtype == policy.log_prob(action).dtype == policy.entropy().dtype == torch.float32
