"""Categorical latents: numbers worked out by hand, and what the DreamerV3 release computes for the same logits."""

import math

import pytest
import torch
from torch import Tensor

from worldmodel.networks import categorical
from worldmodel.networks.noise import common_random_numbers

POST = torch.tensor([[2, -1, 0.5], [-0.5, 1.5, 0]])  # two latents of three classes
PRIOR = torch.tensor([[0, 1, -1], [1, -0.5, 0.5]])


def close(got: Tensor, wanted: object, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype), rtol=tolerance, atol=1e-7)


def mixed(logits: Tensor) -> Tensor:
    return categorical.log_probs(logits, 0.01)


def test_unimix_is_one_percent_of_the_uniform_distribution() -> None:
    close(mixed(torch.tensor([0.0, math.log(3)])).exp(), [0.99 * 0.25 + 0.005, 0.99 * 0.75 + 0.005])
    close(categorical.log_probs(torch.tensor([0.0, math.log(3)])).exp(), [0.25, 0.75])
    impossible = mixed(torch.tensor([200.0, -200.0, 0, 0]))
    close(impossible.exp(), [0.9925, 0.0025, 0.0025, 0.0025])


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 16), (2, 3, 17)])
def test_few_classes_are_computed_as_many(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    got, wanted = categorical.softmax(ours), plain.softmax(-1)
    close(got, wanted)
    weights = torch.arange(logits.numel()).view(shape)
    for y in (got, wanted):
        (weights * y).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-5, atol=1e-5)


def test_kl_and_entropy_are_the_releases() -> None:
    post, prior = mixed(POST), mixed(PRIOR)
    close(categorical.kl(post, prior), 1.9163511)
    close(categorical.kl(prior, post), 2.4014091)
    close(categorical.entropy(post), 1.3917977)
    close(categorical.entropy(prior), 1.7940702)
    close(categorical.kl(categorical.log_probs(POST), categorical.log_probs(PRIOR)), 1.9606622)
    close(categorical.kl(categorical.log_probs(PRIOR), categorical.log_probs(POST)), 2.4835799)


def test_the_gradients_of_the_two_sided_kl_are_the_releases() -> None:
    post, prior = POST.clone().requires_grad_(), PRIOR.clone().requires_grad_()
    dyn = categorical.kl(mixed(post).detach(), mixed(prior))
    (gradient,) = torch.autograd.grad(dyn, prior)
    close(gradient, [[-0.5299522, 0.6119636, -0.0820115], [0.4332094, -0.5931539, 0.1599445]])
    rep = categorical.kl(mixed(post), mixed(prior).detach())
    (gradient,) = torch.autograd.grad(rep, post)
    close(gradient, [[0.1883310, -0.1421437, -0.0461872], [-0.2664197, 0.5458124, -0.2793926]])


def test_with_an_even_balance_the_two_sides_have_the_gradient_of_the_plain_kl() -> None:
    post, prior = POST.clone().requires_grad_(), PRIOR.clone().requires_grad_()
    plain = torch.autograd.grad(categorical.kl(mixed(post), mixed(prior)), (post, prior))
    dyn = categorical.kl(mixed(post).detach(), mixed(prior))
    rep = categorical.kl(mixed(post), mixed(prior).detach())
    both = torch.autograd.grad(dyn + rep, (post, prior))
    for one, other in zip(plain, both, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("classes", "largest"), [(4, 5.924097), (16, 7.294663), (32, 7.980561)])
def test_unimix_bounds_the_kl(classes: int, largest: float) -> None:
    post, prior = torch.zeros(2, 1, classes)
    post[0, 0] = prior[0, 1] = 1e4
    close(categorical.kl(mixed(post), mixed(prior)), largest)


def test_fault_6_a_sample_has_the_gradient_of_its_probabilities_after_unimix() -> None:
    post = POST.clone().requires_grad_()
    torch.manual_seed(0)
    drawn = categorical.sample(mixed(post))
    assert drawn.requires_grad
    (gradient,) = torch.autograd.grad((drawn * torch.tensor([1.0, 2, 3])).sum(), post)
    close(gradient, [[-0.3030805, 0.0236320, 0.2794485], [-0.1050015, -0.0470985, 0.1521000]])


def test_a_sample_is_one_hot_bit_for_bit() -> None:
    drawn = categorical.sample(
        mixed(torch.randn(50, 8, 5, generator=torch.Generator().manual_seed(0)).requires_grad_())
    )
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and (drawn.sum(-1) == 1).all() and drawn.dtype == torch.float32


def test_samples_have_the_probabilities_at_every_temperature() -> None:
    torch.manual_seed(0)
    log_p = torch.tensor([0.1, 0.2, 0.7]).log()
    for temperature, wanted in ((1.0, [0.1, 0.2, 0.7]), (2.0, [0.1976, 0.2795, 0.5229])):
        drawn = categorical.sample(log_p.expand(20000, 1, 3), temperature).mean((0, 1))
        assert (drawn - torch.tensor(wanted)).abs().max() < 0.015  # four standard deviations


def test_at_temperature_0_the_mode_without_random_numbers_and_yet_differentiable() -> None:
    post = POST.clone().requires_grad_()
    before = torch.get_rng_state()
    mode = categorical.sample(mixed(post), 0)
    assert torch.equal(before, torch.get_rng_state())
    assert mode.tolist() == [[1, 0, 0], [0, 1, 0]]
    (gradient,) = torch.autograd.grad((mode * torch.tensor([1.0, 2, 3])).sum(), post)
    close(gradient, [[-0.3030805, 0.0236320, 0.2794485], [-0.1050015, -0.0470985, 0.1521000]])


@pytest.mark.parametrize("drawn", [0.0, 1 - 2**-24])  # the least and the greatest that is ever drawn
def test_what_is_impossible_is_never_drawn_and_rounding_never_falls_off_the_end(
    drawn: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(categorical, "uniform", lambda like: torch.full_like(like, drawn))
    certain = categorical.log_probs(torch.tensor([-1e4, 0, -1e4]))[None, None]
    assert categorical.sample(certain).tolist() == [[[0, 1, 0]]]
    logits = torch.randn(200, 1, 255, generator=torch.Generator().manual_seed(0))
    assert (categorical.sample(categorical.log_probs(logits)).sum(-1) == 1).all()  # one by one they are not quite 1


def test_a_categorical_of_one_class_is_deterministic() -> None:
    log_p = mixed(torch.randn(4, 3, 1, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(categorical.sample(log_p), torch.ones(4, 3, 1))
    assert categorical.kl(log_p, log_p).tolist() == categorical.entropy(log_p).tolist() == [0] * 4


def test_candidates_share_their_noise() -> None:
    log_p = mixed(torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0)))
    alike = log_p[:2].repeat(3, 1, 1)
    torch.manual_seed(0)
    with common_random_numbers(3):
        together = categorical.sample(alike)
        different = categorical.sample(log_p)
    assert torch.equal(together, together[:2].repeat(3, 1, 1))
    assert not torch.equal(different, different[:2].repeat(3, 1, 1))
    torch.manual_seed(0)
    assert not torch.equal(categorical.sample(alike), together)


def test_a_generator_decides_what_is_drawn() -> None:
    log_p = mixed(torch.zeros(20, 4, 5))
    one, other = (categorical.sample(log_p, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    before = torch.get_rng_state()
    categorical.sample(log_p, generator=torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())


def test_fault_25_equal_logits_are_finite_everywhere() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    log_p = mixed(logits)
    total = categorical.mode(log_p).sum() + categorical.entropy(log_p) + categorical.kl(log_p, log_p)
    (gradient,) = torch.autograd.grad(total, logits)
    assert total.isfinite() and gradient.isfinite().all()


def test_it_is_computed_in_float32_whatever_the_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        log_p = categorical.log_probs(POST.bfloat16(), 0.01)
        assert log_p.dtype == categorical.sample(log_p).dtype == categorical.kl(log_p, log_p).dtype == torch.float32
    close(log_p, mixed(POST))  # the logits are exact in bfloat16
