"""What an agent considers: decoded pictures along its plan and along a fan of other futures, with the returns that it
expects of them.

A planner's fan are candidates of its last iteration, from the best to the worst. An actor without a plan is followed in
imagination: once as it acts, and as often as there are others with its exploration noise.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.base import Actor, ActorInfo, Carry, executable
from agents.imagination import path_return
from agents.reward_and_value import RewardAndValue
from worldmodel.base import State, merge_time, tree_map, tree_repeat, tree_stack


class Futures(NamedTuple):
    """Row 0 is what the agent means to do; the others are what else it considered, the best first."""

    pictures: np.ndarray  # (R, S, C, Y, X) uint8
    steps: list[int]  # (S,) how far ahead each picture lies, 1 .. H
    returns: np.ndarray  # (R,) that are expected over the horizon; NaN or infinite if the model does not say
    ranks: list[int]  # (R - 1,) of the others among all that were considered, 1 is the best
    considered: int  # K; 0 if the agent does not plan
    horizon: int  # H


@torch.no_grad()
def imagine_futures(
    agent: Agent, state: State, carry: Carry, info: ActorInfo, others: int, shown: int, horizon: int
) -> Futures:
    """Of one state (1, ...), where the agent has decided as info says. At most so many others and so many steps are
    shown. horizon: how far to follow an actor that does not plan. The agent's autocast is the caller's to enter.
    """
    ranks: list[int] = []
    considered = 0
    if info.plan.shape[1]:
        sequences, returns = [executable(agent.spec, info.plan)], [info.predicted_return]  # (1, H, A), (1,)
        if info.candidates:
            order = info.candidates.returns[0].argsort(descending=True)  # (K,)
            considered = len(order)
            ranks = np.unique(np.linspace(0, considered - 1, min(others, considered)).round().astype(int)).tolist()
            chosen = order[torch.tensor(ranks, device=order.device, dtype=torch.int64)]
            sequences.append(info.candidates.actions[0, chosen])
            returns.append(info.candidates.returns[0, chosen])
        path = follow_actions(agent, state, torch.cat(sequences))  # (H, R, ...)
        expected = torch.cat(returns)
    else:
        path, actions = follow_actor(agent, state, carry, others, horizon)
        expected = actions.new_full((1 + others,), torch.nan)
        if agent.actor.objective is not None:
            expected = path_return(agent.model, agent.actor.objective, path, actions)
        order = expected[1:].argsort(descending=True) + 1
        order = torch.cat([order.new_zeros(1), order])
        path, expected = tree_map(lambda a: a[:, order], path), expected[order]
        ranks = list(range(others))
    length = len(path[0])
    steps = np.unique(np.linspace(1, length, min(shown, length)).round().astype(int))
    at = torch.from_numpy(steps - 1).to(expected.device)
    seen = tree_map(lambda a: a[at].transpose(0, 1), path)  # (R, S, ...)
    pictures = to_bytes(agent.model.decode(merge_time(seen))).reshape(
        len(expected), len(steps), *agent.spec.image_shape
    )
    return Futures(
        pictures, steps.tolist(), expected.float().cpu().numpy(), [rank + 1 for rank in ranks], considered, length
    )


def follow_actions(agent: Agent, state: State, actions: Tensor) -> State:
    """The states (H, R, ...) that sequences of actions (R, H, A) lead to, as a planner imagines them."""
    here, path = tree_repeat(state, len(actions)), []
    for t in range(actions.shape[1]):
        here = agent.model.imagine(here, actions[:, t])
        path.append(here)
    return tree_stack(path, 0)


def follow_actor(agent: Agent, state: State, carry: Carry, others: int, horizon: int) -> tuple[State, Tensor]:
    """Where the actor goes by itself, in row 0 as it acts and in the others as it explores: states (H, 1 + others, ...)
    and the actions (H, 1 + others, A) that led there.
    """
    here, path, actions = tree_repeat(state, 1 + others), [], []
    sure, exploring = carry, tree_repeat(carry, others)
    for _ in range(horizon):
        best, sure, _ = agent.actor.act(tree_map(lambda a: a[:1], here), sure, "evaluate", agent.generator)
        tried, exploring, _ = agent.actor.act(tree_map(lambda a: a[1:], here), exploring, "explore", agent.generator)
        actions.append(torch.cat([best, tried]))
        here = agent.model.imagine(here, actions[-1])
        path.append(here)
    return tree_stack(path, 0), torch.stack(actions)


def to_bytes(images: Tensor) -> np.ndarray:
    """Decoded images, about [0, 1], as uint8."""
    pictures: np.ndarray = (images.float().nan_to_num().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return pictures


def critic_of(actor: Actor) -> Callable[[State], Tensor] | None:
    """The actor's own critic, or the one that a planner asks what lies beyond its horizon."""
    owner = actor.objective.actor if isinstance(actor.objective, RewardAndValue) else actor
    return getattr(owner, "expected_return", None)
