"""The interfaces Actor and Objective. They know a model only through worldmodel/base.py."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from worldmodel.base import Batch, Spec, State, WorldModel

Carry: TypeAlias = Any  # a NamedTuple of tensors, rows first: what an actor remembers from step to step
Mode: TypeAlias = Literal["explore", "evaluate"]  # with exploration noise, or without

# Play in the real environments as this actor, for so many noise-free episodes: their returns (episodes,). The same
# `number` gives the same episodes.
Play: TypeAlias = Callable[["Actor", int, int], Tensor]


class Candidates(NamedTuple):
    """The action sequences that a planner has weighed up; rows first."""

    actions: Tensor  # (N, K, H, A)
    returns: Tensor  # (N, K) imagined; -inf if that was not finite


class ActorInfo(NamedTuple):
    """What an actor reports about a decision; rows first."""

    predicted_return: Tensor  # (N,) over the plan's horizon; a critic's is discounted and without end; NaN: none
    plan: Tensor  # (N, H, A) the actions that it intends to take, the next one first; H = 0 if it does not plan
    # Those of the plan's last iteration, for whoever wants to look at them: they exist anyway, and nothing is copied.
    candidates: Candidates | tuple[()] = ()


class Stateless(NamedTuple):
    """The carry of an actor that remembers nothing; it still says how many rows there are, and on which device."""

    rows: Tensor  # (N, 0)


class Objective(nn.Module, ABC):
    """What is maximised in imagination. Its weights and buffers, if any, are saved and trained as the actor's."""

    in_reward_units: bool = True  # False: what a plan predicts cannot be compared with the return that is obtained

    @abstractmethod
    def reward(self, model: WorldModel, path: State, actions: Tensor) -> Tensor:
        """The value of every step of an imagined path, (H, N): path, states (H, N, ...) that the actions (H, N, A) led
        to.
        """

    def terminal_value(self, model: WorldModel, state: State) -> Tensor:
        """The value of the horizon's last state, (N,); it is weighted by the probability of surviving to there."""
        some: Tensor = pytree.tree_leaves(state)[0]
        return some.new_zeros(len(some), dtype=torch.float32)


class Actor(nn.Module, ABC):
    """A planner, or a controller learned in imagination. Its memory, the carry, is passed in and returned, not stored.

    One that learns says so in one of two ways: by `loss`, whose gradient the agent follows, or by `learn`, by means of
    its own. One that does neither overrides neither.
    """

    model: WorldModel
    needs_observation: bool = True  # False: it ignores the state, and the model need not encode images

    def __init__(self, model: WorldModel, spec: Spec, objective: Objective | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)  # not a submodule: the actor's parameters are not the model's
        self.spec = spec
        self.objective = objective

    @property
    def discount(self) -> float | None:
        """Of the return that its critic predicts; None: it has no critic."""
        return None

    @property
    def has_loss(self) -> bool:
        """Whether it learns by gradient."""
        return type(self).loss is not Actor.loss

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn."""
        return self.has_loss or type(self).learn is not Actor.learn

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What has an optimiser of its own, by name."""
        return {"actor": list(self.parameters())} if self.has_loss else {}

    @abstractmethod
    def initial(self, n: int) -> Carry:
        """The memory at an episode's start: n rows, on any device."""

    @abstractmethod
    def act(
        self, state: State, carry: Carry, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Carry, ActorInfo]:
        """The actions (N, A) to take in a state, in [-1, 1] or one-hot, the new memory, and its ActorInfo.
        Random numbers come from the generator; None is the device's default one.
        """

    def imagined_rows(self, rows: int) -> int:
        """How many imagined states it holds at once, at least, for so many rows that it acts for or, if it learns,
        learns from. Memory is planned by it.
        """
        return 0

    def check_loaded(self) -> None:
        """Called once its parameters and buffers were loaded, whose shapes and types are checked by then and which are
        finite. Errors: ValueError, for values that it could never have written.
        """

    def loss(self, batch: Batch, states: State) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar to minimise, and metrics. states (B, T, ...): those that the model's loss has just computed from the
        batch. No gradient may reach the model but one that is meant to.
        """
        raise NotImplementedError

    def after_update(self, updated: Tensor) -> None:
        """Called after every step of its optimisers: target networks follow here. updated: 1., or 0. if the update was
        skipped, (); then nothing may change. No value may be read on the CPU.
        """

    def learn(self, batch: Batch, states: State, play: Play | None = None) -> dict[str, Tensor]:
        """Improve by its own means, from a batch and its observed states (B, T, ...), or by playing in the real
        environments if it is configured so; metrics.
        """
        raise NotImplementedError


def no_plan(n: int, spec: Spec, device: torch.device | str | None = None) -> ActorInfo:
    """The info of an actor that neither plans nor predicts."""
    return ActorInfo(torch.full((n,), torch.nan, device=device), torch.zeros(n, 0, spec.action_dim, device=device))


def random_actions(
    spec: Spec, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Uniformly random actions, (*shape, A): in [-1, 1], or one-hot."""
    if spec.discrete:
        choice = torch.randint(spec.action_dim, shape, device=device, generator=generator)
        return F.one_hot(choice, spec.action_dim).float()
    return torch.rand(*shape, spec.action_dim, device=device, generator=generator) * 2 - 1


def executable(spec: Spec, actions: Tensor) -> Tensor:
    """Planned actions (..., A) as they can be done: of probabilities the likeliest one."""
    return F.one_hot(actions.argmax(-1), spec.action_dim).float() if spec.discrete else actions


def add_exploration_noise(spec: Spec, action: Tensor, noise: float, generator: torch.Generator | None = None) -> Tensor:
    """N(0, noise^2) added and clipped (noise is the standard deviation, trap 23); or, for discrete actions, a uniformly
    random one with probability `noise`. (N, A) -> (N, A).
    """
    if spec.discrete:
        other = torch.rand(len(action), 1, device=action.device, generator=generator) < noise
        return torch.where(other, random_actions(spec, len(action), device=action.device, generator=generator), action)
    return (action + noise * normal_like(action, generator)).clamp(-1, 1)


def normal_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """e ~ N(0, 1) in the shape of x."""
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
