"""Encoder, decoder, MLP, GRU and LSTM cell, initialised as PlaNet's (as TensorFlow does): Glorot uniform, zero bias."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

STRIDE = 2
ENCODER_KERNEL = 4


Module = TypeVar("Module", bound=nn.Module)


def glorot(module: Module) -> Module:
    """Initialise every dense and convolution layer of a module as TensorFlow does."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def dense(layer: nn.Linear, x: Tensor, activation: str = "none") -> Tensor:
    """activation(W x + b), (..., inputs) -> (..., outputs).

    Where no gradient is wanted, a processor computes it in one pass, with weights that were laid out for its matrix
    product once and for all until they change: a plan asks for the same few matrices hundreds of times.
    """
    compiled = bool(torch.compiler.is_compiling())
    if torch.is_grad_enabled() and not compiled:
        laid_out.pop(layer, None)  # where there are gradients, weights are about to change
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else layer.weight.dtype
    if torch.is_grad_enabled() or compiled or x.device.type != "cpu" or dtype not in LAID_OUT:
        return ACTIVATIONS[activation](layer(x))
    now = [dtype] + [part._version for part in layer.parameters()]  # every change in place counts one up
    kept: Any = laid_out.get(layer)
    if kept is None or kept[0] != now:
        weight, *bias = (part.detach().to(dtype) for part in layer.parameters())
        laid_out[layer] = kept = now, torch.ops.mkldnn._reorder_linear_weight(weight), bias[0] if bias else None
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(dtype), kept[1], kept[2], activation, [], "")
    return result


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
LAID_OUT = (torch.float32, torch.bfloat16) if torch.backends.mkldnn.is_available() else ()  # what the library can
laid_out: WeakKeyDictionary[nn.Linear, Any] = WeakKeyDictionary()  # version, weight, bias


class MLP(nn.Sequential):
    """`layers` dense layers of `units` with ReLU, then a linear one: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, units: int, layers: int, outputs: int) -> None:
        sizes = [inputs] + [units] * layers
        parts: list[nn.Module] = []
        for here, there in pairwise(sizes):
            parts += [nn.Linear(here, there), nn.ReLU()]
        super().__init__(*parts, nn.Linear(sizes[-1], outputs))
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = (layer for layer in self if isinstance(layer, nn.Linear))
        for layer in hidden:
            x = dense(layer, x, "relu")
        return dense(last, x)


def encoded_length(length: int, layers: int) -> int:
    """Pixels along one axis after the encoder's unpadded convolutions; below 1 if the image is too small."""
    for _ in range(layers):
        length = (length - ENCODER_KERNEL) // STRIDE + 1 if length >= ENCODER_KERNEL else 0
    return length


class Encoder(nn.Module):
    """Convolutions of kernel 4 and stride 2, unpadded, ReLU; flattened. (N, C, Y, X) -> (N, size)."""

    def __init__(self, image: tuple[int, int, int], depths: Sequence[int]) -> None:
        super().__init__()
        channels = [image[0], *depths]
        y, x = (encoded_length(length, len(depths)) for length in image[1:])
        if min(y, x) < 1:
            raise ValueError(
                f"images of {image[1]}x{image[2]} pixels are too small for {len(depths)} convolutions: use fewer depths"
            )
        self.size = y * x * depths[-1]
        self.layers = nn.ModuleList(
            nn.Conv2d(here, there, ENCODER_KERNEL, STRIDE) for here, there in zip(channels, depths, strict=False)
        )
        glorot(self)

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            image = F.relu(layer(image))
        return rearrange(image, "n c y x -> n (c y x)")


class Decoder(nn.Module):
    """A linear layer, then transposed convolutions of stride 2 back to an image: (N, F) -> (N, C, Y, X).

    PlaNet: 1024 channels at 1x1, then 128 k5, 64 k5, 32 k6 (ReLU), 3 k6 (linear), which is 64x64 exactly. For another
    size the map starts as the smallest grid that grows beyond the image, and what stands over is cropped evenly.
    """

    def __init__(self, features: int, image: tuple[int, int, int], depths: Sequence[int], kernels: Sequence[int]):
        super().__init__()
        self.image = image
        self.grid = tuple(self.start(length, kernels) for length in image[1:])
        self.depth = 4 * depths[-1]
        self.dense = nn.Linear(features, self.depth * self.grid[0] * self.grid[1])
        channels = [self.depth, *reversed(depths[:-1]), image[0]]
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(here, there, kernel, STRIDE)
            for here, there, kernel in zip(channels, channels[1:], kernels, strict=False)
        )
        glorot(self)

    @staticmethod
    def start(length: int, kernels: Sequence[int]) -> int:
        """The fewest cells along an axis from which the transposed convolutions reach `length` pixels."""
        cells = 1
        while Decoder.grown(cells, kernels) < length:
            cells += 1
        return cells

    @staticmethod
    def grown(cells: int, kernels: Sequence[int]) -> int:
        for kernel in kernels:
            cells = (cells - 1) * STRIDE + kernel
        return cells

    def forward(self, features: Tensor) -> Tensor:
        y, x = self.grid
        image = rearrange(self.dense(features), "n (c y x) -> n c y x", y=y, x=x)
        for number, layer in enumerate(self.layers):
            image = upsampled(layer, F.relu(image) if number else image)
        top, left = ((got - wanted) // 2 for got, wanted in zip(image.shape[2:], self.image[1:], strict=True))
        return image[:, :, top : top + self.image[1], left : left + self.image[2]]


def upsampled(layer: nn.Module, image: Tensor) -> Tensor:
    """A transposed convolution. From a single pixel it is a matrix product, which is ten times faster as one; on a
    processor an ordinary convolution, which is five times faster forwards.
    """
    assert isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None
    weight, bias = layer.weight, layer.bias
    if image.shape[2:] == (1, 1):
        patch = F.linear(image.flatten(1), weight.flatten(1).t()).unflatten(1, weight.shape[1:])
        image = patch + bias[:, None, None]
    elif image.device.type == "cpu":
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else image.dtype
        image = Shuffled.apply(image.to(dtype), weight.to(dtype), bias.to(dtype))
    else:
        image = layer(image)
    return image.contiguous(memory_format=torch.channels_last)


class Shuffled(torch.autograd.Function):
    """A transposed convolution of stride 2 as a convolution that computes the 2x2 pixels of every cell as channels, and
    then lays them out:

        out[2y + p, 2x + q] = sum over i, j of image[y - i, x - j] weight[2i + p, 2j + q] + bias

    An odd kernel gets a row and a column of zeros, and what they add to the output is cut off. Backwards the transposed
    convolution's own gradient is the faster one.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        odd = weight.shape[2] % STRIDE
        half = (weight.shape[2] + odd) // STRIDE
        cells = rearrange(
            F.pad(weight, (0, odd, 0, odd)), "there here (i p) (j q) -> (here p q) there i j", p=STRIDE, q=STRIDE
        ).flip(2, 3)
        fours = F.conv2d(image, cells, bias.repeat_interleave(STRIDE**2), padding=half - 1)
        pixels = F.pixel_shuffle(fours, STRIDE)
        return pixels[:, :, : pixels.shape[2] - odd, : pixels.shape[3] - odd]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        image, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        stride, none, one = [STRIDE] * 2, [0, 0], [1, 1]
        ours, weights, _ = torch.ops.aten.convolution_backward(
            gradient, image, weight, None, stride, none, one, True, none, 1, [True, True, False]
        )
        rows = rearrange(gradient, "n c y x -> (n y x) c")  # a product sums them ten times faster than the library does
        return ours, weights, (rows.new_ones(1, len(rows)) @ rows)[0]


class GRUCell(nn.Module):
    """PlaNet's GRU: the reset gate multiplies h BEFORE the candidate's matrix, one bias set, gate biases start at 1.

    r, u = sigmoid(W [x, h] + b);  c = tanh(V [x, r h] + d);  h' = u h + (1 - u) c.       (torch's GRUCell differs: T18)
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + units, 2 * units)
        self.candidate = nn.Linear(inputs + units, units)
        glorot(self)
        nn.init.ones_(self.gates.bias)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        low = h.to(x.dtype)  # h itself keeps all its digits
        reset, update = dense(self.gates, torch.cat([x, low], -1), "sigmoid").chunk(2, -1)
        candidate = dense(self.candidate, torch.cat([x, reset * low], -1), "tanh")
        return torch.lerp(candidate.to(h.dtype), h, update.to(h.dtype))


class LSTMCell(nn.Module):
    """An LSTM with one bias (torch's has two), in two halves, so that known inputs enter for all of time at once.

    i, f, o = sigmoid, g = tanh of W x + b + U h;  c' = f c + i g;  h' = o tanh(c').

    The forget gate's bias starts at 1, as TensorFlow's.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        joint = glorot(nn.Linear(inputs + units, 4 * units))
        self.enter = nn.Linear(inputs, 4 * units)  # W, b
        self.recur = nn.Linear(units, 4 * units, bias=False)  # U
        with torch.no_grad():
            self.enter.weight.copy_(joint.weight[:, :inputs])
            self.recur.weight.copy_(joint.weight[:, inputs:])
            self.enter.bias.zero_()
            self.enter.bias[units : 2 * units] = 1

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return self.step(dense(self.enter, x), h, c)

    def step(self, entered: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step from W x + b, which may have been computed before: (N, 4H), h and c (N, H) -> h', c'."""
        i, f, o, g = (entered + dense(self.recur, h)).float().chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
