"""What would not fit into memory is refused before it is asked for, with the keys to lower."""

from pathlib import Path
from typing import Any

import pytest
import runs
import tiny
import torch

from agents.controllers import evolution
from training import preflight
from training.build import build_agent
from training.configuration.components import find
from training.configuration.config import Config
from training.preflight import LimitedMemory, working_bytes
from worldmodel.base import ConfigError

SPEC = tiny.SPEC._replace(image_shape=(3, 16, 16))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which 0.5 GB are free."""
    monkeypatch.setattr(preflight, "available_memory", lambda: preflight.RESERVE + 500_000_000)


def composed(folder: Path, *words: str) -> Config:
    unused = ("actor.",) * any("actor=" in word for word in words)
    unused += ("replay.batch_size",) * any("learn.model.batch_size" in word for word in words)
    mine = [word for word in runs.TINY if not word.startswith(unused)]
    return runs.composed(*mine, f"runs={folder}", *words)


ABSURD: dict[str, tuple[list[str], str]] = {
    "cem": (["actor.candidates=1000000"], "a plan needs .* lower actor.candidates, actor.horizon or env.num_envs"),
    "long": (["actor.horizon=1000", "actor.candidates=10000"], "a plan needs"),
    "shooting": (["actor=shooting_tiny", "actor.candidates=1000000", "actor.horizon=3"], "a plan needs"),
    "mppi": (["actor=mppi_tiny", "actor.candidates=1000000", "actor.horizon=3"], "a plan needs"),
    "a batch": (["replay.batch_size=60000"], "an update needs .* lower replay.batch_size or replay.batch_length"),
    "a stage's": (["train.learn.model.batch_size=60000"], "an update needs"),
    "evolution": (
        ["actor=evolution_tiny", "actor.population=100000", "actor.rollouts=100"],
        "an actor that learns needs",
    ),
}


@pytest.mark.parametrize("name", ABSURD)
def test_plans_and_batches_beyond_memory_are_refused(name: str, tmp_path: Path, small: None) -> None:
    words, said = ABSURD[name]
    usual = composed(tmp_path)
    assert 0 < working_bytes(usual, build_agent(usual, SPEC), 1) < 10_000_000
    config = composed(tmp_path, *words)
    agent = build_agent(config, SPEC)
    with pytest.raises(MemoryError, match=f"^memory: {said}"):
        working_bytes(config, agent, 1)
    if "update" in said or "learns" in said:
        assert working_bytes(config, agent, 1, learns=False) < 10_000_000  # who only acts needs none of that


def test_environments_are_counted(tmp_path: Path) -> None:
    config = composed(tmp_path, "actor.candidates=1000")
    agent = build_agent(config, SPEC)
    assert working_bytes(config, agent, 8, learns=False) == 8 * working_bytes(config, agent, 1, learns=False)


def test_a_model_beyond_memory_is_refused_before_it_is_made(tmp_path: Path, small: None) -> None:
    with pytest.raises(MemoryError, match=r"^memory: the model and the actor need more than .* GB are free"):
        build_agent(composed(tmp_path, "model.deter=16384", "model.hidden=16384"), SPEC)
    with LimitedMemory():
        for make in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn):
            make(3), make(3, 4), make((3, 4)), make(size=(3, 4)), make(0), make(())
    for size in ((1 << 20, 1 << 20), ((1 << 40,),)):
        with LimitedMemory(), pytest.raises(MemoryError):
            torch.empty(*size)


def test_a_controller_whose_covariance_would_not_fit_is_refused() -> None:
    def build(**changes: Any) -> evolution.Evolution:
        config: evolution.Config = tiny.section("actor", "evolution_tiny", **changes)
        return evolution.build(config, tiny.model(), tiny.SPEC, tiny.REWARD)

    assert build().imagined_rows(5) == 16
    with pytest.raises(ConfigError, match=r"CMA-ES keeps 704,\d+ x 704,\d+ numbers"):
        build(hidden=16384)


@pytest.mark.parametrize("name", tiny.names("actor"))
def test_every_actor_says_what_it_imagines_at_once(name: str) -> None:
    config = tiny.section("actor", name)
    spec = tiny.DISCRETE if getattr(config, "ordinal_actions", False) else tiny.SPEC
    actor = find("actor", config.name).build(config, tiny.model(spec), spec, tiny.REWARD)
    if hasattr(config, "candidates"):
        assert actor.imagined_rows(3) == 3 * config.candidates * config.horizon
    elif actor.has_loss:
        assert actor.imagined_rows(3) == 3 * config.horizon
    else:
        assert actor.imagined_rows(3) == max(config.population * config.rollouts, config.eval_rollouts)
