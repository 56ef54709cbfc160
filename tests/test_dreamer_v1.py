"""Dreamer's world model: its size, its GRU, its loss term by term, and what a first row forgets."""

import math
from typing import Any

import dreams
import pytest
import torch
import torch.nn.functional as F
from dreams import SMALL, SPEC
from torch import Tensor, nn

from agents.imagination import observe_sequence
from worldmodel.base import Batch, merge_time, tree_map
from worldmodel.models.dreamer_v1 import State
from worldmodel.networks import gaussian
from worldmodel.networks.elu import EluMLP
from worldmodel.networks.reset_after_gru import ResetAfterGRUCell


def full(**changes: Any) -> Any:
    torch.manual_seed(0)
    return dreams.component("model", "dreamer_v1").build(dreams.config("model", "dreamer_v1", **changes), SPEC)


def size(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_as_many_parameters_as_published() -> None:
    model = full(continue_weight=10.0)
    posterior = size(model.posterior_belief, model.posterior_image, model.posterior)
    found = (size(model.encoder), size(model.input_proj), size(model.gru), size(model.prior), posterior)
    assert found == (690_144, 7_400, 241_200, 52_260, 257_060)
    assert (size(model.decoder), size(model.reward_head)) == (3_795_555, 253_201)
    assert size(model.continue_head) == 413_601
    assert size(full()) == 5_296_820


def test_the_gru_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = ResetAfterGRUCell(5, 4), nn.GRUCell(5, 4)
    with torch.no_grad():
        for mine, yours in (
            (ours.input_proj.weight, theirs.weight_ih),
            (ours.input_proj.bias, theirs.bias_ih),
            (ours.recurrent_proj.weight, theirs.weight_hh),
            (ours.recurrent_proj.bias, theirs.bias_hh),
        ):
            mine.copy_(yours)
    x, h = torch.randn(3, 5), torch.randn(3, 4)
    torch.testing.assert_close(ours(x, h), theirs(x, h))


def test_weights_begin_as_keras_has_them() -> None:
    model = full()
    recurrent = model.gru.recurrent_proj.weight  # (3 * 200, 200)
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(200), atol=1e-4, rtol=0)
    for layer in (model.gru.input_proj, model.input_proj, model.posterior, model.reward_head.outputs[0]):
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    joint = torch.cat([model.posterior_belief.weight, model.posterior_image.weight], 1)
    assert joint.abs().max() <= math.sqrt(6 / sum(joint.shape))


def test_no_latent_is_surer_than_its_floor() -> None:
    """std = softplus(s) + .1, in the posterior as in the prior."""
    model = dreams.model("dreamer_v1")
    statistics = torch.tensor([[0.0] * 4 + [-50.0, 0.0, 1.0, 50.0]])  # means, then raw standard deviations
    found = model.make_state(torch.zeros(1, 16), statistics)
    assert found.std.flatten().tolist() == pytest.approx([0.1, 0.7931472, 1.4132617, 50.1])


def test_fault_22_elu_before_the_gru() -> None:
    """-1 becomes ELU(-1); a linear layer would let it pass, ReLU would make it 0."""
    model = dreams.model("dreamer_v1")
    seen: list[Tensor] = []
    model.gru.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.input_proj.weight.zero_()
        model.input_proj.bias.fill_(-1)
        model.imagine(model.initial(1), torch.zeros(1, 2))
    assert seen[0].flatten().tolist() == pytest.approx([math.exp(-1) - 1] * 16)


def test_mlps_use_elu() -> None:
    mlp = EluMLP(1, 1, 1, 1)
    with torch.no_grad():
        for layer in (mlp.hidden[0], mlp.outputs[0]):
            nn.init.ones_(layer.weight)
    assert mlp(torch.tensor([[-1.0], [2.0]])).flatten().tolist() == pytest.approx([math.exp(-1) - 1, 2])


def test_the_kl_of_two_gaussians() -> None:
    arguments = [torch.tensor(values) for values in ((0.5, -0.2), (0.8, 0.3), (0.0, 0.1), (1.0, 0.5))]
    assert gaussian.kl(*arguments).item() == pytest.approx(0.5389692, rel=2e-6)


@pytest.mark.parametrize("free_nats", [0.0, 1e6])
def test_the_loss_is_the_sum_of_its_terms(free_nats: float) -> None:
    """The free nats are taken off the mean KL, not off each row's (T8)."""
    model = dreams.model("dreamer_v1", free_nats=free_nats, continue_weight=10.0)
    batch = dreams.batch()
    torch.manual_seed(0)
    loss, states, metrics = model.loss(batch)
    flat = merge_time(states)
    image = batch.image.flatten(0, 1).float() / 255
    terms = {
        "image": 0.5 * (model.decode(flat) - image).square().sum((1, 2, 3)).mean(),
        "reward": 0.5 * (model.reward(flat) - batch.reward.flatten()).square().mean(),
        "continue": 10.0 * F.binary_cross_entropy(
            model.continue_head(model.features(flat))[:, 0].sigmoid(), 0.99 * (1 - batch.terminal.flatten().float())
        ),
        "kl": metrics["kl"].clamp(min=free_nats),
    }  # fmt: skip
    for name, value in terms.items():
        torch.testing.assert_close(metrics[f"loss_{name}"], value)
    torch.testing.assert_close(loss, torch.stack(list(terms.values())).sum())
    assert metrics["kl"] > 0
    kl_gradient = torch.autograd.grad(metrics["loss_kl"], model.posterior.weight, allow_unused=True)[0]
    assert (kl_gradient.any() if free_nats == 0 else not kl_gradient.any())  # fmt: skip


def test_the_kl_is_between_posterior_and_prior_of_the_same_row() -> None:
    model = dreams.model("dreamer_v1")
    batch = dreams.batch()
    torch.manual_seed(0)
    _, states, metrics = model.loss(batch)
    prior = model.make_state(states.deter.flatten(0, 1), model.prior(states.deter.flatten(0, 1)), 0)
    flat = merge_time(states)
    expected = gaussian.kl(flat.mean, flat.std, prior.mean, prior.std).mean()
    torch.testing.assert_close(metrics["kl"], expected)


def test_observing_step_by_step_gives_the_states_of_the_loss() -> None:
    model, batch = dreams.model("dreamer_v1"), dreams.batch()
    torch.manual_seed(0)
    _, states, _ = model.loss(batch)
    torch.manual_seed(0)
    observed = observe_sequence(model, batch)
    for one, other in zip(states, observed, strict=True):
        torch.testing.assert_close(one, other)


def first_row(model: Any, state: Any, action: Tensor, batch: Batch) -> Any:
    torch.manual_seed(0)
    return model.observe(state, action, batch.image[:, 0], torch.ones(2, dtype=torch.bool))


def test_fault_19_a_first_row_forgets_state_and_action() -> None:
    model, batch = dreams.model("dreamer_v1"), dreams.batch()
    fresh = first_row(model, model.initial(2), torch.zeros(2, 2), batch)
    old = State(*(torch.randn_like(a) for a in fresh))
    again = first_row(model, old, torch.ones(2, 2), batch)
    assert all(map(torch.equal, fresh, again))
    assert all(not a.any() for a in model.initial(3))


def test_imagining_the_mode_is_differentiable_and_draws_nothing() -> None:
    model = dreams.model("dreamer_v1")
    action = torch.zeros(2, 2, requires_grad=True)
    before = torch.get_rng_state()
    state = model.imagine(model.initial(2), action, 0)
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(state.stoch, state.mean)
    model.reward(state).sum().backward()
    assert action.grad is not None and action.grad.any()


def test_continues_is_a_probability() -> None:
    """The head learns the discount, too: .99 is life."""
    model = dreams.model("dreamer_v1", continue_weight=10.0)
    layer = model.continue_head.outputs[0]
    for probability, expected in ((0.99, 1.0), (0.999, 1.0), (0.495, 0.5)):
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.fill_(math.log(probability / (1 - probability)))
        assert model.continues(model.initial(1)).item() == pytest.approx(expected, rel=1e-5)
    assert dreams.model("dreamer_v1").continues(model.initial(3)).tolist() == [1, 1, 1]


def test_images_are_centred() -> None:
    model = dreams.model("dreamer_v1")
    assert model.preprocess(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-0.5, 0.5]


def test_the_carried_belief_keeps_its_digits_in_bfloat16() -> None:
    model = dreams.model("dreamer_v1")
    with torch.autocast("cpu", torch.bfloat16):
        loss, states, _ = model.loss(dreams.batch())
    assert all(a.dtype == torch.float32 for a in states) and loss.dtype == torch.float32


def test_it_learns_a_batch() -> None:
    model, batch = dreams.model("dreamer_v1"), dreams.batch(spec=SMALL)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, _, metrics = model.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(tree_map(Tensor.item, (metrics["loss_image"], metrics["loss_reward"])))
    assert losses[-1][0] < 0.8 * losses[0][0] and losses[-1][1] < 0.5 * losses[0][1]
