"""Crafter through Gymnasium's interface: with its package if that is installed, else with a stand-in of its form."""

import sys
import types
from typing import Any

import numpy as np
import pytest

from envs.errors import EnvError
from envs.suites import crafter


class StandIn:
    """As crafter.Env: old Gym's reset and step, a seed when it is made, no end by itself but death."""

    action_names = tuple(f"action {i}" for i in range(17))

    def __init__(self, size: tuple[int, int], length: int | None, seed: int) -> None:
        assert length is None
        self.size, self.rng, self.steps = size, np.random.default_rng(seed), 0

    def see(self) -> np.ndarray:
        return self.rng.integers(0, 256, (self.size[1], self.size[0], 3), np.uint8)

    def reset(self) -> np.ndarray:
        return self.see()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.steps += 1
        dead = self.steps == 30
        return self.see(), 0.1 * action, dead, {"discount": 1 - float(dead), "achievements": {"collect_wood": 0}}


@pytest.fixture(params=["the package", "a stand-in"])
def game(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "the package":
        pytest.importorskip("crafter", reason="not in the lock")
    else:
        monkeypatch.setitem(sys.modules, "crafter", types.SimpleNamespace(Env=StandIn))
    return request.param


def config(**changes: Any) -> crafter.Config:
    values = dict(name="crafter", size=(64, 64), gray=False, action_repeat=1, time_limit=20, num_envs=1)
    return crafter.Config(**{**values, "vectorization_mode": "sync", "timeout": 60.0, **changes})


def episode(env: Any, seed: int) -> list[Any]:
    seen = [env.reset(seed=seed)[0]]
    rng = np.random.default_rng(0)
    while True:
        image, reward, terminated, truncated, _ = env.step(rng.integers(17))
        seen += [image, reward, terminated, truncated]
        if terminated or truncated:
            return seen


def test_an_episode_is_a_function_of_its_seed_and_the_limit_truncates(game: str) -> None:
    env = crafter.build(config(size=(48, 64)))
    assert env.action_space.n == 17 and len(env.get_wrapper_attr("get_action_meanings")()) == 17
    one, other, again = episode(env, 1), episode(env, 2), episode(env, 1)
    assert one[0].shape == (3, 48, 64) and one[0].std() > 5
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert len(one) == 1 + 4 * 20 and one[-2:] == [False, True]


def test_a_death_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crafter", types.SimpleNamespace(Env=StandIn))
    assert episode(crafter.build(config(time_limit=100)), 0)[-2:] == [True, False]


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crafter", None)
    with pytest.raises(EnvError, match="pip install crafter"):
        crafter.build(config())
