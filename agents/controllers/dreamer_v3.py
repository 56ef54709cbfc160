"""DreamerV3's actor and critic (Hafner et al. 2025, arXiv 2301.04104v2, section "Critic learning" and the next).

From every state s_0 of a batch H steps are dreamt with actions a_i ~ pi(s_i), without gradients. Per step:

    return    R_i = r_{i+1} + c_{i+1} [(1 - l) v_{i+1} + l R_{i+1}],  R_H = v_H       c: discount x probability to go on
    weight    w_i = c_0 c_1 ... c_i                                   what follows a death does not count, nor does it
    critic    w_i [CE(two-hot(R_i), v(s_i)) + CE(two-hot(slow_i), v(s_i))]     slow: its own moving average's mean
    actor     -w_i [log pi(a_i | s_i) (R_i - v_i) / S + eta entropy_i]         S: the range of returns, at least 1

and the critic learns from the replayed rows themselves, too, with the dreams' returns as values. Only this loss reaches
the world model: its states learn to tell values apart.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from agents.base import Actor, ActorInfo, Mode, Objective, Stateless, no_plan
from agents.controllers.trajectory import (
    EvaluateWith,
    Policy,
    Trajectory,
    choose_action,
    ema_update,
    feature_size,
    imagine_trajectory,
    target_network,
)
from agents.returns import ReturnScale, lambda_return, replay_return, survival
from worldmodel.base import Batch, Spec, State, StrictConfig, WorldModel, merge_time, tree_map
from worldmodel.networks import two_hot
from worldmodel.networks.dense import dense, packed_weights
from worldmodel.networks.policies import BoundedNormal, OneHotCategorical
from worldmodel.networks.rms_norm_mlp import MLP, NormLinear, linear


class Config(StrictConfig):
    name: str
    units: int = Field(ge=1, le=16384)
    layers: int = Field(ge=1, le=8)  # of the actor and of the critic
    output_scale: float = Field(ge=0, le=1000)  # of the actor's last weights at the beginning
    unimix: float = Field(ge=0, lt=1)  # share of the uniform distribution in discrete actions; 2023: 0.01
    bins: two_hot.Bins  # of the critic's distribution
    horizon: int = Field(ge=1, le=1000)  # H, actions of a dream
    starts: int | None = Field(ge=1, le=100_000)  # dream from the last so many rows of every sequence; None: from all
    discount_horizon: float = Field(gt=1, le=1e9)  # h in the discount 1 - 1/h
    return_lambda: float = Field(ge=0, le=1)
    return_scale_rate: float = Field(gt=0, le=1)  # the newest batch's share of the moving range S
    entropy_weight: float = Field(ge=0, le=1e9)  # eta
    slow_rate: float = Field(gt=0, le=1)  # the critic's share of its moving average, at every update
    slow_weight: float = Field(ge=0, le=1e9)  # of the loss that holds the critic to it
    replay_weight: float = Field(ge=0, le=1e9)  # of the critic's loss on replayed rows
    evaluate_with: EvaluateWith


def build(config: Config, model: WorldModel, spec: Spec, objective: Objective) -> "DreamerV3":
    return DreamerV3(config, model, spec, objective)


class PolicyNetwork(nn.Module):
    """Dense layers, then a linear one for each of the distribution's parameters: (..., F) -> (..., outputs). They stay
    apart, because gradient clipping looks at each tensor's norm.
    """

    def __init__(self, inputs: int, config: Config, spec: Spec) -> None:
        super().__init__()
        sizes = [inputs] + [config.units] * (config.layers - 1)
        self.hidden = nn.Sequential(*(NormLinear(size, config.units) for size in sizes))
        count = 1 if spec.discrete else 2  # logits, or mean and std
        self.outputs = nn.ModuleList(linear(config.units, spec.action_dim, config.output_scale) for _ in range(count))

    def forward(self, features: Tensor) -> Tensor:
        x = self.hidden(features)
        return torch.cat([dense(layer, x) for layer in self.outputs if isinstance(layer, nn.Linear)], -1)


class DreamerV3(Actor):
    objective: Objective
    bins: Tensor  # (K,)

    def __init__(self, config: Config, model: WorldModel, spec: Spec, objective: Objective) -> None:
        super().__init__(model, spec, objective)
        self.config = config
        features = feature_size(model)
        self.policy_network = PolicyNetwork(features, config, spec)
        self.critic = MLP(features, config.units, config.layers, config.bins, 0.0)  # begins by saying 0
        self.slow_critic = target_network(self.critic)
        self.return_scale = ReturnScale(config.return_scale_rate)
        self.register_buffer("bins", two_hot.symexp_bins(config.bins), persistent=False)

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
        # What an environment would do with it; and to the model, which limits actions, it is the same.
        info = no_plan(len(action), self.spec, action.device)._replace(predicted_return=self.value(features))
        return action.clamp(-1, 1), carry, info

    def value(self, features: Tensor) -> Tensor:
        """The discounted return that is expected after states with features (..., F): (...)."""
        return two_hot.mean(self.critic(features), self.bins)

    def expected_return(self, state: State) -> Tensor:
        """The discounted return that is still to come after arriving in a state, (N,)."""
        return self.value(self.model.features(state))

    # ---- learning ----

    def loss(self, batch: Batch, states: State) -> tuple[Tensor, dict[str, Tensor]]:
        config, rows = self.config, slice(-(self.config.starts or 0), None)
        batch, states = tree_map(lambda a: a[:, rows], (batch._replace(extras={}), states))
        with torch.no_grad(), packed_weights():
            path = imagine_trajectory(self.model, self.objective, merge_time(states), batch.action.flatten(0, 1),
                                      self.policy, config.horizon, clip_actions=True)  # fmt: skip
            discount = self.discount * path.continues  # c_0 .. c_H
        logits = self.critic(path.features)  # (H + 1, N, K)
        value = two_hot.mean(logits.detach(), self.bins)
        returns = lambda_return(path.reward, discount, value, config.return_lambda)  # (H, N)
        weight = survival(discount)[:-1]
        losses, metrics = self.actor_loss(path, returns - value[:-1], self.return_scale.update(returns), weight)
        losses["critic"] = (weight * self.critic_loss(logits[:-1], returns, path.features[:-1])).mean()
        # What was replayed are rewards: a critic of something else learns from dreams alone.
        if config.replay_weight and batch.reward.shape[1] > 1 and self.objective.in_reward_units:
            losses["replay"] = config.replay_weight * self.replay_loss(batch, states, returns[0])
        metrics |= {f"loss_{name}": loss for name, loss in losses.items()}
        metrics |= {"return": returns.mean(), "value": value.mean(), "weight": weight.mean()}
        return torch.stack(list(losses.values())).sum(), metrics

    @property
    def discount(self) -> float:
        return 1 - 1 / self.config.discount_horizon

    def actor_loss(
        self, path: Trajectory, advantage: Tensor, scale: Tensor, weight: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """REINFORCE. Advantages and weights (H, N)."""
        policy = self.policy(path.features[:-1])
        entropy = policy.entropy()
        gain = policy.log_prob(path.action) * advantage / scale + self.config.entropy_weight * entropy
        metrics = {"return_scale": scale, "entropy": entropy.mean(), "advantage": (advantage / scale).abs().mean()}
        return {"actor": -(weight * gain).mean()}, metrics

    def critic_loss(self, logits: Tensor, returns: Tensor, features: Tensor) -> Tensor:
        """Cross-entropy to the returns and to the slow critic's mean, which holds it back: (..., K) -> (...)."""
        with torch.no_grad():
            slow = two_hot.mean(self.slow_critic(features), self.bins)
        held = self.config.slow_weight * two_hot.loss(logits, slow, self.bins)
        return two_hot.loss(logits, returns, self.bins) + held

    def replay_loss(self, batch: Batch, states: State, imagined: Tensor) -> Tensor:
        """The critic's loss on replayed rows (B, T), from the returns (B*T,) that were imagined from each of them."""
        length = batch.reward.shape[1]
        features = self.model.features(merge_time(states)).unflatten(0, (-1, length))  # (B, T, F)
        features = features.transpose(0, 1).contiguous()  # else the slow critic's matrix is copied for every t
        returns, counts = replay_return(
            batch.reward.T, batch.first.T, batch.terminal.T, imagined.view(-1, length).T, self.discount,
            self.config.return_lambda,
        )  # fmt: skip
        return (counts * self.critic_loss(self.critic(features[:-1]), returns, features[:-1])).mean()

    def after_update(self, updated: Tensor) -> None:
        ema_update(self.slow_critic, self.critic, self.config.slow_rate * updated)
        self.return_scale.keep_if(updated)
