"""What a checkpoint holds is refused before it is used: weights that are none, impossible generators, moments of other
shapes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from agents.agent import Agent
from agents.controllers import evolution
from agents.loaded import check_random_state
from agents.planners.shooting import Config, Shooting

NAN, INFINITE = float("nan"), float("inf")


def planner(model: Any, spec: Any) -> Shooting:
    return Shooting(Config(name="shooting", horizon=2, candidates=3, exploration_noise=0.0), model, spec, tiny.REWARD)


def evolved(model: Any, spec: Any) -> evolution.Evolution:
    config: evolution.Config = tiny.section("actor", "evolution_tiny")
    return evolution.build(config, model, spec, tiny.REWARD)


def copied(agent: Agent) -> dict[str, dict[str, Tensor]]:
    return {file: {name: value.clone() for name, value in group.items()} for file, group in agent.tensors().items()}


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN": lambda value: value * NAN,
    "infinite": lambda value: value + INFINITE,
    "one of them": lambda value: value.index_put([torch.zeros(1, dtype=torch.long)] * value.dim(), torch.tensor(NAN)),
    "shape": lambda value: value[None],
    "type": lambda value: value.half(),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_weights_that_are_none_are_refused(wrong: str) -> None:
    agent, other = tiny.make_agent(planner), tiny.make_agent(planner, seed=5)
    stored, before = copied(agent), copied(other)
    for name in list(stored["model"])[:4]:
        with pytest.raises(ValueError, match=f"model: {name} "):
            other.restore(stored | {"model": stored["model"] | {name: WRONG[wrong](stored["model"][name])}})
        assert all(torch.equal(value, before["model"][key]) for key, value in other.tensors()["model"].items())
    del stored["model"]["input_proj.weight"]
    with pytest.raises(ValueError, match=r"the weights of input_proj\.weight are missing"):
        other.restore(stored)


def test_a_million_names_are_not_listed() -> None:
    agent, said = tiny.make_agent(planner), []
    stored = copied(agent)
    stored["model"] |= {f"{number:06d}" * 50: torch.zeros(0) for number in range(10_000)}
    agent.restore(stored, said.append)
    assert len(said) == 1 and len(said[0]) < 2000 and "and 9990 more" in said[0]


BUFFERS: dict[str, Callable[[Tensor], Any]] = {
    "mean": lambda value: value * NAN,
    "sigma": lambda value: -value,
    "scales": lambda value: value * 0,
    "covariance": lambda value: value - 2 * torch.eye(len(value)),
    "axes": lambda value: value * NAN,
    "generation": lambda value: value - 1,
    "decomposed": lambda value: value + 10,
    "best_score": lambda value: value * NAN,
}


@pytest.mark.parametrize("name", BUFFERS)
def test_what_cma_es_never_writes_is_refused(name: str) -> None:
    agent = tiny.make_agent(evolved)
    stored = copied(agent)
    agent.restore(stored)  # the best score is infinite still, as it begins
    stored["actor"][name] = BUFFERS[name](stored["actor"][name]).to(stored["actor"][name].dtype)
    with pytest.raises(ValueError, match="actor: "):
        agent.restore(stored)


# ---- generators ----


def changed(at: int, kind: type, *values: float) -> Tensor:
    """The generator's state with other values from a byte on."""
    state = torch.get_rng_state()
    place = state.numpy()[at : at + len(values) * np.dtype(kind).itemsize].view(kind)
    place[:] = values
    return state


def test_every_state_that_a_generator_is_in_is_taken() -> None:
    generator = torch.get_rng_state()
    for number in range(1300):
        torch.rand(number % 3)
        torch.randn(number % 5, dtype=torch.float64 if number % 2 else torch.float32)
        check_random_state({"cpu": torch.get_rng_state()})
    torch.manual_seed(7)
    check_random_state({"cpu": torch.get_rng_state(), "cuda": torch.zeros(16, dtype=torch.uint8)})
    torch.set_rng_state(generator)


IMPOSSIBLE: dict[str, Callable[[], dict[str, Tensor]]] = {
    "beyond its end": lambda: {"cpu": changed(8, np.int32, 624, 1, 624, 0)},  # torch itself takes this one
    "more left than there are": lambda: {"cpu": changed(8, np.int32, 625, 1, 0, 0)},
    "none left": lambda: {"cpu": changed(8, np.int32, 0, 1, 625, 0)},
    "a negative place": lambda: {"cpu": changed(8, np.int32, 5, 1, -4, -1)},
    "not seeded": lambda: {"cpu": changed(8, np.int32, 1, 0)},
    "zeros": lambda: {"cpu": changed(24, np.uint64, *[0] * 624)},
    "a NaN that is left over": lambda: {"cpu": changed(24 + 8 * 624 + 8, np.float64, NAN)},
    "a flag that is none": lambda: {"cpu": changed(24 + 8 * 624 + 24, np.int32, 7)},
    "size": lambda: {"cpu": torch.get_rng_state()[:-1]},
    "empty": lambda: {"cpu": torch.zeros(0, dtype=torch.uint8)},
    "type": lambda: {"cpu": torch.get_rng_state().float()},
    "missing": lambda: {},
    "unknown": lambda: {"cpu": torch.get_rng_state(), "tpu": torch.get_rng_state()},
    "the GPU's": lambda: {"cpu": torch.get_rng_state(), "cuda": torch.tensor([0] * 8 + [1] + [0] * 7).byte()},
    "the GPU's size": lambda: {"cpu": torch.get_rng_state(), "cuda": torch.zeros(17).byte()},
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_state_that_no_generator_is_ever_in_is_refused(name: str) -> None:
    agent, before = tiny.make_agent(planner), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"random-number state|generator"):
        agent.set_random_state(IMPOSSIBLE[name]())
    assert torch.equal(torch.get_rng_state(), before)
