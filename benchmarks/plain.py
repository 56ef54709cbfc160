"""PlaNet's update and plan, written plainly: what benchmarks/speed.py compares ours with.

Equation by equation as in worldmodel/models/rssm.py and agents/planners/cem.py, on the same weights and with the same
random numbers, in eager float32 and in the ordinary way: everything of a step is computed in that step, and layers are
the library's. tests/test_plain.py holds that both compute the same.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.planners.cem import CEM
from worldmodel.base import Batch
from worldmodel.models.rssm import RSSM


class State(NamedTuple):
    h: Tensor
    mean: Tensor
    std: Tensor
    z: Tensor


class Plain:
    """The weights of an RSSM and the numbers of a CEM, used plainly."""

    def __init__(self, model: RSSM, actor: CEM, max_grad_norm: float) -> None:
        self.model, self.cem, self.max_grad_norm = model, actor.config, max_grad_norm
        self.config = model.config
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-4)

    def update(self, batch: Batch) -> Tensor:
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return loss

    def loss(self, batch: Batch) -> Tensor:
        model, config = self.model, self.config
        image = self.preprocess(batch.image)  # (B, T, C, Y, X)
        embedded = self.encode(image.flatten(0, 1)).unflatten(0, batch.reward.shape)  # (B, T, E)
        state, posteriors, priors = self.initial(len(image)), [], []
        for t in range(batch.reward.shape[1]):
            alive = 1 - batch.first[:, t, None].float()
            h = self.gru(state.z * alive, batch.action[:, t] * alive, state.h * alive)
            belief, seen = model.posterior_belief, model.posterior_image
            hidden = F.relu(
                F.linear(torch.cat([h, embedded[:, t]], -1), torch.cat([belief.weight, seen.weight], -1), belief.bias)
            )
            state = self.latent(h, model.posterior(hidden))
            posteriors.append(state)
            priors.append(self.latent(h, model.prior[2](F.relu(model.prior[0](h))), sample=False))
        h, mean, std, z = (torch.stack(parts, 1) for parts in zip(*posteriors, strict=True))
        prior_mean, prior_std = (torch.stack([getattr(p, name) for p in priors], 1) for name in ("mean", "std"))
        divergence = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, std), torch.distributions.Normal(prior_mean, prior_std)
        ).sum(-1)
        features = torch.cat([z, h], -1).flatten(0, 1)
        wrong = (self.decode(features) - image.flatten(0, 1)).square().sum((1, 2, 3)).mean()
        reward = (self.reward(features) - batch.reward.flatten() / config.reward_divisor).square().mean()
        return (
            config.image_weight * 0.5 * wrong
            + config.reward_weight * 0.5 * reward
            + config.kl_weight * F.relu(divergence - config.free_nats).mean()
        )

    @torch.no_grad()
    def act(self, image: Tensor) -> Tensor:
        """The first action (N, A) of the plan from an episode's first image (N, C, Y, X)."""
        n, actions = len(image), self.model.input_proj.in_features - self.config.stoch
        blank = self.initial(n)
        h = self.gru(blank.z, blank.h.new_zeros(n, actions), blank.h)
        embedded = self.model.posterior_image(self.encode(self.preprocess(image)))
        state = self.latent(h, self.model.posterior(F.relu(self.model.posterior_belief(h) + embedded)))
        cem = self.cem
        mean, std = h.new_zeros(n, cem.horizon, actions), h.new_full((n, cem.horizon, actions), cem.init_std)
        for _ in range(cem.iterations):
            noise = torch.randn(n, cem.candidates, cem.horizon, actions, device=h.device)
            samples = (mean[:, None] + std[:, None] * noise).clamp(-1, 1)
            flat = samples.flatten(0, 1)
            here = State(*(part.repeat_interleave(cem.candidates, 0) for part in state))
            total = flat.new_zeros(len(flat))
            for t in range(cem.horizon):
                h = self.gru(here.z, flat[:, t], here.h)
                here = self.latent(h, self.model.prior[2](F.relu(self.model.prior[0](h))))
                total = total + self.reward(torch.cat([here.z, here.h], -1))
            best = total.view(n, -1).topk(cem.elites, 1).indices
            elites = torch.stack([samples[row, best[row]] for row in range(n)])
            mean, std = elites.mean(1), (elites.var(1, correction=0) + 1e-6).sqrt()
        return mean[:, 0]

    # ---- parts ----

    def initial(self, n: int) -> State:
        zeros = self.model.input_proj.weight.new_zeros
        h, z = zeros(n, self.config.deter), zeros(n, self.config.stoch)
        return State(h, z, z, z)

    def preprocess(self, image: Tensor) -> Tensor:
        bits = self.config.bit_depth
        image = torch.floor(image.float() / 2 ** (8 - bits)) / 2**bits
        return image + torch.rand_like(image) / 2**bits - 0.5

    def encode(self, image: Tensor) -> Tensor:
        for layer in self.model.encoder.layers:
            image = F.relu(layer(image))
        return image.flatten(1)

    def decode(self, features: Tensor) -> Tensor:
        decoder = self.model.decoder
        image = decoder.dense(features)[..., None, None]
        for number, layer in enumerate(decoder.layers):
            image = layer(F.relu(image) if number else image)
        return image

    def gru(self, z: Tensor, action: Tensor, h: Tensor) -> Tensor:
        gru = self.model.gru
        x = F.relu(self.model.input_proj(torch.cat([z, action], -1)))
        reset, update = torch.sigmoid(gru.gates(torch.cat([x, h], -1))).chunk(2, -1)
        candidate = torch.tanh(gru.candidate(torch.cat([x, reset * h], -1)))
        return update * h + (1 - update) * candidate

    def latent(self, h: Tensor, statistics: Tensor, sample: bool = True) -> State:
        mean, std = statistics.chunk(2, -1)
        std = F.softplus(std) + self.config.min_std
        return State(h, mean, std, mean + std * torch.randn_like(std) if sample else mean)

    def reward(self, features: Tensor) -> Tensor:
        for number, layer in enumerate(layer for layer in self.model.reward_head if isinstance(layer, nn.Linear)):
            features = layer(F.relu(features) if number else features)
        return features.squeeze(-1)
