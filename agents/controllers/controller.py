"""A small network whose weights are one vector, so that they can be evolved: World Models' C."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.base import Actor, ActorInfo, Mode, Stateless, add_exploration_noise, no_plan
from worldmodel.base import ConfigError, Spec, State, WorldModel


class Controller:
    """A network of no or one hidden layer, whose weights are a vector.

    Their order, which never changes: [matrix of the hidden layer, one row per unit; its biases;] matrix of the outputs,
    one row per output; their biases. Many vectors at once act on a batch in which each has its block of rows.
    """

    def __init__(
        self, spec: Spec, features: int, hidden: int, bias: bool, num_features: int | None, ordinal_actions: bool
    ) -> None:
        if ordinal_actions and not spec.discrete:
            raise ConfigError(["actor.ordinal_actions: only discrete actions can be cut from a scale: use false"])
        if (num_features or 0) > features:
            raise ConfigError([f"actor.num_features: the model has only {features} features: use that many or fewer"])
        self.spec, self.bias, self.ordinal_actions = spec, bias, ordinal_actions
        self.num_features = num_features or features
        outputs = 1 if ordinal_actions else spec.action_dim
        widths = [self.num_features, *[hidden] * (hidden > 0), outputs]
        self.layers = list(pairwise(widths))
        self.size = sum(here * there + there * self.bias for here, there in self.layers)

    def policy(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Weights (P, size) become a function of features (P*R, F), block after block, to actions (P*R, A).

        It computes in float32 whatever the model does: bfloat16 would round the candidates to the same few weights.
        """
        weights, at, layers = weights.float(), 0, []
        for here, there in self.layers:
            matrix = weights[:, at : at + here * there].unflatten(1, (there, here)).mT  # (P, here, there)
            at += here * there
            bias = weights[:, at : at + there * self.bias]
            at += there * self.bias
            layers.append((matrix, bias[:, None] if self.bias else weights.new_zeros(1, 1, there)))

        def act(features: Tensor) -> Tensor:
            with torch.autocast(features.device.type, enabled=False):
                x = features[:, : self.num_features].float().unflatten(0, (len(weights), -1))  # (P, R, F)
                for number, (matrix, bias) in enumerate(layers):
                    x = torch.baddbmm(bias, x.tanh() if number else x, matrix)
                return self.action(x.flatten(0, 1))

        return act

    def action(self, output: Tensor) -> Tensor:
        """Outputs (N, O) -> actions (N, A)."""
        if not self.spec.discrete:
            return output.tanh()
        count = self.spec.action_dim
        if not self.ordinal_actions:
            return F.one_hot(output.argmax(-1), count).float()
        index = ((output[:, 0].tanh() + 1) / 2 * count).nan_to_num().clamp(0, count - 1).long()
        return F.one_hot(index, count).float()


class ControllerActor(Actor):
    """Acts by a controller with given weights (size,)."""

    def __init__(self, controller: Controller, weights: Tensor, noise: float, model: WorldModel, spec: Spec) -> None:
        super().__init__(model, spec)
        self.policy, self.noise = controller.policy(weights[None]), noise

    def initial(self, n: int) -> Stateless:
        return Stateless(torch.zeros(n, 0))

    def act(
        self, state: State, carry: Stateless, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Stateless, ActorInfo]:
        action = self.policy(self.model.features(state))
        if mode == "explore" and self.noise:
            action = add_exploration_noise(self.spec, action, self.noise, generator)
        return action, carry, no_plan(len(action), self.spec, action.device)
