"""The encoder and decoder of DreamerV3's release of 2023: convolutions of kernel 4 and stride 2 under LayerNorm."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.networks.convolutional import Shuffled
from worldmodel.networks.dense import glorot
from worldmodel.networks.images import channels_last
from worldmodel.networks.initializers import truncated_normal
from worldmodel.networks.normalization import LayerNorm
from worldmodel.networks.precision import precision_of_products

KERNEL, STRIDE, PADDING = 4, 2, 1  # a stage halves, or doubles, the image exactly


def image_does_not_fit(size: Sequence[int], stages: int) -> str | None:
    """What is wrong with images of this size (Y, X) for so many halvings, if anything."""
    factor = 2**stages
    if all(length % factor == 0 for length in size):
        return None
    fitting = ", ".join(str(cells * factor) for cells in range(1, 7))
    return (
        f"images of {size[0]}x{size[1]} pixels cannot be halved {stages} times: both sides must be of {fitting}, ...; "
        "or change the number of depths"
    )


def normalized(norm: nn.Module, image: Tensor) -> Tensor:
    """SiLU(LayerNorm over channels) of a map (N, C, Y, X)."""
    return rearrange(F.silu(norm(rearrange(image, "n c y x -> n y x c"))), "n y x c -> n c y x")


class Encoder(nn.Module):
    """Per stage a convolution without bias, LayerNorm over channels, SiLU; flattened. (N, C, Y, X) -> (N, size)."""

    def __init__(self, image: tuple[int, int, int], depths: Sequence[int]) -> None:
        super().__init__()
        if wrong := image_does_not_fit(image[1:], len(depths)):
            raise ValueError(wrong)
        self.size = depths[-1] * math.prod(length // 2 ** len(depths) for length in image[1:])
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList(LayerNorm(depth) for depth in depths)
        for here, there in pairwise([image[0], *depths]):
            layer = nn.Conv2d(here, there, KERNEL, STRIDE, PADDING, bias=False)
            truncated_normal(layer.weight, KERNEL**2 * (here + there) / 2)
            self.layers.append(layer)

    def forward(self, image: Tensor) -> Tensor:
        image = channels_last(image)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            image = normalized(norm, layer(image))
        return rearrange(image, "n c y x -> n (y x c)")


class Decoder(nn.Module):
    """A linear layer, then transposed convolutions back to an image, LayerNorm and SiLU between them; the last one has
    a bias instead. (N, F) -> (N, C, Y, X), of which 0 is the middle gray.
    """

    def __init__(self, features: int, image: tuple[int, int, int], depths: Sequence[int]) -> None:
        super().__init__()
        self.grid = tuple(length // 2 ** len(depths) for length in image[1:])
        self.linear = glorot(nn.Linear(features, depths[-1] * math.prod(self.grid)))
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList(LayerNorm(depth) for depth in depths[-2::-1])
        for here, there in pairwise([*reversed(depths)]):
            layer = nn.ConvTranspose2d(here, there, KERNEL, STRIDE, PADDING, bias=False)
            truncated_normal(layer.weight, KERNEL**2 * (here + there) / 2)
            self.layers.append(layer)
        self.output = glorot(nn.ConvTranspose2d(depths[0], image[0], KERNEL, STRIDE, PADDING))

    def forward(self, features: Tensor) -> Tensor:
        y, x = self.grid
        image = rearrange(self.linear(features), "n (y x c) -> n c y x", y=y, x=x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            image = normalized(norm, upsampled(layer, image))
        return upsampled(self.output, image)


def upsampled(layer: nn.Module, image: Tensor) -> Tensor:
    """A transposed convolution; on a CPU as an ordinary one, which is faster, of which the padding is cut off."""
    assert isinstance(layer, nn.ConvTranspose2d)
    if image.device.type != "cpu":
        result: Tensor = layer(image)
        return result
    dtype = precision_of_products(image)
    bias = layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
    whole = Shuffled.apply(image.to(dtype), layer.weight.to(dtype), bias.to(dtype))
    cut: Tensor = whole[:, :, PADDING:-PADDING, PADDING:-PADDING]
    return cut
