"""Every file in configs/ does not only load: it trains for two episodes, learns, evaluates, dreams and saves."""

import re
from pathlib import Path

import pytest
import runs
from PIL import Image

from training.configuration.components import ROOMS, ROOT
from training.run_folder import checkpoint

SHORT = (  # noqa: SIM905
    "env.time_limit=8 train.env_steps=9 train.prefill=1 train.eval_episodes=1 agent.device=cpu agent.threads=1"
).split()


LARGE = re.compile(r"_(25|50|100|200)M$")  # the same component, too large to train in seconds


def files(group: str) -> list[str]:
    names = sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))
    return [name for name in names if not LARGE.search(name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [[f"exp={name}"] for name in files("exp")]
    + [["exp=smoke", f"{group}={name}"] for group in ROOMS for name in files(group)],
    ids=" ".join,
)
def test_it_runs(words: list[str], tmp_path: Path) -> None:
    if words[-1] in ("env=crafter", "exp=dreamer_v3_crafter"):
        pytest.importorskip("crafter")  # not in the lock: tests/test_envs_crafter.py says why
    little: list[str] = []
    if words[-1].startswith("model="):  # some see 64x64 pixels only
        little += ["env.size=[64,64]"]
    if words[-1] == "actor=evolution_doom":
        little += ["actor.ordinal_actions=false"]  # DOT's are continuous
    if words[-1] == "objective=goal":
        Image.new("L", (16, 16), 99).save(tmp_path / "goal.png")
        little += [f"objective.image={tmp_path / 'goal.png'}"]
    if words[-1].startswith("actor=dreamer"):  # learns by gradient, beside the model
        little += ["train.learn.model.parts=[model,actor]"]
    plain = runs.composed(*words, *little, "run=r", f"runs={tmp_path}").plain
    stages = {name: was for name, was in plain["train"]["learn"].items() if isinstance(was, dict)}
    in_env = plain["actor"].get("evaluate_in") == "env"  # it learns from episodes, not in dreams
    little += [
        f"train.learn.{stage}.{key}={value}"
        for stage, was in stages.items()
        for key, value in {"updates": 1, "batch_size": 2, "batch_length": 6}.items()
        if key in was and not (in_env and stage == "actor" and key != "updates")
    ]
    for key, value in {"batch_size": 2, "batch_length": 6}.items():
        if any(key not in stage for stage in stages.values()):  # else it would do nothing
            little += [f"replay.{key}={value}"]
    if plain["train"]["ratio"]:
        little += ["train.ratio=6", "train.env_steps=33"]  # beyond the prefill, with four environments too
    if plain["actor"]["name"] == "evolution":
        little += ["actor.population=4", "actor.rollouts=2", "actor.eval_rollouts=2"]
        little += [] if in_env else ["actor.horizon=3"]
    assert runs.go(tmp_path, *little, recipe=[*words, *SHORT]) == 0
    newest = checkpoint.verify(tmp_path / "r/checkpoints" / checkpoint.names(tmp_path / "r/checkpoints")[0])
    assert newest.state["counters"]["updates"] >= 1
    assert (tmp_path / "r/dream.png").exists() and (tmp_path / "r/curve.png").exists()
