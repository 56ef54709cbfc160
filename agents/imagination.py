"""Rollouts in latent space: the score that every planner maximises, and the open-loop dream."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldmodel.base import Batch, WorldModel, each, flatten, repeat, stack


def score(model: WorldModel, state: Any, actions: Tensor) -> Tensor:
    """The return of action sequences imagined from each state: state (N, ...), actions (N, K, H, A) -> (N, K).

    sum over t = 1..H of reward(s_t) * product over u < t of continues(s_u): rewards are read AFTER each action (T21),
    and nothing counts after a likely death (T26). Each candidate follows one sampled latent path, as in PlaNet. What
    is not finite counts as the worst, so that one broken corner of a model does not attract every plan.
    """
    n, k, horizon, _ = actions.shape
    flat = actions.flatten(0, 1)  # (N*K, H, A)
    states, here = [], repeat(state, k)
    for t in range(horizon):
        here = model.imagine(here, flat[:, t])
        states.append(here)
    path = flatten(stack(states, 0))  # (H*N*K, ...)
    reward = model.reward(path).view(horizon, n, k)
    alive = model.continues(path).view(horizon, n, k).cumprod(0)
    return (reward[0] + (reward[1:] * alive[:-1]).sum(0)).nan_to_num(-torch.inf, -torch.inf, -torch.inf)


def watch(model: WorldModel, batch: Batch) -> Any:
    """The states (B, T, ...) of sequences that were observed from their first row to their last."""
    state, states = model.initial(len(batch.reward)), []
    for t in range(batch.reward.shape[1]):
        state = model.observe(state, batch.action[:, t], batch.image[:, t], batch.first[:, t])
        states.append(state)
    return stack(states)


def starts(model: WorldModel, batch: Batch) -> Any:
    """States (1, N, ...) from which dreams may start: all observed rows but the terminal ones, from which nothing goes
    on, and of whose future a model has seen nothing (T26).
    """
    alive = ~batch.terminal.flatten()
    return each(lambda a: a[alive][None], flatten(watch(model, batch)))


@torch.no_grad()
def returns(
    model: WorldModel, state: Any, policy: Callable[[Any], Tensor], horizon: int, temperature: float = 1.0
) -> Tensor:
    """The return of a policy that acts in its dreams: state (N, ...) -> (N,). policy: state -> action (N, A).

    sum over t = 1..H of reward(s_t) * product over u < t of continues(s_u), as in score(), where
    s_t = imagine(s_{t-1}, policy(s_{t-1})). Only the running sums are kept, so that a dream may last for
    thousands of steps. A dream that does not stay finite counts as the worst, -inf.
    """
    total: Any = 0.0
    alive: Any = 1.0
    for _ in range(horizon):
        state = model.imagine(state, policy(state), temperature)
        total = total + alive * model.reward(state)
        alive = alive * model.continues(state)
    result: Tensor = total.masked_fill(~total.isfinite(), -torch.inf)
    return result


class Dream(NamedTuple):
    """An open-loop dream beside what really happened. Images (B, T, C, Y, X) in [0, 1], rewards (B, T)."""

    real: Tensor
    reconstruction: Tensor  # what the model sees, looking all the time
    imagined: Tensor  # what it imagines after `context` looks, from the actions alone
    reward: Tensor
    reward_imagined: Tensor
    context: int


@torch.no_grad()
def dream(model: WorldModel, batch: Batch, context: int, temperature: float = 1.0) -> Dream:
    """Observe everything; and beside it, from the state after `context` rows, imagine the rest with eyes closed."""
    seen = watch(model, batch)
    length = batch.reward.shape[1]
    imagined = [each(lambda a, t=t: a[:, t], seen) for t in range(context)]
    for t in range(context, length):
        imagined.append(model.imagine(imagined[-1], batch.action[:, t], temperature))
    looked, dreamt = flatten(seen), flatten(stack(imagined))

    def rows(a: Tensor) -> Tensor:
        return a.unflatten(0, (-1, length)).float().cpu()

    return Dream(
        batch.image.float().cpu() / 255,
        rows(model.decode(looked)).clamp(0, 1),
        rows(model.decode(dreamt)).clamp(0, 1),
        batch.reward.cpu(),
        rows(model.reward(dreamt)),
        context,
    )


def horizon_errors(dream: Dream) -> tuple[list[float], list[float]]:
    """Image (mean squared) and reward (mean absolute) error by horizon: entry h is h + 1 steps after the last look."""
    ahead = slice(dream.context, None)
    image = (dream.imagined - dream.real)[:, ahead].square().mean((0, 2, 3, 4))
    reward = (dream.reward_imagined - dream.reward)[:, ahead].abs().mean(0)
    return image.tolist(), reward.tolist()
