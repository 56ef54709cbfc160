"""A few of benchmarks/kills.py's SIGKILLs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from training.configuration.components import ROOT


@pytest.mark.slow
def test_killed_again_and_again_it_resumes_unaided(tmp_path: Path) -> None:
    words = ["benchmarks/kills.py", "--kills", "8", "--seed", "1", "--json", str(tmp_path / "kills.json")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=runs.HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "kills.json").read_text())
    assert (result["kills"], result["resumed"], result["wrong"]) == (8, 8, [])
    assert result["inside_saves"] >= 2
    assert result["most_steps_lost"] <= result["steps_between_saves"]
    assert result["equal_to_an_undisturbed_run"]
