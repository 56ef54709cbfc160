"""docs/tour.ipynb runs from its first cell to its last, and what is stored in the repository is small."""

import base64
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import runs
from nbclient import NotebookClient

from training.configuration.components import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"
BUDGET, LESS = "train.env_steps=1500", "train.env_steps=300 train.learn.model.updates=5 train.eval_episodes=2"


def pictures(notebook: Any) -> list[bytes]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    found = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [base64.b64decode(content) for content in found]


def test_it_is_stored_as_it_was_run_and_small() -> None:
    notebook = nbformat.read(TOUR, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(pictures(notebook)) == 6
    assert TOUR.stat().st_size < 500_000 and str(ROOT) not in TOUR.read_text("utf8")


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(TOUR, 4)
    (training,) = [cell for cell in notebook.cells if BUDGET in cell.source]
    training.source = training.source.replace(f'"{BUDGET}"', ", ".join(f'"{word}"' for word in LESS.split()))
    for cell in notebook.cells:
        cell.source = cell.source.replace("episodes=5", "episodes=1")
        cell.pop("outputs", None)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=runs.HANG, startup_timeout=runs.HANG, resources=where).execute(env=environment)
    assert len(pictures(notebook)) == 6
    assert (tmp_path / "runs" / "tour" / "evaluation.json").exists()
