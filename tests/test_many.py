"""benchmarks/many.sh: many runs side by side, resumed where they were stopped, skipped where they are done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs

from training.configuration.components import ROOT
from training.run_folder.run import Run

WORDS = [word for word in runs.TINY if not word.startswith(("exp=", "agent.threads="))]


def many(folder: Path, seeds: str, *words: str, jobs: int = 2) -> "subprocess.Popen[str]":
    environment = os.environ | {"JOBS": str(jobs), "EPISODES": "1", "RUNS": str(folder), "RECORD": "no"}
    command = ["bash", "benchmarks/many.sh", "smoke", "-", seeds, *WORDS, *words]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: "subprocess.Popen[str]", code: int = 0) -> str:
    said, _ = process.communicate(timeout=runs.HANG)
    assert process.returncode == code, said
    return said


def env_steps(folder: Path, seed: int) -> int:
    steps: int = Run.read(folder / f"smoke-seed{seed}").newest().state["counters"]["env_steps"]
    return steps


@pytest.mark.slow
def test_what_was_stopped_goes_on_what_is_done_is_skipped_and_what_fails_is_told(tmp_path: Path) -> None:
    endless = many(tmp_path, "0 1", "train.env_steps=100000000")
    while not all(list((tmp_path / f"smoke-seed{seed}" / "checkpoints").glob("step-*[0-9]")) for seed in (0, 1)):
        assert endless.poll() is None
        time.sleep(0.1)
    endless.send_signal(signal.SIGTERM)
    ended(endless, 143)
    before = [env_steps(tmp_path, seed) for seed in (0, 1)]
    assert min(before) >= 15 and not list(tmp_path.glob("*/done.txt"))

    steps = str(max(before) + 20)
    said = ended(many(tmp_path, "0 1", f"train.env_steps={steps}", jobs=1))
    assert said.count(": done") == 2
    assert all(env_steps(tmp_path, seed) >= int(steps) for seed in (0, 1))
    logs = (tmp_path / "smoke-seed0.log").read_text()
    assert logs.count("stopped and saved") == 1 and logs.count("finished") == 1
    assert json.loads((tmp_path / "smoke-seed1" / "evaluation.json").read_text())["episodes"] == 1

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "multirun.yaml"}

    was = times()
    said = ended(many(tmp_path, "0 1", f"train.env_steps={steps}"))
    assert said.count(": is done") == 2
    assert times() == was

    wrong = "model.deter: the run has 8, you ask for 9"
    said = ended(many(tmp_path, "0 1", f"train.env_steps={steps}", "model.deter=9"), 2)  # another model than they have
    assert wrong in said and times() == was
    said = ended(many(tmp_path, "0 2", "train.env_steps=20", "model.deter=9"), 2)  # and one that is new
    assert "smoke-seed0: failed with 2, see" in said and "1 of 2 runs of the sweep failed" in said
    assert wrong in said and wrong in (tmp_path / "smoke-seed0.log").read_text()
    assert (tmp_path / "smoke-seed2" / "done.txt").exists()
