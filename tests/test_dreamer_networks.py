"""The layers of the three Dreamers against the releases' numbers, and against the plain layers that they stand for."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.networks import convolutional_v3, convolutional_v3_2023, layer_norm_mlp, rms_norm_mlp
from worldmodel.networks.block_gru import BlockGRU, BlockLinear
from worldmodel.networks.gates import gru_update, tanh
from worldmodel.networks.initializers import truncated_normal
from worldmodel.networks.layer_norm_gru import LayerNormGRUCell
from worldmodel.networks.normalization import LayerNorm, RMSNorm


def close(got: Tensor, wanted: object, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype), rtol=tolerance, atol=3e-7)


def kernel(*shape: int) -> Tensor:
    return fill(shape, lambda n: ((7 * n % 11) - 5) / 10)


def bias(*shape: int) -> Tensor:
    return fill(shape, lambda n: ((5 * n % 7) - 3) / 10)


def scale(*shape: int) -> Tensor:
    return fill(shape, lambda n: 1 + n / 10)


def fill(shape: tuple[int, ...], entry: Callable[[Tensor], Tensor]) -> Tensor:
    return entry(torch.arange(math.prod(shape), dtype=torch.float64)).view(shape).float()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- norms ----


def test_rms_norm_by_hand() -> None:
    close(RMSNorm(4)(torch.tensor([1.0, 2, 3, 4])), [0.3651459, 0.7302918, 1.0954378, 1.4605837])
    close(RMSNorm(2)(torch.tensor([[0.01, -0.01]])), [[math.sqrt(0.5), -math.sqrt(0.5)]])  # eps is 1e-4


@pytest.mark.parametrize("learns", [(True, True), (True, False), (False, True)])
def test_the_gradient_of_rms_norm_is_its_formulas(learns: tuple[bool, bool]) -> None:
    norm, x, weights = RMSNorm(6), noise(3, 4, 6).requires_grad_(learns[0]), noise(3, 4, 6, seed=1)
    with torch.no_grad():
        norm.scale.copy_(scale(6))
    norm.scale.requires_grad_(learns[1])
    learned = [part for part in (x, norm.scale) if part.requires_grad]
    ours, plain = (torch.autograd.grad((y * weights).sum(), learned) for y in (norm(x), formula(x, norm)))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def formula(x: Tensor, norm: RMSNorm) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-4) * norm.scale


def test_rms_norm_has_second_derivatives() -> None:
    norm, x = RMSNorm(6), noise(4, 6).requires_grad_()
    second = []
    for y in (norm(x), formula(x, norm)):
        first = torch.autograd.grad(y.pow(3).sum(), (x, norm.scale), create_graph=True)
        second.append(torch.autograd.grad(torch.stack([part.square().sum() for part in first]).sum(), (x, norm.scale)))
    for one, other in zip(*second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rms_norm_learns_in_other_precisions(dtype: torch.dtype) -> None:
    norm, x = RMSNorm(6).to(dtype), noise(4, 6).to(dtype).requires_grad_()
    got, wanted = (torch.autograd.grad(y.pow(3).sum(), x)[0] for y in (norm(x), formula(x.float(), norm)))
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05)


def test_fault_18_rms_norm_has_no_shift() -> None:
    assert [name for name, _ in RMSNorm(4).named_parameters()] == ["scale"]


def test_layer_norm_is_torchs_with_its_own_eps() -> None:
    ours, x = LayerNorm(5), noise(3, 5)
    with torch.no_grad():
        ours.scale.copy_(scale(5))
        ours.shift.copy_(bias(5))
    close(ours(x), F.layer_norm(x, (5,), scale(5), bias(5), 1e-3).detach())


@pytest.mark.parametrize("norm", [RMSNorm, LayerNorm])
def test_norms_are_computed_in_float32_and_keep_the_type(norm: type[nn.Module]) -> None:
    x = noise(4, 64).bfloat16() * 30
    with torch.autocast("cpu", torch.bfloat16):
        got = norm(64)(x)
    assert got.dtype == torch.bfloat16 and torch.equal(got, norm(64)(x.float()).bfloat16())


# ---- initial weights ----


def test_fault_27_the_truncated_normal_is_cut_at_two_standard_deviations() -> None:
    torch.manual_seed(0)
    weight = torch.empty(400, 500)
    truncated_normal(weight, 500)
    assert abs(weight.std().item() * math.sqrt(500) - 1) < 0.01
    assert 2.2 < weight.abs().max() * math.sqrt(500) <= 2.2737
    truncated_normal(weight, 500, 0.01)
    assert abs(weight.std().item() * math.sqrt(500) - 0.01) < 1e-4
    truncated_normal(weight, 500, 0.0)
    assert not weight.any()


def test_the_mlp_of_2023_scales_the_variance_and_has_no_bias_under_its_norm() -> None:
    torch.manual_seed(0)
    mlp = layer_norm_mlp.MLP(300, 500, 2, 200, 0.25)
    assert sum(p.numel() for p in mlp.parameters()) == 300 * 500 + 500 * 500 + 4 * 500 + 500 * 200 + 200
    bound = math.sqrt(6 / (500 + 200)) / 2  # Glorot uniform, half as wide
    assert 0.98 * bound < mlp.output.weight.abs().max() <= bound * 1.0001
    first = mlp.hidden[0].linear.weight
    assert abs(first.std().item() * math.sqrt((300 + 500) / 2) - 1) < 0.01
    assert not layer_norm_mlp.MLP(3, 4, 1, 2, 0.0)(noise(5, 3)).any()


def test_the_mlp_of_v3_has_biases_and_scales_the_standard_deviation() -> None:
    torch.manual_seed(0)
    mlp = rms_norm_mlp.MLP(300, 500, 2, 200, 0.01)
    assert sum(p.numel() for p in mlp.parameters()) == 300 * 500 + 500 * 500 + 4 * 500 + 500 * 200 + 200
    assert abs(mlp.output.weight.std().item() * math.sqrt(500) - 0.01) < 1e-4
    x = noise(5, 300)
    for layer in mlp.hidden:
        with torch.no_grad():
            layer.linear.bias.copy_(bias(500))
        y = x @ layer.linear.weight.T + layer.linear.bias
        x = F.silu(y / (y.square().mean(-1, keepdim=True) + 1e-4).sqrt())
    close(mlp(noise(5, 300)), (x @ mlp.output.weight.T).detach(), 1e-4)
    assert not rms_norm_mlp.MLP(3, 4, 1, 2, 0.0)(noise(5, 3)).any()


# ---- recurrent cells ----


def plain_gru(reset: Tensor, candidate: Tensor, update: Tensor, h: Tensor) -> Tensor:
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update - 1)
    return update * candidate + (1 - update) * h


def test_a_block_layer_is_a_dense_layer_with_zeros_between_the_blocks() -> None:
    layer, x = BlockLinear(6, 9, 3), noise(4, 6)
    with torch.no_grad():
        layer.bias.copy_(bias(9))
    close(layer(x), (x @ torch.block_diag(*layer.weight) + layer.bias).detach(), 1e-5)


def test_a_block_gru_of_one_block_is_a_plain_cell() -> None:
    torch.manual_seed(0)
    cell, x, h = BlockGRU(3, 4, 1), noise(5, 3), noise(5, 4, seed=1)
    cell.norm = nn.Identity()
    with torch.no_grad():
        cell.bias.copy_(bias(4))
        cell.gates.bias.copy_(bias(12))
    y = F.silu(torch.cat([h, x], -1) @ cell.weight.flatten(1) + cell.bias)
    wanted = plain_gru(*(y @ cell.gates.weight[0] + cell.gates.bias).chunk(3, -1), h)
    close(cell(x, h), wanted.detach(), 1e-5)


def test_the_blocks_of_a_gru_do_not_see_each_other_but_all_see_the_input() -> None:
    torch.manual_seed(0)
    cell, x, h = BlockGRU(3, 8, 4), noise(1, 3), noise(1, 8, seed=1)
    cell.norm = nn.Identity()  # the norm runs over all of them
    jacobian = torch.autograd.functional.jacobian(lambda h: cell(x, h)[0], h)[:, 0]  # (8, 8)
    blocks = torch.block_diag(*[torch.ones(2, 2)] * 4).bool()
    assert (jacobian[blocks] != 0).all() and not jacobian[~blocks].any()
    assert (torch.autograd.functional.jacobian(lambda x: cell(x, h)[0], x) != 0).all()


def test_fault_21_v2s_gru_has_layer_norm_over_all_gates() -> None:
    cell = LayerNormGRUCell(2, 2, bias=True)
    with torch.no_grad():
        cell.linear.weight.copy_(kernel(4, 6).T)
        cell.linear.bias.copy_(bias(6))
        cell.norm.scale.copy_(scale(6))
    x, h = torch.tensor([[0.5, -1]]), torch.tensor([[0.1, -0.2]])
    close(cell(x, h), [[0.0782588, -0.3331187]])


def test_the_gru_of_2023_has_no_bias() -> None:
    cell = LayerNormGRUCell(2, 2, bias=False)
    assert cell.linear.bias is None
    with torch.no_grad():
        cell.linear.weight.copy_(kernel(4, 6)[[2, 3, 0, 1]].T)  # the release's kernel is on [h, x]
        cell.norm.scale.copy_(scale(6))
    close(cell(torch.tensor([[0.5, -1]]), torch.tensor([[0.1, -0.2]])), [[-0.1623373, -0.1783406]])


def test_h_keeps_all_its_digits_in_low_precision() -> None:
    block, plain = BlockGRU(3, 8, 2), LayerNormGRUCell(3, 8, False)
    x, h = noise(2, 3), noise(2, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        block.gates.bias.fill_(-100)  # the update gate is closed
        plain.norm.shift.fill_(-100)
        assert torch.equal(block(x, h), h) and torch.equal(plain(x, h), h)


def test_gates_are_the_same_with_and_without_a_gradient() -> None:
    h, *gates = (5 * noise(7, 9, seed=seed) for seed in range(4))
    for function, arguments in ((tanh, (h,)), (gru_update, (h, *gates))):
        with_gradient = function(*arguments)
        with torch.no_grad():
            torch.testing.assert_close(function(*arguments), with_gradient, rtol=0, atol=1e-6)
    assert torch.equal(h, 5 * noise(7, 9))  # what was given is not changed


# ---- images ----


def test_a_convolution_of_a_doubled_image_is_the_same_one() -> None:
    torch.manual_seed(0)
    decoder = convolutional_v3.Decoder(16, 6, 8, 4, (3, 12, 20), [8, 4])
    layer = nn.Conv2d(4, 5, 5, padding=2)
    small = noise(2, 3, 5, 4)
    large = F.interpolate(small.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
    close(decoder.doubled(layer, small).permute(0, 3, 1, 2), layer(large).detach(), 1e-5)


def test_the_taps_of_a_kernel_are_shared_out_among_three_pixels() -> None:
    even, odd = convolutional_v3.phases()
    assert even.tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    assert odd.tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]


@pytest.mark.parametrize("channels", [(6, 4), (4, 3)])
def test_a_transposed_convolution_of_2023_is_torchs(channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = noise(2, channels[0], 4, 5).requires_grad_()
    for with_bias in (False, True):
        layer = nn.ConvTranspose2d(*channels, 4, 2, 1, bias=with_bias)
        got, wanted = convolutional_v3_2023.upsampled(layer, image), layer(image)
        close(got, wanted.detach(), 1e-5)
        gradients = [torch.autograd.grad(y.square().sum(), (image, layer.weight)) for y in (got, wanted)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(12, 20), (48, 48)])
def test_images_need_not_be_square(size: tuple[int, int]) -> None:
    for module, arguments in ((convolutional_v3, (16, 6, 8, 4)), (convolutional_v3_2023, (22,))):
        encoder, decoder = module.Encoder((3, *size), [4, 8]), module.Decoder(*arguments, (3, *size), [4, 8])
        assert encoder(noise(2, 3, *size)).shape == (2, encoder.size)
        inputs = (noise(2, 16), noise(2, 6)) if module is convolutional_v3 else (noise(2, 22),)
        assert decoder(*inputs).shape == (2, 3, *size)
