"""What every world model promises. A new configs/model/*.yaml is tested by being there."""

import functools
import re
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from training.configuration import components
from training.configuration.components import find
from worldmodel.base import Batch, Spec, WorldModel, merge_time, split_time, tree_map

N, B, T = 3, 2, 5
both = pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE], ids=["continuous", "discrete"])
SIZE = re.compile(r"_\d+M$")  # the same component with other numbers, all of which are shrunk here
NAMES = [name for name in tiny.names("model") if not SIZE.search(name)]
every = pytest.mark.parametrize("name", NAMES)


@functools.cache
def section(name: str, **changes: Any) -> Any:
    """The checked config; composing one takes as long as many a test."""
    return tiny.section("model", name, **changes)


def make(name: str, spec: Spec, **changes: Any) -> WorldModel:
    torch.manual_seed(0)
    config = section(name, **changes)
    model: WorldModel = find("model", config.name).build(config, spec)
    return model


def look(model: WorldModel, data: Batch, steps: int = T, seed: int = 1) -> Any:
    """The state after observing so many rows."""
    torch.manual_seed(seed)
    state = model.initial(len(data.reward))
    for t in range(steps):
        state = model.observe(state, data.action[:, t], data.image[:, t], data.first[:, t])
    return state


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_there_are_models() -> None:
    assert {"rssm", "mdnrnn"} <= set(NAMES)


@every
@both
def test_states_are_named_tuples_of_tensors_rows_first(name: str, spec: Spec) -> None:
    model, data = make(name, spec), tiny.batch(N, T, spec)
    state, action = model.initial(N), data.action[:, 1]
    for made in (look(model, data), model.imagine(state, action), model.imagine(state, action, temperature=0)):
        assert type(made) is type(state) and made._fields == state._fields
        assert [(a.shape, a.dtype) for a in made] == [(a.shape, a.dtype) for a in state]
        assert all(len(a) == N and a.isfinite().all() for a in made)


@every
@both
def test_a_state_answers_with_the_promised_shapes(name: str, spec: Spec) -> None:
    model, data = make(name, spec), tiny.batch(N, T, spec)
    seen = look(model, data)
    for state in (seen, model.imagine(seen, data.action[:, 1])):
        features, decoded = model.features(state), model.decode(state)
        assert features.shape[0] == N and features.dim() == 2
        assert decoded.shape == (N, *spec.image_shape) and decoded.dtype == torch.float32
        goes_on = model.continues(state)
        assert model.reward(state).shape == goes_on.shape == (N,)
        assert ((goes_on >= 0) & (goes_on <= 1)).all()


@every
@both
def test_the_loss_is_a_number_with_a_gradient_for_every_parameter(name: str, spec: Spec) -> None:
    model, data = make(name, spec), tiny.batch(B, T, spec, starts=[(0, 3)])
    loss, states, metrics = model.loss(data)
    assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
    assert all(value.shape == () and value.isfinite() for value in metrics.values())
    assert [a.shape for a in states] == [(B, T, *a.shape[1:]) for a in model.initial(B)]
    assert type(states) is type(model.initial(B))
    loss.backward()
    without = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@every
@both
def test_the_states_of_the_loss_are_where_imagination_may_start(name: str, spec: Spec) -> None:
    model, data = make(name, spec), tiny.batch(B, T, spec)
    flat = merge_time(model.loss(data)[1])
    there = model.imagine(flat, data.action.flatten(0, 1))
    assert model.reward(there).shape == (B * T,)
    assert equal(merge_time(split_time(flat, T)), flat)


@every
@both
def test_parts_share_nothing_and_learn_apart(name: str, spec: Spec) -> None:
    """Together they are the model; the loss of each has a gradient for all of it, and for nothing else."""
    model, data = make(name, spec), tiny.batch(B, T, spec)
    parts = model.parts()
    ids = [id(parameter) for parameters in parts.values() for parameter in parameters]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in model.parameters()}
    for part, parameters in parts.items():
        model.zero_grad()
        loss, states, metrics = model.loss(data, part)
        assert loss.shape == () and loss.isfinite() and all(value.isfinite().all() for value in metrics.values())
        assert [a.shape for a in states] == [(B, T, *a.shape[1:]) for a in model.initial(B)]
        loss.backward()
        reached = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
        assert reached == {id(parameter) for parameter in parameters}, part


@every
@both
def test_the_seed_decides_what_is_seen_and_imagined(name: str, spec: Spec) -> None:
    model, data = make(name, spec), tiny.batch(N, T, spec)
    assert equal(look(model, data), look(model, data))
    imagined = []
    for _ in range(2):
        torch.manual_seed(3)
        imagined.append(model.imagine(model.initial(N), data.action[:, 1]))
    assert equal(*imagined)
    assert all(torch.equal(a, b) for a, b in zip(make(name, spec).parameters(), model.parameters(), strict=True))


@every
@both
def test_the_mode_needs_no_random_numbers_and_is_differentiable(name: str, spec: Spec) -> None:
    model, data = make(name, spec), tiny.batch(N, T, spec)
    state = tree_map(Tensor.detach, look(model, data))
    action = data.action[:, 1].clone().requires_grad_()
    before = torch.get_rng_state()
    one, other = (model.imagine(state, action, temperature=0) for _ in range(2))
    assert equal(one, other) and torch.equal(before, torch.get_rng_state())
    (gradient,) = torch.autograd.grad(model.features(one).square().sum(), action)
    assert gradient.abs().sum() > 0


@every
@both
def test_first_forgets_the_state_and_the_action_of_its_row_alone(name: str, spec: Spec) -> None:
    model, data = make(name, spec), tiny.batch(N, T, spec)
    past, image, first = look(model, data, 3), data.image[:, 3], torch.tensor([True, False, False])
    got = []
    for state, action, starts in (
        (past, data.action[:, 3], first),
        (model.initial(N), torch.zeros_like(data.action[:, 3]), torch.ones(N, dtype=torch.bool)),
        (past, data.action[:, 3], torch.zeros(N, dtype=torch.bool)),
    ):
        torch.manual_seed(1)
        got.append(model.observe(state, action, image, starts))
    mixed, fresh, going = got
    assert equal([a[:1] for a in mixed], [a[:1] for a in fresh])
    assert equal([a[1:] for a in mixed], [a[1:] for a in going])
    assert not equal([a[:1] for a in mixed], [a[:1] for a in going])


@every
@both
def test_observing_depends_on_image_action_and_past_and_changes_no_input(name: str, spec: Spec) -> None:
    model, data = make(name, spec), tiny.batch(N, T, spec)
    copy = tree_map(torch.clone, data)
    usual = model.features(look(model, data))
    assert equal(data[:5], copy[:5])
    for change in ("image", "action"):
        other: Batch = tree_map(torch.clone, data)
        part = getattr(other, change)
        part[:, 2] = 255 - part[:, 2] if change == "image" else part[:, 2].roll(1, -1)
        assert not torch.allclose(model.features(look(model, other)), usual)


@pytest.mark.parametrize("name", [name for name in NAMES if name in components.names("model")])
def test_it_learns_a_constant_world_in_its_own_units(name: str) -> None:
    """One gray level and one reward: soon `decode` says intensities in [0, 1], and `reward` the reward. How soon is a
    matter of weights and units, which other sizes have of their own: it is tested with each component's own file.
    """
    model, data = make(name, tiny.SPEC, continue_weight=1.0), tiny.batch(8, T)
    still = data._replace(image=torch.full_like(data.image, 64), reward=torch.full_like(data.reward, -0.7))
    still = still._replace(terminal=torch.zeros_like(data.terminal))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    torch.manual_seed(1)
    for _ in range(120):
        optimizer.zero_grad()
        loss, states, _ = model.loss(still)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
    state = merge_time(states)
    assert abs(model.decode(state).mean().item() - 0.25) < 0.03
    assert abs(model.reward(state).mean().item() + 0.7) < 0.1
    assert model.continues(state).mean() > 0.9


DREAMERS = ("dreamer_v1_tiny", "dreamer_v2_tiny", "dreamer_v3_tiny", "dreamer_v3_2023")


@pytest.mark.parametrize("name", DREAMERS)
def test_whose_sequences_begin_as_episodes_do(name: str) -> None:
    """DreamerV2 and V3 of 2023 forget the action that led to a sequence's first row. V1 does not, as released; nor does
    V3, whose replay stores states.
    """
    model, data = make(name, tiny.SPEC), tiny.batch(B, T, tiny.SPEC)
    first = data.first.clone()
    first[:, 0] = False
    loss = []
    for action in (0.3, 0.7):
        led = data.action.clone()
        led[:, 0] = action
        torch.manual_seed(0)
        loss.append(model.loss(data._replace(action=led, first=first))[0].item())
    assert (loss[0] == loss[1]) == (name in ("dreamer_v2_tiny", "dreamer_v3_2023"))


@pytest.mark.parametrize("name", DREAMERS)
def test_a_term_of_the_loss_counts_as_often_as_its_weight_says(name: str) -> None:
    weights = [key for key in type(section(name)).model_fields if key.endswith("_weight")]
    assert {"kl_weight", "continue_weight"} <= set(weights) or len(weights) == 5
    for key in weights:
        term, found = f"loss_{key.removesuffix('_weight')}", []
        for weight in (1.0, 3.0):
            model = make(name, tiny.SPEC, **{key: weight})
            torch.manual_seed(0)
            loss, _, metrics = model.loss(tiny.batch(B, T, tiny.SPEC))
            found.append((loss.item(), metrics[term].item()))
        (loss, once), (more, thrice) = found
        assert once > 0 and thrice == pytest.approx(3 * once, rel=1e-5), key
        assert more - loss == pytest.approx(2 * once, rel=1e-3, abs=1e-3), key
