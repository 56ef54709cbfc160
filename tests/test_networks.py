"""The shortcuts of the networks against the layers that they stand for."""

import pytest
import tiny
import torch
from torch import nn

from agents.uniform import Uniform
from worldmodel import networks
from worldmodel.networks import ACTIVATIONS, MLP, Shuffled, dense, upsampled


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


@pytest.mark.parametrize("shape", [(1, 5), (7, 5), (3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_dense_layer_without_gradients_is_the_same_one(shape: tuple[int, ...], bias: bool, activation: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 3, bias=bias), torch.randn(*shape)
    wanted = ACTIVATIONS[activation](layer(x))
    assert torch.equal(dense(layer, x, activation), wanted)  # with gradients it is the layer itself
    with torch.no_grad():
        torch.testing.assert_close(dense(layer, x, activation), wanted.detach(), rtol=1e-6, atol=1e-6)
        strided = torch.randn(*shape[:-1], 10)[..., ::2]
        wanted = ACTIVATIONS[activation](layer(strided))
        torch.testing.assert_close(dense(layer, strided, activation), wanted, rtol=1e-6, atol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            got = dense(layer, x, activation)
            assert got.dtype == torch.bfloat16
            wanted = ACTIVATIONS[activation](layer(x))
            torch.testing.assert_close(got.float(), wanted.float(), rtol=0.02, atol=0.02)
        torch.testing.assert_close(dense(layer.double(), x.double()), layer(x.double()))  # what the library cannot


def test_weights_that_changed_are_laid_out_anew() -> None:
    torch.manual_seed(0)
    layer, other, x = nn.Linear(5, 3), nn.Linear(5, 3), torch.randn(7, 5)

    def right() -> bool:
        with torch.no_grad():
            return all(torch.allclose(dense(layer, x), layer(x), atol=1e-6) for _ in range(2))

    assert right()
    layer.load_state_dict(other.state_dict())
    assert right()
    with torch.no_grad():
        layer.weight *= 2
    assert right()
    with torch.no_grad():
        layer.bias += 1
    assert right()
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, fused=True)  # which changes weights and does not say so
    for _ in range(2):
        dense(layer, x).sum().backward()
        optimizer.step()
        assert right()


def test_what_an_agent_learned_shows_at_once_where_no_gradient_is_wanted() -> None:
    agent = tiny.make_agent(Uniform)
    state = agent.model.initial(3)
    for seed in range(2):
        plain = agent.model.reward(state).detach()
        with torch.no_grad():
            torch.testing.assert_close(agent.model.reward(state), plain, rtol=1e-5, atol=1e-6)
        agent.learn(tiny.batch(seed=seed))
    assert not torch.allclose(agent.model.reward(state), plain, rtol=1e-5, atol=1e-6)


def test_layers_that_are_gone_are_not_kept() -> None:
    layer = nn.Linear(5, 3)
    with torch.no_grad():
        dense(layer, torch.randn(2, 5))
    before = len(networks.laid_out)
    del layer
    assert len(networks.laid_out) == before - 1


def test_an_mlp_is_its_layers_one_after_the_other() -> None:
    torch.manual_seed(0)
    mlp, x = MLP(5, 8, 2, 3), torch.randn(4, 5)
    wanted = x
    for layer in mlp:
        wanted = layer(wanted)
    assert torch.equal(mlp(x), wanted)
    assert [*mlp.state_dict()] == [f"{number}.{name}" for number in (0, 2, 4) for name in ("weight", "bias")]
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), wanted.detach(), rtol=1e-5, atol=1e-6)
