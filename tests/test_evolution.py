"""The tiny controller and its evolution, on worlds whose best controller is known."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cma
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.base import Actor
from agents.controllers import evolution
from agents.controllers.evolution import Evolution
from agents.imagination import evaluate_sequences, imagined_return
from agents.objectives.reward import Reward
from training.reporting import pictures
from worldmodel.base import Batch, ConfigError, Spec, WorldModel, merge_time, tree_map
from worldmodel.networks.noise import common_random_numbers

LINE, SCALE = Spec((1, 16, 16), 1, False), Spec((1, 16, 16), 3, True)
DARE = torch.tensor([-7.6129579727, -4.5849349892], dtype=torch.float64)
SMALL = dict(
    name="evolution", hidden=0, bias=True, ordinal_actions=False, num_features=None, population=8, rollouts=3,
    horizon=5, temperature=1.0, sigma=0.1, weight_decay=0.0, eval_every=1, eval_rollouts=4, keep_best=False,
    evaluate_in="model", exploration_noise=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make(model: WorldModel, spec: Spec = LINE, **changes: Any) -> Evolution:
    return evolution.build(evolution.Config(**{**SMALL, **changes}), model, spec, tiny.REWARD)


def wide(features: int) -> tiny.Fake:
    """A world that only has so many features."""
    return tiny.Fake(lambda point, action: point, [0.0] * features)


def walk(earn: Callable[[Tensor, Tensor], Tensor], size: int = 2) -> tiny.Fake:
    """x moves by the action, and earns a function of (x, action)."""

    def move(point: tiny.Point, action: Tensor) -> tiny.Point:
        x = point.x + 0.1 * action[:, :1]
        return tiny.Point(x, earn(x, action), torch.ones(len(x)))

    return tiny.Fake(move, [0.0] * size)


def observed(x: Tensor) -> tiny.Point:
    """Places (B, T, D) where dreams may begin."""
    return tiny.Point(x, torch.zeros(x.shape[:2]), torch.ones(x.shape[:2]))


def seen(model: WorldModel, spec: Spec = tiny.SPEC) -> Any:
    return tree_map(Tensor.detach, model.loss(tiny.batch(3, 6, spec))[1])


def learn(actor: Evolution, states: Any = None, play: Any = None, terminal: Tensor | None = None) -> dict[str, Tensor]:
    """One generation, from states (B, T, ...) whose rows are not terminal, unless told."""
    states = observed(torch.zeros(1, 1, 1)) if states is None else states
    flags = torch.zeros(states[0].shape[:2], dtype=torch.bool)
    rows = torch.zeros(*flags.shape, 1)
    batch = Batch(rows, rows, rows[..., 0], flags, flags if terminal is None else terminal)
    return actor.learn(batch, states, play)


def draw(actor: Evolution) -> Tensor:
    """Weights that are not zero, for a whole population."""
    return 0.3 * torch.randn(actor.config.population, actor.controller.size, dtype=torch.float64)


def same(one: Evolution, other: Evolution) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# ---- the controller ----


@pytest.mark.parametrize(
    ("features", "actions", "changes", "count"),
    [
        (288, 3, {}, 867),  # CarRacing
        (1088, 3, dict(bias=False, ordinal_actions=True), 1088),  # Doom
        (288, 3, dict(num_features=32, hidden=40), 1443),  # CarRacing, V alone and a hidden layer
        (288, 3, dict(num_features=32), 99),
    ],
)
def test_the_number_of_weights_is_the_published_one(features: int, actions: int, changes: Any, count: int) -> None:
    spec = Spec((3, 64, 64), actions, bool(changes.get("ordinal_actions")))
    actor = make(wide(features), spec, **changes)
    assert actor.controller.size == count and actor.mean.shape == actor.best.shape == (count,)
    assert not list(actor.parameters()) and not actor.mean.requires_grad


def test_the_order_of_the_weights_is_matrix_by_rows_then_biases() -> None:
    """Outputs (1 - 2 + .5, 3 * 2 - .25) of features (1, 2); the rows of a matrix are outputs, as in nn.Linear."""
    actor = make(wide(2), Spec((1, 16, 16), 2, False))
    weights = torch.tensor([[1, -1, 0, 3, 0.5, -0.25]])
    wanted = torch.tensor([[-0.5, 5.75]]).tanh()
    assert torch.equal(actor.controller.policy(weights)(torch.tensor([[1.0, 2.0]])), wanted)


def test_with_a_hidden_layer_its_weights_come_first() -> None:
    actor = make(wide(5), Spec((1, 16, 16), 3, False), hidden=4, num_features=2)
    hidden, out = torch.nn.Linear(2, 4), torch.nn.Linear(4, 3)
    flat = torch.cat([part.flatten() for layer in (hidden, out) for part in (layer.weight, layer.bias)]).detach()
    x = torch.randn(7, 5)
    wanted = out(hidden(x[:, :2]).tanh()).tanh().detach()
    assert torch.allclose(actor.controller.policy(flat[None])(x), wanted, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, dict(hidden=6), dict(bias=False), dict(num_features=2)])
@pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE], ids=["continuous", "discrete"])
def test_a_population_acts_block_by_block_as_each_would_alone(spec: Spec, changes: Any) -> None:
    actor = make(wide(4), spec, **changes)
    weights, x = draw(actor), torch.randn(8 * 3, 4)
    together = actor.controller.policy(weights)(x)
    alone = [actor.controller.policy(weights[p : p + 1])(x[3 * p : 3 * p + 3]) for p in range(8)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    assert len(together.unique(dim=0)) > 1


def test_it_reads_only_the_leading_features() -> None:
    actor = make(wide(6), num_features=2)
    weights, x = draw(actor), torch.randn(8, 6)
    other = torch.cat([x[:, :2], torch.full((8, 4), torch.nan)], 1)
    assert torch.equal(actor.controller.policy(weights)(x), actor.controller.policy(weights)(other))
    other[:, 1] += 1
    assert not torch.equal(actor.controller.policy(weights)(x), actor.controller.policy(weights)(other))


def test_a_scale_is_cut_into_thirds() -> None:
    """tanh(+-.34) = +-.327 is in the middle third, tanh(+-.36) = +-.345 beyond it; the ends belong to the last ones."""
    actor = make(wide(1), SCALE, ordinal_actions=True, bias=False)
    x = torch.tensor([[-99.0], [-1], [-0.36], [-0.34], [0], [0.34], [0.36], [1], [99], [math.nan]])
    action = actor.controller.policy(torch.ones(1, 1))(x)
    assert action[:-1].argmax(-1).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(action.sum(-1), torch.ones(10)) and action.dtype == torch.float32


def test_the_largest_output_is_the_discrete_action() -> None:
    actor = make(wide(1), SCALE)
    action = actor.controller.policy(torch.tensor([[1.0, 0, -1, 0, 0.5, 0]]))(torch.tensor([[2.0], [0], [-2]]))
    assert action.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_autocast_does_not_round_the_candidates_together() -> None:
    actor = make(wide(4))
    weights = torch.ones(1, 5) + torch.tensor([[0.0], [1e-4]])
    x = torch.full((2, 4), 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        one, other = actor.controller.policy(weights)(x)
    assert one.dtype == torch.float32 and 1e-6 < (other - one).item() < 2e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(ordinal_actions=True), "actor.ordinal_actions: only discrete"),
        (dict(num_features=5), "actor.num_features: the model has only 4"),
    ],
)
def test_what_does_not_fit_is_told(changes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(wide(4), **changes)


def test_acting_is_deterministic_and_noise_is_for_exploring() -> None:
    for noise, mode, moves in ((0.5, "evaluate", False), (0.0, "explore", False), (0.5, "explore", True)):
        actor = make(wide(2), exploration_noise=noise)
        state = actor.model.initial(50)
        carry = actor.initial(50)
        before = torch.get_rng_state()
        action, after, info = actor.act(state, carry, mode)
        assert bool(action.any()) == moves, "the first mean is zero and does nothing"
        assert torch.equal(torch.get_rng_state(), before) != moves
        assert after.rows.shape == (50, 0) and info.plan.shape == (50, 0, 1) and info.predicted_return.isnan().all()


# ---- the dream ----


def test_imagined_returns_by_hand() -> None:
    """x: 1 -> 2 -> 4 -> 8 earns 2 + 4 / 2 + 8 / 2 / 4, if being at x goes on with probability 1 / x; the start's
    probability plays no part, and the policy sees where it acts."""
    places = []

    def move(point: tiny.Point, action: Tensor) -> tiny.Point:
        x = point.x + action
        return tiny.Point(x, x[:, 0], 1 / x[:, 0])

    def double(point: tiny.Point) -> Tensor:
        places.append(point.x[:, 0].tolist())
        return point.x

    start = tiny.Point(torch.tensor([[1.0], [0.5]]), torch.full((2,), 9.0), torch.zeros(2))
    assert imagined_return(tiny.Fake(move), tiny.REWARD, start, double, 3).tolist() == [5.0, 1 + 2 / 1 + 4 / 1 / 2]
    assert places == [[1, 0.5], [2, 1], [4, 2]]


def test_a_terminal_value_counts_as_far_as_one_survives_to_the_horizon() -> None:
    class Goal(Reward):
        def terminal_value(self, model: WorldModel, state: Any) -> Tensor:
            return state.x[:, 0]

    model = tiny.Fake(lambda point, action: tiny.Point(x := point.x + action, x[:, 0], 1 / x[:, 0]))
    start = model.at(torch.tensor([[1.0]]))
    assert imagined_return(model, Goal(), start, lambda point: point.x, 2).item() == 2 + 4 / 2 + 4 / 2 / 4


def test_imagined_returns_of_fixed_actions_are_those_that_planners_evaluate() -> None:
    model = tiny.model(continue_weight=1.0)
    start = tree_map(lambda a: a[:, -1], seen(model))
    actions = torch.rand(3, 1, 7, 2) * 2 - 1
    steps = iter(actions[:, 0].unbind(1))
    torch.manual_seed(1)
    one = imagined_return(model, tiny.REWARD, start, lambda state: next(steps), 7)
    torch.manual_seed(1)
    with torch.no_grad():
        other = evaluate_sequences(model, tiny.REWARD, start, actions)[:, 0]
    assert torch.allclose(one, other, atol=1e-6) and not one.requires_grad


@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf])
def test_a_dream_that_breaks_is_the_worst(what: float) -> None:
    model = walk(lambda x, action: torch.where(x[:, 0] > 1.05, what, 7.0))
    start = model.at(torch.tensor([[0.0, 0], [1.0, 0], [-5.0, 0]]))
    total = imagined_return(model, tiny.REWARD, start, lambda state: torch.ones(3, 1), 4)
    assert total.tolist() == [28.0, -math.inf, 28.0]


def test_the_temperature_is_the_dreams() -> None:
    heard: list[float] = []

    class Listening(tiny.Fake):
        def imagine(self, state: tiny.Point, action: Tensor, temperature: float = 1.0) -> tiny.Point:
            heard.append(temperature)
            return state

    actor = make(Listening(lambda point, action: point), temperature=1.15, horizon=3)
    learn(actor, observed(torch.zeros(2, 2, 1)))
    assert heard == [1.15] * (3 + 3), "the population's dream, and the mean solution's"


def test_a_long_dream_keeps_no_states() -> None:
    """What imagine() gave is gone two steps later."""
    import weakref

    alive: list[Any] = []

    def move(point: tiny.Point, action: Tensor) -> tiny.Point:
        x = point.x + action
        alive.append(weakref.ref(x))
        assert sum(ref() is not None for ref in alive) <= 3
        return tiny.Point(x, x[:, 0], torch.ones(len(x)))

    model = tiny.Fake(move)
    assert (
        imagined_return(model, tiny.REWARD, model.initial(1), lambda state: torch.ones(1, 1), 200).item()
        == 200 * 201 / 2
    )


@pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE], ids=["continuous", "discrete"])
def test_the_populations_dream_is_each_candidates_with_the_same_noise(spec: Spec) -> None:
    model = tiny.model(spec, continue_weight=1.0)
    actor, states = make(model, spec, horizon=6), seen(model, spec)
    weights = draw(actor)
    torch.manual_seed(1)
    together = actor.scores(weights, 3, merge_time(states), None, 0)
    alone = []
    for one in weights:
        torch.manual_seed(1)
        alone.append(actor.scores(one[None], 3, merge_time(states), None, 0)[0])
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)
    assert together.shape == (8,) and len(together.unique()) > 2


def test_all_candidates_meet_the_same_starts_and_noise() -> None:
    model = tiny.model()
    actor, states = make(model, tiny.SPEC, horizon=6), seen(model)
    twins = draw(actor)[:1].expand(8, -1)
    together = actor.scores(twins, 3, merge_time(states), None, 0)
    assert torch.allclose(together, together[:1].expand(8), atol=1e-6)
    assert (actor.scores(twins, 3, merge_time(states), None, 0) - together).abs().min() > 1e-3, (
        "the next generation meets others"
    )


def test_starts_are_drawn_from_all_rows() -> None:
    model = walk(lambda x, action: x[:, 0])
    actor = make(model, horizon=1, rollouts=1)
    states = observed(torch.arange(12.0).view(3, 4, 1).expand(-1, -1, 2))
    found = {actor.scores(torch.zeros(2, 3), 1, merge_time(states), None, 0)[0].item() for _ in range(200)}
    assert found == set(range(12))


def test_dreams_do_not_start_from_terminal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes on from there, and what the model makes of it was never learned (T26)."""
    pools: list[Tensor] = []

    def scores(self: Evolution, weights: Tensor, rollouts: int, pool: Any, *more: Any) -> Tensor:
        pools.append(pool.x[:, 0])
        return torch.zeros(len(weights), dtype=torch.float64)

    monkeypatch.setattr(Evolution, "scores", scores)
    terminal = torch.zeros(3, 4, dtype=torch.bool)
    terminal[1, 2] = terminal[2, 3] = True
    learn(make(wide(1)), observed(torch.arange(12.0).view(3, 4, 1)), terminal=terminal)
    assert [pool.tolist() for pool in pools] == [[0, 1, 2, 3, 4, 5, 7, 8, 9, 10]] * 2


# ---- the evolution ----


def test_the_evolved_linear_controller_is_the_lqrs() -> None:
    """LIN2, from starts so small that tanh is a line: the gain of the algebraic Riccati equation within 2 %."""
    model, _ = tiny.linear()
    actor = make(model, bias=False, population=16, rollouts=8, horizon=50, sigma=1.0, eval_every=40)
    states = observed(2e-3 * torch.randn(4, 8, 2))
    for _ in range(40):
        metrics = learn(actor, states)
    assert ((actor.weights() - DARE) / DARE).abs().max() < 0.02
    assert metrics["generation"] == 40 and metrics["sigma"] < 1


def test_scores_are_told_as_they_are() -> None:
    """Of P candidates: worst <= mean <= best, all are returns without weight decay; the mean solution's is its own."""
    model = walk(lambda x, action: -(x[:, 0] - 0.2).square())
    actor = make(model, horizon=3, weight_decay=1e6)
    metrics = learn(actor, observed(torch.zeros(1, 2, 2)))
    assert -3 < metrics["population_worst"] < metrics["population_mean"] < metrics["population_best"] <= 0
    assert metrics["broken"] == 0 and metrics["generation"] == 1 and metrics["sigma"] == actor.sigma.float()
    mean = actor.scores(actor.mean[None], 1, merge_time(observed(torch.zeros(1, 1, 2))), None, 0)[0]
    assert metrics["mean_solution"] == mean.float()
    assert all(value.shape == () and value.dtype == torch.float32 for value in metrics.values())


def recorded(monkeypatch: pytest.MonkeyPatch, value: Callable[[np.ndarray], float]) -> list[list[np.ndarray]]:
    """Scores become a function of a candidate's weights. Returns what is asked for, generation by generation."""
    asked: list[list[np.ndarray]] = []

    def scores(self: Evolution, weights: Tensor, *more: Any) -> Tensor:
        asked.append(list(weights.numpy().copy()))
        return torch.tensor([value(one) for one in weights.numpy()], dtype=torch.float64)

    monkeypatch.setattr(Evolution, "scores", scores)
    return asked


def hill(w: np.ndarray) -> float:
    """Ill-conditioned, highest at 1."""
    return -float((10 ** np.linspace(0, 3, len(w)) * (w - 1) ** 2).sum())


def test_it_is_pycma(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation by generation the same as one strategy of pycma that lives on: the buffers hold all that matters."""
    asked = recorded(monkeypatch, hill)
    actor = make(wide(160), bias=False, eval_every=10**9)
    torch.manual_seed(3)
    for _ in range(12):
        learn(actor)
    torch.manual_seed(3)
    alive = evolution.fresh(160, actor.config)
    put_off = 0
    for wanted in asked:
        candidates = alive.ask()
        assert np.array_equal(candidates, wanted)
        alive.tell(candidates, [-hill(one) for one in candidates])
        alive.sm.B = np.ascontiguousarray(alive.sm.B)  # for the last digits: the order of sums depends on the layout
        put_off += alive.sm.last_update < alive.sm.count_tell - 1
    assert np.array_equal(alive.mean, actor.mean) and alive.sigma == actor.sigma
    assert 3 < put_off < 12, "decompositions were put off, and made"


def test_it_climbs_as_far_as_pycma_with_numpys_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, hill)
    actor = make(wide(6), bias=False, population=12, eval_every=10**9)
    for _ in range(150):
        learn(actor)
    ours = -hill(actor.mean.numpy())
    options = dict(popsize=12, verbose=-9, seed=1, maxiter=150)
    state = np.random.get_state()
    theirs = cma.CMAEvolutionStrategy(np.zeros(6), 0.1, options).optimize(lambda w: -hill(w), iterations=150)
    np.random.set_state(state)
    assert ours < 1e-8 and -hill(theirs.mean) < 1e-8


def test_resuming_continues_bit_for_bit(tmp_path: Path) -> None:
    """Through a file, into a fresh object, at every generation: over put-off and made decompositions."""
    model = tiny.model()
    states = seen(model)

    def new() -> Evolution:
        return make(model, tiny.SPEC, hidden=4, horizon=2)  # 174 weights

    whole, decomposed = new(), set()
    torch.manual_seed(5)
    for generation in range(13):
        save_file(whole.state_dict(), tmp_path / "actor.safetensors")
        before = torch.get_rng_state()
        metrics = learn(whole, states)
        after = torch.get_rng_state()
        resumed = new()
        learn(resumed, states)  # something else, to be overwritten
        resumed.load_state_dict(load_file(tmp_path / "actor.safetensors"))
        torch.set_rng_state(before)
        again = learn(resumed, states)
        assert same(whole, resumed) and metrics == again and torch.equal(torch.get_rng_state(), after), generation
        decomposed.add(int(whole.decomposed))
    assert 2 < len(decomposed) < 13
    assert int(whole.generation) == 13 and whole.mean.abs().sum() > 0


def test_the_run_after_resuming_is_the_uninterrupted_one() -> None:
    model = tiny.model()
    states = seen(model)
    whole, first, second = (make(model, tiny.SPEC, hidden=4, horizon=2) for _ in range(3))
    torch.manual_seed(5)
    for _ in range(12):
        learn(whole, states)
    torch.manual_seed(5)
    for _ in range(7):
        learn(first, states)
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    for _ in range(5):
        learn(second, states)
    assert same(whole, second)


def test_the_state_is_plain_tensors_of_fixed_shape() -> None:
    model = tiny.model()
    actor = make(model, tiny.SPEC)
    shapes = {key: (value.shape, value.dtype) for key, value in actor.state_dict().items()}
    learn(actor, seen(model))
    assert {key: (value.shape, value.dtype) for key, value in actor.state_dict().items()} == shapes
    assert {dtype for _, dtype in shapes.values()} == {torch.float64, torch.int64}
    owners = [value.untyped_storage().data_ptr() for value in actor.state_dict().values()]
    assert len(set(owners)) == len(owners)


def test_numpys_global_randomness_is_neither_read_nor_disturbed() -> None:
    model = tiny.model()
    states, found = seen(model), []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1:3]
        torch.manual_seed(0)
        actor = make(wide(320), bias=False)  # from 300 weights on, pycma's default would use it
        for _ in range(6):
            learn(actor, observed(torch.zeros(1, 1, 320)))
        small = make(model, tiny.SPEC, horizon=2)
        learn(small, states)
        after = np.random.get_state()[1:3]
        assert np.array_equal(before[0], after[0]) and before[1] == after[1]
        found.append(torch.cat([actor.mean, small.mean]))
    assert torch.equal(*found)


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 5.0), (1e-3, -2.0)])
def test_only_the_order_of_scores_matters(monkeypatch: pytest.MonkeyPatch, scale: float, shift: float) -> None:
    ends = []
    for a, b in ((1.0, 0.0), (scale, shift)):
        with monkeypatch.context() as patch:
            recorded(patch, lambda w, a=a, b=b: a * hill(w) + b)
            torch.manual_seed(0)
            ends.append(make(wide(7), eval_every=10**9))
            for _ in range(20):
                learn(ends[-1])
    assert same(*ends)


def test_weight_decay_is_a_penalty_of_the_mean_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is weight_decay * mean(w^2); with a flat score it pulls towards zero; the scores are told without it."""
    told: list[list[float]] = []
    inner = cma.CMAEvolutionStrategy.tell
    monkeypatch.setattr(
        cma.CMAEvolutionStrategy, "tell", lambda self, x, f, *more: (told.append(f), inner(self, x, f, *more))[1]
    )
    asked = recorded(monkeypatch, lambda w: 2.5)
    actor = make(wide(4), weight_decay=0.01, eval_every=10**9)
    actor.mean.fill_(3.0)
    for _ in range(30):
        metrics = learn(actor)
    assert told[0] == pytest.approx([0.01 * np.mean(w**2) - 2.5 for w in asked[0]])
    assert actor.mean.norm() < 0.1 * 3 * math.sqrt(5)
    assert metrics["population_best"] == metrics["population_worst"] == 2.5


@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf])
def test_broken_candidates_are_the_worst(monkeypatch: pytest.MonkeyPatch, what: float) -> None:
    """They are those with a large first weight. The same trajectory as if they had scored worse than everyone."""
    ends = []
    for bad in (what, -1e9):
        with monkeypatch.context() as patch:
            recorded(patch, lambda w, bad=bad: bad if w[0] > 0.05 else float(w[0] + w[1]))
            torch.manual_seed(0)
            ends.append(make(wide(3), eval_every=10**9))
            for _ in range(6):
                metrics = learn(ends[-1])
                if bad is what and metrics["broken"]:
                    assert metrics["population_worst"].isfinite() and metrics["population_mean"].isfinite()
    assert same(*ends) and ends[0].mean[0] < 0.1 < ends[0].mean[1]


def test_one_broken_rollout_breaks_its_candidate() -> None:
    model = walk(lambda x, action: torch.where(x[:, 0] > 100, math.nan, 1.0))
    actor = make(model, horizon=2)
    states = observed(torch.tensor([[[0.0, 0.0], [200.0, 0.0]]]))
    torch.manual_seed(1)
    total = torch.stack([actor.scores(torch.zeros(1, 3), 4, merge_time(states), None, 0)[0] for _ in range(40)])
    assert set(total.tolist()) == {2.0, -math.inf}


def test_if_all_are_broken_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, hill)
    actor = make(wide(3))
    learn(actor)
    before = {key: value.clone() for key, value in actor.state_dict().items()}
    recorded(monkeypatch, lambda w: math.nan)
    assert learn(actor) == {"broken": torch.tensor(8.0)}
    assert all(torch.equal(value, before[key]) for key, value in actor.state_dict().items())


def test_a_generation_that_is_interrupted_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, hill)
    actor = make(wide(3))
    learn(actor)
    before = {key: value.clone() for key, value in actor.state_dict().items()}
    inner = cma.CMAEvolutionStrategy.tell

    def interrupted(*told: Any) -> None:
        inner(*told)
        raise KeyboardInterrupt

    monkeypatch.setattr(cma.CMAEvolutionStrategy, "tell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(actor)
    assert all(torch.equal(value, before[key]) for key, value in actor.state_dict().items())


# ---- the mean solution ----


def test_the_mean_solution_is_evaluated_on_other_starts_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model()
    actor, states, drawn = make(model, tiny.SPEC, horizon=2), seen(model), []

    def listen(model: WorldModel, objective: Any, start: Any, *more: Any) -> Tensor:
        drawn.append((len(start.stoch), start.stoch[:3].clone(), torch.get_rng_state()))
        return imagined_return(model, objective, start, *more)

    monkeypatch.setattr(evolution, "imagined_return", listen)
    for _ in range(2):
        learn(actor, states)
    assert [rows for rows, _, _ in drawn] == [8 * 3, 4, 8 * 3, 4]
    for one in range(4):
        for other in range(one):
            assert not torch.equal(drawn[one][1], drawn[other][1])
            assert not torch.equal(drawn[one][2], drawn[other][2])


def test_it_is_evaluated_every_so_many_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, hill)
    actor = make(wide(3), eval_every=3)
    assert ["mean_solution" in learn(actor) for _ in range(7)] == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("keep_best", [False, True])
def test_the_mean_solution_acts_or_the_one_that_was_evaluated_best(
    monkeypatch: pytest.MonkeyPatch, keep_best: bool
) -> None:
    asked = recorded(monkeypatch, hill)
    evaluated = iter([2.0, 5.0, 3.0, 5.0, math.nan])
    inner = Evolution.scores

    def scores(self: Evolution, weights: Tensor, *more: Any) -> Tensor:
        found = inner(self, weights, *more)
        return found if len(weights) > 1 else torch.full_like(found, next(evaluated))

    monkeypatch.setattr(Evolution, "scores", scores)
    actor = make(wide(3), keep_best=keep_best)
    assert torch.equal(actor.weights(), torch.zeros(4, dtype=torch.float64))
    acting = []
    for _ in range(5):
        learn(actor)
        acting.append(actor.weights().numpy().copy())
    means = [asked[number][0] for number in (1, 3, 5, 7, 9)]
    chosen = [0, 1, 1, 1, 1] if keep_best else [0, 1, 2, 3, 4]
    assert all(np.array_equal(acting[t], means[i]) for t, i in enumerate(chosen))
    assert actor.best_score == 5


def test_it_acts_with_its_weights() -> None:
    actor = make(wide(2))
    actor.mean.copy_(torch.tensor([0.5, 0.0, 0.1]))
    state = actor.model.at(torch.tensor([[1.0, 7.0]]))
    assert actor.act(state, actor.initial(1), "evaluate")[0].item() == pytest.approx(math.tanh(0.6))


# ---- in the real environments ----


def test_in_the_environments_it_plays_instead_of_dreaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate plays the same episodes, which are the generation's own; the mean solution plays others."""
    monkeypatch.setattr(evolution, "imagined_return", None)
    actor = make(wide(2), evaluate_in="env", population=10, rollouts=3, eval_rollouts=6, sigma=0.3)
    calls: list[tuple[int, int]] = []

    def play(who: Actor, episodes: int, number: int) -> Tensor:
        calls.append((episodes, number))
        gain = who.act(who.model.at(torch.eye(2)), who.initial(2), "evaluate")[0].double()
        luck = torch.arange(episodes) - (episodes - 1) / 2  # none on average
        return luck - (gain - 0.5).square().sum()

    for _ in range(60):
        metrics = learn(actor, play=play)
    assert calls[:11] == [(3, 0)] * 10 + [(6, 1)] and calls[11:22] == [(3, 2)] * 10 + [(6, 3)]
    assert len(calls) == 60 * 11
    gain = actor.act(actor.model.at(torch.eye(2)), actor.initial(2), "evaluate")[0]
    assert torch.allclose(gain, torch.tensor(0.5), atol=0.01) and -1e-3 < metrics["mean_solution"] <= 1e-6


def test_a_candidate_that_plays_is_a_light_actor() -> None:
    actor = make(tiny.model(), tiny.SPEC, exploration_noise=0.3)
    other = actor.with_weights(draw(actor)[0])
    assert isinstance(other, Actor) and other.model is actor.model
    assert not list(other.modules())[1:] and not other.state_dict()


def test_without_environments_it_cannot_play() -> None:
    with pytest.raises(ValueError, match="how to play"):
        learn(make(wide(2), evaluate_in="env"), observed(torch.zeros(1, 1, 2)))


# ---- the picture ----


def test_generations_as_a_picture(tmp_path: Path) -> None:
    def drawn(rows: list[dict[str, float]]) -> tuple[int, bool]:
        """Over how many lines of pixels the mean solution's curve reaches, and whether there is a band."""
        pictures.generations(tmp_path / "g.png", rows, "a run")
        with Image.open(tmp_path / "g.png") as image:
            assert image.format == "PNG"
            colours = np.asarray(image.convert("RGB")).astype(int)[:, :500]  # without the legend
        blue = np.nonzero((np.abs(colours - [31, 119, 180]).max(2) < 10).any(1))[0]
        assert image.size == (840, 480)
        return int(np.ptp(blue)) if len(blue) else 0, bool((colours == 217).all(2).sum() > 2000)

    assert drawn([]) == drawn([{"step": 3, "learn/model/loss": 1.0}]) == (0, False)
    rows: list[dict[str, float]] = [{"step": 0, "collect/return": 1.0}]
    for g in range(1, 20):
        scores = {"population_best": g + 2.0, "population_mean": g + 0.0, "population_worst": g - 2.0}
        rows.append(
            {"step": 0, "learn/actor/generation": g} | {f"learn/actor/{key}": value for key, value in scores.items()}
        )
    assert drawn(rows) == (0, True)
    for row in rows[1::5]:
        row["learn/actor/mean_solution"] = row["learn/actor/population_mean"]
    rows.append({"step": 0, "learn/actor/broken": 64.0})
    rows.append(
        {
            "step": 0,
            "learn/actor/generation": 20,
            "learn/actor/population_mean": math.nan,
            "learn/actor/mean_solution": -math.inf,
        }
    )
    curve, band = drawn(rows)
    assert 100 < curve < 400 and band
    rows[3]["learn/actor/population_worst"] = -1e9  # one candidate that fell off the world
    assert drawn(rows) == (curve, band)


def test_the_picture_reads_what_learning_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, hill)
    metrics = learn(make(wide(3)))
    wanted = {
        "generation",
        "population_best",
        "population_mean",
        "population_worst",
        "mean_solution",
        "sigma",
        "broken",
    }
    assert set(metrics) == wanted


# ---- common random numbers ----


def test_common_random_numbers_make_candidates_comparable() -> None:
    """The scores of two candidates differ far less by luck if they meet the same noise."""
    model = tiny.model()
    actor, states = make(model, tiny.SPEC, horizon=6), seen(model)
    weights = torch.cat([draw(actor)[:1], draw(actor)[:1]])
    weights[1] = weights[0] + 0.01
    pool = merge_time(states)

    def difference(blocks: int) -> float:
        rows = torch.randint(18, (4,)).repeat(2)
        with common_random_numbers(blocks):
            policy = actor.controller.policy(weights)
            total = imagined_return(
                model, tiny.REWARD, tree_map(lambda a: a[rows], pool), lambda state: policy(model.features(state)), 6
            )
        return float(total.view(2, 4).mean(1).diff())

    shared, own = (np.std([difference(blocks) for _ in range(30)]) for blocks in (2, 1))
    assert shared < 0.3 * own
