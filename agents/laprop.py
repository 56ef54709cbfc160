"""DreamerV3's optimiser: LaProp (Ziyin et al. 2020, arXiv 2002.04839) with adaptive gradient clipping (AGC; Brock et
al. 2021, arXiv 2102.06171) and a linear warm-up.

    g  = g / max(1, |g| / (c max(1e-3, |p|)))               AGC, one norm for each tensor
    v  = b2 v + (1 - b2) g^2
    m  = b1 m + (1 - b1) g / (sqrt(v / (1 - b2^n)) + eps)   the gradient is normalised before it enters the momentum
    p -= lr min(1, (n - 1) / warm-up) m / (1 - b1^n)        n = 1, 2, ...: the first update of a warm-up changes nothing

Adam divides the momentum instead, by today's v. Here what enters is bounded by 1 / sqrt(1 - b2) before it is
averaged, so that eps may be tiny.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from agents.adam_tf import debias, decay, fresh


class LaProp(torch.optim.Optimizer):
    """No step reads a number on the host, so that one can be part of a CUDA graph.

    The learning rate is a 0-d tensor; its units do not change when a state is loaded. found_inf, if the attribute is
    set: a 0-d tensor, 1 where gradients are not to be trusted; such a step changes nothing, whatever they hold.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float = 0.3,
        warmup: int = 1000,
    ) -> None:
        """agc: c above; infinity does not clip. warmup: updates until the rate is lr; 0 begins with it."""
        # 'capturable' lets torch load the step counts onto the parameters' device
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, agc=agc, warmup=warmup, capturable=True))

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
            clip(parameters, gradients, group["agc"])
            first, second = group["betas"]
            moments, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
            decay(squares, second, ok)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
            roots = torch._foreach_div(squares, list(debias(second, n).unbind()))
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, group["eps"])
            decay(moments, first, ok)
            torch._foreach_addcdiv_(moments, gradients, roots, 1 - first)
            rate = group["lr"] * ok / debias(first, n)
            if group["warmup"]:
                rate = rate * ((n - 1) / group["warmup"]).clamp(max=1)
            torch._foreach_sub_(parameters, torch._foreach_mul(moments, list(rate.unbind())))


def clip(parameters: list[Tensor], gradients: list[Tensor], limit: float) -> None:
    """AGC: no gradient is longer than `limit` times its parameter, which counts as 1e-3 at least. In place."""
    longest = torch.stack(torch._foreach_norm(parameters)).clamp(min=1e-3) * limit
    scale = 1 / (torch.stack(torch._foreach_norm(gradients)) / longest).clamp(min=1)
    torch._foreach_mul_(gradients, list(scale.unbind()))
