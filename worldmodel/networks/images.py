"""Images as models see them: of fewer colours, and on one scale whatever the environment."""

import torch
from torch import Tensor, nn

from worldmodel.networks import data_parallel
from worldmodel.networks.precision import precision_of_products

SMALLEST = 1e-3  # standard deviation; images that never change have none


def to_float(image: Tensor) -> Tensor:
    """uint8 -> [0, 1]."""
    return image.float() / 255


def scaled(image: Tensor) -> Tensor:
    """uint8 -> [-0.5, 0.5], in the precision of the convolution that reads it."""
    image = to_float(image) - 0.5
    return image.to(precision_of_products(image))


def quantise(image: Tensor, bits: int, noise: bool) -> Tensor:
    """uint8 -> floor(x / 2^(8-bits)) / 2^bits - 0.5: five bits give [-0.5, 0.5) in 32 steps (trap 30). noise: plus
    U[0, 2^-bits), anew at every call.
    """
    image = torch.floor(image.float() / 2 ** (8 - bits)) / 2**bits if bits < 8 else image.float() / 256
    if noise:
        image = image + torch.rand_like(image) / 2**bits
    return image - 0.5


def channels_last(image: Tensor) -> Tensor:
    """(N, C, Y, X) with the channels of a pixel side by side in memory, in which convolutions are faster. With one
    channel PyTorch leaves strides that its convolutions take for the other format. In float32 they stay as they are:
    there older runs are gone on with bit for bit.
    """
    last = image.contiguous(memory_format=torch.channels_last)
    n, c, y, x = image.shape
    if c > 1 or precision_of_products(image) == torch.float32:
        return last
    return last.flatten().view(n, y, x, c).permute(0, 3, 1, 2)


class ImageNormalizer(nn.Module):
    """(image - background) / contrast, with both as measured once, from the first batch that is learned from.

    Where little moves before a bright background, almost all of a raw image is the same in every row: learning begins
    with a long plateau at the mean image, and one weight of the image's loss does not fit two tasks, as the variance of
    their images differs by a factor of ten. Both numbers are buffers, so that a checkpoint has them. contrast is 0
    until it is measured; the image then passes unchanged.
    """

    background: Tensor  # (C, Y, X)
    contrast: Tensor  # one for all pixels: a pixel that never moves stays quiet

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("background", torch.zeros(shape))
        self.register_buffer("contrast", torch.zeros(()))
        self.measured = False  # known without asking the device, so that measuring costs the first update only
        self.register_load_state_dict_post_hook(ask_again)

    @torch.no_grad()
    def measure(self, image: Tensor) -> None:
        """From images (..., C, Y, X), unless it was done before; without reading a number from the device."""
        new = self.contrast == 0
        background = data_parallel.mean(image.flatten(0, -4).mean(0))
        contrast = data_parallel.mean((image - background).square().mean()).sqrt().clamp(min=SMALLEST)
        self.background.copy_(torch.where(new, background, self.background))
        self.contrast.copy_(torch.where(new, contrast, self.contrast))
        self.measured = True

    def scale(self) -> Tensor:
        return torch.where(self.contrast == 0, 1.0, self.contrast)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.background) / self.scale()

    def undo(self, image: Tensor) -> Tensor:
        return image * self.scale() + self.background


def ask_again(normalizer: ImageNormalizer, _: object) -> None:
    """After a checkpoint was loaded, which may have none of the two numbers."""
    normalizer.measured = False
