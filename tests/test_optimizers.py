"""One optimiser for each part: its own settings, all or nothing, and its whole state in and out."""

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from agents.agent import Agent
from agents.base import Actor, Stateless, no_plan
from agents.optimizers import PATIENCE, Diverged, OptimizerConfig, Optimizers
from training.configuration.components import find
from worldmodel.base import Batch, ConfigError, merge_time

CPU = torch.device("cpu")
KINDS = ("adam", "adam_tf", "laprop")
NAN, INFINITE = float("nan"), float("inf")


def settings(kind: Any = "adam", learning_rate: float = 1e-2, max_grad_norm: float | None = 100.0) -> OptimizerConfig:
    return OptimizerConfig(kind=kind, learning_rate=learning_rate, eps=1e-8, max_grad_norm=max_grad_norm)


class Trio:
    """Three parts of a model and an actor, and their optimisers."""

    def __init__(self, seed: int = 0, kind: str = "adam", **configs: OptimizerConfig) -> None:
        torch.manual_seed(seed)
        self.modules = {part: nn.Linear(3, 2) for part in ("vision", "memory", "actor")}
        parts = {part: {f"{part}/{n}": p for n, p in m.named_parameters()} for part, m in self.modules.items()}
        owners = {"vision": "model", "memory": "model", "actor": "actor"}
        configs = configs or {"model": settings(kind), "actor": settings(kind)}
        self.optimizers = Optimizers(configs, parts, owners, CPU, fp16=False)

    def step(self, number: int, *parts: str, factor: float = 1.0) -> dict[str, Tensor]:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
        loss = sum((module(x).square().mean() for module in self.modules.values()), torch.zeros(()))
        return self.optimizers.step(loss * factor, parts)

    def weights(self, part: str) -> Tensor:
        return nn.utils.parameters_to_vector(self.modules[part].parameters()).detach().clone()

    def everything(self) -> dict[str, Tensor]:
        state = {name: value.clone() for name, value in self.optimizers.tensors().items()}
        return state | {part: self.weights(part) for part in self.modules}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def without_counts(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in found.items() if not name.startswith("skipped/")}


# ---- the learning rate ----


def rates_and_moves(trio: Trio, updates: int) -> tuple[list[float], list[float]]:
    """The actor's learning rate in each of some updates with a steady gradient, and how far that moved a weight."""
    bias, rates, moved = trio.modules["actor"].bias, [], []
    for _ in range(updates):
        before = bias.detach().clone()
        rates.append(trio.optimizers.step(bias.sum(), ["actor"])["actor/learning_rate"].item())
        moved.append((before - bias.detach()).mean().item())
    return rates, moved


@pytest.mark.parametrize("kind", KINDS)
def test_the_learning_rate_falls_to_a_tenth(kind: str) -> None:
    """0.01 x (1, 0.775, 0.55, 0.325, 0.1, 0.1): each update moves a weight with a steady gradient by the rate."""
    falling = OptimizerConfig(kind=kind, learning_rate=0.01, eps=1e-12, max_grad_norm=None, anneal=4)
    trio = Trio(actor=falling, model=settings(kind, 0.01))
    rates, moved = rates_and_moves(trio, 6)
    assert rates == pytest.approx([0.01, 0.00775, 0.0055, 0.00325, 0.001, 0.001])
    assert moved == pytest.approx(rates, rel=1e-3)
    assert "memory/learning_rate" not in trio.step(0, "memory")


@pytest.mark.parametrize("kind", KINDS)
def test_the_learning_rate_may_stay_before_it_falls(kind: str) -> None:
    falling = OptimizerConfig(kind=kind, learning_rate=0.01, eps=1e-12, max_grad_norm=None, anneal=2, anneal_after=3)
    trio = Trio(actor=falling, model=settings(kind, 0.01))
    rates, moved = rates_and_moves(trio, 7)
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.0055, 0.001, 0.001])
    assert moved == pytest.approx(rates, rel=1e-3)


def test_a_rate_that_never_falls_does_not_fall_later() -> None:
    with pytest.raises(ValueError, match="anneal_after is for a learning rate that falls: give anneal"):
        OptimizerConfig(kind="adam", learning_rate=0.01, eps=1e-12, max_grad_norm=None, anneal_after=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_update_does_not_count_for_the_learning_rate(kind: str) -> None:
    trio = Trio(actor=settings(kind).model_copy(update={"anneal": 10}), model=settings())
    for number, factor in enumerate([1.0, NAN, INFINITE, 1.0, 1.0]):
        found = trio.step(number, "actor", factor=factor)
    assert found["actor/learning_rate"].item() == pytest.approx(0.01 * (1 - 0.9 * 2 / 10))


def test_the_learning_rate_falls_with_the_parameter_that_learned_most() -> None:
    """In whatever order they got their first gradient, which is not the order in a checkpoint."""
    config = settings().model_copy(update={"anneal": 10})
    one, other = Trio(actor=config, model=settings()), Trio(actor=config, model=settings())
    layer = one.modules["actor"]
    for parameter, updates in ((layer.weight, 1), (layer.bias, 5)):
        for _ in range(updates):
            one.optimizers.step(parameter.sum(), ["actor"])
    other.optimizers.restore(dict(sorted(one.optimizers.tensors().items(), reverse=True)))
    for trio in (one, other):
        assert trio.step(0, "actor")["actor/learning_rate"].item() == pytest.approx(0.01 * (1 - 0.9 * 5 / 10))


def test_a_falling_learning_rate_may_have_to_rise_first() -> None:
    config = OptimizerConfig(kind="laprop", learning_rate=0.01, eps=1e-12, max_grad_norm=None, anneal=10, warmup=5)
    trio = Trio(actor=config, model=settings())
    rates, moved = rates_and_moves(trio, 8)
    assert moved == pytest.approx(rates, rel=1e-3, abs=1e-8) and rates[2] == pytest.approx(0.01 * 0.82 * 2 / 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_falling_learning_rate_goes_on_where_it_was(kind: str) -> None:
    falling = {name: settings(kind).model_copy(update={"anneal": 6}) for name in ("model", "actor")}
    whole, one, other = (Trio(kind=kind, **falling) for _ in range(3))
    for number in range(5):
        whole.step(number, "vision", "actor")
    for number in range(3):
        one.step(number, "vision", "actor")
    for part, module in one.modules.items():
        other.modules[part].load_state_dict(module.state_dict())
    other.optimizers.restore(one.optimizers.tensors())
    for number in (3, 4):
        other.step(number, "vision", "actor")
    assert same(whole.everything(), other.everything())


# ---- which settings are whose ----


def test_a_part_has_its_own_settings_or_its_owners() -> None:
    trio = Trio(
        model=settings(learning_rate=1e-3), memory=settings(learning_rate=1e-4), actor=settings(learning_rate=1e-5)
    )
    rates = {part: float(found.param_groups[0]["lr"]) for part, found in trio.optimizers.optimizers.items()}
    assert rates == pytest.approx({"vision": 1e-3, "memory": 1e-4, "actor": 1e-5})
    ids = [{id(p) for p in found.param_groups[0]["params"]} for found in trio.optimizers.optimizers.values()]
    assert [len(found) for found in ids] == [2, 2, 2] and len(set.union(*ids)) == 6


def test_settings_that_are_missing_or_of_no_part_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Trio(vision=settings(), actor=settings(), decoder=settings())
    assert caught.value.lines == [
        "agent.optimizers.decoder: there is no such part; there are vision, memory, actor",
        "agent.optimizers.memory: missing; or give model, for all of its parts",
    ]


@pytest.mark.parametrize(
    ("kind", "changes", "ends"),
    [
        ("adam", {"eps": 1.0}, [(3.95, 2.95)]),  # a step of lr g / (g + eps)
        # s = sqrt(1 - .999): first every weight times .75, then a step of lr s g / (s g + eps)
        ("adam_tf", {"eps": 0.001**0.5, "weight_decay": 0.25}, [(2.95, 2.2)]),
        # The gradient is clipped to .02 |p| = .1, which is .0707 each. The first update changes nothing, the second one
        # has half of the rate, and in both directions g / (g + eps) is a half.
        ("laprop", {"eps": 0.1 / 2**0.5, "agc": 0.02, "warmup": 2}, [(4.0, 3.0), (3.975, 2.975)]),
    ],
)
def test_every_setting_reaches_its_optimiser(
    kind: Any, changes: dict[str, Any], ends: list[tuple[float, float]]
) -> None:
    """By hand: from (4, 3) with a gradient of (1, 1) and a rate of .1."""
    own = OptimizerConfig(kind=kind, learning_rate=0.1, max_grad_norm=None, **changes)
    trio = Trio(actor=own, model=settings())
    bias = trio.modules["actor"].bias
    with torch.no_grad():
        bias.copy_(torch.tensor([4.0, 3.0]))
    for end in ends:
        trio.optimizers.step(bias.sum(), ["actor"])
        assert bias.tolist() == pytest.approx(end, rel=1e-5)


# ---- stepping ----


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_named_parts_are_stepped(kind: str) -> None:
    trio = Trio(kind=kind)
    before = {part: trio.weights(part) for part in trio.modules}
    metrics = trio.step(0, "vision", "actor")
    assert set(metrics) == {f"{part}/{name}" for part in ("vision", "actor") for name in ("gradient_norm", "skipped")}
    assert [torch.equal(trio.weights(part), before[part]) for part in trio.modules] == [False, True, False]
    assert {name.split("/")[0] for name in trio.optimizers.tensors()} == {"vision", "actor", "skipped"}


def test_gradients_are_clipped_part_by_part() -> None:
    trio = Trio(model=settings(max_grad_norm=1e-3), actor=settings(max_grad_norm=None))
    metrics = trio.step(0, "vision", "memory", "actor")
    norms = {
        part: torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm().item()
        for part, module in trio.modules.items()
    }
    assert norms["vision"] == pytest.approx(1e-3, rel=1e-3) and norms["memory"] == pytest.approx(1e-3, rel=1e-3)
    assert norms["actor"] == pytest.approx(metrics["actor/gradient_norm"].item()) and norms["actor"] > 0.01
    assert all(value > 0.01 for name, value in metrics.items() if name.endswith("norm"))  # reported before clipping


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", ["loss", "one part's gradient"])
def test_what_is_not_finite_changes_nothing_in_any_of_them(broken: str, kind: str) -> None:
    trio = Trio(kind=kind)
    for number in range(3):
        trio.step(number, "vision", "memory", "actor")
    before = without_counts(trio.everything())
    if broken == "loss":
        metrics = [trio.step(5, "vision", "actor", factor=factor) for factor in (NAN, INFINITE)]
    else:
        handle = trio.modules["vision"].weight.register_hook(lambda gradient: gradient * NAN)
        metrics = [trio.step(5, "vision", "actor") for _ in range(2)]
        handle.remove()
    assert all(found["vision/skipped"] == 1 and found["actor/skipped"] == 1 for found in metrics)
    assert same(without_counts(trio.everything()), before)
    assert {part: int(count) for part, count in trio.optimizers.skipped.items()} == {
        "vision": 2,
        "memory": 0,
        "actor": 2,
    }
    assert trio.step(6, "vision", "actor")["vision/skipped"] == 0
    assert not any(trio.optimizers.skipped.values())
    after = without_counts(trio.everything())
    assert [torch.equal(after[part], before[part]) for part in trio.modules] == [False, True, False]
    assert all(value.isfinite().all() for value in after.values())


def test_parts_that_take_turns_are_given_up_by_themselves() -> None:
    trio = Trio()
    for _ in range(PATIENCE - 1):
        trio.step(0, "vision", factor=NAN)
        trio.step(0, "memory")
        trio.optimizers.raise_if_diverged()
    trio.step(0, "vision", factor=NAN)
    with pytest.raises(Diverged, match=r"vision: .* 10 updates in a row"):
        trio.optimizers.raise_if_diverged()


# ---- states ----


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_restored_steps_on_identically(kind: str) -> None:
    trio, other = Trio(kind=kind), Trio(seed=1, kind=kind)
    for number in range(4):
        trio.step(number, *(("vision", "actor") if number % 2 else ("memory",)))
    trio.step(9, "memory", factor=NAN)
    stored = {name: value.clone() for name, value in trio.optimizers.tensors().items()}
    for part, module in other.modules.items():
        module.load_state_dict(trio.modules[part].state_dict())
    other.optimizers.restore(stored)
    assert same(other.everything(), trio.everything()) and other.optimizers.skipped["memory"] == 1
    for number in range(10, 13):
        for who in (trio, other):
            who.step(number, "vision", "memory", "actor")
        assert same(other.everything(), trio.everything())
    other.optimizers.restore(stored)  # a copy: what was stored has not been stepped on
    assert same(other.optimizers.tensors(), stored)


WRONG = {
    "shape": lambda value: value[:1],
    "one number": lambda value: value.sum(),  # the fused kernel would read beyond its end
    "type": lambda value: value.long(),
    "nan": lambda value: value * NAN,
    "infinite": lambda value: value + INFINITE,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_state_is_refused_before_anything_is_changed(wrong: str, kind: str) -> None:
    trio, other = Trio(kind=kind), Trio(seed=1, kind=kind)
    for number in range(3):
        trio.step(number, "vision", "memory", "actor")
        other.step(10 + number, "vision", "memory", "actor")
    before = other.everything()
    for name, value in trio.optimizers.tensors().items():
        if name.endswith(("exp_avg", "exp_avg_sq")) and "weight" in name:
            with pytest.raises(ValueError, match=f"the optimiser's state '{name}' is "):
                other.optimizers.restore({**trio.optimizers.tensors(), name: WRONG[wrong](value)})
            assert same(other.everything(), before)


def test_a_state_of_a_parameter_that_is_not_there_is_refused() -> None:
    trio = Trio()
    trio.step(0, "vision")
    with pytest.raises(ValueError, match="'decoder/weight/exp_avg', and there is no parameter of that name"):
        trio.optimizers.restore({**trio.optimizers.tensors(), "decoder/weight/exp_avg": torch.zeros(2, 3)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_no_optimiser_has_is_refused(kind: str) -> None:
    trio = Trio(kind=kind)
    trio.step(0, "vision", "memory", "actor")
    stored = trio.optimizers.tensors()
    moments = next(name for name in stored if name.endswith("weight/exp_avg_sq"))
    name = moments.removesuffix("/exp_avg_sq")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({moments: -stored[moments] - 1e-9}, "is negative"),
        ({f"{name}/step": torch.tensor(-1.0)}, "is negative"),
        ({f"{name}/step": torch.tensor(NAN)}, "is not finite"),
        ({f"{name}/max_exp_avg_sq": stored[moments]}, "is not one of"),
        ({f"{name}/exp_avg": None}, f"the optimiser's state of {name} has not all of"),
        ({"skipped/vision": torch.tensor(NAN)}, "'vision' is not a number from 0 on"),
        ({"skipped/vision": torch.zeros(3)}, "'vision' is not a number from 0 on"),
        ({"scaler/scale": torch.tensor(1.0)}, "'scale' is not a number from 0 on, or not known"),
    ]
    for changes, said in wrong:
        changed = {key: value for key, value in {**stored, **changes}.items() if value is not None}
        with pytest.raises(ValueError, match=said):
            trio.optimizers.restore(changed)


# ---- an agent's ----


class Imitator(Actor):
    """Learns by gradient to repeat the actions of replay."""

    def __init__(self, model: Any, spec: Any) -> None:
        super().__init__(model, spec)
        self.layer = nn.Linear(model.features(model.initial(1)).shape[-1], spec.action_dim)
        self.updates = 0

    def initial(self, n: int) -> Stateless:
        return Stateless(torch.zeros(n, 0))

    def act(self, state: Any, carry: Any, mode: Any, generator: Any = None) -> Any:
        action = self.layer(self.model.features(state)).tanh()
        return action, carry, no_plan(len(action), self.spec, action.device)

    def loss(self, batch: Batch, states: Any) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.model.features(merge_time(states)).detach()
        return (self.layer(features).tanh() - batch.action.flatten(0, 1)).square().mean(), {}

    def after_update(self, updated: Tensor) -> None:
        self.updates += 1


@pytest.fixture
def agent() -> Agent:
    torch.manual_seed(0)
    model = find("model", "mdnrnn").build(tiny.section("model", "mdnrnn"), tiny.SPEC)
    optimizers = {"model": settings(learning_rate=1e-3), "actor": settings(learning_rate=1e-2)}
    return Agent(tiny.agent_config(optimizers=optimizers), model, Imitator(model, tiny.SPEC), tiny.SPEC)


def changed(agent: Agent, *parts: str) -> set[str]:
    """The parts whose weights one update changes."""
    named = {**agent.model.parts(), **agent.actor.parts()}
    before = {part: [p.clone() for p in parameters] for part, parameters in named.items()}
    metrics = agent.learn(tiny.batch(), parts)
    assert {name.split("/")[0] for name in metrics} >= set(parts)
    return {part for part, old in before.items() if any(not torch.equal(a, b) for a, b in zip(old, named[part]))}


def test_an_agent_has_an_optimiser_for_each_part_and_steps_those_that_learn(agent: Agent) -> None:
    assert list(agent.optimizers.optimizers) == ["vision", "memory", "actor"]
    for parts, wanted in (
        (("vision",), {"vision"}),
        (("memory",), {"memory"}),
        (("actor",), {"actor"}),
        (("memory", "actor"), {"memory", "actor"}),
        (("model", "actor"), {"vision", "memory", "actor"}),
    ):
        assert changed(agent, *parts) == wanted
    assert agent.actor.updates == 3  # type: ignore[comparison-overlap]


def test_an_agents_update_is_skipped_as_a_whole(agent: Agent) -> None:
    agent.learn(tiny.batch(), ("model", "actor"))
    before = {name: {k: v.clone() for k, v in group.items()} for name, group in agent.tensors().items()}
    bad = tiny.batch()
    metrics = agent.learn(bad._replace(action=bad.action * NAN), ("model", "actor"))
    assert {name for name, value in metrics.items() if value != 0} == {
        f"{p}/skipped" for p in ("vision", "memory", "actor")
    }
    for name, group in agent.tensors().items():
        assert same(without_counts(group), without_counts(before[name]))
