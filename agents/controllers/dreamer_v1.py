"""Dreamer's actor and critic (Hafner et al. 2020, arXiv 1912.01603, section 3 and algorithm 1).

From every state of a batch H steps are dreamt, with actions a ~ pi. The states 1 .. H that they lead to count. Per
step, d being the discount times the probability to go on:

    return    R_i = r_i + d_i [(1 - l) v_{i+1} + l R_{i+1}],  i = 1 .. H - 1,  R_H = v_H     (eq. 6)
    weight    w_1 = 1, w_i = d_1 ... d_{i-1}
    actor     -w_i R_i, whose gradient flows through the critic, the rewards and the dream into the actions     (eq. 7)
    critic    w_i (v_i - sg R_i)^2 / 2                                                                          (eq. 8)

All returns are maximised together, so that a later one pulls at actions before it without paying for them. For H = 2
there is only one, and this is policy iteration.

There is neither a target network nor a bonus for entropy; noise that is added to actions explores. No gradient reaches
the model. Dreams from terminal states get the weight 0, where the release left out the last row of every sequence.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from agents.base import Actor, ActorInfo, Mode, Objective, Stateless, add_exploration_noise, no_plan
from agents.controllers.trajectory import (
    EvaluateWith,
    Policy,
    choose_action,
    feature_size,
    frozen,
    imagine_trajectory,
    return_after,
)
from agents.returns import lambda_return_with_own_reward, survival_before
from worldmodel.base import Batch, Spec, State, StrictConfig, WorldModel, merge_time, tree_map
from worldmodel.networks.elu import EluMLP
from worldmodel.networks.gaussian import unit_nll
from worldmodel.networks.policies import OneHotCategorical, TanhNormal


class Config(StrictConfig):
    name: str
    units: int = Field(ge=1, le=16384)
    actor_layers: int = Field(ge=0, le=8)
    critic_layers: int = Field(ge=0, le=8)
    horizon: int = Field(ge=2, le=1000)  # H, actions of a dream
    discount: float = Field(gt=0, le=1)
    return_lambda: float = Field(ge=0, le=1)
    exploration_noise: float = Field(ge=0, le=2)  # exploration: standard deviation; for discrete actions a probability
    evaluate_with: EvaluateWith


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "DreamerV1":
    return DreamerV1(config, model, spec, objective)


class DreamerV1(Actor):
    objective: Objective

    def __init__(self, config: Config, model: WorldModel, spec: Spec, objective: Objective) -> None:
        super().__init__(model, spec, objective)
        self.config = config
        features, outputs = feature_size(model), spec.action_dim * (1 if spec.discrete else 2)
        self.policy_network = EluMLP(features, config.units, config.actor_layers, outputs)
        self.critic = EluMLP(features, config.units, config.critic_layers, 1)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {"actor": list(self.policy_network.parameters()), "critic": list(self.critic.parameters())}

    # ---- acting ----

    def imagined_rows(self, rows: int) -> int:
        return rows * self.config.horizon

    def initial(self, n: int) -> Stateless:
        return Stateless(torch.zeros(n, 0))

    def policy(self, features: Tensor) -> Policy:
        """What it would do, seeing features (..., F)."""
        output = self.policy_network(features)
        return OneHotCategorical.from_output(output) if self.spec.discrete else TanhNormal.from_output(output)

    def act(
        self, state: State, carry: Stateless, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Stateless, ActorInfo]:
        action = choose_action(self.policy(self.model.features(state)), mode, self.config.evaluate_with, generator)
        if mode == "explore":
            action = add_exploration_noise(self.spec, action, self.config.exploration_noise, generator)
        info = no_plan(len(action), self.spec, action.device)
        return action, carry, info._replace(predicted_return=self.expected_return(state) / self.discount)

    @property
    def discount(self) -> float:
        return self.config.discount

    def value(self, features: Tensor) -> Tensor:
        """The expected discounted return of states with features (..., F), their own reward included: (...)."""
        return self.critic(features).squeeze(-1).float()

    def expected_return(self, state: State) -> Tensor:
        """The discounted return that is still to come after arriving in a state that is no end, (N,)."""
        value = self.value(self.model.features(state))
        return return_after(self.model, self.objective, state, value, self.spec.action_dim)

    # ---- learning ----

    def loss(self, batch: Batch, states: State) -> tuple[Tensor, dict[str, Tensor]]:
        config, start = self.config, tree_map(Tensor.detach, merge_time(states))
        with frozen(self.model, self.objective, self.critic):
            path = imagine_trajectory(
                self.model, self.objective, start, batch.action.flatten(0, 1), self.policy, config.horizon
            )
            value = self.value(path.features[1:])  # (H, N)
            discount = config.discount * path.continues[1:]
            returns = lambda_return_with_own_reward(path.reward[1:], discount, value, config.return_lambda)
        alive = 1 - batch.terminal.flatten().float()
        weight = alive * survival_before(discount.detach())[:-1]  # (H - 1, N)
        error = unit_nll(returns.detach(), self.value(path.features[1:-1].detach()))
        losses = {"actor": -(weight * returns).mean(), "critic": (weight * error).mean()}
        metrics = {f"loss_{name}": loss for name, loss in losses.items()}
        metrics |= {"return": returns.mean(), "value": value.mean(), "weight": weight.mean()}
        return losses["actor"] + losses["critic"], metrics
