"""The reward up to a planner's horizon, and what a trained critic expects beyond it: objective.value_at_horizon=true.

    cem = CEM(config, model, spec, RewardAndValue(Reward(), agent.actor))
    agent.with_actor(cem)

No config names it, because an objective is built from a model alone, and this one needs an actor that has learned.
"""

from typing import Protocol

from torch import Tensor

from agents.base import Objective
from worldmodel.base import State, WorldModel


class HasCritic(Protocol):
    def expected_return(self, state: State) -> Tensor:
        """The discounted return that is still to come after arriving in a state, (N,)."""
        ...


class RewardAndValue(Objective):
    in_reward_units = False  # a plan's return reaches beyond its horizon: what is then obtained within it is less
    actor: HasCritic

    def __init__(self, objective: Objective, actor: HasCritic) -> None:
        super().__init__()
        self.objective = objective
        object.__setattr__(self, "actor", actor)  # not a submodule: its weights are saved as its own

    def reward(self, model: WorldModel, path: State, actions: Tensor) -> Tensor:
        return self.objective.reward(model, path, actions)

    def terminal_value(self, model: WorldModel, state: State) -> Tensor:
        return self.actor.expected_return(state)
