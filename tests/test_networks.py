"""The shortcuts of the networks against the layers that they stand for."""

import pytest
import torch
from torch import nn

from worldmodel.networks import Shuffled, upsampled


@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [(4, 7), (1, 2), (1, 1)])
def test_a_transposed_convolution_is_the_same_one(kernel: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(5, 3, kernel, 2).double()
    image = torch.randn(2, 5, *size, dtype=torch.double, requires_grad=True)
    wanted, got = layer(image), upsampled(layer, image)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    along = torch.randn_like(wanted)
    for one, other in zip(*(torch.autograd.grad(out, [image, *layer.parameters()], along) for out in (wanted, got))):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_its_gradient_is_that_of_its_values() -> None:
    torch.manual_seed(0)
    for kernel in (5, 6):
        parts = (torch.randn(2, 4, 3, 3), torch.randn(4, 2, kernel, kernel), torch.randn(2))
        assert torch.autograd.gradcheck(Shuffled.apply, [part.double().requires_grad_() for part in parts])


def test_in_half_precision_it_computes_as_the_layer_does() -> None:
    torch.manual_seed(0)
    layer, image = nn.ConvTranspose2d(32, 3, 6, 2), torch.randn(2, 32, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, got = layer(image), upsampled(layer, image)
    assert got.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), wanted.float(), rtol=0.02, atol=0.02)
    got.float().square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
