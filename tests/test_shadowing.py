"""A folder or module of the user's own that hides one of our rooms is told as that."""

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from training import shadowing
from training.configuration.components import ROOT


@pytest.mark.parametrize(
    ("name", "asked"), [("envs", "training"), ("worldmodel", "agents"), ("agents", "training"), ("training", "agents")]
)
@pytest.mark.parametrize("kind", ["module", "package"])
def test_what_hides_a_room_is_named(name: str, asked: str, kind: str, tmp_path: Path) -> None:
    own = tmp_path / f"{name}.py" if kind == "module" else tmp_path / name / "__init__.py"
    own.parent.mkdir(exist_ok=True)
    own.write_text("")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    words = [sys.executable, "-c", f"import {asked}"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=runs.HANG)
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and said.startswith(f"ImportError: `{name}` is "), done.stderr
    assert "hides this project's own" in said
    assert name == "training" or str(own) in said


def test_a_folder_without_init_hides_a_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As folders of virtual environments do, where the project is installed from a clone."""
    (tmp_path / "envs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "envs")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    with pytest.raises(ImportError, match=r"`envs` is \S*envs here"):
        shadowing.refuse_shadows()
