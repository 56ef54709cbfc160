"""DreamerV3's world model (Hafner et al. 2025, arXiv 2301.04104v2): an RSSM with a block GRU and a categorical latent.

    belief      h_t = BlockGRU(h_{t-1}, [h_{t-1}, z_{t-1}, a_t], each through a layer of its own)
    prior       p(z_t | h_t)            the state that is imagined
    posterior   q(z_t | h_t, image_t)   the state that is observed
    heads       image, reward and the probability to continue, from [h_t, z_t]

    loss = |image_t - decoded|^2 - log p(r_t) - log p(c_t) + dyn max(f, KL(sg q || p)) + rep max(f, KL(q || sg p))

z_t is S one-hot rows of C classes; q and p have a share of the uniform distribution. Pixels and latents are summed, the
free nats f taken from that sum row by row, batch and time averaged (traps 8, 9). sg stops the gradient. The reward is a
two-hot distribution. a_t is the action that led to row t.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from worldmodel.base import Batch, ModelConfig, Spec, WorldModel, begin_state, merge_time, tree_stack
from worldmodel.networks import categorical, gaussian, two_hot
from worldmodel.networks.block_gru import BlockGRU
from worldmodel.networks.convolutional import Depths
from worldmodel.networks.convolutional_v3 import Decoder, Encoder, NormSiLU, image_does_not_fit
from worldmodel.networks.dense import dense
from worldmodel.networks.images import scaled, to_float
from worldmodel.networks.joint_gradients import joint_gradients, product
from worldmodel.networks.normalization import RMSNorm, rms_norm_silu
from worldmodel.networks.policies import clip_action
from worldmodel.networks.rms_norm_mlp import MLP, NormLinear, linear


class Config(ModelConfig):
    deter: int = Field(ge=1, le=16384)  # units of the deterministic path h
    stoch: int = Field(ge=1, le=1024)  # categorical latents of z
    classes: int = Field(ge=1, le=1024)  # of every latent
    hidden: int = Field(ge=1, le=16384)  # units of every dense layer
    blocks: int = Field(ge=1, le=64)  # of the GRU's units, and of the decoder's reading of them
    depths: Depths  # channels; every stage halves the image
    prior_layers: int = Field(ge=0, le=8)
    head_layers: int = Field(ge=0, le=8)  # of the reward and the continue head
    bins: two_hot.Bins  # of the reward's distribution
    unimix: float = Field(ge=0, lt=1)  # share of the uniform distribution in prior and posterior
    free_nats: float = Field(ge=0, le=1e9)
    horizon: float | None = Field(gt=1, le=1e9)  # h: the head learns (1 - terminal)(1 - 1/h); null: 1 - terminal
    image_weight: float = Field(gt=0, le=1e9)
    reward_weight: float = Field(ge=0, le=1e9)
    continue_weight: float = Field(ge=0, le=1e9)  # 0 builds no continue head
    dyn_weight: float = Field(ge=0, le=1e9)  # of the KL that trains the prior
    rep_weight: float = Field(ge=0, le=1e9)  # of the KL that trains the posterior

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.deter % self.blocks or self.depths[-1] % self.blocks:
            raise ValueError(f"{self.blocks} blocks do not divide deter={self.deter} and depths[-1]={self.depths[-1]}")
        return self

    def idle_keys(self) -> dict[str, str]:
        """The keys that do nothing beside these values, and why."""
        return {} if self.continue_weight else {"horizon": "there is no continue head, continue_weight=0"}

    def image_size_error(self, size: Sequence[int]) -> str | None:
        return image_does_not_fit(size, len(self.depths))


def build(config: Config, spec: Spec) -> "DreamerV3":
    return DreamerV3(config, spec)


class State(NamedTuple):
    """deter is h (N, D), stoch z as one-hot rows (N, S, C): drawn from the posterior, or if imagined from the prior."""

    deter: Tensor
    stoch: Tensor


class StepWeights(NamedTuple):
    """What one step reads of layers of which the rest is computed for all of time at once."""

    recurrent: Tensor  # (blocks, D / blocks, D / blocks) of the GRU's hidden layer
    inputs: Tensor  # (2 hidden, D) likewise: what it reads of h and z
    action: Tensor  # (hidden, D) likewise
    posterior: Tensor  # (D, hidden) of the posterior's hidden layer


class DreamerV3(WorldModel):
    step_methods = ("imagine", "obs_step", "scale", "norm_silu", "image_error")  # the last three by the loss
    takes_context = True
    bins: Tensor

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config = config
        latent = config.stoch * config.classes
        self.encoder = Encoder(spec.image_shape, config.depths)
        self.decoder = Decoder(config.deter, latent, 2 * config.hidden, config.blocks, spec.image_shape, config.depths)
        self.deter_proj = NormLinear(config.deter, config.hidden)
        self.stoch_proj = NormLinear(latent, config.hidden)
        self.action_proj = NormLinear(spec.action_dim, config.hidden)
        self.gru = BlockGRU(3 * config.hidden, config.deter, config.blocks)
        self.prior = MLP(config.deter, config.hidden, config.prior_layers, latent)
        # One layer on [h, embedding]. It stays one tensor, whose norm gradient clipping looks at.
        self.posterior_hidden = linear(config.deter + self.encoder.size, config.hidden)
        self.posterior_norm = RMSNorm(config.hidden)
        self.posterior = linear(config.hidden, latent)
        features = config.deter + latent
        self.reward_head = MLP(features, config.hidden, config.head_layers, config.bins, 0.0)
        if config.continue_weight:
            self.continue_head = MLP(features, config.hidden, config.head_layers, 1)
        self.register_buffer("bins", two_hot.symexp_bins(config.bins), persistent=False)

    # ---- the interface ----

    def initial(self, n: int) -> State:
        zeros = self.bins.new_zeros
        return State(zeros(n, self.config.deter), zeros(n, self.config.stoch, self.config.classes))

    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        weights = self.step_weights()
        entered = self.enter(torch.where(first[:, None], 0.0, action), weights)
        return self.obs_step(state, entered, self.embed(scaled(image)), first, weights)[0]

    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        weights = self.step_weights()
        deter = self.core(state, self.enter(action, weights), weights)
        return State(deter, categorical.sample(self.log_probs(self.prior(deter)), temperature))

    def features(self, state: State) -> Tensor:
        return torch.cat([state.deter, state.stoch.flatten(-2)], -1)

    def reward(self, state: State) -> Tensor:
        return two_hot.mean(self.reward_head(self.features(state)), self.bins)

    def continues(self, state: State) -> Tensor:
        if not self.config.continue_weight:
            return state.deter.new_ones(state.deter.shape[:-1])
        probability = self.continue_head(self.features(state)).squeeze(-1).float().sigmoid()
        return (probability / self.discount).clamp(max=1)  # it has learned the discount; who acts brings his own

    def decode(self, state: State) -> Tensor:
        return self.decoder(state.deter, state.stoch.flatten(-2)).float().sigmoid()

    # ---- one step ----

    @property
    def discount(self) -> float:
        """What the continue head learns to say of a state that is not terminal."""
        return 1.0 if self.config.horizon is None else 1 - 1 / self.config.horizon

    def step_weights(self) -> StepWeights:
        """Made once for a whole sequence: the gradient of a slice is a whole tensor."""
        recurrent, inputs = self.gru.step_weights()
        inputs, action = inputs.split([2 * self.config.hidden, self.config.hidden])
        return StepWeights(recurrent, inputs, action, self.posterior_hidden.weight[:, : self.config.deter].t())

    def enter(self, action: Tensor, weights: StepWeights) -> Tensor:
        """Actions (..., A), clipped as environments do -> their share of the GRU's hidden layer, (..., D)."""
        return self.action_proj(clip_action(action)) @ weights.action + self.gru.bias

    def core(self, state: State, entered: Tensor, weights: StepWeights) -> Tensor:
        """The belief h' before the image is seen, (N, D)."""
        known = torch.cat([self.deter_proj(state.deter), self.stoch_proj(state.stoch.flatten(-2))], -1)
        return self.gru.step(entered + product(known, weights.inputs), state.deter, weights.recurrent)

    def log_probs(self, logits: Tensor) -> Tensor:
        """(..., S * C) -> (..., S, C)."""
        return categorical.log_probs(logits.unflatten(-1, (self.config.stoch, -1)), self.config.unimix)

    def obs_step(
        self, state: State, entered: Tensor, embed: Tensor, first: Tensor, weights: StepWeights
    ) -> tuple[State, Tensor]:
        """One step of observing: the posterior state, and its log-probabilities (N, S, C). An episode's first row has
        no past; nor an action, which `entered` must know already.
        """
        deter = torch.where(first[:, None], 0.0, state.deter)
        stoch = torch.where(first[:, None, None], 0.0, state.stoch)
        deter = self.core(State(deter, stoch), entered, weights)
        hidden = F.silu(self.posterior_norm(product(deter, weights.posterior) + embed))
        log_p = self.log_probs(dense(self.posterior, hidden))
        return State(deter, categorical.sample(log_p)), log_p

    def embed(self, image: Tensor, norm_silu: NormSiLU = rms_norm_silu) -> Tensor:
        """Scaled images (N, C, Y, X) -> the image's share of the posterior's hidden layer, (N, hidden)."""
        encoded, layer = self.encoder(image, norm_silu), self.posterior_hidden
        return F.linear(encoded, layer.weight[:, self.config.deter :], layer.bias)

    def scale(self, image: Tensor) -> Tensor:
        return scaled(image)

    def norm_silu(self, image: Tensor, scale: Tensor) -> Tensor:
        return rms_norm_silu(image, scale)

    def image_error(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Between images (N, C, Y, X), uint8, and what the decoder says of them, before the sigmoid: ()."""
        return gaussian.sum_squared_error(to_float(image), decoded.float().sigmoid())

    # ---- learning ----

    def loss(self, batch: Batch, part: str = "model") -> tuple[Tensor, State, dict[str, Tensor]]:
        image = batch.image.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (N, C, Y, X), as decoded
        states, log_q = self.scan(batch, image)  # (B, T, ...)
        log_p = self.log_probs(self.prior(states.deter))  # (B, T, S, C)
        config, dyn = self.config, categorical.kl(log_q.detach(), log_p)  # (B, T)
        losses, metrics = self.heads(merge_time(states), batch, image)
        losses |= {
            "dyn": config.dyn_weight * dyn.clamp(min=config.free_nats).mean(),
            "rep": config.rep_weight * categorical.kl(log_q, log_p.detach()).clamp(min=config.free_nats).mean(),
        }
        metrics |= {
            "kl": dyn.mean(),
            "entropy_prior": categorical.entropy(log_p).mean(),
            "entropy_posterior": categorical.entropy(log_q).mean(),
        }
        metrics |= {f"loss_{name}": value for name, value in losses.items()}
        return torch.stack(list(losses.values())).sum(), states, metrics

    def begin(self, batch: Batch) -> tuple[State, Tensor]:
        return begin_state(batch, self.initial(len(batch.reward))), batch.first

    def scan(self, batch: Batch, image: Tensor) -> tuple[State, Tensor]:
        """The states (B, T, ...) of sequences that are observed from their first row to their last, and log q."""
        weights = self.step_weights()
        embed = self.embed(self.scale(image), self.norm_silu).unflatten(0, batch.reward.shape)  # (B, T, hidden)
        state, first = self.begin(batch)
        entered = self.enter(torch.where(first[..., None], 0.0, batch.action), weights)  # (B, T, D)
        steps = []
        with joint_gradients():
            for now in zip(entered.unbind(1), embed.unbind(1), first.unbind(1), strict=True):
                state, log_q = self.obs_step(state, *now, weights)
                steps.append((state, log_q))
        states: tuple[State, Tensor] = tree_stack(steps)
        return states

    def heads(self, states: State, batch: Batch, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted losses of what is read from states (N, ...), and metrics."""
        config, features, reward = self.config, self.features(states), batch.reward.flatten()
        logits = self.reward_head(features)  # (N, bins)
        decoded = self.decoder(states.deter, states.stoch.flatten(-2), self.norm_silu)
        losses = {
            "image": config.image_weight * self.image_error(image, decoded),
            "reward": config.reward_weight * two_hot.loss(logits, reward, self.bins).mean(),
        }
        if config.continue_weight:
            logit = self.continue_head(features).squeeze(-1).float()
            alive = (1 - batch.terminal.flatten().float()) * self.discount
            losses["continue"] = config.continue_weight * F.binary_cross_entropy_with_logits(logit, alive)
        return losses, {"reward_mae": (two_hot.mean(logits, self.bins) - reward).abs().mean()}
