"""DreamerV2's world model: its size, its GRU, the balanced KL, its loss term by term, and what a first row forgets."""

import math
from typing import Any

import dreams
import pytest
import torch
import torch.nn.functional as F
from dreams import SPEC
from torch import Tensor, nn

from agents.imagination import observe_sequence
from worldmodel.base import merge_time
from worldmodel.models.dreamer_v2 import State, kl_loss
from worldmodel.networks import categorical
from worldmodel.networks.elu import EluDecoder, EluEncoder

POST = torch.tensor([[2, -1, 0.5], [-0.5, 1.5, 0]])
PRIOR = torch.tensor([[0.0, 1, -1], [1, -0.5, 0.5]])


def full(**changes: Any) -> Any:
    torch.manual_seed(0)
    return dreams.component("model", "dreamer_v2").build(dreams.config("model", "dreamer_v2", **changes), SPEC)


def size(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_as_many_parameters_as_published() -> None:
    model = full()
    posterior = size(model.posterior_belief, model.posterior_image, model.posterior)
    found = (size(model.encoder), size(model.input_proj), size(model.gru), size(model.prior), posterior)
    assert found == (1_551_312, 206_200, 241_800, 246_024, 553_224)
    assert (size(model.decoder), size(model.reward_head)) == (9_886_611, 971_601)
    assert size(model) == 13_656_772


def test_fault_21_the_gru_normalises_and_keeps_h_at_first() -> None:
    """x = (.5, -1), h = (.1, -.2), our reference's fill of weights."""
    cell = dreams.model("dreamer_v2", hidden=2, deter=2).gru
    n = torch.arange(24.0)
    with torch.no_grad():
        cell.linear.weight.copy_((((7 * n % 11) - 5) / 10).view(4, 6).T)
        cell.linear.bias.copy_(((5 * n[:6] % 7) - 3) / 10)
        cell.norm.scale.copy_(1 + n[:6] / 10)
    found = cell(torch.tensor([[0.5, -1]]), torch.tensor([[0.1, -0.2]]))
    assert found.flatten().tolist() == pytest.approx([0.0782588, -0.3331187], rel=1e-5)


def test_weights_begin_glorot_uniform() -> None:
    model = full()
    for layer in (model.gru.linear, model.input_proj, model.posterior, model.reward_head.outputs[0]):
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    for layer in (model.encoder.layers[1], model.decoder.layers[2]):
        bound = math.sqrt(6 / (sum(layer.weight.shape[:2]) * layer.weight[0, 0].numel()))
        assert 0.95 * bound < layer.weight.abs().max() <= bound


def test_fault_21_convolutions_use_elu() -> None:
    encoder = EluEncoder((1, 4, 4), [1])
    decoder = EluDecoder(1, (1, 6, 6), [1, 1], [2, 2])
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *decoder.parameters()]:
            parameter.zero_()
        encoder.layers[0].bias.fill_(-1)
        decoder.layers[0].bias.fill_(-1)
        decoder.layers[1].weight[..., 0, 0] = 1
    assert encoder(torch.zeros(1, 1, 4, 4)).item() == pytest.approx(math.exp(-1) - 1)
    assert decoder(torch.zeros(1, 1)).min().item() == pytest.approx(math.exp(-1) - 1)


# ---- the balanced KL ----


def log_p(logits: Tensor) -> Tensor:
    return categorical.log_probs(logits)[None]


def test_the_kl_loss_by_golden_number() -> None:
    loss, kl = kl_loss(log_p(POST), log_p(PRIOR), 0.8, 0.0)
    assert loss.item() == kl.item() == pytest.approx(1.9606622, rel=2e-6)
    assert kl_loss(log_p(PRIOR), log_p(POST), 0.8, 0.0)[0].item() == pytest.approx(2.4835799, rel=2e-6)


@pytest.mark.parametrize(("balance", "posterior", "prior"), [(0.0, 1.0, 0.0), (0.8, 0.2, 0.8), (1.0, 0.0, 1.0)])
def test_the_balance_is_the_priors_share(balance: float, posterior: float, prior: float) -> None:
    """Of the plain KL's gradient each side gets its share, and the other's exactly 0 (T7)."""
    q, p = POST.clone().requires_grad_(), PRIOR.clone().requires_grad_()
    whole = torch.autograd.grad(categorical.kl(log_p(q), log_p(p)).mean(), [q, p])
    found = torch.autograd.grad(kl_loss(log_p(q), log_p(p), balance, 0.0)[0], [q, p])
    torch.testing.assert_close(found[0], posterior * whole[0])
    torch.testing.assert_close(found[1], prior * whole[1])


def test_free_nats_are_taken_off_the_mean() -> None:
    """Of a row with a KL of 1.96 and one with 0, whose mean is .98."""
    q, p = torch.cat([log_p(POST), log_p(PRIOR)]).requires_grad_(), torch.cat([log_p(PRIOR), log_p(PRIOR)])
    for free, expected in ((0.9, 1.9606622 / 2), (1.0, 1.0)):
        loss, kl = kl_loss(q, p, 0.8, free)
        assert loss.item() == pytest.approx(expected, rel=2e-6) and kl.item() == pytest.approx(1.9606622 / 2, rel=2e-6)
        assert torch.autograd.grad(loss, q)[0].any() == (free < 0.98)


# ---- the whole ----


def test_the_loss_is_the_sum_of_its_terms() -> None:
    model = dreams.model("dreamer_v2", free_nats=0.0, continue_weight=5.0, continue_discount=0.999, kl_weight=0.1)
    batch = dreams.batch()
    torch.manual_seed(0)
    loss, states, metrics = model.loss(batch)
    flat = merge_time(states)
    image = batch.image.flatten(0, 1).float() / 255
    prior = model.log_probs(model.prior(flat.deter))
    terms = {
        "image": 0.5 * (model.decode(flat) - image).square().sum((1, 2, 3)).mean(),
        "reward": 0.5 * (model.reward(flat) - batch.reward.flatten()).square().mean(),
        "continue": 5.0 * F.binary_cross_entropy(
            model.continue_head(model.features(flat))[:, 0].sigmoid(), 0.999 * (1 - batch.terminal.flatten().float())
        ),
        "kl": 0.1 * categorical.kl(flat.log_p, prior).mean(),
    }  # fmt: skip
    for name, value in terms.items():
        torch.testing.assert_close(metrics[f"loss_{name}"], value)
    torch.testing.assert_close(loss, torch.stack(list(terms.values())).sum())


def test_observing_step_by_step_gives_the_states_of_the_loss() -> None:
    model, batch = dreams.model("dreamer_v2"), dreams.batch()
    torch.manual_seed(0)
    _, states, _ = model.loss(batch)
    torch.manual_seed(0)
    for one, other in zip(states, observe_sequence(model, batch), strict=True):
        torch.testing.assert_close(one, other)


def test_fault_19_a_first_row_forgets_state_and_action() -> None:
    model, batch = dreams.model("dreamer_v2"), dreams.batch()
    found = []
    for old, action in ((False, 0.0), (True, 1.0)):
        state = model.initial(2)
        assert all(not a.any() for a in state)
        if old:
            state = State(*(torch.randn_like(a) for a in state))
        torch.manual_seed(0)
        first = torch.ones(2, dtype=torch.bool)
        found.append(model.observe(state, torch.full((2, 2), action), batch.image[:, 0], first))
    assert all(map(torch.equal, *found))


def test_latents_are_one_hot_and_learn_through_their_probabilities() -> None:
    model = dreams.model("dreamer_v2")
    action = torch.zeros(5, 2, requires_grad=True)
    state = model.imagine(model.initial(5), action)
    assert torch.equal(state.stoch.sum(-1), torch.ones(5, 4)) and state.stoch.unique().tolist() == [0, 1]
    assert model.features(state).shape == (5, 16 + 16)
    (state.stoch * torch.arange(4.0)).sum().backward()
    assert action.grad is not None and action.grad.any()


def test_imagining_the_mode_is_differentiable_and_draws_nothing() -> None:
    model = dreams.model("dreamer_v2")
    action = torch.zeros(2, 2, requires_grad=True)
    before = torch.get_rng_state()
    state = model.imagine(model.initial(2), action, 0)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(state.stoch.argmax(-1), state.log_p.argmax(-1))
    model.reward(state).sum().backward()
    assert action.grad is not None and action.grad.any()


def test_continues_is_a_probability() -> None:
    model = dreams.model("dreamer_v2", continue_weight=5.0, continue_discount=0.999)
    layer = model.continue_head.outputs[0]
    for probability, expected in ((0.999, 1.0), (0.9999, 1.0), (0.4995, 0.5)):
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.fill_(math.log(probability / (1 - probability)))
        assert model.continues(model.initial(1)).item() == pytest.approx(expected, rel=1e-5)
    assert dreams.model("dreamer_v2").continues(model.initial(3)).tolist() == [1, 1, 1]


def test_what_is_carried_keeps_its_digits_in_bfloat16() -> None:
    model = dreams.model("dreamer_v2")
    with torch.autocast("cpu", torch.bfloat16):
        loss, states, _ = model.loss(dreams.batch())
    assert all(a.dtype == torch.float32 for a in states) and loss.dtype == torch.float32


def test_it_learns_a_batch() -> None:
    model, batch = dreams.model("dreamer_v2"), dreams.batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, _, metrics = model.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append((metrics["loss_image"].item(), metrics["loss_reward"].item()))
    assert losses[-1][0] < 0.8 * losses[0][0] and losses[-1][1] < 0.5 * losses[0][1]
