"""benchmarks/scale.py: in simulated time the scheduler reaches what the arithmetic allows, whatever the limit is."""

import pytest
import runs

from benchmarks.scale_simulation import Costs, Simulation, arithmetic

EASY = Costs(act=0.01, step=0.001, update=1e-4, row=1e3, take=1e-7, weights=1e4, pack=1e-5, length=100)


@pytest.mark.parametrize(
    ("costs", "workers", "limit"),
    [
        (EASY, 4, "collectors"),
        (EASY._replace(update=0.1), 16, "learner"),
        (EASY._replace(network=2e5), 64, "network"),
    ],
)
def test_it_reaches_what_the_arithmetic_allows(costs: Costs, workers: int, limit: str) -> None:
    config = runs.composed("exp=smoke", "train.collect.mode=async", f"train.collect.workers={workers}")
    most = arithmetic(config, costs, workers, action_repeat=1, num_envs=1)
    assert min(most, key=lambda part: most[part]) == limit
    simulation = Simulation(config, costs, workers, action_repeat=1, num_envs=1)
    found = simulation.run()
    assert found.limit() == limit
    assert found.rate == pytest.approx(min(most.values()), rel=0.15)


@pytest.mark.parametrize("workers", [1, 2, 8, 64])
def test_what_collectors_may_be_ahead_at_first_does_not_count(workers: int) -> None:
    """A learner so slow that whole simulations once ended before it had anything to do."""
    config = runs.composed("exp=dreamer_v3", "env=dmc", "train.collect.mode=async", f"train.collect.workers={workers}")
    costs = EASY._replace(update=5.0)
    found = Simulation(config, costs, workers, action_repeat=2, num_envs=1).run()
    assert found.limit() == "learner"
    most = arithmetic(config, costs, workers, action_repeat=2, num_envs=1)
    assert found.rate == pytest.approx(most["learner"], rel=0.15)
