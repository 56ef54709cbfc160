"""Convolutional encoder and decoder as PlaNet's, initialised as TensorFlow does."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from worldmodel.networks.dense import glorot
from worldmodel.networks.images import channels_last
from worldmodel.networks.precision import precision_of_products

# What a Config says of convolutions, for each layer: channels, and kernels in pixels.
Depths = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1, max_length=6)]
Kernels = Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1, max_length=6)]
STRIDE = 2
ENCODER_KERNEL = 4


def encoded_length(length: int, layers: int) -> int:
    """Pixels along one axis after the encoder's unpadded convolutions; below 1 if the image is too small."""
    for _ in range(layers):
        length = (length - ENCODER_KERNEL) // STRIDE + 1 if length >= ENCODER_KERNEL else 0
    return length


def image_too_small(size: Sequence[int], layers: int) -> str | None:
    """What is wrong with images of this size (Y, X) for an encoder of so many layers, if anything."""
    if min(encoded_length(length, layers) for length in size) >= 1:
        return None
    return f"images of {size[0]}x{size[1]} pixels are too small for {layers} convolutions: use fewer depths"


class Encoder(nn.Module):
    """Convolutions of kernel 4 and stride 2, unpadded, ReLU; flattened. (N, C, Y, X) -> (N, size)."""

    def __init__(self, image: tuple[int, int, int], depths: Sequence[int]) -> None:
        super().__init__()
        channels = [image[0], *depths]
        if wrong := image_too_small(image[1:], len(depths)):
            raise ValueError(wrong)
        y, x = (encoded_length(length, len(depths)) for length in image[1:])
        self.size = y * x * depths[-1]
        self.layers = nn.ModuleList(
            nn.Conv2d(here, there, ENCODER_KERNEL, STRIDE) for here, there in zip(channels, depths, strict=False)
        )
        glorot(self)

    def forward(self, image: Tensor) -> Tensor:
        image = channels_last(image)
        for layer in self.layers:
            image = F.relu(layer(image))
        return rearrange(image, "n c y x -> n (c y x)")


class Decoder(nn.Module):
    """A linear layer, then transposed convolutions of stride 2 back to an image: (N, F) -> (N, C, Y, X).

    PlaNet: 1024 channels at 1x1, then 128 k5, 64 k5, 32 k6 (ReLU), 3 k6 (linear), which is 64x64 exactly. For another
    size it starts from the smallest grid whose output covers the image, and the excess is cropped evenly.
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
    CPU an ordinary convolution, which is five times faster forwards.
    """
    assert isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None
    weight, bias = layer.weight, layer.bias
    if image.shape[2:] == (1, 1):
        patch = F.linear(image.flatten(1), weight.flatten(1).t()).unflatten(1, weight.shape[1:])
        image = patch + bias[:, None, None]
    elif image.device.type == "cpu":
        dtype = precision_of_products(image)
        image = Shuffled.apply(image.to(dtype), weight.to(dtype), bias.to(dtype))
    else:
        image = layer(image)
    return channels_last(image)


class Shuffled(torch.autograd.Function):
    """A transposed convolution of stride 2 as a convolution that computes the 2x2 pixels of every cell as channels, and
    a pixel shuffle:

        out[2y + p, 2x + q] = sum over i, j of image[y - i, x - j] weight[2i + p, 2j + q] + bias

    An odd kernel gets a row and a column of zeros, and what they add to the output is cut off. Backwards,
    the gradient of the transposed convolution itself is faster.
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
        gradient = channels_last(gradient)
        stride, none, one = [STRIDE] * 2, [0, 0], [1, 1]
        ours, weights, _ = torch.ops.aten.convolution_backward(
            gradient, image, weight, None, stride, none, one, True, none, 1, [True, True, False]
        )
        if gradient.dtype == torch.bfloat16:
            return ours, weights, gradient.sum((0, 2, 3))
        rows = rearrange(gradient, "n c y x -> (n y x) c")  # in float32 a product sums them faster, up to twice
        return ours, weights, (rows.new_ones(1, len(rows)) @ rows)[0]
