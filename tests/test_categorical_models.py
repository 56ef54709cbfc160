"""What world models with categorical latents promise beyond the contract, and the faults of ports that touch them."""

import math

import pytest
import torch
from categorical_models import DISCRETE, SPEC, B, config, every, look, make, make_batch
from torch import Tensor

from worldmodel.base import Batch, Spec, tree_map
from worldmodel.networks import categorical


@every
@pytest.mark.parametrize("spec", [SPEC, DISCRETE])
def test_fault_26_acting_and_learning_see_the_same(name: str, spec: Spec) -> None:
    """The same images, embeds, noise: the states of the loss are those that were observed one by one."""
    model, batch = make(name, spec), make_batch(spec)
    acting = look(model, batch)
    torch.manual_seed(5)
    _, states, _ = model.loss(batch)
    for t, state in enumerate(acting):
        for one, other in zip(state, states, strict=True):
            torch.testing.assert_close(one, other[:, t], rtol=1e-4, atol=1e-5)


@every
def test_fault_8_what_is_seen_decides(name: str) -> None:
    model, batch = make(name), make_batch()
    other = batch._replace(image=255 - batch.image)
    one, two = (model.features(look(model, data)[-1]) for data in (batch, other))
    assert not torch.allclose(one, two)


@every
def test_fault_19_a_first_row_does_not_depend_on_its_action_nor_on_the_past(name: str) -> None:
    model, batch = make(name), make_batch()
    action = batch.action.clone()
    action[batch.first] = 77.0
    torch.manual_seed(5)
    loss, states, _ = model.loss(batch)
    torch.manual_seed(5)
    again, same, _ = model.loss(batch._replace(action=action))
    assert torch.equal(loss, again) and all(torch.equal(a, b) for a, b in zip(states, same, strict=True))
    past = batch.action.clone()
    past[1, 1:3] = -past[1, 1:3]
    torch.manual_seed(5)
    _, forgot, _ = model.loss(batch._replace(action=past))
    assert not torch.equal(states.deter[1, 2], forgot.deter[1, 2])
    torch.testing.assert_close(states.deter[1, 3], forgot.deter[1, 3], rtol=0, atol=1e-6)
    assert torch.equal(states.deter[0], forgot.deter[0])


@every
@pytest.mark.parametrize("part", ["deter", "stoch"])
def test_fault_19_a_first_row_forgets_h_and_z(name: str, part: str) -> None:
    model, batch = make(name), make_batch()
    past = tree_map(Tensor.detach, look(model, batch)[-1])
    other = past._replace(**{part: getattr(past, part).roll(1, -1)})
    seen = []
    for state in (past, other):
        torch.manual_seed(5)
        seen.append(model.observe(state, batch.action[:, 1], batch.image[:, 1], torch.tensor([True, False, True])))
    one, two = (state.deter for state in seen)
    assert torch.equal(one[[0, 2]], two[[0, 2]]) and not torch.equal(one[1], two[1])


@every
def test_the_row_after_a_first_one_depends_on_its_action(name: str) -> None:
    model, batch = make(name), make_batch()
    action = batch.action.clone()
    action[:, 1] = -action[:, 1]
    torch.manual_seed(5)
    _, states, _ = model.loss(batch)
    torch.manual_seed(5)
    _, other, _ = model.loss(batch._replace(action=action))
    assert torch.equal(states.deter[:, 0], other.deter[:, 0])
    assert not torch.isclose(states.deter[:, 1], other.deter[:, 1]).all(-1).any()


@every
def test_fault_24_no_action_counts_for_more_than_1(name: str) -> None:
    model = make(name)
    state = tree_map(Tensor.detach, look(model, make_batch())[-1])
    large = torch.tensor([[2.0, -0.5], [-9, 1.5], [1, 0]])
    one, other = (model.imagine(state, action, 0) for action in (large, large.clamp(-1, 1)))
    assert torch.equal(one.deter, other.deter)
    assert not torch.equal(one.deter, model.imagine(state, large / 2, 0).deter)


@every
def test_fault_10_the_error_of_an_image_is_its_sum_of_squares(name: str) -> None:
    spec = Spec((3, 64, 64), 2, False)
    model, batch = make(name, spec, depths=[4, 4, 8, 8]), make_batch(spec)
    shade = batch._replace(image=torch.full_like(batch.image, 100))
    if name == "dreamer_v3":  # whose loss has the sigmoid
        model.decoder.forward = lambda deter, *given: torch.full((len(deter), 3, 64, 64), math.log(101 / 154))
    else:
        model.decode = lambda state: torch.full((len(state.deter), 3, 64, 64), 101 / 255)
    _, _, metrics = model.loss(shade)
    assert abs(metrics["loss_image"].item() - 12288 / 255**2) < 1e-5


@every
def test_fault_14_free_nats_are_taken_from_the_sum_row_by_row(name: str) -> None:
    model = make(name)
    for layer in (model.prior.output, getattr(model.posterior, "output", model.posterior)):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    _, _, metrics = model.loss(make_batch())
    assert metrics["kl"] == 0
    assert metrics["loss_dyn"] == model.config.dyn_weight * 1 and metrics["loss_rep"] == torch.tensor(0.1)
    model = make(name)
    torch.nn.init.normal_(model.prior.output.weight, std=1.0)  # some rows above a nat, some below
    torch.manual_seed(5)
    batch = make_batch()
    image = batch.image.flatten(0, 1)
    states, log_q = model.scan(batch, image if name == "dreamer_v3" else image / 255)
    kl = categorical.kl(log_q, model.log_probs(model.prior(states.deter)))  # (B, T)
    model.config = model.config.model_copy(update={"free_nats": kl.median().item()})
    torch.manual_seed(5)
    _, _, metrics = model.loss(batch)
    wanted = model.config.dyn_weight * torch.where(kl > kl.median(), kl, kl.median()).mean()
    torch.testing.assert_close(metrics["loss_dyn"], wanted)


@every
def test_the_prior_learns_from_dyn_alone_and_the_posterior_from_rep(name: str) -> None:
    model, batch = make(name, free_nats=0.0), make_batch()

    def gradients(**weights: float) -> tuple[Tensor, Tensor]:
        # The images' gradient reaches the posterior, too: only differences of it are looked at.
        model.config = config(name, free_nats=0.0, **weights)
        model.zero_grad()
        torch.manual_seed(5)
        model.loss(batch)[0].backward()
        posterior = getattr(model.posterior, "output", model.posterior)
        return model.prior.output.weight.grad.clone(), posterior.weight.grad.clone()

    prior, posterior = gradients(dyn_weight=0.0, rep_weight=0.0)
    assert not prior.any()
    prior_dyn, _ = gradients(dyn_weight=1.0, rep_weight=0.0)
    prior_rep, posterior_rep = gradients(dyn_weight=0.0, rep_weight=1.0)
    assert prior_dyn.any() and not prior_rep.any()
    assert not torch.allclose(posterior_rep, posterior, atol=1e-4)
    # At one row, no later one could bring dyn's gradient back to the posterior through the state.
    batch = Batch(*(a[:, :1] for a in batch[:5]))
    posterior, without = gradients(dyn_weight=5.0, rep_weight=0.0)[1], gradients(dyn_weight=0.0, rep_weight=0.0)[1]
    assert torch.equal(posterior, without)


@every
def test_states_keep_their_graph(name: str) -> None:
    """For a critic that also learns from replay: its gradient may reach encoder and core."""
    model, batch = make(name), make_batch()
    _, states, _ = model.loss(batch)
    gradients = torch.autograd.grad(model.features(states).sum(), list(model.encoder.parameters()))
    assert all(gradient.any() for gradient in gradients)


@every
def test_at_temperature_0_gradients_flow_through_many_steps(name: str) -> None:
    """What planners by gradient need: from a reward in three steps back to the first action."""
    model = make(name)
    state = tree_map(Tensor.detach, look(model, make_batch())[-1])
    actions = torch.zeros(3, B, 2, requires_grad=True)
    before = torch.get_rng_state()
    for action in actions:
        state = model.imagine(state, action, 0)
    assert torch.equal(before, torch.get_rng_state())
    (gradient,) = torch.autograd.grad(model.features(state).square().sum(), actions)
    assert gradient.abs().sum((-2, -1)).all()
