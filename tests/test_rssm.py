"""The RSSM against its published size, hand-written formulas and brute-force loops."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from agents.imagination import evaluate_sequences
from worldmodel.base import Batch, Spec, merge_time, tree_map
from worldmodel.models import rssm
from worldmodel.networks import gaussian
from worldmodel.networks.recurrent import GRUCell


def count(*parts: nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian, "sample", lambda mean, std, temperature=1: mean)


def forbid_looking(monkeypatch: pytest.MonkeyPatch, model: rssm.RSSM) -> None:
    """From here on, whoever looks at an image fails."""

    def look(*_: Any) -> Tensor:
        raise AssertionError("the eyes are open")

    monkeypatch.setattr(model.encoder, "forward", look)


def walk(model: rssm.RSSM, batch: Batch, rows: Sequence[int] | None = None) -> rssm.State:
    """observe, step by step: the states (B, T, ...)."""
    state, states = model.initial(len(batch.reward)), []
    for t in rows or range(batch.reward.shape[1]):
        state = model.observe(state, batch.action[:, t], batch.image[:, t], batch.first[:, t])
        states.append(state)
    return rssm.State(*(torch.stack(parts, 1) for parts in zip(*states)))


def cut(batch: Batch, *, b: Any = slice(None), t: Any = slice(None)) -> Batch:
    return tree_map(lambda a: a[b][:, t], batch)


# ---- size and formulas ----


def test_planets_parameters_are_counted() -> None:
    model = rssm.build(rssm.Config(**tiny.PLANET), Spec((3, 64, 64), 6, False))
    assert count(model) == 5_293_220
    assert count(model.encoder) == 690_144
    assert count(model.input_proj, model.gru, model.prior) == 300_260
    assert count(model.posterior_belief, model.posterior_image, model.posterior) == 257_060
    assert count(model.decoder) == 3_795_555
    assert count(model.reward_head) == 250_201
    assert [layer.out_features for layer in model.reward_head if isinstance(layer, nn.Linear)] == [
        300,
        300,
        300,
        1,
    ]


def test_initialisation_is_tensorflows() -> None:
    torch.manual_seed(0)
    model = rssm.build(tiny.config(deter=200, hidden=300), tiny.SPEC)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == (1 if name == "gru.gates.bias" else 0)).all(), name
    apart = math.sqrt(6 / (300 + 8))  # mean and std are two layers of 8, although they are kept as one
    for layer in (model.prior[-1], model.posterior):
        for half in layer.weight.chunk(2):
            assert 0.99 * apart < half.abs().max() <= apart
    edge = math.sqrt(6 / (200 + 300))  # Glorot: uniform up to the root of 6 / (inputs + outputs)
    assert 0.99 * edge < model.prior[0].weight.abs().max() <= edge
    joint = math.sqrt(6 / (200 + model.encoder.size + 300))  # one layer, although it is kept as two
    assert 0.99 * joint < model.posterior_image.weight.abs().max() <= joint
    assert 0.99 * joint < model.posterior_belief.weight.abs().max() <= joint


def test_gru_resets_before_the_matrix_and_keeps_with_the_update_gate() -> None:
    torch.manual_seed(0)
    cell = GRUCell(3, 4)
    x, h = torch.randn(5, 3), torch.randn(5, 4)
    w, b, v, d = (p.detach().numpy() for p in (*cell.gates.parameters(), *cell.candidate.parameters()))
    assert (b == 1).all() and (d == 0).all()
    gates = 1 / (1 + np.exp(-(np.concatenate([x, h], 1) @ w.T + b)))
    reset, update = gates[:, :4], gates[:, 4:]
    candidate = np.tanh(np.concatenate([x.numpy(), reset * h.numpy()], 1) @ v.T + d)
    wanted = update * h.numpy() + (1 - update) * candidate
    np.testing.assert_allclose(cell(x, h).detach(), wanted, rtol=1e-5, atol=1e-6)


def test_the_standard_deviation_is_softplus_and_its_floor() -> None:
    model = tiny.model(min_std=0.1)
    raw = torch.linspace(-30, 5, 16).view(1, -1)
    state = model.make_state(torch.zeros(1, 32), raw, temperature=0)
    torch.testing.assert_close(state.mean, raw[:, :8])
    torch.testing.assert_close(state.std, (1 + raw[:, 8:].exp()).log() + 0.1)
    assert model.make_state(torch.zeros(1, 32), torch.full((1, 16), -50.0), temperature=0).std.min() == pytest.approx(
        0.1
    )


def test_five_bits_are_floored_then_dequantised() -> None:
    pixels = torch.tensor([0, 7, 8, 127, 128, 255], dtype=torch.uint8).view(1, 1, 2, 3)
    wanted = torch.tensor([-0.5, -0.5, -0.46875, -0.03125, 0, 0.46875])
    model = tiny.model(bit_depth=5, dequantise=False)
    assert torch.equal(model.preprocess(pixels).flatten(), wanted)
    noisy = tiny.model(bit_depth=5, dequantise=True)
    drawn = torch.stack([noisy.preprocess(pixels).flatten() for _ in range(2000)]) - wanted
    assert drawn.min() >= 0 and drawn.max() <= 1 / 32 + 1e-6  # rounding only
    assert (drawn.mean(0) - 1 / 64).abs().max() < 0.001
    assert drawn[:, 0].std() == pytest.approx(1 / 32 / math.sqrt(12), rel=0.05)


def test_eight_bits_without_noise_are_the_image() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    got = tiny.model(bit_depth=8, dequantise=False).preprocess(pixels)
    assert torch.equal(got.flatten(), torch.arange(256) / 256 - 0.5)


def test_images_are_dequantised_when_acting_too() -> None:
    model, data = tiny.model(bit_depth=5, dequantise=True), tiny.batch()
    torch.manual_seed(1)
    one = walk(model, data).mean[:, 0]
    torch.manual_seed(2)
    other = walk(model, data).mean[:, 0]
    assert not torch.equal(one, other)  # the first posterior's mean has no other noise


# ---- losses ----


def test_losses_are_summed_over_pixels_and_latents_and_averaged_over_rows() -> None:
    """T9, T10: an explicit double loop, with the halves, and the weight of the reward."""
    model, data = tiny.model(reward_weight=10.0), tiny.batch()
    torch.manual_seed(1)
    loss, states, metrics = model.loss(data)
    image = reward = divergence = 0.0
    for b in range(3):
        for t in range(6):
            state = tree_map(lambda a, b=b, t=t: a[b, t][None], states)
            seen = data.image[b, t].double() / 256 - 0.5
            image += 0.5 * (seen - model.decoder(model.features(state))[0].double()).square().sum().item() / 18
            reward += 0.5 * (data.reward[b, t] - model.reward(state)[0]).square().item() / 18
            prior = model.make_state(state.deter, model.prior(state.deter), temperature=0)
            for q, s, p, o in zip(*(a[0].tolist() for a in (state.mean, state.std, prior.mean, prior.std))):
                divergence += (math.log(o / s) + (s**2 + (q - p) ** 2) / (2 * o**2) - 0.5) / 18
    assert metrics["loss_image"].item() == pytest.approx(image, rel=1e-5)
    assert metrics["loss_reward"].item() == pytest.approx(10 * reward, rel=1e-5)
    assert metrics["loss_kl"].item() == metrics["kl"].item() == pytest.approx(divergence, rel=1e-4)
    assert loss.item() == pytest.approx(image + 10 * reward + divergence, rel=1e-5)


def test_the_kl_ties_the_posterior_to_the_prior_of_the_same_row() -> None:
    """T6, in the model: with a known prior and posterior the number is that of the right direction."""
    model = tiny.model()
    for head, mean, std in ((model.prior[-1], 0.0, 1.0), (model.posterior, 0.5, 0.8)):
        nn.init.zeros_(head.weight)
        with torch.no_grad():
            head.bias[:8] = mean
            head.bias[8:] = math.log(math.expm1(std - 0.1))  # softplus, backwards
    _, _, metrics = model.loss(tiny.batch())
    assert metrics["kl"].item() == pytest.approx(8 * 0.1681435513, rel=1e-5)


def test_free_nats_are_taken_from_every_row_after_summing() -> None:
    """T8: neither per dimension nor from the mean."""
    data, seen = tiny.batch(), {}
    for free in (0.0, 0.4):
        model = tiny.model(free_nats=free)
        torch.manual_seed(1)
        _, states, seen[free] = model.loss(data)
        prior = model.make_state(states.deter.flatten(0, 1), model.prior(states.deter.flatten(0, 1)), temperature=0)
        rows = gaussian.kl(*(a.flatten(0, 1) for a in (states.mean, states.std)), prior.mean, prior.std)
        assert rows.min() < 0.4 < rows.max()  # or the numbers below could not tell
        assert seen[free]["loss_kl"].item() == pytest.approx((rows - free).clamp(min=0).mean().item(), rel=1e-5)
    assert seen[0.0]["kl"] == seen[0.4]["kl"]  # what is reported is the KL itself


def test_rewards_are_scaled_inside_only() -> None:
    model, scaled, data = tiny.model(), tiny.model(reward_divisor=32.0), tiny.batch()
    torch.manual_seed(1)
    plain, states, _ = model.loss(data)
    torch.manual_seed(1)
    loss, _, metrics = scaled.loss(data._replace(reward=data.reward * 32))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    torch.testing.assert_close(scaled.reward(merge_time(states)), 32 * model.reward(merge_time(states)))
    error = (32 * data.reward.flatten() - scaled.reward(merge_time(states))).abs().mean()
    assert metrics["reward_mae"].item() == pytest.approx(error.item(), rel=1e-5)


def test_every_row_keeps_its_place_when_flattened() -> None:
    """T19: a row's image and reward reach that row's state and target, and no other."""
    model, data = tiny.model(), tiny.batch()
    torch.manual_seed(1)
    _, before, _ = model.loss(data)
    data.image[1, 3] = 255 - data.image[1, 3]
    torch.manual_seed(1)
    _, after, _ = model.loss(data)
    changed = (before.mean != after.mean).any(-1)
    wanted = torch.zeros(3, 6, dtype=torch.bool)
    wanted[1, 3:] = True
    assert torch.equal(changed, wanted)


def test_continuing_is_learned_as_one_minus_terminal() -> None:
    data = tiny.batch()._replace(terminal=torch.rand(3, 6) < 2)  # all of them
    model = tiny.model(continue_weight=2.0)
    torch.manual_seed(1)
    _, states, metrics = model.loss(data)
    goes_on = model.continues(merge_time(states))
    assert metrics["loss_continue"].item() == pytest.approx(-2 * (1 - goes_on).log().mean().item(), rel=1e-5)
    torch.manual_seed(1)
    _, _, metrics = model.loss(data._replace(terminal=~data.terminal))
    assert metrics["loss_continue"].item() == pytest.approx(-2 * goes_on.log().mean().item(), rel=1e-5)
    assert tiny.model().continues(merge_time(states)).tolist() == [1.0] * 18


def test_bf16_gives_nearly_the_same_loss() -> None:
    model, data = tiny.model(free_nats=1.0, continue_weight=1.0), tiny.batch()
    torch.manual_seed(1)
    exact, _, _ = model.loss(data)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, states, _ = model.loss(data)
    assert loss.dtype == torch.float32 and all(part.dtype == torch.float32 for part in states)
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)


# ---- time ----


def test_observing_step_by_step_gives_the_states_of_the_loss() -> None:
    model, data = tiny.model(), tiny.batch(starts=[(1, 3)])
    torch.manual_seed(1)
    _, states, _ = model.loss(data)
    torch.manual_seed(1)
    torch.testing.assert_close(walk(model, data), states)


def test_first_in_mid_sequence_starts_a_new_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """T15: neither state nor action come across."""
    no_noise(monkeypatch)
    model, data = tiny.model(), tiny.batch(starts=[(0, 3), (1, 3), (2, 3)])
    _, states, _ = model.loss(data)
    _, one, _ = model.loss(cut(data, t=slice(3)))
    _, two, _ = model.loss(cut(data, t=slice(3, None)))
    for whole, left, right in zip(states, one, two):
        torch.testing.assert_close(whole, torch.cat([left, right], 1))
    data.action[:, 3] = 1.0
    assert all(torch.equal(a, b) for a, b in zip(model.loss(data)[1], states))
    assert all(
        torch.equal(a[:, 3], b[:, 3]) for a, b in zip(walk(model, data), walk(model, cut(data, t=[0, 1, 0, 3, 4, 5])))
    )


def test_first_forgets_only_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    no_noise(monkeypatch)
    model, data = tiny.model(), tiny.batch(starts=[(1, 3)])
    mixed, plain = walk(model, data), walk(model, data._replace(first=torch.zeros(3, 6, dtype=torch.bool)))
    differs = (mixed.mean != plain.mean).any(-1)
    assert differs[1, 3:].all() and not differs[0, 1:].any() and not differs[2, 1:].any() and not differs[1, 1:3].any()


def test_the_posterior_is_sampled_and_imagining_follows_the_prior() -> None:
    model, data = tiny.model(), tiny.batch()
    torch.manual_seed(1)
    state = walk(model, data, [0])
    assert not torch.equal(state.stoch, state.mean)
    imagined = model.imagine(merge_time(state), data.action[:, 1], temperature=0)
    hidden = torch.relu(model.input_proj(torch.cat([state.stoch[:, 0], data.action[:, 1]], -1)))
    belief = model.gru(hidden, state.deter[:, 0])
    torch.testing.assert_close(imagined.deter, belief)
    torch.testing.assert_close(imagined.mean, model.prior(belief)[:, :8])
    assert torch.equal(imagined.stoch, imagined.mean)
    torch.testing.assert_close(model.features(imagined), torch.cat([imagined.stoch, imagined.deter], -1))


def test_imagining_keeps_its_eyes_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(continue_weight=1.0)
    forbid_looking(monkeypatch, model)
    state = model.imagine(model.initial(2), torch.ones(2, 2))
    assert evaluate_sequences(model, tiny.REWARD, state, torch.zeros(2, 4, 3, 2)).isfinite().all()
    assert model.decode(state).shape == (2, 1, 16, 16)


def test_the_mode_is_differentiable_and_uses_no_random_numbers() -> None:
    model, action = tiny.model(), torch.zeros(2, 3, 2, requires_grad=True)
    before = torch.get_rng_state()
    state = model.initial(2)
    for t in range(3):
        state = model.imagine(state, action[:, t], temperature=0)
    assert torch.equal(torch.get_rng_state(), before)
    (gradient,) = torch.autograd.grad(model.reward(state).sum(), action)
    assert (gradient.abs().sum(-1) > 0).all()
    sampled = model.imagine(model.initial(2), action[:, 0])
    assert not torch.equal(torch.get_rng_state(), before) and sampled.stoch.requires_grad


# ---- latent overshooting ----


def overshot(model: rssm.RSSM, states: rssm.State, data: Batch, distance: int) -> float:
    """The mean KL to the prior imagined d steps ahead, over pairs (t, t + d) in one episode; modes only."""
    total, pairs = 0.0, 0
    for b in range(states.mean.shape[0]):
        for t in range(states.mean.shape[1] - distance):
            if data.first[b, t + 1 : t + distance + 1].any():
                continue
            here = tree_map(lambda a, b=b, t=t: a[b, t][None], states)
            for step in range(1, distance + 1):
                here = model.imagine(here, data.action[b, t + step][None], temperature=0)
            there = states.mean[b, t + distance], states.std[b, t + distance]
            total += max(0.0, gaussian.kl(*there, here.mean[0], here.std[0]).item() - model.config.free_nats)
            pairs += 1
    return total / pairs


@pytest.mark.parametrize("starts", [[], [(0, 2), (1, 4)]])
def test_overshooting_is_the_brute_force_double_loop(monkeypatch: pytest.MonkeyPatch, starts: Any) -> None:
    no_noise(monkeypatch)
    model, data = tiny.model(overshooting=3, free_nats=0.3), tiny.batch(starts=starts)
    _, states, metrics = model.loss(data)
    plain = tiny.model(overshooting=1, free_nats=0.3).loss(data)[2]["loss_kl"].item()
    further = [overshot(model, states, data, distance) for distance in (2, 3)]
    wanted = (plain + sum(further)) / 3
    assert min(plain, *further) > 0  # or the free nats would hide them
    assert metrics["loss_kl"].item() == pytest.approx(wanted, rel=1e-5)


def test_overshooting_by_one_step_is_the_plain_kl() -> None:
    model, data = tiny.model(), tiny.batch()
    torch.manual_seed(1)
    _, states, metrics = model.loss(data)
    after = torch.get_rng_state()
    prior = model.make_state(states.deter.flatten(0, 1), model.prior(states.deter.flatten(0, 1)), temperature=0)
    prior = tree_map(lambda a: a.unflatten(0, (3, 6)), prior)
    divergence = gaussian.kl(states.mean, states.std, prior.mean, prior.std)
    assert torch.equal(model.kl_loss(divergence, states, data), divergence.clamp(min=0).mean())
    assert metrics["loss_kl"].item() == pytest.approx(divergence.mean().item(), rel=1e-6)
    assert torch.equal(torch.get_rng_state(), after)  # nor does it cost random numbers


def test_overshooting_further_than_the_sequence_takes_the_distances_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_noise(monkeypatch)
    data, found = tiny.batch(t=3), {}
    for distance in (1, 2, 8):
        found[distance] = tiny.model(overshooting=distance).loss(data)[2]["loss_kl"].item()
    assert found[8] == found[2] != found[1]
    states = tiny.model().loss(data)[1]
    wanted = (found[1] + overshot(tiny.model(), states, data, 2)) / 2
    assert found[8] == pytest.approx(wanted, rel=1e-5)
    assert (
        tiny.model(overshooting=3).loss(tiny.batch(starts=[(b, t) for b in range(3) for t in range(6)]))[0].isfinite()
    )


def test_overshooting_does_not_pull_the_posterior_towards_the_prior() -> None:
    """T11: for d > 1 only the prior learns. The start's sample still carries a gradient, as released."""
    model, data = tiny.model(overshooting=3), tiny.batch()
    _, states, _ = model.loss(data)
    states = tree_map(lambda a: a.detach().requires_grad_(), states)
    model.kl_loss(torch.zeros(3, 6), states, data).backward()  # the plain KL (d = 1) apart
    assert states.mean.grad is None and states.std.grad is None
    assert states.stoch.grad.abs().sum() > 0
    assert model.prior[0].weight.grad.abs().sum() > 0 and model.posterior.weight.grad is None


# ---- shapes and ablations ----


@pytest.mark.parametrize("changes", [dict(stoch=0), dict(deter=0), dict(deter=0, overshooting=3)], ids=str)
def test_either_path_alone_builds_learns_and_remembers_what_it_can(changes: Any) -> None:
    model, data = tiny.model(**changes), tiny.batch()
    loss, states, _ = model.loss(data)
    loss.backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not silent and all(p.grad.isfinite().all() for p in model.parameters())
    assert states.deter.shape == (3, 6, model.config.deter) and states.stoch.shape == (
        3,
        6,
        model.config.stoch,
    )
    torch.manual_seed(1)
    walked = walk(model, data)
    torch.manual_seed(1)
    torch.testing.assert_close(walked, model.loss(data)[1])
    assert evaluate_sequences(model, tiny.REWARD, merge_time(walked), torch.zeros(18, 2, 3, 2)).shape == (18, 2)


def test_without_a_stochastic_path_imagining_is_learned_from_the_belief_before_the_look() -> None:
    model, data = tiny.model(stoch=0), tiny.batch()
    _, states, metrics = model.loss(data)
    before, state = [], model.initial(3)
    for t in range(6):
        before.append(model.imagine(state, data.action[:, t] * ~data.first[:, t, None], temperature=0))
        state = tree_map(lambda a, t=t: a[:, t], states)
    image = data.image.flatten(0, 1) / 256 - 0.5
    errors = [
        gaussian.unit_nll(image, model.decoder(model.features(merge_time(read)))).sum((1, 2, 3)).mean()
        for read in (states, rssm.State(*(torch.stack(parts, 1) for parts in zip(*before))))
    ]
    assert metrics["loss_image"].item() == pytest.approx(sum(errors).item() / 2, rel=1e-5)


def test_a_model_without_memory_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing would be remembered"):
        tiny.config(deter=0, stoch=0)
    with pytest.raises(ValidationError, match="depths has 2 layers but kernels has 1"):
        tiny.config(kernels=[6])


SIZES = [(3, 64, 64), (3, 84, 84), (3, 64, 48), (3, 96, 96), (1, 17, 23), (1, 10, 40)]


@pytest.mark.parametrize("image", SIZES, ids=str)
def test_images_of_any_size_are_decoded_to_that_size(image: tuple[int, int, int]) -> None:
    spec = Spec(image, 2, False)
    model, data = tiny.model(spec), tiny.batch(1, 2, spec)
    loss, states, _ = model.loss(data)
    loss.backward()
    assert model.decode(merge_time(states)).shape == (2, *image)
    assert model.config.image_size_error(image[1:]) is None


def test_planets_decoder_reaches_64_pixels_from_one_cell_and_crops_nothing() -> None:
    decoder = rssm.build(rssm.Config(**tiny.PLANET), Spec((3, 64, 64), 6, False)).decoder
    assert decoder.grid == (1, 1) and decoder.grown(1, [5, 5, 6, 6]) == 64 and decoder.dense.out_features == 1024


def test_images_too_small_for_the_encoder_are_refused() -> None:
    assert "use fewer depths" in str(tiny.config().image_size_error((9, 64)))
    with pytest.raises(ValueError, match="9x64 pixels are too small for 2 convolutions"):
        tiny.model(Spec((1, 9, 64), 2, False))


def test_decoded_images_are_intensities_of_the_environment() -> None:
    """In [0, 1] once they are learned: what makes the image loss zero is what `decode` must return."""
    model, data = tiny.model(), tiny.batch()
    nn.init.zeros_(model.decoder.layers[-1].weight)
    nn.init.zeros_(model.decoder.layers[-1].bias)
    _, states, metrics = model.loss(data._replace(image=torch.full_like(data.image, 128)))
    assert metrics["loss_image"] == 0
    assert (model.decode(merge_time(states)) == 0.5).all()
