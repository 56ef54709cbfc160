"""DreamerV3's world model of 2023: counts, initial weights, and its equations written out once more."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from worldmodel.base import Spec
from worldmodel.models import dreamer_v3_2023
from worldmodel.models.dreamer_v3_2023 import DreamerV32023, State
from worldmodel.networks import categorical, two_hot
from worldmodel.networks.layer_norm_mlp import MLP

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "model" / "dreamer_v3_2023.yaml"
DMC = Spec((3, 64, 64), 6, False)
SMALL = dict(deter=8, stoch=4, classes=5, hidden=6, depths=[4, 8], bins=7)


def build(spec: Spec = DMC, **changes: Any) -> DreamerV32023:
    torch.manual_seed(0)
    values = {**yaml.safe_load(CONFIG.read_text("utf8")), **changes}
    return dreamer_v3_2023.build(dreamer_v3_2023.Config(**values), spec)


def small() -> DreamerV32023:
    """A small model without a weight that is 0 or 1: zeros would hide a missing term."""
    model = build(Spec((3, 16, 16), 2, False), **SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_faults_9_and_23_every_part_has_the_parameters_of_the_release() -> None:
    with torch.device("meta"):
        model = build()
    assert count(model.encoder) == 690624 and count(model.decoder) == 6985667
    assert count(model.decoder.linear) == 6295552 and count(model.decoder.output) == 1539
    assert count(model.stoch_proj, model.action_proj, model.input_norm) == 528384
    assert count(model.gru) == 1575936 and count(model.prior) == 788480 and model.initial_deter.numel() == 512
    assert count(model.posterior_deter, model.posterior_image, model.posterior_norm, model.posterior) == 2885632
    assert count(model.reward_head) == 1181439 and count(model.continue_head) == 1051137
    assert count(model) == 15687811


@pytest.mark.parametrize(
    ("size", "spec", "outputs", "totals"),
    [
        ({}, DMC, 12, (15687811, 1056780, 1181439)),
        # the counts in a log of the release at size M, and of XS in all
        (
            dict(deter=1024, hidden=640, head_layers=3, depths=[48, 96, 192, 384]),
            Spec((3, 64, 64), 17, True),
            17,
            (32468675, 2144657, 2297215),
        ),
        (dict(deter=256, hidden=256, head_layers=1, depths=[24, 48, 96, 192]), DMC, 12, (8263982,)),
    ],
)
def test_with_actor_and_critic_every_size_has_the_parameters_of_the_release(
    size: dict[str, Any], spec: Spec, outputs: int, totals: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = build(spec, **size)
        features, units, layers = model.config.deter + 1024, model.config.hidden, model.config.head_layers
        actor, critic = (MLP(features, units, layers, out) for out in (outputs, 255))
    counts = count(model), count(actor), count(critic)
    assert totals == (counts if len(totals) == 3 else (sum(counts),))
    assert sum(counts) == {0: 17926030}.get(len(size), sum(counts))


def test_a_layer_under_a_norm_has_no_bias_and_one_without_starts_glorot_uniform() -> None:
    model = build()
    glorot = {
        "decoder.linear.weight": 1536 + 4096,
        "decoder.output.weight": 16 * (32 + 3),
        "prior.output.weight": 512 + 1024,
        "posterior.output.weight": 512 + 1024,
        "continue_head.output.weight": 512 + 1,
    }
    normal = {
        "encoder.layers.1.weight": 16 * (32 + 64),
        "decoder.layers.0.weight": 16 * (256 + 128),
        "gru.linear.weight": 1024 + 1536,
        "stoch_proj.weight": 1030 + 512,
        "action_proj.weight": 1030 + 512,
        "posterior_image.weight": 4608 + 512,
        "prior.hidden.0.linear.weight": 512 + 512,
    }
    weights = dict(model.named_parameters())
    for name, fans in glorot.items():
        bound = math.sqrt(6 / fans)
        assert 0.97 * bound < weights[name].abs().max() <= bound * 1.0001, name
        assert not weights[name.replace("weight", "bias")].any()
    for name, fans in normal.items():
        size = math.sqrt(fans / 2)
        assert weights[name].abs().max() * size <= 2.2737, name
        assert abs(weights[name].std().item() * size - 1) < 4 / math.sqrt(weights[name].numel()), name
        assert name.replace("weight", "bias") not in weights
    assert not weights["reward_head.output.weight"].any() and not model.initial_deter.any()


def test_an_untrained_model_predicts_no_reward_and_gray() -> None:
    model = build(Spec((3, 16, 16), 2, False), **SMALL)
    state = model.initial(2)
    assert not model.reward(state).any()
    with torch.no_grad():
        model.decoder.output.weight.zero_()
    assert (model.decode(state) == 0.5).all()


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.scale, norm.shift, 1e-3)


def test_one_step_by_the_equations_of_the_release() -> None:
    model, generator = small(), torch.Generator().manual_seed(0)
    z = F.one_hot(torch.randint(5, (3, 4), generator=generator), 5).float()
    h, action = torch.randn(3, 8, generator=generator), torch.tensor([[0.5, -2], [0, 1], [-1, 0.1]])
    image = torch.randint(0, 256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8)

    x = image / 255 - 0.5
    for layer, norm in zip(model.encoder.layers, model.encoder.norms, strict=True):
        x = F.conv2d(x, layer.weight, stride=2, padding=1).permute(0, 2, 3, 1)
        x = F.silu(layer_norm(x, norm)).permute(0, 3, 1, 2)
    tokens = x.permute(0, 2, 3, 1).flatten(1)
    w = torch.cat([model.stoch_proj.weight, model.action_proj.weight], 1)
    x = F.silu(layer_norm(torch.cat([z.flatten(1), action.clamp(-1, 1)], 1) @ w.T, model.input_norm))
    gates = layer_norm(torch.cat([x, h], 1) @ model.gru.linear.weight.T, model.gru.norm)
    reset, candidate, update = gates.chunk(3, 1)
    update = torch.sigmoid(update - 1)
    belief = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * h
    w = torch.cat([model.posterior_deter.weight, model.posterior_image.weight], 1)
    x = F.silu(layer_norm(torch.cat([belief, tokens], 1) @ w.T, model.posterior_norm))
    logits = model.posterior.output(x).view(3, 4, 5)
    probs = 0.99 * logits.softmax(-1) + 0.01 / 5

    no = torch.zeros(3, dtype=torch.bool)
    seen, log_q = model.obs_step(State(h, z), model.enter(action), model.embed(image / 255), no, model.initial(3))
    close(seen.deter, belief)
    close(log_q.exp(), probs)
    close(model.imagine(State(h, z), action, 0).deter, belief)
    x = model.decoder.linear(torch.cat([belief, z.flatten(1)], 1)).view(3, 4, 4, 8).permute(0, 3, 1, 2)
    x = F.conv_transpose2d(x, model.decoder.layers[0].weight, stride=2, padding=1).permute(0, 2, 3, 1)
    x = F.silu(layer_norm(x, model.decoder.norms[0])).permute(0, 3, 1, 2)
    x = F.conv_transpose2d(x, model.decoder.output.weight, model.decoder.output.bias, stride=2, padding=1)
    close(model.decode(State(belief, z)), x + 0.5)


def test_episodes_begin_in_a_learned_state() -> None:
    model = small()
    start = model.initial(3)
    close(start.deter, model.initial_deter.tanh().expand(3, -1))
    likely = model.prior(model.initial_deter.tanh()).view(4, 5).argmax(-1)
    assert torch.equal(start.stoch[2].argmax(-1), likely) and not start.stoch.requires_grad
    (gradient,) = torch.autograd.grad(start.deter.sum(), model.initial_deter)
    assert gradient.all()


def test_rewards_are_means_in_symlog_space() -> None:
    model = small()
    state = model.initial(2)
    probs = model.reward_head(model.features(state)).softmax(-1)
    close(model.reward(state), two_hot.symexp((probs * torch.linspace(-20, 20, 7)).sum(-1)))


def test_what_continues_has_no_discount() -> None:
    model = small()
    state = model.initial(2)
    close(model.continues(state), model.continue_head(model.features(state)).squeeze(-1).sigmoid())


def test_the_mode_of_the_prior_is_what_temperature_0_imagines() -> None:
    model = small()
    there = model.imagine(model.initial(2), torch.tensor([[0.5, 0.1], [-0.5, 1]]), 0)
    assert torch.equal(there.stoch, categorical.mode(model.log_probs(model.prior(there.deter))))
