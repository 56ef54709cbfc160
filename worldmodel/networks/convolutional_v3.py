"""DreamerV3's encoder and decoder: convolutions of kernel 5 that pool, or that double the image before them."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.networks.block_gru import BlockLinear
from worldmodel.networks.images import channels_last
from worldmodel.networks.initializers import truncated_normal
from worldmodel.networks.normalization import RMSNorm, rms_norm_silu
from worldmodel.networks.rms_norm_mlp import NormLinear, linear

NormSiLU = Callable[[Tensor, Tensor], Tensor]  # a map (..., C) and the norm's scale (C,) -> SiLU(RMSNorm(map))
KERNEL = 5
SMALLEST, LARGEST = 3, 16  # pixels along each axis of the map at the bottleneck


def image_does_not_fit(size: Sequence[int], stages: int) -> str | None:
    """What is wrong with images of this size (Y, X) for so many halvings, if anything."""
    factor = 2**stages
    if all(length % factor == 0 and SMALLEST <= length // factor <= LARGEST for length in size):
        return None
    fitting = ", ".join(str(cells * factor) for cells in (3, 4, 5, 6, 8)) + f", ... {LARGEST * factor}"
    return (
        f"images of {size[0]}x{size[1]} pixels cannot be halved {stages} times down to {SMALLEST} to {LARGEST} pixels: "
        f"both sides must be of {fitting}; or change the number of depths"
    )


def convolution(here: int, there: int) -> nn.Conv2d:
    layer = nn.Conv2d(here, there, KERNEL, padding=KERNEL // 2)
    truncated_normal(layer.weight, KERNEL**2 * here)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Per stage a convolution, 2x2 max-pooling, RMSNorm over channels, SiLU; flattened. (N, C, Y, X) -> (N, size).

    norm_silu: the last two, which a model may have compiled.
    """

    def __init__(self, image: tuple[int, int, int], depths: Sequence[int]) -> None:
        super().__init__()
        if wrong := image_does_not_fit(image[1:], len(depths)):
            raise ValueError(wrong)
        self.size = depths[-1] * math.prod(length // 2 ** len(depths) for length in image[1:])
        self.layers = nn.ModuleList(convolution(here, there) for here, there in pairwise([image[0], *depths]))
        self.norms = nn.ModuleList(RMSNorm(depth) for depth in depths)

    def forward(self, image: Tensor, norm_silu: NormSiLU = rms_norm_silu) -> Tensor:
        image = channels_last(image)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            pooled = F.max_pool2d(layer(image), 2)
            assert isinstance(norm, RMSNorm)
            image = norm_silu(rearrange(pooled, "n c y x -> n y x c"), norm.scale)
            image = rearrange(image, "n y x c -> n c y x")
        return rearrange(image, "n c y x -> n (y x c)")


class Decoder(nn.Module):
    """From h (N, D) and z (N, Z) to an image (N, C, Y, X), before the sigmoid.

    A small map is the sum of what blocks of h and what z say; then per stage the map doubles (nearest neighbour) and is
    convolved, with RMSNorm over channels and SiLU before it (norm_silu, as the encoder's).
    """

    def __init__(
        self, deter: int, latent: int, units: int, blocks: int, image: tuple[int, int, int], depths: Sequence[int]
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.grid = tuple(length // 2 ** len(depths) for length in image[1:])
        size = depths[-1] * math.prod(self.grid)
        self.from_deter = BlockLinear(deter, size, blocks)
        self.from_stoch = nn.Sequential(NormLinear(latent, units), linear(units, size))
        channels = [*reversed(depths), image[0]]
        self.norms = nn.ModuleList(RMSNorm(depth) for depth in reversed(depths))
        self.layers = nn.ModuleList(convolution(here, there) for here, there in pairwise(channels))
        self.register_buffer("phases", phases(), persistent=False)

    def forward(self, deter: Tensor, stoch: Tensor, norm_silu: NormSiLU = rms_norm_silu) -> Tensor:
        y, x = self.grid
        image = rearrange(self.from_deter(deter), "n (g y x c) -> n y x (g c)", g=self.blocks, y=y, x=x)
        image = image + rearrange(self.from_stoch(stoch), "n (y x c) -> n y x c", y=y, x=x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            assert isinstance(norm, RMSNorm)
            image = self.doubled(layer, norm_silu(image, norm.scale))
        return rearrange(image, "n y x c -> n c y x")

    def doubled(self, layer: nn.Module, image: Tensor) -> Tensor:
        """conv(each pixel four times), (N, Y, X, C) -> (N, 2Y, 2X, C'), computed before the doubling.

        Of the five taps along an axis several lie on the same pixel. Their sums are three taps, other ones for even
        and for odd rows: 36 products for four pixels instead of 100, and the large map is never read.
        """
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        weight = torch.einsum("o i h w, p a h, q b w -> p q o i a b", layer.weight, self.phases, self.phases)
        small = rearrange(image, "n y x c -> n c y x")
        four = F.conv2d(small, weight.flatten(0, 2), layer.bias.tile(4), padding=1)
        return rearrange(four, "n (p q c) y x -> n (y p) (x q) c", p=2, q=2)


def phases() -> Tensor:
    """Which of 3 pixels the 5 taps of a kernel lie on, when an even (0) or odd (1) row of a doubled image is in the
    middle: (2, 3, 5), ones and zeros.
    """
    on = torch.zeros(2, 3, KERNEL)
    for odd in range(2):
        for tap in range(KERNEL):
            on[odd, (odd + tap - KERNEL // 2) // 2 + 1, tap] = 1
    return on
