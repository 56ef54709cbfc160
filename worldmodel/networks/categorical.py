"""Equations of S independent categoricals of C classes each, as free functions, (..., S, C); computed in float32.

What the functions take are normalised log-probabilities, which log_probs() makes of a network's logits.
"""

import torch
from torch import Tensor

from worldmodel.networks.noise import uniform

FEW_CLASSES = 16


def log_probs(logits: Tensor, unimix: float = 0.0) -> Tensor:
    """log p of p = (1 - unimix) softmax(logits) + unimix / C: (..., C) -> (..., C).

    With a share of the uniform distribution no class is ever impossible, and no KL infinite (DreamerV3).
    """
    logits = logits.float()
    if unimix == 0:
        return logits.log_softmax(-1)
    return torch.log((1 - unimix) * softmax(logits) + unimix / logits.shape[-1])


def softmax(logits: Tensor) -> Tensor:
    """(..., C) -> (..., C). A CPU takes ten times as long for few classes if they are adjacent in memory."""
    if logits.device.type == "cpu" and logits.dim() > 1 and logits.shape[-1] < FEW_CLASSES:
        return logits.mT.contiguous().softmax(-2).mT
    return logits.softmax(-1)


def sample(log_p: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """One-hot rows (..., C), drawn with probability ~ p^(1/tau), whose gradient is that of the probabilities
    (straight-through). At temperature 0 the likeliest class, without a random number.

    Without a generator the noise is drawn as every model's is (noise.py).
    """
    if temperature == 0:
        return mode(log_p)
    if temperature != 1:
        log_p = (log_p / temperature).log_softmax(-1)
    probs = log_p.exp()
    like = probs[..., 0]
    drawn = (
        uniform(like)
        if generator is None
        else torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    )
    # The number of classes whose cumulative probability lies below. The last is not asked: rounding cannot harm.
    below = probs.detach().cumsum(-1)[..., :-1]
    return straight_through(one_hot((below <= drawn[..., None]).sum(-1), log_p.shape[-1]), probs)


def mode(log_p: Tensor) -> Tensor:
    """The likeliest class as a one-hot row (..., C), with the gradient of the probabilities (straight-through)."""
    return straight_through(one_hot(log_p.argmax(-1), log_p.shape[-1]), log_p.exp())


def one_hot(index: Tensor, classes: int) -> Tensor:
    """Class numbers (...) -> rows (..., C) of zeros and a one, float32."""
    return (index[..., None] == torch.arange(classes, device=index.device)).float()


def straight_through(hard: Tensor, probs: Tensor) -> Tensor:
    """The value of `hard`, bit for bit, and the gradient of `probs`, the ones that it was drawn from (trap 13)."""
    return hard + (probs - probs.detach())


def log_prob(log_p: Tensor, hard: Tensor) -> Tensor:
    """log p of one-hot rows, (..., C) -> (...), no sum over latents."""
    return (log_p * hard).sum(-1)


def entropy(log_p: Tensor) -> Tensor:
    """H = -sum p log p in nats, summed over latents and classes: (..., S, C) -> (...)."""
    return -(log_p.exp() * log_p).sum((-2, -1))


def kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) = sum q (log q - log p) in nats, q the posterior and p the prior, summed over latents and classes,
    once (trap 12): (..., S, C) -> (...).
    """
    return (log_q.exp() * (log_q - log_p)).sum((-2, -1))
