"""DreamerV3's world model as first released (Hafner et al. 2023, arXiv 2301.04104v1): LayerNorm, and one GRU.

    belief      h_t = GRU(SiLU(LayerNorm(W [z_{t-1}, a_t])), h_{t-1})
    prior       p(z_t | h_t)            the state that is imagined
    posterior   q(z_t | h_t, image_t)   the state that is observed
    heads       image, reward and the probability to continue, from [h_t, z_t]

    loss = |image_t - decoded|^2 - log p(r_t) - log p(c_t) + dyn max(f, KL(sg q || p)) + rep max(f, KL(q || sg p))

Episodes begin in a learned state: h_0 = tanh(w), z_0 the prior's mode. The reward is a two-hot distribution over bins
in symlog space. z_t is S one-hot rows of C classes; q and p have a share of the uniform distribution. Pixels and
latents are summed, the free nats f taken from that sum row by row, batch and time averaged (traps 8, 9). sg stops the
gradient. a_t is the action that led to row t.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from worldmodel.base import Batch, ModelConfig, Spec, WorldModel, force_first, merge_time, tree_stack, tree_where
from worldmodel.networks import categorical, gaussian, two_hot
from worldmodel.networks.convolutional import Depths
from worldmodel.networks.convolutional_v3_2023 import Decoder, Encoder, image_does_not_fit
from worldmodel.networks.dense import dense
from worldmodel.networks.images import to_float
from worldmodel.networks.initializers import truncated_normal
from worldmodel.networks.layer_norm_gru import LayerNormGRUCell
from worldmodel.networks.layer_norm_mlp import MLP
from worldmodel.networks.normalization import LayerNorm
from worldmodel.networks.policies import clip_action


class Config(ModelConfig):
    deter: int = Field(ge=1, le=16384)  # units of the deterministic path h
    stoch: int = Field(ge=1, le=1024)  # categorical latents of z
    classes: int = Field(ge=1, le=1024)  # of every latent
    hidden: int = Field(ge=1, le=16384)  # units of every dense layer
    depths: Depths  # channels; every stage halves the image
    head_layers: int = Field(ge=0, le=8)  # of the reward and the continue head
    bins: two_hot.Bins  # of the reward's distribution
    unimix: float = Field(ge=0, lt=1)  # share of the uniform distribution in prior and posterior
    free_nats: float = Field(ge=0, le=1e9)
    image_weight: float = Field(gt=0, le=1e9)
    reward_weight: float = Field(ge=0, le=1e9)
    continue_weight: float = Field(ge=0, le=1e9)  # 0 builds no continue head
    dyn_weight: float = Field(ge=0, le=1e9)  # of the KL that trains the prior
    rep_weight: float = Field(ge=0, le=1e9)  # of the KL that trains the posterior

    def image_size_error(self, size: Sequence[int]) -> str | None:
        return image_does_not_fit(size, len(self.depths))


def build(config: Config, spec: Spec) -> "DreamerV32023":
    return DreamerV32023(config, spec)


class State(NamedTuple):
    """deter is h (N, D), stoch z as one-hot rows (N, S, C): drawn from the posterior, or if imagined from the prior."""

    deter: Tensor
    stoch: Tensor


class DreamerV32023(WorldModel):
    step_methods = ("imagine", "obs_step")
    bins: Tensor

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config = config
        latent, hidden = config.stoch * config.classes, config.hidden
        self.encoder = Encoder(spec.image_shape, config.depths)
        self.decoder = Decoder(config.deter + latent, spec.image_shape, config.depths)
        self.initial_deter = nn.Parameter(torch.zeros(config.deter))
        # Two layers, on [z, a] and on [h, embedding], each kept as two halves: what is known of all of time beforehand
        # enters with one product.
        self.stoch_proj, self.action_proj = halves(latent, spec.action_dim, hidden)
        self.input_norm = LayerNorm(hidden)
        self.gru = LayerNormGRUCell(hidden, config.deter, bias=False)
        truncated_normal(self.gru.linear.weight, (hidden + 4 * config.deter) / 2)
        self.prior = MLP(config.deter, hidden, 1, latent)
        self.posterior_deter, self.posterior_image = halves(config.deter, self.encoder.size, hidden)
        self.posterior_norm = LayerNorm(hidden)
        self.posterior = MLP(hidden, hidden, 0, latent)
        features = config.deter + latent
        self.reward_head = MLP(features, hidden, config.head_layers, config.bins, 0.0)
        if config.continue_weight:
            self.continue_head = MLP(features, hidden, config.head_layers, 1)
        self.register_buffer("bins", two_hot.symlog_bins(config.bins), persistent=False)

    # ---- the interface ----

    def initial(self, n: int) -> State:
        deter = self.initial_deter.tanh().expand(n, -1)
        stoch = categorical.mode(self.log_probs(self.prior(deter[:1]))).detach().expand(n, -1, -1)
        return State(deter, stoch)

    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        entered = self.enter(torch.where(first[:, None], 0.0, action))
        return self.obs_step(state, entered, self.embed(to_float(image)), first, self.initial(len(first)))[0]

    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        deter = self.core(state, self.enter(action))
        return State(deter, categorical.sample(self.log_probs(self.prior(deter)), temperature))

    def features(self, state: State) -> Tensor:
        return torch.cat([state.deter, state.stoch.flatten(-2)], -1)

    def reward(self, state: State) -> Tensor:
        return two_hot.symexp(two_hot.mean(self.reward_head(self.features(state)), self.bins))

    def continues(self, state: State) -> Tensor:
        if not self.config.continue_weight:
            return state.deter.new_ones(state.deter.shape[:-1])
        return self.continue_head(self.features(state)).squeeze(-1).float().sigmoid()

    def decode(self, state: State) -> Tensor:
        return self.decoder(self.features(state)).float() + 0.5

    # ---- one step ----

    def enter(self, action: Tensor) -> Tensor:
        """Actions (..., A) -> their share of the layer before the GRU, (..., hidden). None counts for more than 1, as
        in an environment, which clips what a policy draws.
        """
        return self.action_proj(clip_action(action))

    def embed(self, image: Tensor) -> Tensor:
        """Images (N, C, Y, X) in [0, 1] -> the image's share of the posterior's hidden layer, (N, hidden)."""
        return self.posterior_image(self.encoder(image - 0.5))

    def core(self, state: State, entered: Tensor) -> Tensor:
        """The belief h' before the image is seen, (N, D)."""
        hidden = self.input_norm(dense(self.stoch_proj, state.stoch.flatten(-2)) + entered)
        return self.gru(F.silu(hidden), state.deter)

    def log_probs(self, logits: Tensor) -> Tensor:
        """(..., S * C) -> (..., S, C)."""
        return categorical.log_probs(logits.unflatten(-1, (self.config.stoch, -1)), self.config.unimix)

    def obs_step(
        self, state: State, entered: Tensor, embed: Tensor, first: Tensor, initial: State
    ) -> tuple[State, Tensor]:
        """One step of observing: the posterior state, and its log-probabilities (N, S, C). An episode's first row comes
        after the initial state, and no action, which `entered` must know already.
        """
        deter = self.core(tree_where(first, initial, state), entered)
        hidden = F.silu(self.posterior_norm(dense(self.posterior_deter, deter) + embed))
        log_p = self.log_probs(self.posterior(hidden))
        return State(deter, categorical.sample(log_p)), log_p

    # ---- learning ----

    def loss(self, batch: Batch, part: str = "model") -> tuple[Tensor, State, dict[str, Tensor]]:
        image = to_float(batch.image.flatten(0, 1))  # (N, C, Y, X)
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
        return self.initial(len(batch.reward)), force_first(batch.first)

    def scan(self, batch: Batch, image: Tensor) -> tuple[State, Tensor]:
        """The states (B, T, ...) of sequences that are observed from their first row to their last, and log q."""
        embed = self.embed(image).unflatten(0, batch.reward.shape)  # (B, T, hidden)
        initial, first = self.begin(batch)
        entered = self.enter(torch.where(first[..., None], 0.0, batch.action))  # (B, T, hidden)
        state, steps = initial, []
        for now in zip(entered.unbind(1), embed.unbind(1), first.unbind(1), strict=True):
            state, log_q = self.obs_step(state, *now, initial)
            steps.append((state, log_q))
        states: tuple[State, Tensor] = tree_stack(steps)
        return states

    def heads(self, states: State, batch: Batch, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted losses of what is read from states (N, ...), and metrics."""
        config, features, reward = self.config, self.features(states), batch.reward.flatten()
        logits = self.reward_head(features)  # (N, bins)
        losses = {
            "image": config.image_weight * gaussian.sum_squared_error(image, self.decode(states)),
            "reward": config.reward_weight * two_hot.loss(logits, two_hot.symlog(reward), self.bins).mean(),
        }
        if config.continue_weight:
            logit = self.continue_head(features).squeeze(-1).float()
            alive = 1 - batch.terminal.flatten().float()
            losses["continue"] = config.continue_weight * F.binary_cross_entropy_with_logits(logit, alive)
        error = (two_hot.symexp(two_hot.mean(logits, self.bins)) - reward).abs().mean()
        return losses, {"reward_mae": error}


def halves(first: int, second: int, units: int) -> tuple[nn.Linear, nn.Linear]:
    """A layer on [first, second] without bias, as two whose results are added."""
    layers = nn.Linear(first, units, bias=False), nn.Linear(second, units, bias=False)
    for layer in layers:
        truncated_normal(layer.weight, (first + second + units) / 2)
    return layers
