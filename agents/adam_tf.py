"""TensorFlow's Adam (Kingma & Ba 2015, in the form before section 2.1): the optimiser of Dreamer V1 and V2.

    m  = b1 m + (1 - b1) g
    v  = b2 v + (1 - b2) g^2
    p -= lr sqrt(1 - b2^n) / (1 - b1^n) * m / (sqrt(v) + eps)        n = 1, 2, ...

torch corrects v's bias first and adds eps then, which makes the same eps count sqrt(1 - b2^n) times as much: at the
first step 1 / 31.6. Small gradients, as of a policy at first, therefore move a parameter much less here. For eps -> 0
both are the same.

Weight decay is DreamerV2's: every update begins with p *= 1 - decay, which the learning rate does not scale.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class AdamTF(torch.optim.Optimizer):
    """No step reads a number on the host, so that one can be part of a CUDA graph.

    The learning rate is a 0-d tensor. found_inf, if the attribute is set: a 0-d tensor, 1 where gradients are not to be
    trusted; such a step changes nothing, whatever they hold.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
        weight_decay: float = 0.0,
    ) -> None:
        # 'capturable' lets torch load the step counts onto the parameters' device
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, capturable=True))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for p in parameters:
                if not self.state[p]:
                    self.state[p].update(fresh(p))
            states = [self.state[p] for p in parameters]
            device = parameters[0].device
            ok = torch.ones((), device=device) if self.found_inf is None else 1 - self.found_inf.to(device)
            # NaN times 0 is NaN: what is skipped must go before anything is computed from it.
            gradients = [torch.where(ok > 0, p.grad, 0) for p in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, [ok] * len(steps))  # one tensor would be read as a number
            n = torch.stack(steps).clamp(min=1)  # (parameters,) those that had no gradient for a while are behind
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - ok * group["weight_decay"])
            first, second = group["betas"]
            moments, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
            decay(moments, first, ok)
            torch._foreach_add_(moments, gradients, alpha=1 - first)
            decay(squares, second, ok)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, group["eps"])
            rate = group["lr"] * ok * debias(second, n).sqrt() / debias(first, n)
            change = torch._foreach_div(moments, roots)
            torch._foreach_mul_(change, list(rate.unbind()))
            torch._foreach_sub_(parameters, change)


def fresh(p: Tensor) -> dict[str, Tensor]:
    """The state of a parameter that was never stepped."""
    return {"step": torch.zeros((), device=p.device), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


def decay(averages: list[Tensor], beta: float, ok: Tensor) -> None:
    """The old share of a moving average, beta; all of it where ok is 0. In place."""
    torch._foreach_mul_(averages, 1 - ok * (1 - beta))


def debias(beta: float, n: Tensor) -> Tensor:
    """1 - beta^n, without the digits that float32 would lose near 1."""
    return -torch.expm1(n * math.log(beta))
