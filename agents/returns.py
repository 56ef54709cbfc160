"""Returns of imagined and replayed sequences, as free functions, time first: (H, N).

Lambda returns (Dreamer, eq. 6; V3, eq. 7) mix n-step returns with values v: lambda 1 sums rewards up to the horizon and
adds the last value, lambda 0 looks one step ahead. A reward is that of arriving in a state. The versions differ in what
they count first:

    V3      R_i = r_{i+1} + d_{i+1} [(1 - l) v_{i+1} + l R_{i+1}],  R_H = v_H     what is to come from state i
    V1, V2  R_i = r_i     + d_i     [(1 - l) v_{i+1} + l R_{i+1}],  R_H = v_H     state i's own reward included

d is the discount times the probability that the state goes on: 0 after a terminal state, whose reward counts (T3).
"""

import torch
from torch import Tensor, nn

from worldmodel.networks import data_parallel


def backward_recursion(reward: Tensor, discount: Tensor, following: Tensor, lambda_: float | Tensor) -> Tensor:
    """R_i = reward_i + discount_i [(1 - l_i) following_i + l_i R_{i+1}], the last R_{i+1} being the last following
    value: all (H, N), lambda_ a number or (H, N), too.
    """
    result, returns = following[-1], []
    for i in reversed(range(len(reward))):
        share = lambda_[i] if isinstance(lambda_, Tensor) else lambda_
        result = reward[i] + discount[i] * torch.lerp(following[i], result, share)
        returns.append(result)
    return torch.stack(returns[::-1])


def lambda_return(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float | Tensor) -> Tensor:
    """V3: what is to come from states 0 to H - 1, (H, N), from rows of states 0 to H, (H + 1, N). Row 0 of reward and
    discount is how one came to the first state, and plays no part.
    """
    return backward_recursion(reward[1:], discount[1:], value[1:], lambda_)


def lambda_return_with_own_reward(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float | Tensor) -> Tensor:
    """V1, V2: the same with the reward of being in each state, (H, N), from rows of states 0 to H, (H + 1, N). The last
    row of reward and discount plays no part.
    """
    return backward_recursion(reward[:-1], discount[:-1], value[1:], lambda_)


def replay_return(
    reward: Tensor, first: Tensor, terminal: Tensor, bootstrap: Tensor, discount: float, lambda_: float
) -> tuple[Tensor, Tensor]:
    """V3's targets for the critic on replayed rows, and which rows count: (T, N) -> 2 x (T - 1, N).

    G_t = r_{t+1} + d_{t+1} [(1 - l_{t+1}) b_{t+1} + l_{t+1} G_{t+1}],  G_{T-1} = b_{T-1}

    bootstrap b_t: the return that was imagined from row t. Across an episode's last row nothing is summed (l = 0), and
    that row itself learns nothing, because what follows it is another episode's.
    """
    last = terminal.clone()
    last[:-1] |= first[1:]  # a time limit shows in the row after it; at the last row it changes nothing
    goes_on = discount * (1 - terminal.float())
    returns = lambda_return(reward, goes_on, bootstrap, lambda_ * (1 - last[1:].float()))
    return returns, 1 - last[:-1].float()


def survival(discount: Tensor) -> Tensor:
    """d_0 d_1 ... d_i, (H, N): V3's weights. A state counts as far as it, too, goes on."""
    return discount.cumprod(0)


def survival_before(discount: Tensor) -> Tensor:
    """d_0 ... d_{i-1}, 1 at first, (H, N): V1's and V2's weights. A state counts as far as one arrives in it."""
    return torch.cat([torch.ones_like(discount[:1]), discount[:-1]]).cumprod(0)


class ReturnScale(nn.Module):
    """The range of returns, from their 5th to their 95th percentile, smoothed over batches (V3, eq. 12).

    Advantages are divided by it, but never by less than 1: small returns, which may be noise, are not blown up (T25).
    """

    low: Tensor  # ()
    high: Tensor  # ()
    before: Tensor  # (2,) both, before the last batch

    def __init__(self, rate: float = 0.01) -> None:
        """rate: the new batch's share of the moving averages, which begin at 0 and are not debiased."""
        super().__init__()
        self.rate = rate
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("before", torch.zeros(2), persistent=False)

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Take in the returns of a batch, of any shape; gives the scale, ()."""
        self.before.copy_(torch.stack([self.low, self.high]))
        ordered = data_parallel.gather(returns.detach().float().flatten()).sort().values
        for average, share in ((self.low, 0.05), (self.high, 0.95)):
            new = percentile(ordered, share)
            average.lerp_(torch.where(new.isfinite(), new, average), self.rate)  # one bad batch must not stay forever
        return (self.high - self.low).clamp(min=1)

    @torch.no_grad()
    def keep_if(self, updated: Tensor) -> None:
        """Forget the last batch, if the update that it led to was skipped: updated is 0. then."""
        for average, before in zip((self.low, self.high), self.before, strict=True):
            average.copy_(torch.where(updated > 0, average, before))


def percentile(ordered: Tensor, share: float) -> Tensor:
    """Of values in ascending order (n,), interpolated linearly, ()."""
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2) if len(ordered) > 1 else 0
    return torch.lerp(ordered[below], ordered[min(below + 1, len(ordered) - 1)], place - below)
