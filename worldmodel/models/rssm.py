"""The recurrent state-space model of PlaNet (Hafner et al. 2019, arXiv 1811.04551), with a Gaussian latent.

    belief      h_t = GRU(h_{t-1}, relu(W [z_{t-1}, a_t]))
    prior       p(z_t | h_t)            the state that is imagined
    posterior   q(z_t | h_t, image_t)   the state that is observed
    heads       image, reward and optionally the probability to continue, from [z_t, h_t]

    loss = -log N(image_t; decoded, 1) - w log N(r_t; predicted, 1) + max(0, KL(q || p) - free nats)

Pixels and latent dimensions are summed, batch and time averaged (traps 8, 9). a_t is the action that led to row t.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from worldmodel.base import Batch, ModelConfig, Spec, WorldModel, merge_time, split_time, tree_map, tree_stack
from worldmodel.networks import data_parallel, gaussian
from worldmodel.networks.convolutional import Decoder, Depths, Encoder, Kernels, image_too_small
from worldmodel.networks.dense import MLP, dense, glorot, glorot_each
from worldmodel.networks.images import ImageNormalizer, quantise
from worldmodel.networks.recurrent import GRUCell


class Config(ModelConfig):
    deter: int = Field(ge=0, le=16384)  # units of the deterministic path h; 0: none (SSM)
    stoch: int = Field(ge=0, le=4096)  # dimensions of z; 0: no stochastic path (RNN)
    hidden: int = Field(ge=1, le=16384)
    min_std: float = Field(ge=1e-6, le=1)
    # channels of the encoder's convolutions; the decoder mirrors them
    depths: Depths
    kernels: Kernels  # the decoder's transposed convolutions
    reward_units: int = Field(ge=1, le=16384)
    reward_layers: int = Field(ge=0, le=8)
    bit_depth: int = Field(ge=1, le=8)  # colour depth that the model sees
    dequantise: bool  # add U[0, 2^-bits) to every pixel, anew each time it is seen
    normalise: bool  # images less their mean image, over one standard deviation, as the first batch has them
    free_nats: float = Field(ge=0, le=1e9)
    overshooting: int = Field(ge=1, le=64)  # distance of latent overshooting; 1 is the plain KL
    image_weight: float = Field(gt=0, le=1e9)
    reward_weight: float = Field(ge=0, le=1e9)
    reward_divisor: float = Field(ge=1e-9, le=1e9)  # rewards are divided by this inside the model
    kl_weight: float = Field(ge=0, le=1e9)
    # 0 builds no continue head: for tasks that never terminate, as PlaNet's
    continue_weight: float = Field(ge=0, le=1e9)

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if self.deter == self.stoch == 0:
            raise ValueError("deter and stoch are both 0: nothing would be remembered; give at least one of them units")
        if len(self.depths) != len(self.kernels):
            raise ValueError(
                f"depths has {len(self.depths)} layers but kernels has {len(self.kernels)}: make them equal"
            )
        return self

    def image_size_error(self, size: Sequence[int]) -> str | None:
        return image_too_small(size, len(self.depths))


def build(config: Config, spec: Spec) -> "RSSM":
    return RSSM(config, spec)


class State(NamedTuple):
    """deter is h (N, D); mean, std and sample stoch are z's (N, S): the posterior's, or if imagined the prior's."""

    deter: Tensor
    mean: Tensor
    std: Tensor
    stoch: Tensor


class RSSM(WorldModel):
    step_methods = ("imagine", "obs_step")

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config = config
        belief = config.deter or config.hidden
        features = config.deter + config.stoch
        self.normalizer = ImageNormalizer(spec.image_shape) if config.normalise else None
        self.encoder = Encoder(spec.image_shape, config.depths)
        self.decoder = Decoder(features, spec.image_shape, config.depths, config.kernels)
        self.input_proj = glorot(nn.Linear(config.stoch + spec.action_dim, config.hidden))
        if config.deter:
            self.gru = GRUCell(config.hidden, config.deter)
        if config.stoch:
            self.prior = MLP(belief, config.hidden, 1, 2 * config.stoch)
            glorot_each(self.prior.output, 2)  # mean and std are two layers in the release
            # One dense layer on [h, embedding], kept as two halves: the image's half runs once for all time steps.
            joint = glorot(nn.Linear(belief + self.encoder.size, config.hidden))
            self.posterior_belief = nn.Linear(belief, config.hidden)
            self.posterior_image = nn.Linear(self.encoder.size, config.hidden, bias=False)
            with torch.no_grad():
                self.posterior_belief.weight.copy_(joint.weight[:, :belief])
                self.posterior_image.weight.copy_(joint.weight[:, belief:])
                self.posterior_belief.bias.zero_()
            self.posterior = glorot_each(nn.Linear(config.hidden, 2 * config.stoch), 2)
        else:
            self.posterior_image = glorot(nn.Linear(self.encoder.size, config.hidden))
            self.correct = GRUCell(config.hidden, config.deter)
        self.reward_head = MLP(features, config.reward_units, config.reward_layers, 1)
        if config.continue_weight:
            self.continue_head = MLP(features, config.reward_units, config.reward_layers, 1)

    # ---- the interface ----

    def initial(self, n: int) -> State:
        zeros = self.input_proj.weight.new_zeros
        return State(zeros(n, self.config.deter), *(zeros(n, self.config.stoch) for _ in range(3)))

    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        return self.obs_step(state, action, self.embed(self.preprocess(image)), first)[0]

    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        belief = self.core(state, action)
        return self.make_state(belief, self.prior(belief) if self.config.stoch else None, temperature)

    def features(self, state: State) -> Tensor:
        return torch.cat([state.stoch, state.deter], -1)

    def reward(self, state: State) -> Tensor:
        return self.reward_head(self.features(state)).squeeze(-1).float() * self.config.reward_divisor

    def continues(self, state: State) -> Tensor:
        if not self.config.continue_weight:
            return state.stoch.new_ones(state.stoch.shape[:-1])
        return self.continue_head(self.features(state)).squeeze(-1).float().sigmoid()

    def decode(self, state: State) -> Tensor:
        image = self.decoder(self.features(state)).float()
        return (self.normalizer.undo(image) if self.normalizer else image) + 0.5

    # ---- one step ----

    def preprocess(self, image: Tensor) -> Tensor:
        """uint8 -> [-0.5, 0.5) of so many bits, then normalised, if the model does so."""
        image = quantise(image, self.config.bit_depth, self.config.dequantise)
        return self.normalizer(image) if self.normalizer else image

    def embed(self, image: Tensor) -> Tensor:
        """Preprocessed images (N, C, Y, X) -> the image's share of the posterior's hidden layer, (N, hidden)."""
        return self.posterior_image(self.encoder(image))

    def core(self, state: State, action: Tensor) -> Tensor:
        """The belief before the image is seen: h, or without a deterministic path the hidden layer itself."""
        hidden = dense(self.input_proj, torch.cat([state.stoch, action], -1), "relu")
        return self.gru(hidden, state.deter) if self.config.deter else hidden

    def make_state(self, belief: Tensor, statistics: Tensor | None, temperature: float = 1.0) -> State:
        """A state from a belief and the raw mean and std of z, sampled at a temperature."""
        deter = belief if self.config.deter else belief[:, :0]
        if statistics is None:
            return State(deter, *[belief[:, :0]] * 3)
        mean, std = statistics.float().chunk(2, -1)
        std = gaussian.softplus(std) + self.config.min_std
        return State(deter, mean, std, gaussian.sample(mean, std, temperature))

    def obs_step(self, state: State, action: Tensor, embed: Tensor, first: Tensor) -> tuple[State, Tensor]:
        """One step of observing: the posterior state, and the belief that the prior reads."""
        # An episode's first row has no past, and no action before it. Only deter and stoch are carried on.
        deter, stoch, action = (torch.where(first[:, None], 0.0, a) for a in (state.deter, state.stoch, action))
        belief = self.core(state._replace(deter=deter, stoch=stoch), action)
        if self.config.stoch:
            statistics = dense(self.posterior, F.relu(dense(self.posterior_belief, belief) + embed))
            return self.make_state(belief, statistics), belief
        return self.make_state(self.correct(F.relu(embed), belief), None), belief

    # ---- learning ----

    def loss(self, batch: Batch, part: str = "model") -> tuple[Tensor, State, dict[str, Tensor]]:
        length = batch.reward.shape[1]
        if self.normalizer and not self.normalizer.measured:
            self.normalizer.measure(quantise(batch.image, self.config.bit_depth, noise=False))
        image = self.preprocess(batch.image)  # (B, T, C, Y, X)
        embed = self.embed(image.flatten(0, 1)).unflatten(0, (-1, length))  # (B, T, hidden)
        state = self.initial(len(embed))
        steps, beliefs = [], []
        for t in range(length):
            state, belief = self.obs_step(state, batch.action[:, t], embed[:, t], batch.first[:, t])
            steps.append(state)
            beliefs.append(belief)
        states = tree_stack(steps)  # (B, T, ...)
        losses, metrics = self.heads(states, batch, image)
        if self.config.stoch:
            prior = self.make_state(belief := torch.stack(beliefs, 1).flatten(0, 1), self.prior(belief), 0)
            prior = tree_map(lambda a: a.unflatten(0, (-1, length)), prior)
            divergence = gaussian.kl(states.mean, states.std, prior.mean, prior.std)  # (B, T)
            losses["kl"] = self.config.kl_weight * self.kl_loss(divergence, states, batch)
            metrics |= {
                "kl": divergence.mean(),
                "entropy_prior": gaussian.entropy(prior.std).mean(),
                "entropy_posterior": gaussian.entropy(states.std).mean(),
            }
        else:  # without z no KL trains the prediction: the heads read the state before the image, too
            before = State(torch.stack(beliefs, 1), *[torch.stack(beliefs, 1)[..., :0]] * 3)
            ahead, _ = self.heads(before, batch, image)
            losses = {name: 0.5 * (losses[name] + ahead[name]) for name in losses}
        metrics |= {f"loss_{name}": value for name, value in losses.items()}
        return torch.stack(list(losses.values())).sum(), states, metrics

    def heads(self, states: State, batch: Batch, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted losses of what is read from states (B, T, ...), and metrics."""
        config, features = self.config, self.features(merge_time(states))  # (N, F)
        reward = self.reward_head(features).squeeze(-1).float()
        target = batch.reward.flatten() / config.reward_divisor
        decoded = self.decoder(features).float()
        losses = {
            # Half the squared error, as in unit_nll.
            "image": config.image_weight * 0.5 * gaussian.sum_squared_error(image.flatten(0, 1), decoded),
            "reward": config.reward_weight * gaussian.unit_nll(target, reward).mean(),
        }
        if config.continue_weight:
            logit = self.continue_head(features).squeeze(-1).float()
            alive = 1 - batch.terminal.flatten().float()
            losses["continue"] = config.continue_weight * F.binary_cross_entropy_with_logits(logit, alive)
        return losses, {"reward_mae": (reward - target).abs().mean() * config.reward_divisor}

    def kl_loss(self, divergence: Tensor, states: State, batch: Batch) -> Tensor:
        """(1/D) sum over d = 1..D of max(0, KL_d - free nats), KL_d to the prior d steps ahead (PlaNet, eq. 7). D = 1
        is the plain KL; in sequences that are shorter D is the largest distance that they have.
        """
        distances = max(1, min(self.config.overshooting, batch.first.shape[1] - 1))
        plain = F.relu(divergence - self.config.free_nats).mean()
        return plain if distances == 1 else sum(self.overshooting(states, batch, distances), plain) / distances

    def overshooting(self, states: State, batch: Batch, distances: int) -> list[Tensor]:
        """max(0, KL_d - free nats) for d = 2..D. The posterior's gradient is stopped (trap 11), and pairs
        with an episode's start between them do not count.
        """
        losses = []
        ahead, whole = states, torch.ones_like(batch.first)
        for d in range(1, distances + 1):
            rows = whole.shape[1] - 1  # start rows that still have a target d steps later
            flat = merge_time(tree_map(lambda a, rows=rows: a[:, :rows], ahead))
            # The plain method: a compiled one would be compiled anew for every distance.
            step = RSSM.imagine(self, flat, batch.action[:, d:].flatten(0, 1))
            ahead = split_time(step, rows)
            whole = whole[:, :rows] & ~batch.first[:, d:]
            if d > 1:
                posterior = tree_map(lambda a, d=d: a[:, d:].detach(), states)
                apart = gaussian.kl(posterior.mean, posterior.std, ahead.mean, ahead.std)
                losses.append(data_parallel.masked_mean(F.relu(apart - self.config.free_nats), whole))
        return losses
