"""World Models' V and M (Ha & Schmidhuber 2018, arXiv 1803.10122): a convolutional VAE and, on its codes, an MDN-RNN.

    V, vision   q(z | image) = N(mean, std^2);  p(image | z) by transposed convolutions and a sigmoid
    M, memory   h_t, c_t = LSTM([z_{t-1}, a_t], h_{t-1}, c_{t-1});  p(z_t | h_t): per dimension a mixture of Gaussians
    heads       reward from [z_t, h_t], optionally the continue probability from h_t (the original has no reward head)

    loss of V = w |image - decoded|^2 + max(KL(q || N(0, 1)), free nats a dimension * dimensions)   a picture
    loss of M = mean over dimensions of -log p(z_t | h_t), z_t ~ q drawn anew each time, + the heads' losses

V learns from images alone: M's loss does not train it. So the two may learn one after the other, as published (V is
then frozen when M learns), or side by side. a_t is the action that led to row t; a first row has h = c = 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from worldmodel.base import Batch, ModelConfig, Spec, WorldModel, tree_stack
from worldmodel.networks import data_parallel, gaussian, mixture
from worldmodel.networks.convolutional import Decoder, Depths, Encoder, Kernels, image_too_small
from worldmodel.networks.dense import MLP, dense, glorot, glorot_each
from worldmodel.networks.images import to_float
from worldmodel.networks.recurrent import LSTMCell

PIECE = 1024  # images that are encoded at once where no gradient is wanted
LOG_STD = (-7.0, 7.0)  # of codes and mixtures: a component that shrinks onto one point would be infinitely likely


class Config(ModelConfig):
    latent: int = Field(ge=1, le=4096)  # dimensions of z
    hidden: int = Field(ge=1, le=16384)  # units of the LSTM
    mixtures: int = Field(ge=1, le=100)  # Gaussians for every dimension of z
    cell_in_features: bool  # features are [z, c, h], as published for Doom, and not [z, h]
    input_is_first: bool  # the LSTM is told when a row is an episode's first, as published for Doom
    # channels of the encoder's convolutions; the decoder mirrors them
    depths: Depths
    kernels: Kernels  # the decoder's transposed convolutions
    reward_units: int = Field(ge=1, le=16384)
    reward_layers: int = Field(ge=0, le=8)
    free_nats: float = Field(ge=0, le=1e9)  # of the KL, a dimension; applied to the sum over dimensions, as released
    image_weight: float = Field(gt=0, le=1e9)
    reward_weight: float = Field(ge=0, le=1e9)
    reward_divisor: float = Field(ge=1e-9, le=1e9)  # rewards are divided by this inside the model
    continue_weight: float = Field(ge=0, le=1e9)  # 0 builds no continue head: for tasks that never terminate
    terminal_weight: float = Field(gt=0, le=1e9)  # of terminal rows in the continue head's loss

    @model_validator(mode="after")
    def agree(self) -> "Config":
        if len(self.depths) != len(self.kernels):
            raise ValueError(
                f"depths has {len(self.depths)} layers but kernels has {len(self.kernels)}: make them equal"
            )
        return self

    def idle_keys(self) -> dict[str, str]:
        """The keys that do nothing beside these values, and why."""
        return {} if self.continue_weight else {"terminal_weight": "there is no continue head, continue_weight=0"}

    def image_size_error(self, size: Sequence[int]) -> str | None:
        return image_too_small(size, len(self.depths))


def build(config: Config, spec: Spec) -> "MDNRNN":
    return MDNRNN(config, spec)


class State(NamedTuple):
    """A code z (N, Z), the LSTM's h and c (N, H), and whether the row is an episode's first, (N, 1) or (N, 0)."""

    z: Tensor
    hidden: Tensor
    cell: Tensor
    is_first: Tensor


class VAE(nn.Module):
    """V: pictures (N, C, Y, X) in [0, 1] to codes, and back."""

    def __init__(self, config: Config, image: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = Encoder(image, config.depths)
        self.code = glorot_each(nn.Linear(self.encoder.size, 2 * config.latent), 2)  # mean and log variance
        self.decoder = Decoder(config.latent, image, config.depths, config.kernels)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | image), (N, Z) each."""
        mean, log_variance = self.code(self.encoder(image)).float().chunk(2, -1)
        return mean, (log_variance / 2).clamp(*LOG_STD).exp()

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z).float().sigmoid()


class MDNRNN(WorldModel):
    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.vision = VAE(config, spec.image_shape)
        self.lstm = LSTMCell(config.latent + spec.action_dim + config.input_is_first, config.hidden)
        outputs = 3 * config.mixtures * config.latent + (config.continue_weight > 0)
        self.output = glorot(nn.Linear(config.hidden, outputs))  # mixtures, and the logit of not being terminal
        features = config.latent + config.hidden * (1 + config.cell_in_features)
        self.reward_head = MLP(features, config.reward_units, config.reward_layers, 1)

    # ---- the interface ----

    def parts(self) -> dict[str, list[nn.Parameter]]:
        vision = list(self.vision.parameters())
        own = {id(parameter) for parameter in vision}
        return {"vision": vision, "memory": [weight for weight in self.parameters() if id(weight) not in own]}

    def initial(self, n: int) -> State:
        zeros = self.output.weight.new_zeros
        config = self.config
        hidden, cell = zeros(n, config.hidden), zeros(n, config.hidden)
        return State(zeros(n, config.latent), hidden, cell, zeros(n, int(config.input_is_first)))

    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        z = gaussian.sample(*self.vision.encode(to_float(image)))  # not the mean, as published (trap 14)
        return self.correct(z, self.lstm(self.inputs(state, action), state.hidden, state.cell), first)

    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        hidden, cell = self.lstm(self.inputs(state, action), state.hidden, state.cell)
        z = mixture.sample(*self.mixtures(dense(self.output, hidden)), temperature)
        return State(z, hidden, cell, torch.zeros_like(state.is_first))

    def features(self, state: State) -> Tensor:
        return torch.cat([state.z, *([state.cell] if self.config.cell_in_features else []), state.hidden], -1)

    def reward(self, state: State) -> Tensor:
        return self.reward_head(self.features(state)).squeeze(-1).float() * self.config.reward_divisor

    def continues(self, state: State) -> Tensor:
        if not self.config.continue_weight:
            return state.z.new_ones(state.z.shape[:-1])
        logit = F.linear(state.hidden, self.output.weight[-1:], self.output.bias[-1:]).squeeze(-1).float()
        # A weight on terminal rows multiplies the learned odds of an end by itself. Here the true odds are wanted.
        return (logit + math.log(self.config.terminal_weight)).sigmoid()

    def decode(self, state: State) -> Tensor:
        return self.vision.decode(state.z)

    # ---- one step ----

    def inputs(self, state: State, action: Tensor) -> Tensor:
        """What the LSTM reads to step from a state on an action: (..., Z + A), and whether the state is a first one."""
        return torch.cat([state.z, action, state.is_first], -1)

    def correct(self, z: Tensor, memory: tuple[Tensor, Tensor], first: Tensor) -> State:
        """The state of a row whose image was observed. At an episode's first row h and c are zero, whatever the LSTM
        computed from the row before it.
        """
        hidden, cell = (torch.where(first[..., None], 0.0, part) for part in memory)
        return State(z, hidden, cell, first[..., None].to(z.dtype)[..., : int(self.config.input_is_first)])

    def mixtures(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log weights, means and log standard deviations of the mixtures, (..., Z, K) each.

        In memory Z comes last: a softmax over K adjacent numbers would take half of the time of imagining.
        """
        config = self.config
        numbers = output[..., : 3 * config.mixtures * config.latent].float()
        logits, mean, log_std = numbers.unflatten(-1, (3, config.mixtures, config.latent)).unbind(-3)  # (..., K, Z)
        return logits.log_softmax(-2).mT, mean.mT, log_std.clamp(*LOG_STD).mT

    # ---- learning ----

    def loss(self, batch: Batch, part: str = "model") -> tuple[Tensor, State, dict[str, Tensor]]:
        learn = torch.is_grad_enabled()
        images = batch.image.flatten(0, 1)  # (N, C, Y, X)
        if part == "memory":  # V is frozen: images are encoded in pieces, and no activations are kept
            with torch.no_grad():
                encoded = [self.vision.encode(to_float(piece)) for piece in images.split(PIECE)]
            mean, std = map(torch.cat, zip(*encoded, strict=True))  # (N, Z)
        else:
            pictures = to_float(images)
            mean, std = self.vision.encode(pictures)
        z = gaussian.sample(mean, std)
        with torch.set_grad_enabled(learn and part != "vision"):
            # no gradient of M's loss for V
            states = self.scan(z.detach().unflatten(0, batch.reward.shape), batch)  # (B, T, ...)
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        if part != "memory":
            losses, metrics = self.vision_loss(pictures, mean, std, z)
        if part != "vision":
            memory_losses, metrics["reward_mae"] = self.memory_loss(states, batch)
            losses |= memory_losses
        metrics |= {f"loss_{name}": value for name, value in losses.items()}
        return torch.stack(list(losses.values())).sum(), states, metrics

    def vision_loss(
        self, pictures: Tensor, mean: Tensor, std: Tensor, z: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of V, and metrics: pictures (N, C, Y, X), and the codes (N, Z) that were drawn for them."""
        zero = torch.zeros((), device=mean.device)
        divergence = gaussian.kl(mean, std, zero, zero + 1)  # (N,)
        losses = {
            "image": self.config.image_weight * gaussian.sum_squared_error(pictures, self.vision.decode(z)),
            "kl": divergence.clamp(min=self.config.free_nats * self.config.latent).mean(),
        }
        return losses, {"kl": divergence.mean()}

    def scan(self, codes: Tensor, batch: Batch) -> State:
        """The states (B, T, ...) of sequences whose pictures have the codes (B, T, Z).

        All inputs of the LSTM are known beforehand: their product with its matrix is one product for all time steps.
        """
        before = torch.cat([torch.zeros_like(codes[:, :1]), codes[:, :-1]], 1)
        first = batch.first
        is_first = torch.cat([torch.zeros_like(first[:, :1]), first[:, :-1]], 1)[..., None].to(codes.dtype)
        entered = self.lstm.input_proj(
            torch.cat([before, batch.action, is_first[..., : int(self.config.input_is_first)]], -1)
        )  # (B, T, 4H)
        state, steps = self.initial(len(codes)), []
        for t in range(codes.shape[1]):
            memory = self.lstm.step(entered[:, t], state.hidden, state.cell)
            state = self.correct(codes[:, t], memory, first[:, t])
            steps.append(state)
        return tree_stack(steps)

    def memory_loss(self, states: State, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of what M predicts of every row: code, reward, continue; and the reward's error."""
        config = self.config
        output = self.output(states.hidden.flatten(0, 1))  # (N, outputs)
        nll = mixture.nll(states.z.flatten(0, 1), *self.mixtures(output)).mean(-1).view(batch.first.shape)
        predictable = ~batch.first  # an episode's first row cannot be predicted, nor, here, a sequence's
        predictable[:, 0] = False
        target = batch.reward / config.reward_divisor
        reward = self.reward_head(self.features(states)).squeeze(-1).float()  # (B, T)
        losses = {
            "latent": data_parallel.masked_mean(nll, predictable),
            "reward": config.reward_weight * gaussian.unit_nll(target, reward).mean(),
        }
        if config.continue_weight:
            terminal = batch.terminal.flatten().float()
            weight = 1 + (config.terminal_weight - 1) * terminal
            losses["continue"] = config.continue_weight * F.binary_cross_entropy_with_logits(
                output[:, -1].float(), 1 - terminal, weight
            )
        return losses, (reward - target).abs().mean() * config.reward_divisor
