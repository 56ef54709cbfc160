"""Networks of ELU layers, Glorot uniform: the heads of Dreamer V1 and V2, and V2's encoder and decoder."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.networks.convolutional import Decoder, Encoder, upsampled
from worldmodel.networks.dense import dense, glorot
from worldmodel.networks.images import channels_last


class EluMLP(nn.Module):
    """`layers` dense layers of `units` with ELU, then linear ones side by side: (..., inputs) -> (..., sum of outputs).

    Outputs that are layers of their own, as the mean and the std of an actor, begin with larger weights than one layer
    for all of them would.
    """

    def __init__(self, inputs: int, units: int, layers: int, *outputs: int) -> None:
        super().__init__()
        sizes = [inputs] + [units] * layers
        self.hidden = nn.ModuleList(nn.Linear(here, there) for here, there in pairwise(sizes))
        self.outputs = nn.ModuleList(nn.Linear(sizes[-1], size) for size in outputs)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            x = F.elu(dense(layer, x))
        return torch.cat([dense(layer, x) for layer in self.outputs if isinstance(layer, nn.Linear)], -1)


class EluEncoder(Encoder):
    """Convolutions of kernel 4 and stride 2, unpadded, with ELU; flattened. (N, C, Y, X) -> (N, size)."""

    def forward(self, image: Tensor) -> Tensor:
        image = channels_last(image)
        for layer in self.layers:
            image = F.elu(layer(image))
        return rearrange(image, "n c y x -> n (c y x)")


class EluDecoder(Decoder):
    """The decoder's transposed convolutions with ELU between them: (N, F) -> (N, C, Y, X)."""

    def forward(self, features: Tensor) -> Tensor:
        y, x = self.grid
        image = rearrange(self.dense(features), "n (c y x) -> n c y x", y=y, x=x)
        for number, layer in enumerate(self.layers):
            image = upsampled(layer, F.elu(image) if number else image)
        top, left = ((got - wanted) // 2 for got, wanted in zip(image.shape[2:], self.image[1:], strict=True))
        return image[:, :, top : top + self.image[1], left : left + self.image[2]]
