"""The shortcuts of the networks against the layers that they stand for."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from agents.base import Actor, ActorInfo, Mode, Stateless, no_plan
from agents.explorers.uniform import Uniform
from worldmodel.networks.convolutional import Shuffled, upsampled
from worldmodel.networks.dense import ACTIVATIONS, MLP, dense, packed, packed_weights


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


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_the_gradient_of_a_bias_is_summed_exactly_in_half_precision(channels: int) -> None:
    image, weight = torch.zeros(64, 2, 16, 16).bfloat16(), torch.zeros(2, channels, 2, 2).bfloat16()
    bias = torch.zeros(channels, dtype=torch.bfloat16, requires_grad=True)
    along = torch.rand(64, channels, 32, 32).bfloat16()
    Shuffled.apply(image, weight, bias).backward(along)
    torch.testing.assert_close(bias.grad.double(), along.double().sum((0, 2, 3)), rtol=2**-8, atol=0)


@pytest.mark.parametrize("shape", [(1, 5), (7, 5), (3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_dense_layer_without_gradients_is_the_same_one(shape: tuple[int, ...], bias: bool, activation: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 3, bias=bias), torch.randn(*shape)
    wanted = ACTIVATIONS[activation](layer(x))
    assert torch.equal(dense(layer, x, activation), wanted)  # with gradients it is the layer itself
    with packed_weights():
        assert torch.equal(dense(layer, x, activation), wanted)
        assert not packed.layers
    with torch.no_grad():
        assert torch.equal(dense(layer, x, activation), wanted)  # nor is anything packed without being asked for
    with torch.no_grad(), packed_weights():
        torch.testing.assert_close(dense(layer, x, activation), wanted.detach(), rtol=1e-6, atol=1e-6)
        strided = torch.randn(*shape[:-1], 10)[..., ::2]
        wanted = ACTIVATIONS[activation](layer(strided))
        torch.testing.assert_close(dense(layer, strided, activation), wanted, rtol=1e-6, atol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            got = dense(layer, x, activation)
            assert got.dtype == torch.bfloat16
            wanted = ACTIVATIONS[activation](layer(x))
            torch.testing.assert_close(got.float(), wanted.float(), rtol=0.02, atol=0.02)
        assert packed.layers is not None and len(packed.layers) == 2  # in float32 and in bfloat16
        torch.testing.assert_close(dense(layer.double(), x.double()), layer(x.double()))  # what the library cannot


@pytest.mark.parametrize("shape", [(1, 5), (7, 5), (3, 4, 5)])
def test_a_dense_layer_gives_the_same_within_packed_weights_and_without(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 3), torch.randn(*shape)
    with torch.no_grad():
        without = dense(layer, x)
        with packed_weights():
            first, second = dense(layer, x), dense(layer, x)
            assert packed.layers is not None and len(packed.layers) == 1
        assert torch.equal(first, second)
        torch.testing.assert_close(first, without, rtol=1e-6, atol=1e-6)
        assert torch.equal(dense(layer, x), without)


def test_weights_that_changed_are_packed_anew() -> None:
    torch.manual_seed(0)
    layer, other, x = nn.Linear(5, 3), nn.Linear(5, 3), torch.randn(7, 5)

    def right() -> bool:
        with torch.no_grad(), packed_weights():
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
        with torch.no_grad(), packed_weights():
            torch.testing.assert_close(agent.model.reward(state), plain, rtol=1e-5, atol=1e-6)
        agent.learn(tiny.batch(seed=seed))
    assert not torch.allclose(agent.model.reward(state), plain, rtol=1e-5, atol=1e-6)


class RewardReader(Actor):
    """Its actions say what reward the model predicts of the state."""

    def initial(self, n: int) -> Stateless:
        return Stateless(torch.zeros(n, 0))

    def act(
        self, state: Any, carry: Stateless, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Stateless, ActorInfo]:
        action = self.model.reward(state).tanh()[:, None].expand(-1, self.spec.action_dim)
        return action, carry, no_plan(len(action), self.spec, action.device)


def scale_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.5)


def clear_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.0)


def set_vector(model: nn.Module) -> None:
    vector_to_parameters(0.5 * parameters_to_vector(model.parameters()).detach(), model.parameters())


def assign_others(model: nn.Module) -> None:
    model.load_state_dict({name: 0.5 * value for name, value in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [scale_data, clear_data, set_vector, assign_others])
def test_an_agent_acts_with_weights_that_were_changed_behind_its_back(change: Callable[[nn.Module], None]) -> None:
    """No way of changing weights goes unnoticed: not one that counts no version, nor one that brings new tensors."""
    agent = tiny.make_agent(RewardReader)
    image = tiny.batch(3, 1).image[:, 0].numpy()

    def actions() -> tuple[Tensor, Tensor]:
        """What the agent does, and what its model says with gradients, which packs nothing."""
        torch.manual_seed(1)
        acted, _ = agent.act(None, image)
        torch.manual_seed(1)
        start, ones = agent.model.initial(3), torch.ones(3, dtype=torch.bool)
        state = copy.deepcopy(agent.model).observe(start, torch.zeros(3, 2), torch.from_numpy(image), ones)
        return torch.from_numpy(acted)[:, 0], agent.model.reward(state).tanh().detach()

    before, plain = actions()
    torch.testing.assert_close(before, plain, rtol=1e-5, atol=1e-6)
    change(agent.model)
    after, plain = actions()
    torch.testing.assert_close(after, plain, rtol=1e-5, atol=1e-6)
    assert (after - before).abs().min() > 1e-3
    assert change is not clear_data or not after.any()


def test_nothing_is_packed_beyond_packed_weights() -> None:
    layer, x = nn.Linear(5, 3), torch.randn(2, 5)
    seen: list[Any] = []
    with torch.no_grad():
        assert packed.layers is None
        with packed_weights():
            dense(layer, x)
            with packed_weights():  # within another one it is that one
                dense(layer, x)
                assert packed.layers is not None and len(packed.layers) == 1
            assert len(packed.layers) == 1
            thread = threading.Thread(target=lambda: seen.append(packed.layers))  # others have their own
            thread.start()
            thread.join()
        assert packed.layers is None and seen == [None]
        with pytest.raises(KeyError), packed_weights():
            dense(layer, x)
            raise KeyError
        assert packed.layers is None


def test_an_mlp_is_its_layers_one_after_the_other() -> None:
    torch.manual_seed(0)
    mlp, x = MLP(5, 8, 2, 3), torch.randn(4, 5)
    wanted = x
    for layer in mlp:
        wanted = layer(wanted)
    assert torch.equal(mlp(x), wanted)
    assert [*mlp.state_dict()] == [f"{number}.{name}" for number in (0, 2, 4) for name in ("weight", "bias")]
    with torch.no_grad(), packed_weights():
        torch.testing.assert_close(mlp(x), wanted.detach(), rtol=1e-5, atol=1e-6)
