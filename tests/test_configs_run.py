"""Every file in configs/ does not only load: it trains for two episodes, learns, evaluates, dreams and saves."""

from pathlib import Path

import pytest
import runs

import train
from worldmodel import checkpoint
from worldmodel.config import ROOT
from worldmodel.display import SignalHandler

SHORT = (  # noqa: SIM905
    "env.time_limit=8 train.steps=9 train.seed_episodes=1 train.eval_episodes=1 "
    "replay.batch=2 replay.length=6 agent.device=cpu agent.threads=1"
).split()


def files(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [[f"exp={name}"] for name in files("exp")]
    + [["exp=smoke", f"{group}={name}"] for group in ("env", "model", "actor") for name in files(group)],
    ids=" ".join,
)
def test_it_runs(words: list[str], tmp_path: Path) -> None:
    raw, _ = runs.composed(*words, *SHORT, "run=r", f"runs={tmp_path}")
    little = [
        f"train.learn.{stage}.{key}={value}"
        for stage, was in raw["train"]["learn"].items()
        for key, value in {"updates": 1, "batch": 2, "length": 6}.items()
        if key in was
    ]
    if raw["actor"]["name"] == "evolution":
        little += ["actor.population=4", "actor.rollouts=2", "actor.horizon=3", "actor.eval_rollouts=2"]
    train.run(*runs.composed(*words, *SHORT, *little, "run=r", f"runs={tmp_path}"), SignalHandler())
    newest = checkpoint.verify(tmp_path / "r/checkpoints" / checkpoint.names(tmp_path / "r/checkpoints")[0])
    assert newest.state["counters"]["updates"] >= 1
    assert (tmp_path / "r/dream.gif").exists() and (tmp_path / "r/curve.png").exists()
