"""The world model of DreamerV2 (Hafner et al. 2021, arXiv 2010.02193): an RSSM with a latent of S categoricals.

    belief      h_t = GRU(elu(W [z_{t-1}, a_t]), h_{t-1})
    prior       p(z_t | h_t)            the state that is imagined
    posterior   q(z_t | h_t, image_t)   the state that is observed; samples are differentiable straight-through
    heads       image, reward and optionally the probability to continue, from [z_t, h_t]

    loss = -log N(image_t; decoded, 1) - log N(r_t; predicted, 1) + KL loss
    KL loss = b max(free, mean KL(sg q || p)) + (1 - b) max(free, mean KL(q || sg p))        (eq. 2 and algorithm 2)

The balance b = .8 lets the prior learn faster than the posterior gives way (T7); sg stops the gradient. Pixels and
latents are summed, batch and time averaged; the free nats are taken off the averages. The densities' constants are
left out. a_t is the action that led to row t.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from worldmodel.base import Batch, ModelConfig, Spec, WorldModel, force_first, merge_time, tree_stack
from worldmodel.networks import categorical, data_parallel, gaussian
from worldmodel.networks.convolutional import Depths, Kernels, image_too_small
from worldmodel.networks.dense import dense, glorot
from worldmodel.networks.elu import EluDecoder, EluEncoder, EluMLP
from worldmodel.networks.layer_norm_gru import LayerNormGRUCell


class Config(ModelConfig):
    deter: int = Field(ge=1, le=16384)  # units of h
    stoch: int = Field(ge=1, le=1024)  # latents
    classes: int = Field(ge=2, le=1024)  # of each latent
    hidden: int = Field(ge=1, le=16384)
    # channels of the encoder's convolutions; the decoder mirrors them
    depths: Depths
    kernels: Kernels  # the decoder's transposed convolutions
    units: int = Field(ge=1, le=16384)  # of the reward and the continue head
    layers: int = Field(ge=0, le=8)  # of both
    free_nats: float = Field(ge=0, le=1e9)
    kl_balance: float = Field(ge=0, le=1)  # the share of the term that trains the prior
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
        return {} if self.continue_weight else {"continue_discount": why}

    def image_size_error(self, size: Sequence[int]) -> str | None:
        return image_too_small(size, len(self.depths))


def build(config: Config, spec: Spec) -> "DreamerV2":
    return DreamerV2(config, spec)


class State(NamedTuple):
    """deter is h (N, D); log_p, log-probabilities, and the one-hot sample stoch are z's, (N, S, C): the posterior's, or
    if imagined the prior's.
    """

    deter: Tensor
    log_p: Tensor
    stoch: Tensor


class DreamerV2(WorldModel):
    step_methods = ("imagine", "obs_step")

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config = config
        latent = config.stoch * config.classes
        features = config.deter + latent
        self.encoder = EluEncoder(spec.image_shape, config.depths)
        self.decoder = EluDecoder(features, spec.image_shape, config.depths, config.kernels)
        self.input_proj = glorot(nn.Linear(latent + spec.action_dim, config.hidden))
        self.gru = glorot(LayerNormGRUCell(config.hidden, config.deter, bias=True))
        self.prior = EluMLP(config.deter, config.hidden, 1, latent)
        # One dense layer on [h, embedding], kept as two halves: the image's half runs once for all of time.
        joint = glorot(nn.Linear(config.deter + self.encoder.size, config.hidden))
        self.posterior_belief = nn.Linear(config.deter, config.hidden)
        self.posterior_image = nn.Linear(self.encoder.size, config.hidden, bias=False)
        with torch.no_grad():
            self.posterior_belief.weight.copy_(joint.weight[:, : config.deter])
            self.posterior_image.weight.copy_(joint.weight[:, config.deter :])
            self.posterior_belief.bias.zero_()
        self.posterior = glorot(nn.Linear(config.hidden, latent))
        self.reward_head = EluMLP(features, config.units, config.layers, 1)
        if config.continue_weight:
            self.continue_head = EluMLP(features, config.units, config.layers, 1)

    # ---- the interface ----

    def initial(self, n: int) -> State:
        zeros, shape = self.input_proj.weight.new_zeros, (n, self.config.stoch, self.config.classes)
        return State(zeros(n, self.config.deter), zeros(shape), zeros(shape))

    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        return self.obs_step(state, action, self.embed(self.preprocess(image)), first)[0]

    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        belief = self.core(state, action)
        return self.make_state(belief, self.prior(belief), temperature)

    def features(self, state: State) -> Tensor:
        return torch.cat([state.stoch.flatten(-2), state.deter], -1)

    def reward(self, state: State) -> Tensor:
        return self.reward_head(self.features(state)).squeeze(-1).float()

    def continues(self, state: State) -> Tensor:
        if not self.config.continue_weight:
            return state.deter.new_ones(state.deter.shape[:-1])
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
        entering = torch.cat([state.stoch.flatten(-2), action], -1)
        return self.gru(F.elu(dense(self.input_proj, entering)), state.deter)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Logits (N, S*C) -> log-probabilities (N, S, C)."""
        return categorical.log_probs(logits.unflatten(-1, (self.config.stoch, self.config.classes)))

    def make_state(self, belief: Tensor, logits: Tensor, temperature: float = 1.0) -> State:
        """A state from a belief and z's logits, sampled at a temperature."""
        log_p = self.log_probs(logits)
        return State(belief, log_p, categorical.sample(log_p, temperature))

    def obs_step(self, state: State, action: Tensor, embed: Tensor, first: Tensor) -> tuple[State, Tensor]:
        """One step of observing: the posterior state, and the belief that the prior reads."""
        # An episode's first row has no past, and no action before it. Only deter and stoch are carried on.
        deter, action = (torch.where(first[:, None], 0.0, a) for a in (state.deter, action))
        stoch = torch.where(first[:, None, None], 0.0, state.stoch)
        belief = self.core(state._replace(deter=deter, stoch=stoch), action)
        logits = dense(self.posterior, F.elu(dense(self.posterior_belief, belief) + embed))
        return self.make_state(belief, logits), belief

    # ---- learning ----

    def begin(self, batch: Batch) -> tuple[State, Tensor]:
        return self.initial(len(batch.reward)), force_first(batch.first)

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
        log_p = self.log_probs(self.prior(belief))
        losses, metrics = self.heads(flat, batch, image)
        divergence, metrics["kl"] = kl_loss(flat.log_p, log_p, self.config.kl_balance, self.config.free_nats)
        losses["kl"] = self.config.kl_weight * divergence
        metrics |= {
            "entropy_prior": categorical.entropy(log_p).mean(),
            "entropy_posterior": categorical.entropy(flat.log_p).mean(),
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


def kl_loss(log_q: Tensor, log_p: Tensor, balance: float, free_nats: float) -> tuple[Tensor, Tensor]:
    """The balanced loss, and the KL itself, averaged over rows: q the posterior and p the prior, (N, S, C) -> ()."""
    for_prior = data_parallel.mean(categorical.kl(log_q.detach(), log_p).mean())
    for_posterior = data_parallel.mean(categorical.kl(log_q, log_p.detach()).mean())
    weighed = torch.lerp(for_posterior.clamp(min=free_nats), for_prior.clamp(min=free_nats), balance)
    return weighed, for_prior.detach()
