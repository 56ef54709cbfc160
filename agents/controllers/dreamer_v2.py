"""DreamerV2's actor and critic (Hafner et al. 2021, arXiv 2010.02193, section 2.2).

From every state z_0 of a batch H steps are dreamt, with actions a_i ~ pi(z_i) leading to z_{i+1}. Per step, with d the
discount times the probability to go on, and v' a copy of the critic, renewed every 100 updates:

    target    t_i = r_i + d_i [(1 - l) v'_{i+1} + l t_{i+1}],  t_H = v'_H            r_i: the reward of being in z_i
    weight    w_0 = 1, w_i = d_0 ... d_{i-1}
    critic    w_i (v(z_i) - t_i)^2 / 2                                               i = 0 .. H - 1
    actor     -w_i [t_{i+1} + eta entropy_i]                             dynamics    i = 0 .. H - 2 (T4)
    actor     -w_i [log pi(a_i | z_i) sg(t_{i+1} - v'_i) + eta entropy_i]            reinforce

"dynamics", for continuous actions, follows the target's gradient through the dream into the actions. No gradient
reaches the model.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from agents.base import Actor, ActorInfo, Mode, Objective, Stateless, no_plan
from agents.controllers.trajectory import (
    EvaluateWith,
    Policy,
    choose_action,
    copy_where,
    feature_size,
    frozen,
    imagine_trajectory,
    return_after,
    target_network,
)
from agents.returns import lambda_return_with_own_reward, survival_before
from worldmodel.base import Batch, Spec, State, StrictConfig, WorldModel, merge_time, tree_map
from worldmodel.networks.elu import EluMLP
from worldmodel.networks.gaussian import unit_nll
from worldmodel.networks.policies import OneHotCategorical, TruncatedNormal


class Config(StrictConfig):
    name: str
    units: int = Field(ge=1, le=16384)
    layers: int = Field(ge=0, le=8)  # of the actor and of the critic
    gradient: Literal["auto", "dynamics", "reinforce"]  # auto: reinforce for discrete actions
    horizon: int = Field(ge=2, le=1000)  # H, actions of a dream
    discount: float = Field(gt=0, le=1)
    return_lambda: float = Field(ge=0, le=1)
    entropy_weight: float = Field(ge=0, le=1e9)  # eta
    slow_every: int = Field(ge=1, le=10**9)  # updates between two copies of the critic
    evaluate_with: EvaluateWith


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "DreamerV2":
    return DreamerV2(config, model, spec, objective)


class DreamerV2(Actor):
    objective: Objective
    updates: Tensor  # () so many

    def __init__(self, config: Config, model: WorldModel, spec: Spec, objective: Objective) -> None:
        super().__init__(model, spec, objective)
        self.config = config
        features, outputs = feature_size(model), [spec.action_dim] * (1 if spec.discrete else 2)
        self.policy_network = EluMLP(features, config.units, config.layers, *outputs)
        self.critic = EluMLP(features, config.units, config.layers, 1)
        self.slow_critic = target_network(self.critic)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

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
        return OneHotCategorical.from_output(output) if self.spec.discrete else TruncatedNormal.from_output(output)

    def act(
        self, state: State, carry: Stateless, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Stateless, ActorInfo]:
        action = choose_action(self.policy(self.model.features(state)), mode, self.config.evaluate_with, generator)
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
        through = self.gradient == "dynamics"
        with frozen(self.model, self.objective) if through else torch.no_grad():
            path = imagine_trajectory(
                self.model, self.objective, start, batch.action.flatten(0, 1), self.policy, config.horizon
            )
            slow = self.slow_critic(path.features).squeeze(-1).float()  # (H + 1, N)
            alive = 1 - batch.terminal.flatten().float()  # of the start it is known
            discount = config.discount * torch.cat([alive[None], path.continues[1:]])
            targets = lambda_return_with_own_reward(path.reward, discount, slow, config.return_lambda)  # (H, N)
        weight = survival_before(discount.detach())[:-1]
        policy = self.policy(path.features[:-2].detach())
        if through:
            gain = targets[1:]
        else:
            gain = policy.log_prob(path.action[:-1].detach()) * (targets[1:] - slow[:-2])
        entropy = policy.entropy()
        error = unit_nll(targets.detach(), self.value(path.features[:-1].detach()))
        losses = {
            "actor": -(weight[:-1] * (gain + config.entropy_weight * entropy)).mean(),
            "critic": (weight * error).mean(),
        }
        metrics = {f"loss_{name}": loss for name, loss in losses.items()}
        metrics |= {"return": targets.mean(), "value": slow.mean(), "entropy": entropy.mean(), "weight": weight.mean()}
        return losses["actor"] + losses["critic"], metrics

    @property
    def gradient(self) -> str:
        if self.config.gradient == "auto":
            return "reinforce" if self.spec.discrete else "dynamics"
        return self.config.gradient

    def after_update(self, updated: Tensor) -> None:
        due = (self.updates % self.config.slow_every == 0) & (updated > 0)
        copy_where(due, self.slow_critic, self.critic)
        self.updates += updated.to(self.updates.dtype)
