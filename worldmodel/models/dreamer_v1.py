"""The world model of Dreamer (Hafner et al. 2020, arXiv 1912.01603): PlaNet's RSSM with another GRU, and ELU.

    belief      h_t = GRU(elu(W [z_{t-1}, a_t]), h_{t-1})
    prior       p(z_t | h_t)            the state that is imagined, Gaussian
    posterior   q(z_t | h_t, image_t)   the state that is observed
    heads       image, reward and optionally the probability to continue, from [z_t, h_t]

    loss = -log N(image_t; decoded, 1) - log N(r_t; predicted, 1) + max(free nats, mean KL(q || p))

Pixels and latent dimensions are summed, batch and time averaged; the free nats are taken off the average (T8). The
densities' constants are left out. a_t is the action that led to row t.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from worldmodel.base import Batch, ModelConfig, Spec, WorldModel, merge_time, tree_stack
from worldmodel.networks import data_parallel, gaussian
from worldmodel.networks.convolutional import Decoder, Depths, Encoder, Kernels, image_too_small
from worldmodel.networks.dense import dense, glorot
from worldmodel.networks.elu import EluMLP
from worldmodel.networks.reset_after_gru import ResetAfterGRUCell


class Config(ModelConfig):
    deter: int = Field(ge=1, le=16384)  # units of h
    stoch: int = Field(ge=1, le=4096)  # dimensions of z
    hidden: int = Field(ge=1, le=16384)
    min_std: float = Field(ge=1e-6, le=1)
    # channels of the encoder's convolutions; the decoder mirrors them
    depths: Depths
    kernels: Kernels  # the decoder's transposed convolutions
    units: int = Field(ge=1, le=16384)  # of the reward and the continue head
    reward_layers: int = Field(ge=0, le=8)
    continue_layers: int = Field(ge=0, le=8)
    free_nats: float = Field(ge=0, le=1e9)
    kl_weight: float = Field(ge=0, le=1e9)
    continue_weight: float = Field(ge=0, le=1e9)  # 0 builds no continue head: for tasks that never terminate
    continue_discount: float = Field(gt=0, le=1)  # the head's target where life goes on; `continues` divides it out

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if len(self.depths) != len(self.kernels):
            raise ValueError(
                f"depths has {len(self.depths)} layers but kernels has {len(self.kernels)}: make them equal"
            )
        return self

    def idle_keys(self) -> dict[str, str]:
        """The keys that do nothing beside these values, and why."""
        why = "there is no continue head, continue_weight=0"
        return {} if self.continue_weight else {"continue_layers": why, "continue_discount": why}

    def image_size_error(self, size: Sequence[int]) -> str | None:
        return image_too_small(size, len(self.depths))


def build(config: Config, spec: Spec) -> "DreamerV1":
    return DreamerV1(config, spec)


class State(NamedTuple):
    """deter is h (N, D); mean, std and sample stoch are z's (N, S): the posterior's, or if imagined the prior's."""

    deter: Tensor
    mean: Tensor
    std: Tensor
    stoch: Tensor


class DreamerV1(WorldModel):
    step_methods = ("imagine", "obs_step")

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config = config
        features = config.deter + config.stoch
        self.encoder = Encoder(spec.image_shape, config.depths)
        self.decoder = Decoder(features, spec.image_shape, config.depths, config.kernels)
        self.input_proj = glorot(nn.Linear(config.stoch + spec.action_dim, config.hidden))
        self.gru = ResetAfterGRUCell(config.hidden, config.deter)
        self.prior = EluMLP(config.deter, config.hidden, 1, 2 * config.stoch)
        # One dense layer on [h, embedding], kept as two halves: the image's half runs once for all of time.
        joint = glorot(nn.Linear(config.deter + self.encoder.size, config.hidden))
        self.posterior_belief = nn.Linear(config.deter, config.hidden)
        self.posterior_image = nn.Linear(self.encoder.size, config.hidden, bias=False)
        with torch.no_grad():
            self.posterior_belief.weight.copy_(joint.weight[:, : config.deter])
            self.posterior_image.weight.copy_(joint.weight[:, config.deter :])
            self.posterior_belief.bias.zero_()
        self.posterior = glorot(nn.Linear(config.hidden, 2 * config.stoch))
        self.reward_head = EluMLP(features, config.units, config.reward_layers, 1)
        if config.continue_weight:
            self.continue_head = EluMLP(features, config.units, config.continue_layers, 1)

    # ---- the interface ----

    def initial(self, n: int) -> State:
        zeros = self.input_proj.weight.new_zeros
        return State(zeros(n, self.config.deter), *(zeros(n, self.config.stoch) for _ in range(3)))

    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        return self.obs_step(state, action, self.embed(self.preprocess(image)), first)[0]

    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        belief = self.core(state, action)
        return self.make_state(belief, self.prior(belief), temperature)

    def features(self, state: State) -> Tensor:
        return torch.cat([state.stoch, state.deter], -1)

    def reward(self, state: State) -> Tensor:
        return self.reward_head(self.features(state)).squeeze(-1).float()

    def continues(self, state: State) -> Tensor:
        if not self.config.continue_weight:
            return state.stoch.new_ones(state.stoch.shape[:-1])
        discounted = self.continue_head(self.features(state)).squeeze(-1).float().sigmoid()
        return (discounted / self.config.continue_discount).clamp(max=1)

    def decode(self, state: State) -> Tensor:
        return self.decoder(self.features(state)).float() + 0.5

    # ---- one step ----

    def preprocess(self, image: Tensor) -> Tensor:
        return image.float() / 255 - 0.5

    def embed(self, image: Tensor) -> Tensor:
        """Preprocessed images (N, C, Y, X) -> the image's share of the posterior's hidden layer, (N, hidden)."""
        return self.posterior_image(self.encoder(image))

    def core(self, state: State, action: Tensor) -> Tensor:
        """The belief h before the image is seen, (N, D)."""
        return self.gru(F.elu(dense(self.input_proj, torch.cat([state.stoch, action], -1))), state.deter)

    def make_state(self, belief: Tensor, statistics: Tensor, temperature: float = 1.0) -> State:
        """A state from a belief and the raw mean and std of z, sampled at a temperature."""
        mean, std = statistics.float().chunk(2, -1)
        std = gaussian.softplus(std) + self.config.min_std
        return State(belief, mean, std, gaussian.sample(mean, std, temperature))

    def obs_step(self, state: State, action: Tensor, embed: Tensor, first: Tensor) -> tuple[State, Tensor]:
        """One step of observing: the posterior state, and the belief that the prior reads."""
        # An episode's first row has no past, and no action before it. Only deter and stoch are carried on.
        deter, stoch, action = (torch.where(first[:, None], 0.0, a) for a in (state.deter, state.stoch, action))
        belief = self.core(state._replace(deter=deter, stoch=stoch), action)
        statistics = dense(self.posterior, F.elu(dense(self.posterior_belief, belief) + embed))
        return self.make_state(belief, statistics), belief

    # ---- learning ----

    def loss(self, batch: Batch, part: str = "model") -> tuple[Tensor, State, dict[str, Tensor]]:
        length = batch.reward.shape[1]
        image = self.preprocess(batch.image)  # (B, T, C, Y, X)
        embed = self.embed(image.flatten(0, 1)).unflatten(0, (-1, length))  # (B, T, hidden)
        state, first = self.begin(batch)
        steps, beliefs = [], []
        for t in range(length):
            state, belief = self.obs_step(state, batch.action[:, t], embed[:, t], first[:, t])
            steps.append(state)
            beliefs.append(belief)
        states = tree_stack(steps)  # (B, T, ...)
        flat, belief = merge_time(states), torch.stack(beliefs, 1).flatten(0, 1)
        prior = self.make_state(belief, self.prior(belief), 0)
        divergence = data_parallel.mean(gaussian.kl(flat.mean, flat.std, prior.mean, prior.std).mean())
        losses, metrics = self.heads(flat, batch, image)
        losses["kl"] = self.config.kl_weight * divergence.clamp(min=self.config.free_nats)
        metrics |= {
            "kl": divergence,
            "entropy_prior": gaussian.entropy(prior.std).mean(),
            "entropy_posterior": gaussian.entropy(flat.std).mean(),
        }
        metrics |= {f"loss_{name}": value for name, value in losses.items()}
        return torch.stack(list(losses.values())).sum(), states, metrics

    def heads(self, flat: State, batch: Batch, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted losses of what is read from states (N, ...), and metrics."""
        config, features = self.config, self.features(flat)  # (N, F)
        reward, target = self.reward_head(features).squeeze(-1).float(), batch.reward.flatten()
        losses = {
            # Half the squared error, as in unit_nll.
            "image": 0.5 * gaussian.sum_squared_error(image.flatten(0, 1), self.decoder(features).float()),
            "reward": gaussian.unit_nll(target, reward).mean(),
        }
        if config.continue_weight:
            logit = self.continue_head(features).squeeze(-1).float()
            goes_on = config.continue_discount * (1 - batch.terminal.flatten().float())
            losses["continue"] = config.continue_weight * F.binary_cross_entropy_with_logits(logit, goes_on)
        return losses, {"reward_mae": (reward - target).abs().mean()}
