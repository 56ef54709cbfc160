"""It learns: the DOT world from pixels, end to end through train.py, against the true simulator."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs
import torch

from benchmarks import dot_dream, dot_oracle
from training.configuration.command_line import component_section

ROOT = Path(__file__).resolve().parent.parent


def call(*words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, check=True, timeout=runs.HANG, capture_output=True
    )


@pytest.mark.slow
def test_dot_reaches_nine_tenths_of_the_true_simulator(tmp_path: Path) -> None:
    """Of the way from random actions to the same CEM with the true simulator, over 20 episodes without noise."""
    call("train.py", "exp=dot", "agent.threads=1", f"runs={tmp_path}", "run=dot")
    call("evaluate.py", str(tmp_path / "dot"), "--episodes", "20", "--seed", "0")
    learned = json.loads((tmp_path / "dot" / "evaluation.json").read_text())["return"]
    torch.manual_seed(0)
    settings = component_section(("actor",), "cem_dot")
    low, high = dot_oracle.random(), dot_oracle.oracle(settings)
    assert (learned - low) / (high - low) >= 0.9, f"random {low:.2f}, learned {learned:.2f}, true simulator {high:.2f}"


@pytest.mark.slow
def test_a_controller_evolved_in_the_dream_is_as_good_as_one_evolved_in_the_world(tmp_path: Path) -> None:
    """Nine tenths of the way from random actions to the same controller, trained by the same CMA-ES in the true
    simulator; and it is V and M that make it so.
    """
    call("train.py", "exp=worldmodels_dot", "agent.threads=1", f"runs={tmp_path}", "run=dot")
    rows = dot_dream.Comparison(tmp_path / "dot", None, seed=0).report()["rows"]
    share = {name: row["share"] for name, row in rows.items()}
    assert share["dream"] >= 0.9, rows
    assert rows["dream"]["sigmas_above_random"] > 5, rows
    assert share["dream"] > share["z alone"] + 0.05, rows  # without h the velocity is unknown
    assert share["untrained"] < 0.5, rows
