"""Actor-critics of Dreamer V1 to V3: their size, what learns from what, switches, target networks, acting. Their
losses and gradients by hand are in tests/test_exact_worlds.py."""

from typing import Any

import dreams
import pytest
import torch
from dreams import (
    DISCRETE,
    NAMES,
    SMALL,
    SPEC,
    Exact,
    NoHostReads,
    Place,
    Times,
    gradients,
    pair,
    starts,
    states_of,
    unsettle,
)
from torch import Tensor, nn

from agents.agent import Agent
from agents.agent import Config as AgentConfig
from agents.base import Objective
from agents.imagination import evaluate_sequences
from agents.objectives.reward import Reward
from agents.optimizers import OptimizerConfig
from agents.reward_and_value import RewardAndValue
from worldmodel.base import Spec, merge_time
from worldmodel.networks.policies import BoundedNormal, OneHotCategorical

ADAM = OptimizerConfig(kind="adam", learning_rate=1e-3, eps=1e-8, max_grad_norm=100.0)


def agent(name: str, spec: Spec = SMALL, **changes: Any) -> Agent:
    model, actor = pair(name, spec, **changes)
    config = AgentConfig(device="cpu", precision="fp32", optimizers={"model": ADAM, "actor": ADAM}, compile="never",
                         threads=None)  # fmt: skip
    return Agent(config, model, actor, spec)


# ---- size, and how each begins ----


@pytest.mark.parametrize(
    ("name", "discrete", "actor", "critic"),
    [
        ("dreamer_v1", False, 578_412, 413_601),
        ("dreamer_v2", False, 976_012, 971_601),
        ("dreamer_v3", False, 791_052, 853_503),
        ("dreamer_v3", True, 789_510, 853_503),
        ("dreamer_v3_2023", False, 1_056_780, 1_181_439),
    ],
)
def test_as_many_parameters_as_published(name: str, discrete: bool, actor: int, critic: int) -> None:
    spec = SPEC._replace(discrete=discrete)
    model = dreams.component("model", name).build(dreams.config("model", name), spec)
    built = dreams.component("actor", name).build(dreams.config("actor", name), model, spec, Reward())
    assert {part: sum(p.numel() for p in ps) for part, ps in built.parts().items()} == {
        "actor": actor,
        "critic": critic,
    }


def test_v2_has_as_many_parameters_as_a_log_of_the_release_says() -> None:
    """dreamerv2#52: 32,333,580 at the default size with two discrete actions; three of them are counters."""
    spec = SPEC._replace(discrete=True, action_dim=2)
    with torch.device("meta"):
        config = dreams.config("model", "dreamer_v2", deter=1024, hidden=1024, continue_weight=5.0)
        model = dreams.component("model", "dreamer_v2").build(config, spec)
        actor = dreams.component("actor", "dreamer_v2").build(
            dreams.config("actor", "dreamer_v2"), model, spec, Reward()
        )
    networks = (model, actor.policy_network, actor.critic, actor.slow_critic)
    assert sum(p.numel() for network in networks for p in network.parameters()) == 32_333_580 - 3


@pytest.mark.parametrize(("discrete", "actor", "total"), [(False, 50_316, 686_846), (True, 49_926, 686_456)])
def test_as_many_parameters_at_1m(discrete: bool, actor: int, total: int) -> None:
    spec = SPEC._replace(discrete=discrete)
    model, built = smallest_v3(spec)
    count = {part: sum(p.numel() for p in ps) for part, ps in built.parts().items()}
    assert count == {"actor": actor, "critic": 66_111}
    assert sum(p.numel() for p in model.parameters()) + sum(count.values()) == total


def smallest_v3(spec: Spec = SPEC) -> tuple[Any, Any]:
    torch.manual_seed(0)
    size = dict(deter=512, classes=4, hidden=64, depths=[8, 12, 16, 16])
    model = dreams.component("model", "dreamer_v3").build(dreams.config("model", "dreamer_v3", **size), spec)
    config = dreams.config("actor", "dreamer_v3", units=64)
    return model, dreams.component("actor", "dreamer_v3").build(config, model, spec, Reward())


def test_v3_begins_as_published() -> None:
    """Section 5.9 of our notes: the released code's own first losses."""
    model, actor = smallest_v3()
    batch = dreams.batch(2, 4, SPEC)
    _, states = states_of(model, batch)
    _, metrics = actor.loss(batch, states)
    assert metrics["return"] == metrics["value"] == metrics["advantage"] == 0 and metrics["return_scale"] == 1
    assert metrics["entropy"].item() == pytest.approx(7.83, abs=0.01)
    counts = 5 / 6  # one of the 2 x 3 rows is an episode's last
    assert metrics["loss_replay"].item() == pytest.approx(0.3 * 11.0825 * counts, rel=1e-4)
    assert metrics["loss_critic"].item() == pytest.approx(11.0825 * metrics["weight"].item(), rel=1e-4)
    assert metrics["loss_actor"].item() == pytest.approx(-3e-4 * 7.83 * metrics["weight"].item(), rel=0.01)
    assert 0.05 < metrics["weight"] < 0.15


# ---- who learns from what ----


@pytest.mark.parametrize("spec", [SMALL, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("name", NAMES)
def test_fault_20_actor_and_critic_learn_and_leave_the_model_alone(name: str, spec: Spec) -> None:
    """With the model's loss in the same graph; afterwards the model can still learn."""
    model, actor = pair(name, spec, **({"replay_weight": 0.0} if name == "dreamer_v3" else {}))
    batch = dreams.batch(spec=spec)
    loss, states = states_of(model, batch)
    torch.manual_seed(5)
    own, _ = actor.loss(batch, states)
    (loss + own).backward()
    together = gradients(model)
    for network in (actor.policy_network, actor.critic):
        assert all(g is not None and g.abs().max() > 0 for g in gradients(network))
    assert all(p.requires_grad for p in [*model.parameters(), *(p for ps in actor.parts().values() for p in ps)])
    model.zero_grad()
    states_of(model, batch)[0].backward()
    assert all(map(torch.equal, together, gradients(model)))


@pytest.mark.parametrize("name", NAMES)
def test_neither_part_learns_from_the_others_loss(name: str) -> None:
    """The critic does not learn to please the actor, nor are its targets moved towards it."""
    model, actor = pair(name)
    batch = dreams.batch()
    _, states = states_of(model, batch)
    _, metrics = actor.loss(batch, states)
    parts = actor.parts()
    for loss, other in (("loss_actor", "critic"), ("loss_critic", "actor")):
        found = torch.autograd.grad(metrics[loss], parts[other], allow_unused=True, retain_graph=True)
        assert all(gradient is None for gradient in found)


def test_v3s_replay_loss_reaches_encoder_and_core_but_no_other_head() -> None:
    model, actor = pair("dreamer_v3")
    batch = dreams.batch()
    _, states = states_of(model, batch)
    actor.loss(batch, states)[0].backward()
    learns = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"encoder", "gru", "posterior"} <= learns
    assert not learns & {"decoder", "reward_head", "continue_head", "prior"}
    assert all(p.grad is None for p in actor.slow_critic.parameters())


def test_in_an_agent_too_v3s_replay_loss_reaches_the_model() -> None:
    """The encoder's gradient is another one with it than without it."""
    found = []
    for weight in (0.0, 0.3):
        learner = agent("dreamer_v3", replay_weight=weight)
        torch.manual_seed(3)
        learner.learn(dreams.batch(), ("model", "actor"))
        found.append(gradients(learner.model.encoder))
    assert all(one is not None and not torch.allclose(one, other) for one, other in zip(*found, strict=True))


def test_v3s_critic_learns_from_replay_alone_if_the_model_does_not() -> None:
    """Stage 'actor' without the model: its states come without a graph."""
    model, actor = pair("dreamer_v3")
    batch = dreams.batch()
    with torch.no_grad():
        _, states = states_of(model, batch)
    actor.loss(batch, states)[0].backward()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_both_parts_learn_in_bfloat16(name: str) -> None:
    """Casts of weights made without gradients must not be used again where gradients are wanted."""
    model, actor = pair(name)
    batch = dreams.batch()
    with torch.autocast("cpu", torch.bfloat16):
        _, states = states_of(model, batch)
        loss, _ = actor.loss(batch, states)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    for network in (actor.policy_network, actor.critic):
        assert all(g is not None and g.abs().max() > 0 for g in gradients(network))


@pytest.mark.parametrize("spec", [SMALL, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("name", NAMES)
def test_an_agent_learns_both_at_once_without_waiting(name: str, spec: Spec) -> None:
    """And what the agent saves holds everything: target networks, the range of returns, the optimisers."""
    learner = agent(name, spec)
    before = {key: value.clone() for key, value in learner.actor.state_dict().items()}
    for seed in range(3):
        metrics = learner.learn(dreams.batch(spec=spec, seed=seed), ("model", "actor"))
    assert all(value.isfinite() for value in metrics.values()) and metrics["critic/skipped"] == 0
    after = learner.actor.state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in after if k.endswith("weight"))
    assert {"model/gradient_norm", "actor/gradient_norm", "critic/gradient_norm", "actor/loss_critic"} <= set(metrics)
    batch = dreams.batch(spec=spec)
    with NoHostReads(), learner.autocast():
        _, states, _ = learner.model.loss(batch)
        learner.actor.loss(batch, states)[0].backward()
        with torch.no_grad():
            learner.actor.after_update(torch.ones(()))


@pytest.mark.parametrize("name", NAMES)
def test_fault_12_the_head_that_is_trained_is_the_one_that_dreams(name: str) -> None:
    """After one update of the model the imagined rewards are others."""
    learner = agent(name)
    batch = dreams.batch()
    told = []
    for _ in range(2):
        with torch.no_grad():
            torch.manual_seed(0)
            state = learner.model.initial(4)
            told.append(learner.model.reward(learner.model.imagine(state, torch.zeros(4, 2))))
        learner.learn(batch, ("model",))
    assert told[0].isfinite().all() and not torch.equal(*told)


# ---- switches and scales ----


def gradient_of_actor(actor: Any, batch: Any, states: Any) -> Tensor:
    torch.manual_seed(2)
    loss, _ = actor.loss(batch, states)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, actor.parts()["actor"])])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dreamer_v3", {}),
        ("dreamer_v3_2023", {"gradient": "backprop"}),
        ("dreamer_v3_2023", {"gradient": "reinforce"}),
    ],
    ids=["v3", "2023-backprop", "2023-reinforce"],
)
def test_fault_13_the_scale_of_rewards_does_not_scale_v3s_actor(name: str, changes: dict[str, Any]) -> None:
    changes = {"entropy_weight": 0.0, "return_scale_rate": 1.0, **changes}

    def move(place: Place, action: Tensor) -> Place:
        return Place(place.x + action, 10 * (place.x + action).sum(-1), place.alive)

    model = Exact(move, 2)
    found = []
    for factor in (1.0, 100.0):
        actor = dreams.actor(name, model, objective=Times(factor), **changes)
        found.append(gradient_of_actor(actor, *starts(model.initial(50), 2)))
    assert found[0].norm() > 0
    assert ((found[0] - found[1]).norm() / found[0].norm()).item() < 0.05


@pytest.mark.parametrize(
    ("name", "spec"), [("dreamer_v2", SMALL), ("dreamer_v2", DISCRETE), ("dreamer_v3", SMALL), ("dreamer_v3", DISCRETE)]
)
def test_fault_32_the_entropy_bonus_counts_once_and_can_be_switched_off(name: str, spec: Spec) -> None:
    """In a world without rewards and with a critic that says 0, the actor's loss is the bonus."""
    model = Exact(lambda place, action: Place(place.x + 1, torch.zeros(len(action)), place.alive), 2)
    found = {}
    for weight in (0.0, 0.5, 1.0):
        actor = dreams.actor(name, model, spec, entropy_weight=weight, horizon=3)
        if name == "dreamer_v2":
            nn.init.zeros_(actor.slow_critic.outputs[0].weight)
        found[weight] = gradient_of_actor(actor, *starts(model.initial(8), spec.action_dim))
    assert not found[0.0].any() and found[1.0].any()
    torch.testing.assert_close(2 * found[0.5], found[1.0])


@pytest.mark.parametrize(
    ("key", "value"),
    [("slow_weight", 0.0), ("replay_weight", 0.0), ("starts", 2), ("return_lambda", 0.0), ("discount_horizon", 3.0)],
)
def test_fault_32_every_switch_of_v3_does_something(key: str, value: Any) -> None:
    found = []
    for changes in ({}, {key: value}):
        model, actor = pair("dreamer_v3", **changes)
        batch = dreams.batch()
        _, states = states_of(model, batch)
        torch.manual_seed(2)
        found.append(actor.loss(batch, states)[0].item())
    assert found[0] != found[1]


def test_dreams_may_start_from_the_last_rows_alone() -> None:
    seen: list[int] = []

    def move(place: Place, action: Tensor) -> Place:
        seen.append(len(action))
        return place

    model = Exact(move, 1)
    batch = dreams.batch(2, 5, Spec((1, 2, 2), 2, False))
    states = Place(torch.randn(2, 5, 1), torch.zeros(2, 5), torch.ones(2, 5))
    for count, rows in ((None, 10), (3, 6), (1, 2)):
        seen.clear()
        _, metrics = dreams.actor("dreamer_v3", model, starts=count).loss(batch, states)
        assert set(seen) == {rows}
    assert "loss_replay" not in metrics  # a single row has no next one


def test_terminal_starts_do_not_train() -> None:
    """V1 and V2 know it from the batch; V3 from its continue head."""
    model = Exact(lambda place, action: Place(place.x + action, action[:, 0], place.alive), 2)
    for name, spec in (("dreamer_v1", SMALL), ("dreamer_v2", SMALL)):
        actor = dreams.actor(name, model, spec, **({"entropy_weight": 0.0} if name == "dreamer_v2" else {}))
        batch, states = starts(model.initial(4), 2)
        dead = batch._replace(terminal=~batch.terminal)
        alive, ended = (gradient_of_actor(actor, b, states) for b in (batch, dead))
        assert alive.norm() > 0
        # V2's first weight is 1; with a death at the start its target r_1 + .. is still that of the first action.
        assert ended.norm() < (1e-9 if name == "dreamer_v1" else 0.5 * alive.norm())


@pytest.mark.parametrize("name", NAMES)
def test_another_objective_is_what_is_learned(name: str) -> None:
    model = Exact(lambda place, action: Place(place.x + action, action[:, 0], place.alive), 2)
    found = [
        gradient_of_actor(dreams.actor(name, model, objective=Times(f)), *starts(model.initial(8), 2)) for f in (1, -1)
    ]
    assert not torch.allclose(*found)


# ---- target networks ----


def test_v3s_slow_critic_follows() -> None:
    _, actor = pair("dreamer_v3")
    slow, fast = actor.slow_critic.output.weight, actor.critic.output.weight
    expected = 0.98 * slow + 0.02 * fast
    with torch.no_grad():
        actor.after_update(torch.ones(()))
    torch.testing.assert_close(slow, expected)
    assert not any(p.requires_grad for p in actor.slow_critic.parameters())
    fresh = dreams.actor("dreamer_v3", dreams.model("dreamer_v3"))
    assert all(map(torch.equal, fresh.slow_critic.parameters(), fresh.critic.parameters()))


def test_v2s_slow_critic_is_copied_every_100_updates_and_at_the_first() -> None:
    _, actor = pair("dreamer_v2")
    copied = []
    for update in range(201):
        with torch.no_grad():
            actor.critic.outputs[0].bias += 1
            actor.after_update(torch.ones(()))
        if torch.equal(actor.critic.outputs[0].bias, actor.slow_critic.outputs[0].bias):
            copied.append(update)
    assert copied == [0, 100, 200] and actor.state_dict()["updates"] == 201


# ---- acting ----


@pytest.mark.parametrize("spec", [SMALL, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("name", NAMES)
def test_actions_are_such_as_environments_take(name: str, spec: Spec) -> None:
    model, actor = pair(name, spec)
    state = model.initial(500)
    for mode in ("explore", "evaluate"):
        action, carry, info = actor.act(state, actor.initial(500), mode, torch.Generator().manual_seed(0))
        assert action.shape == (500, spec.action_dim) and action.abs().max() <= 1 and info.plan.shape[1] == 0
        if spec.discrete:
            assert (action.sum(-1) == 1).all() and ((action == 0) | (action == 1)).all()
        again, _, _ = actor.act(state, carry, mode, torch.Generator().manual_seed(0))
        assert torch.equal(action, again)  # all noise comes from the generator


def test_v1_explores_with_noise_of_a_standard_deviation_of_03_and_evaluates_without() -> None:
    _, actor = pair("dreamer_v1")
    actor.policy = lambda features: BoundedNormal(torch.zeros(len(features), 2), torch.zeros(2))
    state, generator = actor.model.initial(4000), torch.Generator().manual_seed(0)
    explored, evaluated = (actor.act(state, actor.initial(4000), m, generator)[0] for m in ("explore", "evaluate"))
    assert explored.std().item() == pytest.approx(0.3, abs=0.01) and not evaluated.any()


def test_v1_explores_with_random_choices_where_actions_are_discrete() -> None:
    """A share of .3; of these a third is the policy's own choice."""
    _, actor = pair("dreamer_v1", DISCRETE)
    actor.policy = lambda features: OneHotCategorical(torch.tensor([0.0, -1e9, -1e9]).expand(len(features), 3))
    state, generator = actor.model.initial(4000), torch.Generator().manual_seed(0)
    explored, evaluated = (actor.act(state, actor.initial(4000), m, generator)[0] for m in ("explore", "evaluate"))
    assert explored.mean(0).tolist() == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert (evaluated[:, 0] == 1).all()


@pytest.mark.parametrize("name", ["dreamer_v2", "dreamer_v3"])
@pytest.mark.parametrize("spec", [SMALL, DISCRETE], ids=["continuous", "discrete"])
def test_evaluate_with_chooses_mode_or_sample(name: str, spec: Spec) -> None:
    for choice, same in (("mode", True), ("sample", False)):
        model, actor = pair(name, spec, evaluate_with=choice)
        one, two = (
            actor.act(model.initial(50), actor.initial(50), "evaluate", torch.Generator().manual_seed(s))[0]
            for s in (0, 1)
        )
        assert torch.equal(one, two) == same
        explored = actor.act(model.initial(50), actor.initial(50), "explore", torch.Generator().manual_seed(0))[0]
        assert not torch.equal(explored, one) or not same


@pytest.mark.parametrize("name", NAMES)
def test_fault_8_the_policy_sees_the_image(name: str) -> None:
    """And fault 26: acting embeds it as learning does."""
    model, actor = pair(name)
    black, white = (torch.full((1, *SMALL.image_shape), shade, dtype=torch.uint8) for shade in (0, 255))
    told = []
    for image in (black, white):
        torch.manual_seed(0)
        state = model.observe(model.initial(1), torch.zeros(1, 2), image, torch.ones(1, dtype=torch.bool))
        told.append(actor.act(state, actor.initial(1), "explore", torch.Generator().manual_seed(0))[0])
    assert not torch.equal(*told)


def test_fault_26_acting_and_learning_see_the_same_state() -> None:
    for name in NAMES:
        model = dreams.model(name)
        batch = dreams.batch(2, 1)
        _, states = states_of(model, batch, 4)
        torch.manual_seed(4)
        state = model.observe(model.initial(2), batch.action[:, 0], batch.image[:, 0], batch.first[:, 0])
        torch.testing.assert_close(model.features(merge_time(states)), model.features(state))


# ---- the critic in a planner ----


@pytest.mark.parametrize("name", NAMES)
def test_a_planner_may_ask_the_critic_what_lies_beyond_its_horizon(name: str) -> None:
    """The value of the last state, which for V1 and V2 has that state's own reward and its probability to be no end in
    it, is counted once.
    """
    model = Exact(lambda place, action: Place(place.x + action, action[:, 0], 0.5 * place.alive), 2)
    actor = dreams.actor(name, model)
    unsettle(actor)
    actions = torch.rand(3, 4, 2, 2)  # (N, K, H, A)
    with torch.no_grad():
        found = evaluate_sequences(model, RewardAndValue(Reward(), actor), model.initial(3), actions)
        value = actor.value(actions.sum(2))
    if name.startswith("dreamer_v3"):  # v(s) = r(s') + ..., given that s is no end
        beyond = 0.25 * value
    else:  # v(s) = r(s) + discount * continues(s) * v(s')
        beyond = value - actions[:, :, 1, 0]
    expected = actions[:, :, 0, 0] + 0.5 * actions[:, :, 1, 0] + 0.5 * beyond
    torch.testing.assert_close(found, expected)
    assert value.abs().max() > 0


class Colder(Objective):
    """Something else than the reward."""

    in_reward_units = False

    def reward(self, model: Any, path: Any, actions: torch.Tensor) -> torch.Tensor:
        return actions.new_full(actions.shape[:2], -7.0)


@pytest.mark.parametrize("name", NAMES)
def test_the_critic_of_another_objective_has_nothing_to_do_with_the_reward(name: str) -> None:
    model = dreams.model(name)
    actor = dreams.actor(name, model, objective=Colder())
    unsettle(actor)  # a critic that has learned nothing says the same of every return
    batch = dreams.batch(2, 5)
    _, states = states_of(model, batch, 0)
    losses = []
    for reward in (batch.reward, 1000 + batch.reward):
        torch.manual_seed(0)
        losses.append(actor.loss(batch._replace(reward=reward), states)[0].item())
    assert losses[0] == losses[1]
    state = merge_time(states)
    value = actor.value(model.features(state))
    own = 0.0 if name.startswith("dreamer_v3") else -7.0
    torch.testing.assert_close(actor.expected_return(state), value - own)
