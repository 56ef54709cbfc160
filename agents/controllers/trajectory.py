"""What actor-critics share: imagined trajectories, target networks, and how an action is chosen."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from agents.base import Mode, Objective
from worldmodel.base import State, WorldModel, merge_time, tree_map, tree_stack
from worldmodel.networks.policies import BoundedNormal, OneHotCategorical, TanhNormal, TruncatedNormal, clip_action
from worldmodel.networks.precision import precision_of_products

LEAST_ALIVE = 0.1  # below, what comes after does not count, and errors of the value would
Policy: TypeAlias = TanhNormal | TruncatedNormal | BoundedNormal | OneHotCategorical
EvaluateWith: TypeAlias = Literal["mode", "sample"]


class Trajectory(NamedTuple):
    """A dream of H actions, time first. Row i of everything but the actions is about state i; state 0 is the start."""

    features: Tensor  # (H + 1, N, F), without gradients in the precision of products
    action: Tensor  # (H, N, A) drawn in state i, which may lie outside [-1, 1]: what it then does leads to state i + 1
    reward: Tensor  # (H + 1, N) of arriving in state i
    continues: Tensor  # (H + 1, N) probability that state i is not terminal


def imagine_trajectory(
    model: WorldModel,
    objective: Objective,
    start: State,
    action: Tensor,
    policy: Callable[[Tensor], Policy],
    horizon: int,
    clip_actions: bool = False,
) -> Trajectory:
    """Dream from states (N, ...), to which the actions (N, A) had led. Where gradients are enabled they flow from
    rewards and features through the states into the sampled actions, and there into the policy, but not by way of what
    the policy has read (Dreamer, section 3: sg(features)).

    clip_actions: for policies that draw actions beyond [-1, 1], which environments clip: the model and the objective
    get them within, since outside they were never trained.
    """

    def features_of(state: State) -> Tensor:
        """Cast once and not by each who reads them; where there is a gradient it would be summed in that precision."""
        features = model.features(state)
        return features if torch.is_grad_enabled() else features.to(precision_of_products(features))

    path, features, taken, actions = [start], [features_of(start)], [action], list[Tensor]()
    for _ in range(horizon):
        actions.append(policy(features[-1].detach()).sample())
        taken.append(clip_action(actions[-1]) if clip_actions else actions[-1])
        path.append(model.imagine(path[-1], taken[-1]))
        features.append(features_of(path[-1]))
    states = tree_stack(path, 0)  # (H + 1, N, ...)
    reward = objective.reward(model, states, torch.stack(taken)).float()
    continues = model.continues(merge_time(states)).float().view(reward.shape)
    return Trajectory(torch.stack(features), torch.stack(actions), reward, continues)


def return_after(model: WorldModel, objective: Objective, state: State, value: Tensor, actions: int) -> Tensor:
    """The discounted return that is still to come after arriving in a state (N, ...) that is no end, (N,), from

        value(s) = r(s) + discount * continues(s) * value(s')

    whose own reward and probability to go on whoever asks counts himself. actions: numbers of one.
    """
    path = tree_map(lambda a: a[None], state)
    no_action = value.new_zeros(1, len(value), actions)
    own = objective.reward(model, path, no_action)[0]
    return (value - own) / model.continues(state).clamp(min=LEAST_ALIVE)


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Gradients flow through what is computed within, but none is collected by these modules' weights."""
    weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


# ---- target networks ----


def target_network(network: nn.Module) -> nn.Module:
    """A copy that does not learn by gradient. It is a submodule of its owner, so that checkpoints hold it."""
    return copy.deepcopy(network).requires_grad_(False)


def ema_update(target: nn.Module, network: nn.Module, rate: Tensor) -> None:
    """target = (1 - rate) target + rate network."""
    for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, rate)


def copy_where(due: Tensor, target: nn.Module, network: nn.Module) -> None:
    """target = network if due, a truth on the device, ()."""
    for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
        slow.copy_(torch.where(due, fast, slow))


# ---- acting ----


def choose_action(policy: Policy, mode: Mode, evaluate_with: EvaluateWith, generator: torch.Generator | None) -> Tensor:
    """The action (N, A): drawn to explore, and to evaluate drawn, too, or the mode."""
    draw = mode == "explore" or evaluate_with == "sample"
    return policy.sample(generator) if draw else policy.mode(generator)


def feature_size(model: WorldModel) -> int:
    """F of the features that a model gives."""
    with torch.no_grad():
        return int(model.features(model.initial(1)).shape[-1])
