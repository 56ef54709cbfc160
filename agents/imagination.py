"""Rollouts in latent space: the returns that planners and controllers maximise, and the open-loop dream."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.base import Objective
from worldmodel.base import Batch, State, WorldModel, merge_time, split_time, tree_map, tree_repeat, tree_stack


def evaluate_sequences(model: WorldModel, objective: Objective, state: State, actions: Tensor) -> Tensor:
    """The return of action sequences imagined from each state: state (N, ...), actions (N, K, H, A) -> (N, K).

    Each candidate follows one sampled latent path, as in PlaNet. What is not finite counts as the worst, so that states
    in which a model breaks down do not attract plans.
    """
    n, k, horizon, _ = actions.shape
    flat = actions.flatten(0, 1)  # (N*K, H, A)
    states, here = [], tree_repeat(state, k)
    for t in range(horizon):
        here = model.imagine(here, flat[:, t])
        states.append(here)
    total = path_return(model, objective, tree_stack(states, 0), flat.transpose(0, 1))
    return total.view(n, k).nan_to_num(-torch.inf, -torch.inf, -torch.inf)


def path_return(model: WorldModel, objective: Objective, path: State, actions: Tensor) -> Tensor:
    """The return of imagined paths: states (H, N, ...) that the actions (H, N, A) led to -> (N,).

    sum over t = 1..H of r(s_t) * product over u < t of continues(s_u), and the terminal value of s_H times the product
    over all u. r is the objective's: by default the reward, read AFTER each action (trap 21). Nothing counts after a
    likely death (trap 26).
    """
    last = tree_map(lambda a: a[-1], path)
    reward = objective.reward(model, path, actions)  # (H, N)
    alive = model.continues(merge_time(path)).view(actions.shape[:2]).cumprod(0)
    return reward[0] + (reward[1:] * alive[:-1]).sum(0) + objective.terminal_value(model, last) * alive[-1]


@torch.no_grad()
def imagined_return(
    model: WorldModel,
    objective: Objective,
    state: State,
    policy: Callable[[State], Tensor],
    horizon: int,
    temperature: float = 1.0,
) -> Tensor:
    """The return of a policy that acts in imagination: state (N, ...) -> (N,). policy: state -> action (N, A).

    The sum of evaluate_sequences, where s_t = imagine(s_{t-1}, policy(s_{t-1})). Only the running sums are kept, so
    that a dream may last for thousands of steps. A dream that does not stay finite counts as the worst, -inf.
    """
    total: Any = 0.0
    alive: Any = 1.0
    for _ in range(horizon):
        action = policy(state)
        state = model.imagine(state, action, temperature)
        path = tree_map(lambda a: a[None], state)  # (1, N, ...)
        total = total + alive * objective.reward(model, path, action[None])[0]
        alive = alive * model.continues(state)
    result: Tensor = total + alive * objective.terminal_value(model, state)
    return result.masked_fill(~result.isfinite(), -torch.inf)


def observe_sequence(model: WorldModel, batch: Batch) -> State:
    """The states (B, T, ...) of sequences that were observed from their first row to their last."""
    (state, first), states = model.begin(batch), []
    for t in range(batch.reward.shape[1]):
        state = model.observe(state, batch.action[:, t], batch.image[:, t], first[:, t])
        states.append(state)
    return tree_stack(states)


def start_states(batch: Batch, states: State) -> State:
    """States (N, ...) from which dreams may start: all observed rows but the terminal ones, after which
    there are no data to learn from (trap 26). Their number depends on the batch.
    """
    alive = ~batch.terminal.flatten()
    return tree_map(lambda a: a[alive], merge_time(states))


class Dream(NamedTuple):
    """An open-loop dream beside what really happened. Images (B, T, C, Y, X) in [0, 1], rewards (B, T)."""

    real: Tensor
    reconstruction: Tensor  # decoded from states that observed every image
    imagined: Tensor  # after `context` observed rows, from the actions alone
    reward: Tensor
    reward_imagined: Tensor
    context: int


@torch.no_grad()
def dream(model: WorldModel, batch: Batch, context: int, temperature: float = 1.0) -> Dream:
    """Observe everything; and beside it, from the state after `context` rows, imagine the rest without images."""
    observed = observe_sequence(model, batch)
    length = batch.reward.shape[1]
    imagined = [tree_map(lambda a, t=t: a[:, t], observed) for t in range(context)]
    for t in range(context, length):
        imagined.append(model.imagine(imagined[-1], batch.action[:, t], temperature))
    looked, dreamt = merge_time(observed), merge_time(tree_stack(imagined))

    def rows(a: Tensor) -> Tensor:
        result: Tensor = split_time(a, length).float().cpu()
        return result

    return Dream(
        batch.image.float().cpu() / 255,
        rows(model.decode(looked)).clamp(0, 1),
        rows(model.decode(dreamt)).clamp(0, 1),
        batch.reward.cpu(),
        rows(model.reward(dreamt)),
        context,
    )


def horizon_errors(dream: Dream) -> tuple[list[float], list[float]]:
    """Image (mean squared) and reward (mean absolute) error by horizon: entry h is h + 1 steps ahead."""
    ahead = slice(dream.context, None)
    image = (dream.imagined - dream.real)[:, ahead].square().mean((0, 2, 3, 4))
    reward = (dream.reward_imagined - dream.reward)[:, ahead].abs().mean(0)
    return image.tolist(), reward.tolist()
