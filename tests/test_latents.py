"""Gaussians: directions, halves and constants that a wrong sign or factor would survive training with."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from worldmodel import latents

ONE, ZERO = torch.ones(1), torch.zeros(1)


def random_pair() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(4, 5, 3), torch.rand(4, 5, 3) + 0.1, torch.randn(4, 5, 3), torch.rand(4, 5, 3) + 0.1


def test_kl_is_of_the_posterior_from_the_prior() -> None:
    half, narrow = torch.tensor([0.5]), torch.tensor([0.8])
    assert latents.kl(half, narrow, ZERO, ONE).item() == pytest.approx(0.1681435513, abs=1e-7)
    backwards = math.log(0.8) + (1 + 0.25) / (2 * 0.64) - 0.5
    assert latents.kl(ZERO, ONE, half, narrow).item() == pytest.approx(backwards, abs=1e-6)


def test_kl_is_that_of_torch_summed_over_dimensions() -> None:
    mean, std, prior_mean, prior_std = random_pair()
    wanted = kl_divergence(Independent(Normal(mean, std), 1), Independent(Normal(prior_mean, prior_std), 1))
    got = latents.kl(mean, std, prior_mean, prior_std)
    assert got.shape == (4, 5)
    torch.testing.assert_close(got, wanted)


def test_kl_of_a_gaussian_from_itself_is_zero_and_has_no_gradient() -> None:
    mean, std, _, _ = random_pair()
    pair = [mean.requires_grad_(), std.requires_grad_()]
    divergence = latents.kl(*pair, mean.detach(), std.detach())
    assert divergence.abs().max() < 1e-6
    assert all(gradient.abs().max() < 1e-5 for gradient in torch.autograd.grad(divergence.sum(), pair))


def test_entropy_is_that_of_torch() -> None:
    mean, std, _, _ = random_pair()
    torch.testing.assert_close(latents.entropy(std), Independent(Normal(mean, std), 1).entropy())


def test_the_nll_is_half_the_square_as_in_torch_without_the_constant() -> None:
    target, _, mean, _ = random_pair()
    wanted = -Normal(mean, 1.0).log_prob(target) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(latents.unit_nll(target, mean), wanted)


def test_samples_have_the_moments_and_carry_gradients() -> None:
    torch.manual_seed(0)
    mean, std = torch.tensor([-1.0, 2.0], requires_grad=True), torch.tensor([0.5, 3.0], requires_grad=True)
    drawn = latents.sample(mean.expand(100_000, 2), std.expand(100_000, 2))
    assert ((drawn.mean(0) - mean) / std).abs().max() < 0.015  # 5 standard errors
    assert (drawn.std(0) / std - 1).abs().max() < 0.012
    by_mean, by_std = torch.autograd.grad(drawn[:1].sum(), [mean, std])
    assert by_mean.tolist() == [1, 1]
    torch.testing.assert_close(by_std, ((drawn[0] - mean) / std).detach())
