"""Distributions of actions, made of an actor network's outputs: the same four questions to each, in float32.

    sample(generator)     an action (..., A), differentiable: reparameterised, or straight-through
    mode(generator)       what to do if one should not explore, (..., A)
    log_prob(action)      in nats, summed over the dimensions of the action: (..., A) -> (...)
    entropy(generator)    likewise, (...)

Without a generator the noise is drawn as every model's is (noise.py).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.networks import categorical
from worldmodel.networks.noise import normal, uniform

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
Generator = torch.Generator | None


def normal_like(like: Tensor, generator: Generator) -> Tensor:
    """e ~ N(0, 1) in the shape of `like`."""
    if generator is None:
        return normal(like)
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def uniform_like(like: Tensor, generator: Generator) -> Tensor:
    """e ~ U[0, 1) in the shape of `like`."""
    if generator is None:
        return uniform(like)
    return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std^2), element by element."""
    return -0.5 * ((x - mean) / std).square() - std.log() - HALF_LOG_2PI


class TanhNormal(NamedTuple):
    """tanh(u), u ~ N(mean, std^2) (Dreamer, 2020). Neither mode nor entropy has a closed form: both are read off 100
    samples, as published.
    """

    mean: Tensor  # (..., A) before the tanh
    std: Tensor

    @classmethod
    def from_output(
        cls, output: Tensor, mean_scale: float = 5.0, init_std: float = 5.0, min_std: float = 1e-4
    ) -> "TanhNormal":
        """(..., 2A): mean = c tanh(m / c) and std = softplus(s + log(e^i - 1)) + min, which is i + min where s is 0."""
        mean, std = output.float().chunk(2, -1)
        offset = math.log(math.expm1(init_std))
        return cls(mean_scale * (mean / mean_scale).tanh(), F.softplus(std + offset) + min_std)

    def sample(self, generator: Generator = None) -> Tensor:
        return (self.mean + self.std * normal_like(self.mean, generator)).tanh()

    def samples(self, generator: Generator = None, count: int = 100) -> Tensor:
        """Many, beside each other: (..., count, A)."""
        many = TanhNormal(*(a[..., None, :].expand(*a.shape[:-1], count, -1) for a in self))
        return many.sample(generator)

    def mode(self, generator: Generator = None) -> Tensor:
        """The likeliest of 100 samples."""
        drawn = self.samples(generator)
        likely = TanhNormal(self.mean[..., None, :], self.std[..., None, :]).log_prob(drawn)  # (..., 100)
        best = likely.argmax(-1)[..., None, None].expand(*likely.shape[:-1], 1, drawn.shape[-1])
        return drawn.gather(-2, best).squeeze(-2)

    def log_prob(self, action: Tensor) -> Tensor:
        """log N(u) - log(1 - tanh^2 u), the latter as 2 (log 2 - u - softplus(-2u)), which does not lose its digits."""
        inside = action.float().clamp(-0.99999997, 0.99999997)  # the largest number below 1: atanh(1) is infinite
        u = inside.atanh()
        return (normal_log_prob(u, self.mean, self.std) - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)

    def entropy(self, generator: Generator = None) -> Tensor:
        """-log p, averaged over 100 samples."""
        drawn = self.samples(generator)
        return -TanhNormal(self.mean[..., None, :], self.std[..., None, :]).log_prob(drawn).mean(-1)


class TruncatedNormal(NamedTuple):
    """N(mean, std^2) given that it lies in [-1, 1] (DreamerV2): with a and b the bounds' distances from the mean in
    standard deviations, Phi and phi the normal distribution and density, and Z = Phi(b) - Phi(a),

        p(x) = N(x; mean, std^2) / Z      x = mean + std Phi^-1(Phi(a) + u Z),  u ~ U[0, 1)
    """

    mean: Tensor  # (..., A) of the normal distribution that is truncated: inside the bounds, hence also the mode
    std: Tensor

    @classmethod
    def from_output(cls, output: Tensor, min_std: float = 0.1) -> "TruncatedNormal":
        """(..., 2A): mean = tanh m, std = 2 sigmoid(s / 2) + min, which is 1 + min where s is 0."""
        mean, std = output.float().chunk(2, -1)
        return cls(mean.tanh(), 2 * (std / 2).sigmoid() + min_std)

    def bounds(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, b, Phi(a) and Z."""
        a, b = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        low = torch.special.ndtr(a)
        return a, b, low, torch.special.ndtr(b) - low

    def sample(self, generator: Generator = None, margin: float = 1e-6) -> Tensor:
        """An action at least `margin` within the bounds, where the log-prob still has a gradient; the clipping itself
        has gradient 1.
        """
        _, _, low, mass = self.bounds()
        below = low + uniform_like(low, generator) * mass
        ends = torch.finfo(low.dtype)  # at 0 and 1 themselves Phi^-1 is infinite
        x = self.mean + self.std * torch.special.ndtri(below.clamp(ends.tiny, 1 - ends.eps))
        return x + (x.detach().clamp(-1 + margin, 1 - margin) - x.detach())

    def mode(self, generator: Generator = None) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        *_, mass = self.bounds()
        return (normal_log_prob(action.float(), self.mean, self.std) - mass.log()).sum(-1)

    def entropy(self, generator: Generator = None) -> Tensor:
        """log(std Z) + (1 + log 2 pi) / 2 + (a phi(a) - b phi(b)) / (2 Z)."""
        a, b, _, mass = self.bounds()
        edge = (a * normal_density(a) - b * normal_density(b)) / (2 * mass)
        return ((self.std * mass).log() + 0.5 + HALF_LOG_2PI + edge).sum(-1)


def normal_density(x: Tensor) -> Tensor:
    """phi(x), element by element."""
    return (-0.5 * x.square() - HALF_LOG_2PI).exp()


def clip_action(action: Tensor) -> Tensor:
    """Actions (..., A) within [-1, 1], as an environment takes them. The gradient passes, scaled down where one was too
    large.
    """
    return action / action.abs().clamp(min=1).detach()


class BoundedNormal(NamedTuple):
    """N(mean, std^2) with the mean in (-1, 1) and the std in (0.1, 1), NOT truncated (DreamerV3): the sample itself is
    scored. The environment clips it, and before a world model reads it clip_action() must.
    """

    mean: Tensor  # (..., A)
    std: Tensor

    @classmethod
    def from_output(cls, output: Tensor, min_std: float = 0.1, max_std: float = 1.0) -> "BoundedNormal":
        """(..., 2A): mean = tanh m, std = min + (max - min) sigmoid(s + 2), which is wide where s is 0."""
        mean, std = output.float().chunk(2, -1)
        return cls(mean.tanh(), min_std + (max_std - min_std) * (std + 2).sigmoid())

    def sample(self, generator: Generator = None) -> Tensor:
        return self.mean + self.std * normal_like(self.mean, generator)

    def mode(self, generator: Generator = None) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        return normal_log_prob(action.float(), self.mean, self.std).sum(-1)

    def entropy(self, generator: Generator = None) -> Tensor:
        return (self.std.log() + 0.5 + HALF_LOG_2PI).sum(-1)


class OneHotCategorical(NamedTuple):
    """Discrete actions as one-hot rows, drawn straight-through (all three; the 2023 release mixes in 1 % uniform)."""

    log_p: Tensor  # (..., A)

    @classmethod
    def from_output(cls, output: Tensor, unimix: float = 0.0) -> "OneHotCategorical":
        """Logits (..., A)."""
        return cls(categorical.log_probs(output, unimix))

    def sample(self, generator: Generator = None) -> Tensor:
        return categorical.sample(self.log_p, generator=generator)

    def mode(self, generator: Generator = None) -> Tensor:
        return categorical.mode(self.log_p)

    def log_prob(self, action: Tensor) -> Tensor:
        return categorical.log_prob(self.log_p, action)

    def entropy(self, generator: Generator = None) -> Tensor:
        return categorical.entropy(self.log_p[..., None, :])
