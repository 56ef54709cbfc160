"""Gaussians: directions, halves and constants that a wrong sign or factor would survive training with; and noise."""

import contextlib
import math
from collections.abc import Callable

import pytest
import tiny
import torch
from torch.distributions import Independent, Normal, kl_divergence

from worldmodel.models import rssm
from worldmodel.networks import gaussian, noise

ONE, ZERO = torch.ones(1), torch.zeros(1)


def random_pair() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(4, 5, 3), torch.rand(4, 5, 3) + 0.1, torch.randn(4, 5, 3), torch.rand(4, 5, 3) + 0.1


def test_kl_is_of_the_posterior_from_the_prior() -> None:
    half, narrow = torch.tensor([0.5]), torch.tensor([0.8])
    assert gaussian.kl(half, narrow, ZERO, ONE).item() == pytest.approx(0.1681435513, abs=1e-7)
    backwards = math.log(0.8) + (1 + 0.25) / (2 * 0.64) - 0.5
    assert gaussian.kl(ZERO, ONE, half, narrow).item() == pytest.approx(backwards, abs=1e-6)


def test_kl_is_that_of_torch_summed_over_dimensions() -> None:
    mean, std, prior_mean, prior_std = random_pair()
    wanted = kl_divergence(Independent(Normal(mean, std), 1), Independent(Normal(prior_mean, prior_std), 1))
    got = gaussian.kl(mean, std, prior_mean, prior_std)
    assert got.shape == (4, 5)
    torch.testing.assert_close(got, wanted)


def test_kl_of_a_gaussian_from_itself_is_zero_and_has_no_gradient() -> None:
    mean, std, _, _ = random_pair()
    pair = [mean.requires_grad_(), std.requires_grad_()]
    divergence = gaussian.kl(*pair, mean.detach(), std.detach())
    assert divergence.abs().max() < 1e-6
    assert all(gradient.abs().max() < 1e-5 for gradient in torch.autograd.grad(divergence.sum(), pair))


def test_entropy_is_that_of_torch() -> None:
    mean, std, _, _ = random_pair()
    torch.testing.assert_close(gaussian.entropy(std), Independent(Normal(mean, std), 1).entropy())


def test_the_nll_is_half_the_square_as_in_torch_without_the_constant() -> None:
    target, _, mean, _ = random_pair()
    wanted = -Normal(mean, 1.0).log_prob(target) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(gaussian.unit_nll(target, mean), wanted)


def test_samples_have_the_moments_and_carry_gradients() -> None:
    torch.manual_seed(0)
    mean, std = torch.tensor([-1.0, 2.0], requires_grad=True), torch.tensor([0.5, 3.0], requires_grad=True)
    drawn = gaussian.sample(mean.expand(100_000, 2), std.expand(100_000, 2))
    assert ((drawn.mean(0) - mean) / std).abs().max() < 0.015  # 5 standard errors
    assert (drawn.std(0) / std - 1).abs().max() < 0.012
    by_mean, by_std = torch.autograd.grad(drawn[:1].sum(), [mean, std])
    assert by_mean.tolist() == [1, 1]
    torch.testing.assert_close(by_std, ((drawn[0] - mean) / std).detach())


# ---- temperature ----


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_temperature_multiplies_the_variance(temperature: float) -> None:
    mean, std, _, _ = random_pair()
    torch.manual_seed(1)
    plain = gaussian.sample(mean, std)
    torch.manual_seed(1)
    tempered = gaussian.sample(mean, std, temperature)
    torch.testing.assert_close(tempered - mean, math.sqrt(temperature) * (plain - mean))


def test_temperature_0_is_the_mean_without_a_random_number() -> None:
    mean, std, _, _ = random_pair()
    before = torch.get_rng_state()
    assert torch.equal(gaussian.sample(mean, std, 0), mean)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_rssm_dreams_at_a_temperature() -> None:
    """Its prior is the same; only how far a dream strays from it changes."""
    model, action = tiny.model(), torch.ones(100, 2)

    def dreamt(temperature: float) -> rssm.State:
        torch.manual_seed(1)
        return model.imagine(model.initial(100), action, temperature)

    plain = dreamt(1.0)
    assert not (plain.stoch == plain.mean).any()
    for temperature in (0.0, 0.25, 4.0):
        state = dreamt(temperature)
        for name in ("deter", "mean", "std"):
            assert torch.equal(getattr(state, name), getattr(plain, name))
        strayed = math.sqrt(temperature) * (plain.stoch - plain.mean)
        torch.testing.assert_close(state.stoch - state.mean, strayed, rtol=1e-4, atol=1e-5)
    assert torch.equal(dreamt(0.0).stoch, plain.mean)  # the mode


# ---- common random numbers ----

drawing = pytest.mark.parametrize("draw", [noise.normal, noise.uniform], ids=["normal", "uniform"])


@drawing
def test_under_common_random_numbers_every_block_draws_the_same(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with noise.common_random_numbers(3):
        drawn = draw(torch.zeros(12, 2, 5))
    assert drawn.shape == (12, 2, 5)
    blocks = drawn.unflatten(0, (3, 4))
    assert torch.equal(blocks[0], blocks[1]) and torch.equal(blocks[0], blocks[2])
    assert blocks[0].unique().numel() == blocks[0].numel()  # within a block all differ


def test_common_random_numbers_are_of_samples_too_and_keep_their_law() -> None:
    torch.manual_seed(0)
    mean, std = torch.arange(4.0).repeat_interleave(50_000)[:, None], torch.full((200_000, 1), 2.0)
    with noise.common_random_numbers(4):
        drawn = gaussian.sample(mean, std) - mean
        assert torch.equal(gaussian.sample(mean[:3], std[:3], 0), mean[:3])  # nothing is drawn, nothing to divide
    for block in drawn.view(4, -1):
        torch.testing.assert_close(block, drawn[:50_000, 0], rtol=0, atol=1e-5)
    assert abs(drawn.mean().item()) < 5 * 2 / math.sqrt(50_000)
    assert drawn.std().item() == pytest.approx(2, rel=0.02)


@drawing
def test_common_random_numbers_end_where_they_should(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def blocks() -> int:
        """How many of 6 rows are equal to the first."""
        drawn = draw(torch.zeros(6, 4))
        return int((drawn == drawn[0]).all(1).sum())

    assert blocks() == 1
    with noise.common_random_numbers(2):
        assert blocks() == 2
        with noise.common_random_numbers(3):
            assert blocks() == 3
        assert blocks() == 2
        with pytest.raises(KeyError), noise.common_random_numbers(6):
            assert blocks() == 6
            raise KeyError
        assert blocks() == 2
    assert blocks() == 1


@drawing
def test_rows_that_are_not_blocks_of_equal_length_are_refused(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="7 rows are not 2 blocks of equal length"), noise.common_random_numbers(2):
        draw(torch.zeros(7, 3))
    assert draw(torch.zeros(7, 3)).shape == (7, 3)


def test_without_common_random_numbers_the_stream_of_random_numbers_is_torchs() -> None:
    like = torch.zeros(6, 4, 2)
    for draw, theirs in ((noise.normal, torch.randn_like), (noise.uniform, torch.rand_like)):
        for blocks in (None, 1):
            torch.manual_seed(3)
            wanted = [theirs(like), theirs(like)]
            torch.manual_seed(3)
            with contextlib.nullcontext() if blocks is None else noise.common_random_numbers(blocks):
                assert all(torch.equal(draw(like), one) for one in wanted)
    mean, std, _, _ = random_pair()
    torch.manual_seed(3)
    drawn = torch.randn_like(mean)
    torch.manual_seed(3)
    torch.testing.assert_close(gaussian.sample(mean, std), mean + std * drawn)


def test_squared_errors_are_summed_over_a_row_and_averaged_over_rows() -> None:
    target, mean = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5, requires_grad=True)
    got, wanted = gaussian.sum_squared_error(target, mean), (target - mean).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(one, mean)[0] for one in (got, wanted)))
    torch.testing.assert_close(0.5 * got, gaussian.unit_nll(target, mean).sum((1, 2, 3)).mean())


def test_softplus_is_the_librarys_with_and_without_gradients() -> None:
    x = torch.tensor([-1000.0, -100, -20, -3, -0.5, 0, 0.5, 3, 19.9, 20, 20.1, 50, 100, 1000], requires_grad=True)
    wanted = torch.nn.functional.softplus(x.double()).float().detach()
    assert torch.equal(gaussian.softplus(x), torch.nn.functional.softplus(x))
    with torch.no_grad():
        torch.testing.assert_close(gaussian.softplus(x), wanted, rtol=1e-6, atol=1e-7)
