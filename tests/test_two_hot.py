"""Two-hot regression: numbers worked out by hand, and what the DreamerV3 releases compute."""

import math

import dreams
import pytest
import torch
from torch import Tensor

from worldmodel.networks import two_hot

BINS, SYMLOG_BINS = two_hot.symexp_bins(), two_hot.symlog_bins()
LOGITS = -(((torch.arange(255) - 140.0) / 3) ** 2) / 2
FIVE = torch.tensor([-485165195.0, -22025.4658, 0, 22025.4658, 485165195.0])
TABLE = [  # x, the bin below, the weight of the bin above with exponentially spaced bins, and in symlog space
    (0.1, 127, 0.5863122, 0.6052196),
    (1, 131, 0.3826731, 0.4014846),
    (2.5, 134, 0.9515800, 0.9550448),
    (-2.5, 119, 0.0484200, 0.0449552),
    (10, 142, 0.2130366, 0.2266350),
    (100, 156, 0.2894698, 0.3060153),
    (1000, 170, 0.8615481, 0.8705928),
]


def close(got: Tensor, wanted: object, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype), rtol=tolerance, atol=1e-9)


def test_symlog_and_its_inverse() -> None:
    x = torch.tensor([0.1, 1, 2.5, 10, 1000, -1e6])
    close(two_hot.symlog(x), [0.0953102, 0.6931472, 1.2527630, 2.3978953, 6.9087548, -13.8155117])
    close(two_hot.symexp(torch.tensor([1.0, 2, -5])), [1.7182818, 6.3890561, -147.4131591])
    close(two_hot.symexp(two_hot.symlog(x)), x, 1e-5)


@pytest.mark.parametrize("bins", [BINS, SYMLOG_BINS])
def test_bins_are_mirror_images_around_an_exact_zero(bins: Tensor) -> None:
    assert len(bins) == 255 and bins[127] == 0 and torch.equal(bins, -bins.flip(0)) and (bins.diff() > 0).all()


def test_the_outermost_bins() -> None:
    close(BINS[-1], math.expm1(20))
    assert SYMLOG_BINS[0] == -20 and SYMLOG_BINS[-1] == 20
    close(two_hot.symexp_bins(5), FIVE)


@pytest.mark.parametrize(("x", "k", "raw", "symlog"), TABLE)
def test_fault_11_a_number_lies_between_its_neighbours_in_the_space_of_the_bins(
    x: float, k: int, raw: float, symlog: float
) -> None:
    for place, bins, weight in ((torch.tensor(x), BINS, raw), (two_hot.symlog(torch.tensor(x)), SYMLOG_BINS, symlog)):
        got_k, got_weight = two_hot.neighbours(place, bins)
        assert got_k == k
        assert abs(got_weight.item() - weight) < 4e-6  # the release computes its bins in float32, these are exact
        mean = torch.lerp(bins[k], bins[k + 1], got_weight)
        close(mean, place, 1e-5)


def test_the_two_hot_distribution_has_the_number_as_its_mean() -> None:
    for x, k, weight, _ in TABLE:
        probs = torch.full((255,), 1e-30)
        probs[k], probs[k + 1] = 1 - weight, weight
        close(two_hot.mean(probs.log(), BINS), x, 1e-5)


@pytest.mark.parametrize(("x", "alone"), [(0.0, 127), (1e9, 254), (-1e9, 0), (math.inf, 254), (-math.inf, 0)])
def test_a_bin_itself_and_what_lies_outside_are_one_hot(x: float, alone: int) -> None:
    """The end bins above all: no number of a bin may run off the table (trap 24)."""
    logits = torch.arange(255.0) / 10
    if x == 0:
        assert [a.item() for a in two_hot.neighbours(torch.tensor(x), BINS)] == [127, 0]
    close(two_hot.loss(logits, torch.tensor(x), BINS), -logits.log_softmax(-1)[alone])


def test_fault_24_an_untrained_head_predicts_exactly_nothing() -> None:
    """The sum from left to right would be 2."""
    assert two_hot.mean(torch.zeros(3, 255), BINS).tolist() == [0, 0, 0]
    assert two_hot.symexp(two_hot.mean(torch.zeros(255), SYMLOG_BINS)) == 0
    close(two_hot.loss(torch.zeros(2, 255), torch.tensor([3.0, -1e12]), BINS), [math.log(255)] * 2)
    close(torch.tensor(math.log(255)), 5.5412635)


def test_a_spread_distribution_is_decoded_in_the_space_of_the_bins() -> None:
    ten = torch.tensor(10.0)
    close(two_hot.mean(LOGITS, BINS), 7.661122)
    close(two_hot.loss(LOGITS, ten, BINS), 2.298950)
    close(two_hot.symexp(two_hot.mean(LOGITS, SYMLOG_BINS)), 6.746523)
    close(two_hot.loss(LOGITS, two_hot.symlog(ten), SYMLOG_BINS), 2.302727)


def test_five_bins() -> None:
    logits = torch.tensor([0.0, 1, -1, 2, -2])
    assert abs(two_hot.mean(logits, FIVE).item() + 36122512) <= 2
    close(two_hot.loss(logits, FIVE[1:3].mean(), FIVE), 2.4519143)


def test_the_gradient_is_the_predicted_minus_the_two_hot_distribution() -> None:
    logits = torch.randn(4, 255, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.tensor([0.1, 1, -2.5, 1e9])
    (gradient,) = torch.autograd.grad(two_hot.loss(logits, x, BINS).sum(), logits)
    wanted = logits.detach().softmax(-1)
    for row, (k, weight) in enumerate(zip(*two_hot.neighbours(x, BINS), strict=True)):
        wanted[row, k] -= 1 - weight
        wanted[row, k + 1] -= weight
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=0)


def test_axes_in_front_are_kept_and_low_precision_is_left_behind() -> None:
    logits = torch.randn(2, 3, 255, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    with torch.autocast("cpu", torch.bfloat16):
        loss, mean = two_hot.loss(logits, x, BINS), two_hot.mean(logits, BINS)
    assert loss.shape == mean.shape == (2, 3) and loss.dtype == mean.dtype == torch.float32
    close(loss[1, 2], two_hot.loss(logits[1, 2].float(), torch.tensor(6.0), BINS))
    close(mean[1, 2], two_hot.mean(logits[1, 2].float(), BINS))


def test_not_a_number_stays_one() -> None:
    """So that the update is skipped."""
    assert two_hot.loss(torch.zeros(255), torch.tensor(torch.nan), BINS).isnan()


@pytest.mark.parametrize("room", ["model", "actor"])
@pytest.mark.parametrize("name", ["dreamer_v3", "dreamer_v3_2023"])
def test_an_even_number_of_bins_is_refused(room: str, name: str) -> None:
    with pytest.raises(ValueError, match="254 is even: make it odd, so that one of the bins is 0"):
        dreams.config(room, name, bins=254)
