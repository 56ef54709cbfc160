"""What every actor promises, on every model and kind of action. A new file in configs/ is tested by being there."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from agents.agent import Agent
from agents.base import Actor, ActorInfo, Mode, add_exploration_noise, no_plan
from training.configuration import command_line, components
from training.configuration.components import find
from training.configuration.config import check_section
from worldmodel.base import Batch, Spec, State, merge_time, tree_map, tree_stack

N = 3
SIZE = re.compile(r"_\d+M$")  # the same component with other numbers, all of which are shrunk here
ONLY_DISCRETE = ("evolution_doom",)
SPECS = {"continuous": tiny.SPEC, "discrete": tiny.DISCRETE}


def names(group: str) -> list[str]:
    return [name for name in tiny.names(group) if not SIZE.search(name)]


ACTORS = {name: group for group in ("actor", "explorer") for name in names(group)}  # and their group
MODELS = [name for name in names("model") if name in components.names("model")]  # one file of each, not every size


@functools.cache
def section(group: str, name: str) -> Any:
    """The checked config; composing one takes as long as many a test."""
    # Of Dreamer V3 the loss of replayed values reaches the model, as published: tests/test_actor_critic.py has it.
    return tiny.section(group, name, continue_weight=1.0, replay_weight=0.0)


# ---- an actor that learns by gradient, with a carry of its own ----


class Steps(NamedTuple):
    taken: Tensor  # (N,) int64


class Count(NamedTuple):
    """A carry in a carry, and a tensor without further axes."""

    last: Tensor  # (N, A)
    steps: Steps


class LinearPolicy(Actor):
    """Imitates the actions of replay. A file with a `loss` of its own is tested in the same way."""

    def __init__(self, model: Any, spec: Spec) -> None:
        super().__init__(model, spec)
        self.layer = nn.Linear(model.features(model.initial(1)).shape[-1] + spec.action_dim, spec.action_dim)

    def initial(self, n: int) -> Count:
        return Count(torch.zeros(n, self.spec.action_dim), Steps(torch.zeros(n, dtype=torch.int64)))

    def act(
        self, state: State, carry: Count, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Count, ActorInfo]:
        output = self.layer(torch.cat([self.model.features(state), carry.last], -1)).float()
        best = nn.functional.one_hot(output.argmax(-1), self.spec.action_dim).float()
        action = best if self.spec.discrete else output.tanh()
        if mode == "explore":
            action = add_exploration_noise(self.spec, action, 0.3, generator)
        return action, Count(action, Steps(carry.steps.taken + 1)), no_plan(len(action), self.spec, action.device)

    def loss(self, batch: Batch, states: State) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.model.features(merge_time(states)).detach()
        error = self.layer(torch.cat([features, torch.zeros(len(features), self.spec.action_dim)], -1)).float()
        loss = (error - batch.action.flatten(0, 1)).square().mean()
        return loss, {"error": loss}


# ---- what is tested with what ----


def cases() -> Iterator[Any]:
    """(actor on model, spec): every component on every component, and other sizes of actors on the first model."""
    for actor in [*ACTORS, "linear_policy"]:
        for model in MODELS if actor in ["linear_policy", *components.names("actor")] else ["rssm"]:
            for kind, spec in SPECS.items():
                if spec.discrete or actor not in ONLY_DISCRETE:
                    yield pytest.param(f"{actor} on {model}", spec, id=f"{actor} on {model}-{kind}")


every = pytest.mark.parametrize(("name", "spec"), list(cases()))


def make(name: str, spec: Spec, seed: int = 0) -> Agent:
    """An agent from the names of an actor and a model."""
    torch.manual_seed(seed)
    actor_name, _, model_name = name.partition(" on ")
    config = section("model", model_name)
    model = find("model", config.name).build(config, spec)
    if actor_name == "linear_policy":
        actor: Actor = LinearPolicy(model, spec)
    else:
        group = ACTORS[actor_name]
        config = section(group, actor_name)
        actor = find(group, config.name).build(config, model, spec, tiny.REWARD)
    optimizer = tiny.agent_config().optimizers["model"]
    return Agent(tiny.agent_config(optimizers={"model": optimizer, "actor": optimizer}), model, actor, spec)


def states(agent: Agent, b: int = N, t: int = 4) -> Any:
    return tree_map(Tensor.detach, agent.model.loss(tiny.batch(b, t, agent.spec))[1])


def last(agent: Agent, t: int = 4) -> Any:
    """Observed states (N, ...)."""
    return tree_map(lambda a: a[:, -1].clone(), states(agent, t=t))


def act(actor: Actor, state: Any, carry: Any, mode: Mode, seed: int = 1) -> tuple[Tensor, Any, ActorInfo]:
    torch.manual_seed(seed)
    with torch.no_grad():
        return actor.act(state, carry, mode)


def check_actions(action: Tensor, spec: Spec) -> None:
    assert action.shape == (N, spec.action_dim) and action.dtype == torch.float32 and action.isfinite().all()
    if spec.discrete:
        assert ((action == 0) | (action == 1)).all() and (action.sum(-1) == 1).all()
    else:
        assert action.abs().max() <= 1


def check_info(info: ActorInfo, spec: Spec) -> None:
    assert isinstance(info, ActorInfo)
    assert info.predicted_return.shape == (N,) and info.predicted_return.dtype == torch.float32
    assert info.predicted_return.isnan().all() or info.predicted_return.isfinite().all()
    assert info.plan.shape == (N, info.plan.shape[1], spec.action_dim) and info.plan.dtype == torch.float32
    assert info.plan.isfinite().all() and (info.plan.abs() <= 1 + 1e-6).all()  # weights may sum to 1 and a rounding
    if spec.discrete:  # of a step that is not decided yet, probabilities
        torch.testing.assert_close(info.plan.sum(-1), torch.ones(info.plan.shape[:2]))
    if info.candidates:
        candidates, returns = info.candidates
        assert candidates.shape == (N, returns.shape[1], *info.plan.shape[1:]) and not returns.isnan().any()
        assert (info.predicted_return <= returns.amax(1) + 1e-4).all()  # what is chosen comes from among them


def leaves(tensors: Any) -> list[Tensor]:
    return pytree.tree_leaves(tensors)


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(leaves(one), leaves(other), strict=True))


def rows(tensors: Any, which: slice) -> Any:
    return tree_map(lambda a: a[which], tensors)


def copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_there_are_actors_and_each_is_built_by_its_name() -> None:
    assert {"cem", "mppi", "shooting", "evolution", "uniform", "repeated_random", "brownian"} <= set(ACTORS)


# ---- acting ----


@every
@pytest.mark.parametrize("mode", ["evaluate", "explore"])
def test_action_carry_and_info_have_the_promised_shapes_and_bounds(name: str, spec: Spec, mode: Mode) -> None:
    agent = make(name, spec)
    state, carry, horizons = last(agent), agent.actor.initial(N), set()
    kind, before = type(carry), [(a.shape, a.dtype) for a in leaves(carry)]
    assert isinstance(carry, tuple) and hasattr(carry, "_fields")  # any NamedTuple
    assert all(isinstance(a, Tensor) and len(a) == N for a in leaves(carry)) and leaves(carry)
    for _ in range(3):
        action, carry, info = act(agent.actor, state, carry, mode)
        check_actions(action, spec)
        check_info(info, spec)
        horizons.add(info.plan.shape[1])
        assert type(carry) is kind and [(a.shape, a.dtype) for a in leaves(carry)] == before
        assert all(a.isfinite().all() for a in leaves(carry))
    assert len(horizons) == 1


@every
def test_the_seed_decides_and_inputs_are_left_alone(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    state = last(agent)
    carry = act(agent.actor, state, agent.actor.initial(N), "explore")[1]
    kept = tree_map(torch.clone, (state, carry))
    one, other = (act(agent.actor, state, carry, "explore", seed=5) for _ in range(2))
    assert equal(one, other)
    assert equal((state, carry), kept)


@every
def test_its_own_random_numbers_come_from_the_generator(name: str, spec: Spec) -> None:
    """The default one remains the model's: who asks no model, leaves it as it was."""
    agent = make(name, spec)
    state, carry, acted = last(agent), agent.actor.initial(N), []
    for seed in (1, 1, 2):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        with torch.no_grad():
            acted.append(agent.actor.act(state, carry, "explore", torch.Generator().manual_seed(seed)))
        assert agent.actor.needs_observation or torch.equal(torch.get_rng_state(), before)
    assert equal(acted[0], acted[1])
    with torch.no_grad():
        draws = not equal(*(act(agent.actor, state, carry, "explore", seed)[0] for seed in (1, 2)))
    if draws and not spec.discrete:  # of three actions, two seeds may well choose the same
        assert not equal(acted[0], acted[2])


@every
def test_a_row_does_not_see_its_neighbours(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    here, there = last(agent, 4), last(agent, 6)
    mixed = tree_map(lambda a, b: torch.cat([a[:1], b[1:]]), here, there)
    carry = agent.actor.initial(N)
    for mode in ("evaluate", "explore"):
        alone, among = (act(agent.actor, state, carry, mode) for state in (here, mixed))
        assert equal(rows(alone, slice(1)), rows(among, slice(1)))


@every
def test_an_actor_without_observations_needs_no_look_and_says_so_truly(
    name: str, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, looks = make(name, spec), []
    right = agent.model.observe
    monkeypatch.setattr(agent.model, "observe", lambda *given: looks.append(1) or right(*given))
    image = tiny.batch(N, 1, spec).image[:, 0].numpy()
    _, memory = agent.act(None, image)
    agent.act(memory, image)
    assert len(looks) == (2 if agent.actor.needs_observation else 0)
    here, there = last(agent, 4), last(agent, 6)
    one, other = (act(agent.actor, state, agent.actor.initial(N), "explore")[0] for state in (here, there))
    assert torch.equal(one, other) or agent.actor.needs_observation


def live(agent: Agent, episode: int, steps: int = 3) -> Iterator[tuple[np.ndarray, Any]]:
    """An episode, one step at a time; the noise depends on episode and step alone."""
    memory, images = None, tiny.batch(1, steps, agent.spec, seed=episode).image[0].numpy()
    for step in range(steps):
        torch.manual_seed(100 * episode + step)
        action, memory = agent.act(memory, images[step], mode="explore")
        yield action, memory


@every
def test_memory_is_passed_and_not_hidden(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    alone = list(live(agent, 1)), list(live(agent, 2))
    for step, pair in enumerate(zip(live(agent, 1), live(agent, 2))):
        for episode, (action, memory) in enumerate(pair):
            wanted, kept = alone[episode][step]
            assert np.array_equal(action, wanted)
            assert equal((memory.carry, memory.info), (kept.carry, kept.info))


@every
def test_first_gives_a_row_a_fresh_carry(name: str, spec: Spec) -> None:
    agent, data = make(name, spec), tiny.batch(N, 4, spec).image.numpy()
    memory = None
    for t in range(3):
        _, memory = agent.act(memory, data[:, t], mode="explore")
    got = []
    for past, first in ((memory, [True, False, False]), (None, None), (memory, None)):
        torch.manual_seed(1)
        got.append(agent.act(past, data[:, 3], None if first is None else np.array(first)))
    (mixed, after), (fresh, new), (going, old) = got
    assert np.array_equal(mixed[0], fresh[0]) and np.array_equal(mixed[1:], going[1:])
    for memories in ((after.carry, new.carry, old.carry), (after.info, new.info, old.info)):
        now, begun, gone_on = memories
        assert equal(rows(now, slice(1)), rows(begun, slice(1)))
        assert equal(rows(now, slice(1, None)), rows(gone_on, slice(1, None)))


# ---- learning ----


@every
def test_the_actors_parameters_are_not_the_models(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    owned = {id(parameter) for parameter in agent.model.parameters()}
    assert agent.actor.model is agent.model
    assert not any(id(parameter) in owned for parameter in agent.actor.parameters())
    assert not any(id(module) == id(agent.model) for module in agent.actor.modules())
    assert not any(key.startswith("model") for key in agent.actor.state_dict())
    own = {id(parameter) for parameter in agent.actor.parameters()}
    parts = [id(parameter) for part in agent.actor.parts().values() for parameter in part]
    assert len(parts) == len(set(parts)) and set(parts) <= own
    assert not set(agent.actor.parts()) & {"model", *agent.model.parts()}
    assert bool(parts) == agent.actor.has_loss


@every
def test_an_actor_learns_by_gradient_or_by_its_own_means_or_not_at_all(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    batch, start = tiny.batch(N, 4, spec), states(agent)
    by_loss, by_learn = (getattr(type(agent.actor), way) is not getattr(Actor, way) for way in ("loss", "learn"))
    assert not (by_loss and by_learn)
    assert agent.actor.has_loss == by_loss and agent.actor.learns == (by_loss or by_learn)
    for way, has in (("loss", by_loss), ("learn", by_learn)):
        if not has:
            with pytest.raises(NotImplementedError):
                getattr(agent.actor, way)(batch, start)


@every
def test_the_actors_loss_is_a_number_whose_gradient_reaches_all_of_the_actor_and_nothing_of_the_model(
    name: str, spec: Spec
) -> None:
    """Although the states that it gets are those of the model's loss, gradients and all."""
    agent = make(name, spec)
    if not agent.actor.has_loss:
        return
    batch = tiny.batch(N, 4, spec)
    _, start, _ = agent.model.loss(batch)
    assert any(part.requires_grad for part in start)
    loss, metrics = agent.actor.loss(batch, start)
    assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
    assert metrics and all(value.numel() == 1 and value.isfinite() for value in metrics.values())
    loss.backward()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in agent.model.parameters())
    for part, parameters in agent.actor.parts().items():
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in parameters), part
        assert any(parameter.grad.any() for parameter in parameters), part
    learned = {id(parameter) for part in agent.actor.parts().values() for parameter in part}
    assert all(parameter.grad is None for parameter in agent.actor.parameters() if id(parameter) not in learned)


@every
def test_learning_gives_metrics_and_leaves_the_model_alone(name: str, spec: Spec) -> None:
    agent = make(name, spec)
    start, batch = states(agent), tiny.batch(N, 4, spec)
    model, actor = copy(agent.model), copy(agent.actor)
    if agent.actor.learns:
        metrics = agent.learn(batch, ("actor",))
        kinds = ("actor", *agent.actor.parts())
        assert metrics and all(key.partition("/")[0] in kinds for key in metrics)
        assert all(value.numel() == 1 and value.isfinite() for value in metrics.values())
    assert same(agent.model, model)
    assert same(agent.actor, actor) != agent.actor.learns
    image = agent.model.decode(rows(merge_time(start), slice(N)))
    assert image.shape == (N, *spec.image_shape) and image.isfinite().all()


@every
def test_a_model_learns_the_same_with_an_actor_that_learns_beside_it(name: str, spec: Spec) -> None:
    """From the same batch, in the same update: not a digit of the model's gradient is the actor's."""
    alone, beside = make(name, spec), make(name, spec)
    if not alone.actor.learns:
        return
    batch, found = tiny.batch(N, 4, spec), []
    for agent, parts in ((alone, ("model",)), (beside, ("model", "actor"))):
        torch.manual_seed(1)
        found.append(agent.learn(batch, parts))
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
    assert set(found[1]) > set(found[0])
    assert same(beside.model, copy(alone.model)) and not same(beside.actor, copy(alone.actor))


@every
def test_what_it_has_learned_goes_through_its_tensors(name: str, spec: Spec) -> None:
    agent, other = make(name, spec), make(name, spec, seed=5)
    for part in ("model", "actor") if agent.actor.learns else ("model",):
        agent.learn(tiny.batch(N, 4, spec), (part,))
    saved = {file: {key: value.clone() for key, value in group.items()} for file, group in agent.tensors().items()}
    other.restore(saved)
    image = tiny.batch(1, 1, spec).image[0, 0].numpy()
    actions = []
    for who in (agent, other):
        torch.manual_seed(1)
        actions.append(who.act(None, image)[0])
    assert np.array_equal(*actions)


# ---- objectives ----

objectives = pytest.mark.parametrize("objective", names("objective"))
both = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


@objectives
@both
@pytest.mark.parametrize("model_name", MODELS)
def test_an_objective_values_every_step_of_a_path_and_its_end(
    objective: str, spec: Spec, model_name: str, tmp_path: Path
) -> None:
    agent = make(f"uniform on {model_name}", spec)
    Image.new("RGB", (16, 16), (200, 90, 30)).save(tmp_path / "goal.png")
    values = command_line.component_section(("objective",), objective)
    values |= {"image": str(tmp_path / "goal.png")} if "image" in values else {}
    config = check_section("objective", {"objective": values})
    goal = find("objective", config.name).build(config, agent.model, spec)
    actions = tiny.batch(N, 6, spec).action.transpose(0, 1)[1:]  # (H, N, A)
    path = [last(agent)]
    for action in actions:
        path.append(tree_map(Tensor.detach, agent.model.imagine(path[-1], action)))
    whole = tree_stack(path[1:], 0)  # (H, N, ...)
    before = copy(agent.model)
    with torch.no_grad():
        torch.manual_seed(0)  # an objective may observe something of its own
        reward, value = goal.reward(agent.model, whole, actions), goal.terminal_value(agent.model, path[-1])
        torch.manual_seed(0)
        some = goal.reward(agent.model, tree_map(lambda a: a[:, 1:], whole), actions[:, 1:])
    assert reward.shape == actions.shape[:2] and value.shape == (N,)
    assert reward.dtype == value.dtype == torch.float32 and reward.isfinite().all() and value.isfinite().all()
    torch.testing.assert_close(some, reward[:, 1:], rtol=1e-4, atol=1e-5)  # row by row
    assert same(agent.model, before)
    owned = {id(parameter) for parameter in agent.model.parameters()}
    assert not any(id(parameter) in owned for parameter in goal.parameters())


@both
def test_the_reward_is_the_models(spec: Spec) -> None:
    agent = make("uniform on rssm", spec)
    path = tree_map(lambda a: a.transpose(0, 1), states(agent))  # (H, N, ...)
    reward = tiny.REWARD.reward(agent.model, path, torch.zeros(4, N, spec.action_dim))
    for h in range(4):
        torch.testing.assert_close(reward[h], agent.model.reward(rows(path, h)))
    assert not tiny.REWARD.terminal_value(agent.model, rows(path, 3)).any()
