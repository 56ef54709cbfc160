"""Dense layers, initialised as PlaNet's (as TensorFlow does): Glorot uniform, zero bias."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.networks.joint_gradients import gathers, product
from worldmodel.networks.precision import precision_of_products

Module = TypeVar("Module", bound=nn.Module)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
PACKABLE = (torch.float32, torch.bfloat16) if torch.backends.mkldnn.is_available() else ()  # by oneDNN


def glorot(module: Module) -> Module:
    """Initialise every dense and convolution layer of a module as TensorFlow does."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def glorot_each(layer: nn.Linear, heads: int) -> nn.Linear:
    """Initialise a dense layer that stands for several, which read the same and whose outputs follow each other, as if
    each were one of its own: its fan is what it has itself.
    """
    with torch.no_grad():
        for weight in layer.weight.chunk(heads):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(layer.bias)
    return layer


Packed: TypeAlias = dict[tuple[nn.Linear, torch.dtype], tuple[Tensor, Tensor | None]]  # weight and bias


class PackedLayers(threading.local):
    """The layers that this thread has packed; None outside of packed_weights()."""

    layers: Packed | None = None


packed = PackedLayers()


@contextlib.contextmanager
def packed_weights() -> Iterator[None]:
    """Within it, dense layers that need no gradient are packed for the CPU's matrix product when they are first used: a
    plan asks for the same few matrices hundreds of times. Weights must not change meanwhile. Nothing is kept beyond it,
    so packed copies cannot become stale.
    """
    outer = packed.layers
    packed.layers = {} if outer is None else outer
    try:
        yield
    finally:
        packed.layers = outer


def dense(layer: nn.Linear, x: Tensor, activation: str = "none") -> Tensor:
    """activation(W x + b), (..., inputs) -> (..., outputs). Inside packed_weights(), and where no gradient is wanted, a
    CPU computes it in one pass.
    """
    plain = torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu"
    if plain or packed.layers is None or (dtype := precision_of_products(layer.weight)) not in PACKABLE:
        y = product(x, layer.weight, layer.bias, transposed=True) if gathers() else layer(x)  # which may have hooks
        return ACTIVATIONS[activation](y)
    if (layer, dtype) not in packed.layers:
        weight, *bias = (parameter.detach().to(dtype) for parameter in layer.parameters())
        packed.layers[layer, dtype] = torch.ops.mkldnn._reorder_linear_weight(weight), bias[0] if bias else None
    weight, b = packed.layers[layer, dtype]
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, b, activation, [], "")
    return result


class MLP(nn.Sequential):
    """`layers` dense layers of `units` with ReLU, then a linear one: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, units: int, layers: int, outputs: int) -> None:
        sizes = [inputs] + [units] * layers
        parts: list[nn.Module] = []
        for here, there in pairwise(sizes):
            parts += [nn.Linear(here, there), nn.ReLU()]
        super().__init__(*parts, nn.Linear(sizes[-1], outputs))
        glorot(self)

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        layer = self[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = (layer for layer in self if isinstance(layer, nn.Linear))
        for layer in hidden:
            x = dense(layer, x, "relu")
        return dense(last, x)
