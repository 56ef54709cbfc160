"""The Actor interface: what decides in latent space. It knows a model only through worldmodel/base.py."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.base import Spec, WorldModel


class Plan(NamedTuple):
    """What an actor remembers from step to step, and what it expects of it; rows first."""

    actions: Tensor  # (N, H, A) the planned actions, the next one first; H = 0 for actors that look nowhere ahead
    value: Tensor  # (N,) the return that the plan expects over its horizon; NaN if none


# Live in the real environments as this actor, for so many noise-free episodes: their returns (episodes,). The same
# `number` gives the same episodes.
Play: TypeAlias = Callable[["Actor", int, int], Tensor]


class Actor(nn.Module, ABC):
    """A planner, or a controller learned in imagination. Its memory is passed, never hidden."""

    model: WorldModel
    blind: bool = False  # acts whatever the state is; the model then need not look at the images, which takes time

    def __init__(self, model: WorldModel, spec: Spec) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)  # not a submodule: the actor's parameters are not the model's
        self.spec = spec

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn."""
        return type(self).learn is not Actor.learn

    @abstractmethod
    def initial(self, n: int) -> Plan:
        """The memory at an episode's start: n rows."""

    @abstractmethod
    def act(self, state: Any, plan: Plan, explore: bool) -> tuple[Tensor, Plan]:
        """The actions (N, A) to take in a state, bounded to [-1, 1] or one-hot, and the new memory."""

    def learn(self, states: Any, play: Play | None = None) -> dict[str, Tensor]:
        """Improve in imagination, starting from states (B, T, ...); or by playing in the real environments, if it is
        configured so. Planners have nothing to learn and return no metrics.
        """
        return {}


def propose(spec: Spec, *shape: int, device: torch.device | str | None = None) -> Tensor:
    """Uniformly random actions, (*shape, A): in [-1, 1], or one-hot."""
    if spec.discrete:
        choice = torch.randint(spec.action, shape, device=device)
        return F.one_hot(choice, spec.action).float()
    return torch.rand(*shape, spec.action, device=device) * 2 - 1


def explored(spec: Spec, action: Tensor, noise: float) -> Tensor:
    """Exploration: N(0, noise^2) added and clipped (noise is the standard deviation, T23); or, for discrete actions,
    a uniformly random one with probability `noise`. (N, A) -> (N, A)."""
    if spec.discrete:
        other = torch.rand(len(action), 1, device=action.device) < noise
        return torch.where(other, propose(spec, len(action), device=action.device), action)
    return (action + noise * torch.randn_like(action)).clamp(-1, 1)
