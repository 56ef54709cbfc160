"""An agent: careful updates, all that it has learned in and out, and a memory that is passed and not kept."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from agents.agent import Agent
from agents.device import choose_precision
from agents.explorers.uniform import Uniform
from agents.imagination import observe_sequence, start_states
from agents.optimizers import PATIENCE, Diverged
from agents.planners import cem
from training.configuration.components import find
from worldmodel.base import Spec, merge_time

CEM = dict(name="cem", horizon=3, iterations=2, candidates=12, elites=4, init_std=1.0, min_std=0.1, momentum=0.0)
NAN, INFINITE = float("nan"), float("inf")


def planner(model: Any, spec: Spec) -> cem.CEM:
    return cem.build(cem.Config(**CEM, warm_start=True, choose="mean", exploration_noise=0.3), model, spec, tiny.REWARD)


def images(n: int, spec: Spec = tiny.SPEC, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *spec.image_shape), dtype=np.uint8)


def copied(agent: Agent) -> dict[str, dict[str, Tensor]]:
    return {name: {key: value.clone() for key, value in group.items()} for name, group in agent.tensors().items()}


def same(one: dict[str, dict[str, Tensor]], other: dict[str, dict[str, Tensor]]) -> bool:
    """To the bit, keys included; whether updates were skipped apart."""
    one, other = (
        {n: {k: v for k, v in g.items() if not k.startswith("skipped/")} for n, g in a.items()} for a in (one, other)
    )
    return {n: [*g] for n, g in one.items()} == {n: [*g] for n, g in other.items()} and all(
        torch.equal(value, other[name][key]) for name, group in one.items() for key, value in group.items()
    )


# ---- learning ----


def test_an_update_changes_every_parameter_and_the_loss_falls() -> None:
    agent = tiny.make_agent(Uniform, continue_weight=1.0)
    before, losses = copied(agent), []
    for _ in range(30):
        torch.manual_seed(1)
        losses.append(agent.learn(tiny.batch())["model/loss"].item())
    still = [k for k, v in agent.model.state_dict().items() if torch.equal(v, before["model"][k])]
    assert not still and losses[-1] < losses[0]


def test_gradients_are_clipped_by_their_common_norm() -> None:
    agent, plain = (tiny.make_agent(Uniform) for _ in range(2))
    seen = {}
    for who, clip in ((agent, 1e-3), (plain, 1e9)):
        config = who.optimizers.configs["model"]
        who.optimizers.configs["model"] = config.model_copy(update={"max_grad_norm": clip})
        torch.manual_seed(1)
        metrics = who.learn(tiny.batch())
        gradients = [p.grad.clone() for p in who.model.parameters()]
        seen[clip] = (
            metrics["model/gradient_norm"].item(),
            torch.stack([g.norm() for g in gradients]).norm().item(),
        )
    assert seen[1e9][0] == seen[1e-3][0] == pytest.approx(seen[1e9][1], rel=1e-5)  # reported before clipping
    assert seen[1e-3][1] == pytest.approx(1e-3, rel=1e-3)


def broken(kind: str, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A batch with which the next update is not finite."""
    batch = tiny.batch()
    if kind == "reward":
        batch.reward[1, 2] = NAN
    elif kind == "loss":
        right = agent.model.loss
        monkeypatch.setattr(
            agent.model, "loss", lambda *given: (lambda loss, *rest: (loss * INFINITE, *rest))(*right(*given))
        )
    else:  # the loss is finite, its gradient is not
        weight = agent.model.reward_head[0].weight
        handle = weight.register_hook(lambda gradient: gradient * INFINITE)
        monkeypatch.setattr(agent, "mend", handle.remove, raising=False)
    return batch


@pytest.mark.parametrize("kind", ["reward", "loss", "gradient"])
def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = tiny.make_agent(Uniform)
    agent.learn(tiny.batch())  # so that there are moments
    before = copied(agent)
    with monkeypatch.context() as patch:
        batch = broken(kind, agent, patch)
        for number in (1, 2, 3):
            metrics = agent.learn(batch)
            assert {key for key, value in metrics.items() if value.item() != 0} == {"model/skipped"}
            assert metrics["model/skipped"] == 1
            assert agent.optimizers.skipped["model"] == number and same(copied(agent), before)
        getattr(agent, "mend", lambda: None)()
    assert agent.learn(tiny.batch())["model/skipped"] == 0
    assert agent.optimizers.skipped["model"] == 0 and not same(copied(agent), before)


def test_ten_in_a_row_and_no_fewer_are_given_up() -> None:
    agent, good = tiny.make_agent(Uniform), tiny.batch()
    bad = good._replace(reward=good.reward * NAN)
    for _ in range(2):  # a good one in between starts the count afresh
        for _ in range(PATIENCE - 1):
            agent.learn(bad)
        agent.learn(good)
    before = copied(agent)
    for _ in range(PATIENCE - 1):
        agent.learn(bad)
    with pytest.raises(Diverged, match="10 updates in a row"):
        agent.learn(bad)
    assert PATIENCE == 10 and same(copied(agent), before)


def test_what_is_restored_learns_on_identically() -> None:
    agent = tiny.make_agent(planner)
    for seed in range(3):
        agent.learn(tiny.batch(seed=seed))
    agent.learn(tiny.batch()._replace(reward=torch.full((3, 6), NAN)))
    kept, random = copied(agent), agent.random_state()
    results = []
    for who in (agent, tiny.make_agent(planner, seed=5)):
        if who is not agent:
            assert not same(copied(who), kept)
            who.restore({name: dict(group) for name, group in kept.items()})
            assert who.optimizers.skipped["model"] == 1 and same(copied(who), kept)
        who.set_random_state(random)
        losses = [who.learn(tiny.batch(seed=10 + seed))["model/loss"].item() for seed in range(3)]
        results.append((losses, copied(who), who.act(None, images(1)[0])[0].tolist()))
    assert results[0][0] == results[1][0] and results[0][2] == results[1][2]
    assert same(results[0][1], results[1][1])


def test_without_moments_it_acts_the_same_and_learns_afresh() -> None:
    agent, other = tiny.make_agent(planner), tiny.make_agent(planner, seed=5)
    agent.learn(tiny.batch())
    other.restore({name: group for name, group in copied(agent).items() if name != "optim"})
    actions = []
    for who in (agent, other):
        torch.manual_seed(1)
        actions.append(who.act(None, images(2))[0])
    assert np.array_equal(*actions) and list(other.tensors()["optim"]) == ["skipped/model"]


# ---- acting ----


@pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE], ids=["continuous", "discrete"])
def test_one_image_gives_what_a_batch_of_one_gives(spec: Spec) -> None:
    agent, picture = tiny.make_agent(planner, spec), images(1, spec)
    torch.manual_seed(1)
    action, memory = agent.act(None, picture[0])
    torch.manual_seed(1)
    rows, wanted = agent.act(None, picture)
    assert (
        rows.shape == (1, spec.action_dim) and rows.dtype == np.float32 and memory.action.shape == (1, spec.action_dim)
    )
    torch.testing.assert_close(memory, wanted)
    if spec.discrete:
        assert int(action) == rows[0].argmax() and np.ndim(action) == 0 and rows.sum() == 1
    else:
        assert np.array_equal(action, rows[0])
    again, _ = agent.act(memory, picture[0], first=np.array(True))
    assert np.shape(again) == np.shape(action)


@pytest.mark.filterwarnings("error")
def test_an_image_may_be_flipped_or_read_only() -> None:
    agent, picture = tiny.make_agent(planner), images(2)
    flipped = picture[..., ::-1]
    locked = np.ascontiguousarray(flipped)
    locked.flags.writeable = False
    acted = []
    for image in (np.ascontiguousarray(flipped), flipped, locked):
        torch.manual_seed(1)
        acted.append(agent.act(None, image)[0])
    assert np.array_equal(acted[0], acted[1]) and np.array_equal(acted[0], acted[2])


@pytest.mark.parametrize(
    "wrong",
    [
        images(1)[0].astype(np.float32),
        images(1)[0, :, :8],
        images(1)[0, 0],
        images(1)[0].transpose(1, 2, 0),
        images(1)[None],
    ],
    ids=["dtype", "size", "gray", "hwc", "axes"],
)
def test_a_wrong_image_is_refused_with_advice(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 images \(1, 16, 16\).*not \w+ \(.*envs\.make\(agent\.env\)"):
        tiny.make_agent(Uniform).act(None, wrong)


def test_the_last_action_is_remembered_with_its_noise() -> None:
    agent = tiny.make_agent(planner)
    action, memory = agent.act(None, images(2), mode="explore")
    assert np.array_equal(memory.action, action)
    assert not np.array_equal(memory.info.plan[:, 0], action)


def live(agent: Agent, episode: int, steps: int = 4) -> Iterator[tuple[np.ndarray, Any]]:
    """An episode, one step at a time; the noise depends on the step alone."""
    memory = None
    for step in range(steps):
        torch.manual_seed(100 * episode + step)
        action, memory = agent.act(memory, images(1, seed=10 * episode + step)[0], mode="explore")
        yield action, memory


def test_interleaved_episodes_do_not_disturb_each_other() -> None:
    agent = tiny.make_agent(planner)
    alone = [list(live(agent, 1)), list(live(agent, 2))]
    together = list(zip(live(agent, 1), live(agent, 2)))
    for step in range(4):
        for episode in range(2):
            assert np.array_equal(together[step][episode][0], alone[episode][step][0])
            torch.testing.assert_close(together[step][episode][1], alone[episode][step][1], rtol=0, atol=0)


def test_first_resets_a_row_exactly_and_no_other() -> None:
    agent, memory = tiny.make_agent(planner), None
    for step in range(3):
        _, memory = agent.act(memory, images(2, seed=step), mode="explore")
    results = []
    for past, first in ((memory, [True, False]), (None, None), (memory, None), (memory, [False, False])):
        torch.manual_seed(1)
        results.append(agent.act(past, images(2, seed=9), None if first is None else np.array(first)))
    (mixed, after), (fresh, new), (going, old), (same_as_going, _) = results
    assert np.array_equal(mixed[0], fresh[0]) and np.array_equal(mixed[1], going[1])
    for got, begun, went in zip(after.state, new.state, old.state):
        assert torch.equal(got[0], begun[0]) and torch.equal(got[1], went[1])
    assert torch.equal(after.info.plan[0], new.info.plan[0])
    assert torch.equal(after.info.plan[1], old.info.plan[1])
    assert not np.array_equal(going[0], fresh[0])  # or nothing was shown
    assert np.array_equal(going, same_as_going)


def test_dreams_start_in_every_row_but_the_terminal_ones() -> None:
    model, data = tiny.model(), tiny.batch(4, 6)
    assert 0 < data.terminal.sum() < 24
    seen = observe_sequence(model, data)
    for whole, some in zip(merge_time(seen), start_states(data, seen), strict=True):
        assert torch.equal(whole[~data.terminal.flatten()], some)


def test_forked_randomness_is_its_own_and_leaves_the_other_as_it_was() -> None:
    agent = tiny.make_agent(planner)
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    drawn = []
    for seed in (5, 5, 6):
        with agent.fork_rng(seed):
            drawn.append(agent.act(None, images(1)[0])[0].tolist())
    with pytest.raises(KeyError), agent.fork_rng(7):
        torch.rand(2)
        raise KeyError
    assert torch.equal(torch.rand(3), wanted)
    assert drawn[0] == drawn[1] != drawn[2]


def test_another_actor_on_the_same_model() -> None:
    agent = tiny.make_agent(planner)
    other = agent.with_actor(Uniform(agent.model, agent.spec))
    assert other.model is agent.model
    assert other.act(None, images(2))[1].info.plan.shape == (2, 0, 2)


def test_acting_in_bf16_gives_float32_actions() -> None:
    agent = tiny.make_agent(planner)
    agent.precision = "bf16"
    action, memory = agent.act(None, images(2), mode="explore")
    action, memory = agent.act(memory, images(2), np.array([True, False]))
    assert action.dtype == np.float32 and memory.state.mean.dtype == torch.float32
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"
    assert agent.learn(tiny.batch())["model/loss"].dtype == torch.float32


@pytest.mark.parametrize("name", tiny.names("model"))
def test_without_memory_every_row_is_an_episodes_first(name: str) -> None:
    torch.manual_seed(0)
    section = tiny.section("model", name)
    model = find("model", section.name).build(section, tiny.SPEC)
    agent = Agent(tiny.agent_config(), model, Uniform(model, tiny.SPEC), tiny.SPEC)
    agent.actor.needs_observation = True
    with torch.no_grad():
        for weight in model.parameters():  # without biases nothing would come of nothing
            weight += 0.1 * torch.randn_like(weight)
    old = agent.act(None, images(2))[1]._replace(action=torch.ones(2, 2))
    states = []
    for memory, first in ((None, None), (None, np.zeros(2, bool)), (old, np.ones(2, bool)), (old, None)):
        torch.manual_seed(1)
        states.append(agent.act(memory, images(2), first)[1].state)
    for state in states[1:3]:
        assert all(torch.equal(one, other) for one, other in zip(state, states[0], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(states[3], states[0], strict=True))
