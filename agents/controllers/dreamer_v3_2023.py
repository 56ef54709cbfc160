"""DreamerV3's actor and critic as first released (Hafner et al. 2023, arXiv 2301.04104v1).

From every state s_0 of a batch H steps are dreamt with actions a_i ~ pi(s_i). Per step, with the discount g, and c in
{0, 1}, whether a state is likelier to go on than not (of s_0 it is known):

    return    R_i = r_{i+1} + g c_{i+1} [(1 - l) v_{i+1} + l R_{i+1}],  R_H = v_H
    weight    w_i = g^i c_0 c_1 ... c_i
    critic    w_i [CE(two-hot(symlog R_i), v(s_i)) + CE(two-hot(symlog slow_i), v(s_i))]   slow: its own moving average
    actor     -w_i [(R_i - v_i) / S + eta entropy_i]                               backprop: continuous actions
    actor     -w_i [log pi(a_i | s_i) sg(R_i - v_i) / S + eta entropy_i]           reinforce: discrete actions

"backprop" follows the gradient of return and baseline through the dream into the actions. S is the range of returns, at
least 1. No gradient reaches the model. The bins of values live in symlog space.
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
    ema_update,
    feature_size,
    frozen,
    imagine_trajectory,
    target_network,
)
from agents.returns import ReturnScale, lambda_return, survival
from worldmodel.base import Batch, Spec, State, StrictConfig, WorldModel, merge_time, tree_map
from worldmodel.networks import two_hot
from worldmodel.networks.dense import dense, glorot
from worldmodel.networks.layer_norm_mlp import MLP, NormLinear
from worldmodel.networks.policies import BoundedNormal, OneHotCategorical


class Config(StrictConfig):
    name: str
    units: int = Field(ge=1, le=16384)
    layers: int = Field(ge=1, le=8)  # of the actor and of the critic
    unimix: float = Field(ge=0, lt=1)  # share of the uniform distribution in discrete actions
    bins: two_hot.Bins  # of the critic's distribution
    gradient: Literal["auto", "backprop", "reinforce"]  # auto: reinforce for discrete actions
    horizon: int = Field(ge=1, le=1000)  # H, actions of a dream
    starts: int | None = Field(ge=1, le=1_000_000)  # dream from the last so many rows of every sequence; None: from all
    discount_horizon: float = Field(gt=1, le=1e9)  # h in the discount g = 1 - 1/h
    return_lambda: float = Field(ge=0, le=1)
    return_scale_rate: float = Field(gt=0, le=1)  # the newest batch's share of the moving range S
    entropy_weight: float = Field(ge=0, le=1e6)  # eta
    slow_rate: float = Field(gt=0, le=1)  # the critic's share of its moving average, at every update
    slow_weight: float = Field(ge=0, le=1e6)  # of the loss that holds the critic to it
    evaluate_with: EvaluateWith


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "DreamerV32023":
    return DreamerV32023(config, model, spec, objective)


class PolicyNetwork(nn.Module):
    """Dense layers, then a linear one for each of the distribution's parameters: (..., F) -> (..., outputs)."""

    def __init__(self, inputs: int, config: Config, spec: Spec) -> None:
        super().__init__()
        sizes = [inputs] + [config.units] * (config.layers - 1)
        self.hidden = nn.Sequential(*(NormLinear(size, config.units) for size in sizes))
        count = 1 if spec.discrete else 2  # logits, or mean and std
        self.outputs = nn.ModuleList(glorot(nn.Linear(config.units, spec.action_dim)) for _ in range(count))

    def forward(self, features: Tensor) -> Tensor:
        x = self.hidden(features)
        return torch.cat([dense(layer, x) for layer in self.outputs if isinstance(layer, nn.Linear)], -1)


class DreamerV32023(Actor):
    objective: Objective
    bins: Tensor  # (K,) in symlog space
    updates: Tensor  # () so many

    def __init__(self, config: Config, model: WorldModel, spec: Spec, objective: Objective) -> None:
        super().__init__(model, spec, objective)
        self.config = config
        features = feature_size(model)
        self.policy_network = PolicyNetwork(features, config, spec)
        self.critic = MLP(features, config.units, config.layers, config.bins, 0.0)  # begins by saying 0
        self.slow_critic = target_network(self.critic)
        self.return_scale = ReturnScale(config.return_scale_rate)
        self.register_buffer("bins", two_hot.symlog_bins(config.bins), persistent=False)
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
        if self.spec.discrete:
            return OneHotCategorical.from_output(output, self.config.unimix)
        return BoundedNormal.from_output(output)

    def act(
        self, state: State, carry: Stateless, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Stateless, ActorInfo]:
        features = self.model.features(state)
        action = choose_action(self.policy(features), mode, self.config.evaluate_with, generator)
        info = no_plan(len(action), self.spec, action.device)._replace(predicted_return=self.value(features))
        return action.clamp(-1, 1), carry, info

    @property
    def discount(self) -> float:
        return 1 - 1 / self.config.discount_horizon

    def value(self, features: Tensor) -> Tensor:
        """The discounted return that is expected after states with features (..., F): (...)."""
        return self.decode(self.critic(features))

    def decode(self, logits: Tensor) -> Tensor:
        """What the critic's logits (..., K) say: (...)."""
        return two_hot.symexp(two_hot.mean(logits, self.bins))

    def expected_return(self, state: State) -> Tensor:
        """The discounted return that is still to come after arriving in a state, (N,)."""
        return self.value(self.model.features(state))

    # ---- learning ----

    def loss(self, batch: Batch, states: State) -> tuple[Tensor, dict[str, Tensor]]:
        config, rows = self.config, slice(-(self.config.starts or 0), None)
        batch, states = tree_map(lambda a: a[:, rows], (batch._replace(extras={}), states))
        start, through = tree_map(Tensor.detach, merge_time(states)), self.gradient == "backprop"
        with frozen(self.model, self.objective, self.critic) if through else torch.no_grad():
            path = imagine_trajectory(
                self.model, self.objective, start, batch.action.flatten(0, 1), self.policy, config.horizon,
                clip_actions=True,
            )  # fmt: skip
            value = self.value(path.features)  # (H + 1, N)
            goes_on = torch.cat([~batch.terminal.flatten()[None], path.continues[1:] > 0.5]).float()
            discount = self.discount * goes_on
            returns = lambda_return(path.reward, discount, value, config.return_lambda)  # (H, N)
        weight = survival(torch.cat([goes_on[:1], discount[1:]]))[:-1]
        scale = self.return_scale.update(returns)
        advantage = (returns - value[:-1]) / scale
        features = path.features[:-1].detach()
        policy = self.policy(features)
        gain = advantage if through else policy.log_prob(path.action.detach()) * advantage
        entropy = policy.entropy()
        losses = {
            "actor": -(weight * (gain + config.entropy_weight * entropy)).mean(),
            "critic": (weight * self.critic_loss(returns.detach(), features)).mean(),
        }
        metrics = {f"loss_{name}": loss for name, loss in losses.items()}
        metrics |= {"return_scale": scale, "entropy": entropy.mean(), "advantage": advantage.abs().mean()}
        metrics |= {"return": returns.mean(), "value": value.mean(), "weight": weight.mean()}
        return losses["actor"] + losses["critic"], metrics

    @property
    def gradient(self) -> str:
        if self.config.gradient == "auto":
            return "reinforce" if self.spec.discrete else "backprop"
        return self.config.gradient

    def critic_loss(self, returns: Tensor, features: Tensor) -> Tensor:
        """Cross-entropy to the returns and to the slow critic's mean, which holds it back: (...), (..., F) -> (...)."""
        logits = self.critic(features)
        with torch.no_grad():
            slow = self.decode(self.slow_critic(features))
        held = self.config.slow_weight * two_hot.loss(logits, two_hot.symlog(slow), self.bins)
        return two_hot.loss(logits, two_hot.symlog(returns), self.bins) + held

    def after_update(self, updated: Tensor) -> None:
        rate = torch.where(self.updates == 0, 1.0, self.config.slow_rate)  # the first update copies
        ema_update(self.slow_critic, self.critic, rate * updated)
        self.return_scale.keep_if(updated)
        self.updates += updated.to(self.updates.dtype)
