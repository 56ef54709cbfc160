"""What every actor promises, on every model and kind of action. A new file in configs/ is tested by being there."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

import agents
from agents.agent import Agent
from agents.base import Actor, Plan
from worldmodel.base import Spec, tree_map
from worldmodel.config import part

N = 3
both = pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE], ids=["continuous", "discrete"])
PAIRS = [f"{actor} on {model}" for actor in tiny.names("actor") for model in tiny.names("model")]
every = pytest.mark.parametrize("name", PAIRS)


def make(name: str, spec: Spec, seed: int = 0) -> Agent:
    """An agent from the names of an actor and a model."""
    torch.manual_seed(seed)
    actor, _, model_name = name.partition(" on ")
    section = tiny.section("model", model_name, continue_weight=1.0)
    model = part("worldmodel", section.name).build(section, spec)
    return Agent(tiny.agent_config(), model, agents.build_actor(tiny.section("actor", actor), model, spec), spec)


def states(agent: Agent, b: int = N, t: int = 4) -> Any:
    return tree_map(Tensor.detach, agent.model.loss(tiny.batch(b, t, agent.spec))[1])


def act(actor: Actor, state: Any, plan: Plan, explore: bool, seed: int = 1) -> tuple[Tensor, Plan]:
    torch.manual_seed(seed)
    with torch.no_grad():
        return actor.act(state, plan, explore)


def check_actions(action: Tensor, spec: Spec) -> None:
    assert action.shape == (N, spec.action_dim) and action.dtype == torch.float32 and action.isfinite().all()
    if spec.discrete:
        assert ((action == 0) | (action == 1)).all() and (action.sum(-1) == 1).all()
    else:
        assert action.abs().max() <= 1


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(one, other, strict=True))


def test_there_are_actors_and_each_is_built_by_its_name() -> None:
    assert {"cem", "mppi", "shooting", "evolution", "uniform", "held", "brownian"} <= set(tiny.names("actor"))


@every
@both
@pytest.mark.parametrize("explore", [False, True])
def test_actions_and_memory_have_the_promised_shapes_and_bounds(name: str, spec: Spec, explore: bool) -> None:
    agent = make(name, spec)
    state, plan = tree_map(lambda a: a[:, -1], states(agent)), agent.actor.initial(N)
    for _ in range(3):
        before = [a.shape for a in plan]
        action, plan = act(agent.actor, state, plan, explore)
        check_actions(action, spec)
        assert isinstance(plan, Plan) and [a.shape for a in plan] == before
        assert plan.actions.shape[::2] == (N, spec.action_dim) and plan.value.shape == (N,)


@every
@both
def test_the_seed_decides_and_inputs_are_left_alone(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    state = tree_map(lambda a: a[:, -1].clone(), states(agent))
    plan = act(agent.actor, state, agent.actor.initial(N), True)[1]
    kept = tree_map(torch.clone, state), tree_map(torch.clone, plan)
    one, other = (act(agent.actor, state, plan, True, seed=5) for _ in range(2))
    assert torch.equal(one[0], other[0]) and equal(one[1], other[1])
    assert equal(state, kept[0]) and equal(plan, kept[1])


@every
@both
def test_a_row_does_not_see_its_neighbours(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    here, there = (tree_map(lambda a: a[:, -1], states(agent, t=t)) for t in (4, 6))
    mixed = tree_map(lambda a, b: torch.cat([a[:1], b[1:]]), here, there)
    plan = agent.actor.initial(N)
    for explore in (False, True):
        (alone, kept), (among, other) = (act(agent.actor, state, plan, explore) for state in (here, mixed))
        assert torch.equal(alone[0], among[0])
        assert equal([a[:1] for a in kept], [a[:1] for a in other])


@every
@both
def test_a_blind_actor_needs_no_look_and_says_so_truly(name: str, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, looks = make(name, spec), []
    right = agent.model.observe
    monkeypatch.setattr(agent.model, "observe", lambda *given: looks.append(1) or right(*given))
    image = tiny.batch(N, 1, spec).image[:, 0].numpy()
    _, memory = agent.act(None, image)
    agent.act(memory, image)
    assert len(looks) == (0 if agent.actor.blind else 2)
    here, there = (tree_map(lambda a: a[:, -1], states(agent, t=t)) for t in (4, 6))
    one, other = (act(agent.actor, state, agent.actor.initial(N), True)[0] for state in (here, there))
    assert torch.equal(one, other) or not agent.actor.blind


@every
@both
def test_the_actors_parameters_are_not_the_models(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    owned = {id(parameter) for parameter in agent.model.parameters()}
    assert agent.actor.model is agent.model
    assert not any(id(parameter) in owned for parameter in agent.actor.parameters())
    assert not any(id(module) == id(agent.model) for module in agent.actor.modules())
    assert not any(key.startswith("model") for key in agent.actor.state_dict())


@every
@both
def test_learning_in_imagination_gives_metrics_and_leaves_the_model_alone(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    start = states(agent)
    before = {key: value.clone() for key, value in agent.model.state_dict().items()}
    actor = {key: value.clone() for key, value in agent.actor.state_dict().items()}
    for metrics in (agent.actor.learn(start), agent.learn(tiny.batch(N, 4, spec), "actor")):
        assert isinstance(metrics, dict) and all(value.numel() == 1 and value.isfinite() for value in metrics.values())
        assert bool(metrics) == agent.actor.learns
    assert all(torch.equal(value, before[key]) for key, value in agent.model.state_dict().items())
    changed = any(not torch.equal(value, actor[key]) for key, value in agent.actor.state_dict().items())
    assert changed == agent.actor.learns
    image = agent.model.decode(tree_map(lambda a: a[:, -1], start))
    assert image.shape == (N, *spec.image_shape) and image.isfinite().all()


def live(agent: Agent, episode: int, steps: int = 3) -> Iterator[tuple[np.ndarray, Any]]:
    """An episode, one step at a time; the noise depends on episode and step alone."""
    memory, images = None, tiny.batch(1, steps, agent.spec, seed=episode).image[0].numpy()
    for step in range(steps):
        torch.manual_seed(100 * episode + step)
        action, memory = agent.act(memory, images[step], explore=True)
        yield action, memory


@every
@both
def test_memory_is_passed_and_not_hidden(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    alone = list(live(agent, 1)), list(live(agent, 2))
    for step, pair in enumerate(zip(live(agent, 1), live(agent, 2))):
        for episode, (action, memory) in enumerate(pair):
            wanted, kept = alone[episode][step]
            assert np.array_equal(action, wanted) and equal(memory.plan, kept.plan)


@every
@both
def test_first_gives_a_row_a_fresh_plan(name: str, spec: Spec) -> None:
    agent, data = make(name, spec), tiny.batch(N, 4, spec).image.numpy()
    memory = None
    for t in range(3):
        _, memory = agent.act(memory, data[:, t], explore=True)
    got = []
    for past, first in ((memory, [True, False, False]), (None, None), (memory, None)):
        torch.manual_seed(1)
        got.append(agent.act(past, data[:, 3], None if first is None else np.array(first)))
    (mixed, after), (fresh, new), (going, old) = got
    assert np.array_equal(mixed[0], fresh[0]) and np.array_equal(mixed[1:], going[1:])
    assert equal([a[:1] for a in after.plan], [a[:1] for a in new.plan])
    assert equal([a[1:] for a in after.plan], [a[1:] for a in old.plan])


@every
@both
def test_what_it_has_learned_goes_through_its_tensors(name: str, spec: Spec) -> None:
    agent, other = make(name, spec), make(name, spec, seed=5)
    for what in ("model", "actor"):
        agent.learn(tiny.batch(N, 4, spec), what)
    saved = {file: {key: value.clone() for key, value in group.items()} for file, group in agent.tensors().items()}
    other.restore(saved)
    image = tiny.batch(1, 1, spec).image[0, 0].numpy()
    actions = []
    for who in (agent, other):
        torch.manual_seed(1)
        actions.append(who.act(None, image)[0])
    assert np.array_equal(*actions)
