"""What heads of world models with categorical latents learn and tell; precision, CUDA graphs, configs."""

import importlib
from typing import Any

import pytest
import torch
from categorical_models import SPEC, B, config, every, look, make, make_batch
from torch.utils._python_dispatch import TorchDispatchMode

from worldmodel.base import Spec, merge_time
from worldmodel.networks import two_hot


@every
def test_rewards_are_learned_as_two_hot_and_told_as_means(name: str) -> None:
    model, batch = make(name), make_batch()
    torch.manual_seed(5)
    _, states, metrics = model.loss(batch)
    logits, reward = model.reward_head(model.features(states)), batch.reward
    target = two_hot.symlog(reward) if name == "dreamer_v3_2023" else reward
    torch.testing.assert_close(metrics["loss_reward"], two_hot.loss(logits, target, model.bins).mean())
    error = (model.reward(merge_time(states)) - reward.flatten()).abs().mean()
    torch.testing.assert_close(metrics["reward_mae"], error)


def test_v3_learns_the_discount_but_does_not_tell_it() -> None:
    """Who acts brings his own: 1 is sure to go on (dreamer.md 8.5)."""
    model, batch = make("dreamer_v3"), make_batch()
    state = look(model, batch)[-1]
    discount = 1 - 1 / 333
    with torch.no_grad():
        model.continue_head.output.weight.zero_()
        for probability, told in ((0.5 * discount, 0.5), (discount, 1.0), (0.9999, 1.0), (0.0, 0.0)):
            model.continue_head.output.bias.fill_(torch.tensor(probability).logit())
            torch.testing.assert_close(model.continues(state), torch.full((B,), told))
    torch.manual_seed(5)
    model.continue_head.output.bias.data.fill_(2.0)
    _, _, metrics = model.loss(batch)
    # 17 rows that go on and one that does not: 0.1329340 and log(1 + e^2)
    wanted = (17 * 0.1329340 + 2.1269280) / 18
    assert abs(metrics["loss_continue"].item() - wanted) < 1e-6
    # Where everything goes on, it learns to be no surer than the discount: its optimum is a logit of 5.8051.
    goes_on, found = batch._replace(terminal=torch.zeros_like(batch.terminal)), {}
    for logit in (5.0, 5.80, 5.8051, 5.81):
        model.continue_head.output.bias.data.fill_(logit)
        model.zero_grad()
        metrics = model.loss(goes_on)[2]
        metrics["loss_continue"].backward()
        found[logit] = metrics["loss_continue"].item(), model.continue_head.output.bias.grad.item()
    assert abs(found[5.0][0] - 0.0217304) < 1e-7
    assert found[5.80][1] < -1e-5 and abs(found[5.8051][1]) < 1e-6 and found[5.81][1] > 1e-5
    undiscounted = make("dreamer_v3", horizon=None)
    state = look(undiscounted, batch)[-1]
    plain = undiscounted.continue_head(undiscounted.features(state)).squeeze(-1).sigmoid()
    torch.testing.assert_close(undiscounted.continues(state), plain)


@every
def test_without_a_continue_head_everything_goes_on(name: str) -> None:
    model = make(name, continue_weight=0.0)
    assert not hasattr(model, "continue_head")
    assert model.continues(model.initial(4)).tolist() == [1] * 4
    assert "loss_continue" not in model.loss(make_batch())[2]


@every
def test_no_number_is_asked_for_in_the_middle_of_a_call(name: str) -> None:
    """A CUDA graph could not record it."""
    model, batch = make(name), make_batch()
    with NoLooking():
        state = model.initial(B)
        state = model.observe(state, batch.action[:, 1], batch.image[:, 1], batch.first[:, 1])
        for temperature in (1.0, 0.5, 0):
            state = model.imagine(state, batch.action[:, 1], temperature)
        model.loss(batch)[0].backward()
        model.reward(state), model.continues(state), model.decode(state)


class NoLooking(TorchDispatchMode):
    """Refuses what waits for a number, or whose shape depends on one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(func) for name in ("local_scalar", "nonzero", "masked_select", "is_nonzero")), func
        return func(*args, **(kwargs or {}))


@every
def test_in_low_precision_states_losses_and_answers_stay_float32(name: str) -> None:
    model, batch = make(name), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, states, metrics = model.loss(batch)
        flat = merge_time(states)
        there = model.imagine(flat, batch.action.flatten(0, 1))
        told = [*states, *there, model.reward(there), model.continues(there), model.decode(there), loss]
        assert all(a.dtype == torch.float32 for a in [*told, *metrics.values()])
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    exact = model.loss(batch)[0].detach()
    assert abs(loss.item() / exact.item() - 1) < 0.05


@every
def test_images_that_cannot_be_halved_are_refused_with_what_fits(name: str) -> None:
    four = config(name, depths=[8, 8, 8, 8])
    for size in ((64, 64), (48, 96), (96, 96), (128, 128)):
        assert four.image_size_error(size) is None
    assert "48, 64" in four.image_size_error((50, 50)) and "depths" in four.image_size_error((64, 84))
    if name == "dreamer_v3":
        assert "depths" in four.image_size_error((32, 32))
        assert config(name, depths=[8, 8, 8]).image_size_error((32, 32)) is None
    with pytest.raises(ValueError, match="50x50"):
        make(name, Spec((3, 50, 50), 2, False), depths=[8, 8, 8, 8])


def test_configs_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ValueError, match="8 blocks do not divide deter"):
        config("dreamer_v3", deter=20)
    with pytest.raises(ValueError, match="make it odd"):
        config("dreamer_v3", bins=254)
    with pytest.raises(ValueError, match="make it odd"):
        config("dreamer_v3_2023", bins=254)


@every
def test_it_learns_a_constant_world_in_its_own_units(name: str) -> None:
    """One gray level, one reward, no end: soon it is what `decode`, `reward` and `continues` say."""
    torch.manual_seed(0)  # as it is built: a two-hot head that does not begin with zeros is far off
    model, batch = importlib.import_module(f"worldmodel.models.{name}").build(config(name), SPEC), make_batch()
    still = batch._replace(
        image=torch.full_like(batch.image, 64),
        reward=torch.full_like(batch.reward, -0.7),
        terminal=torch.zeros_like(batch.terminal),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    torch.manual_seed(1)
    for _ in range(150):
        optimizer.zero_grad()
        loss, states, _ = model.loss(still)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
    state = merge_time(states)
    assert abs(model.decode(state).mean().item() - 64 / 255) < 0.03
    assert abs(model.reward(state).mean().item() + 0.7) < 0.1
    assert model.continues(state).mean() > 0.95
