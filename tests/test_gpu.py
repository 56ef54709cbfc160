"""benchmarks/gpu.sh and wheels.py, as far as they go without a GPU: what travels, and that it arrives whole."""

import ast
import csv
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import runs

from benchmarks import wheels
from training.configuration.components import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"
HERE = (sys.platform, platform.machine())
pytestmark = pytest.mark.skipif(HERE != ("linux", "x86_64"), reason="the GPU machine is one of Linux on x86-64")


def gpu(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a project of its own."""
    (folder / "benchmarks" / "results").mkdir(parents=True, exist_ok=True)
    shutil.copy(SCRIPT, folder / "benchmarks")
    known = {key: value for key, value in os.environ.items() if key not in ("OUT", "PIECES")}
    known |= {"PYTHON": sys.executable, "PLACE": str(folder / "place"), "RECIPE": "exp=tiny"}
    command = ["bash", "benchmarks/gpu.sh", *words]
    return subprocess.run(
        command, cwd=folder, env=known | environment, capture_output=True, text=True, timeout=runs.HANG
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_usage(tmp_path: Path) -> None:
    for words in ((), ("trian",)):
        done = gpu(tmp_path, *words)
        assert done.returncode == 2
        assert "benchmarks/gpu.sh train TASK SEED" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks"]


def test_a_run_travels_in_pieces(tmp_path: Path) -> None:
    """Packed in two turns, brought in two turns; older checkpoints and curves over updates stay behind."""
    there, here = tmp_path / "there", tmp_path / "here"
    run = there / "runs" / "tiny-dot-seed3"
    for name in ("step-1/model", "step-2/model"):
        (run / "checkpoints" / name).parent.mkdir(parents=True)
        (run / "checkpoints" / name).write_bytes(name.encode())
    for name, size in (("run.json", 2), ("replay/a.npz", 15 << 20), ("by_updates/events", 9)):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(os.urandom(size))
    wanted = {key: value for key, value in contents(run).items() if "step-1" not in key and "by_updates" not in key}

    for number in ("0", "1"):
        out = str(tmp_path / f"turn{number}")
        done = gpu(there, "pack", "dot", "3", number, OUT=out, PIECES="1")
        assert done.returncode == 0, done.stderr
        assert ("gpu.sh pack dot 3 1" in done.stdout) == (number == "0")
        assert len(list(Path(out).glob("*.tar.*"))) == 1

    done = gpu(here, "unpack", str(tmp_path / "turn0"))
    assert "still missing tiny-dot-seed3.tar.001" in done.stdout and done.returncode == 0
    assert not (here / "runs").exists()
    done = gpu(here, "unpack", str(tmp_path / "turn1"))
    assert "is restored" in done.stdout and done.returncode == 0, done.stderr
    assert contents(here / "runs" / run.name) == wanted
    (here / "runs" / run.name / "run.json").write_text("went on")
    assert "stays as it is" in gpu(here, "unpack", str(tmp_path / "turn1")).stdout
    assert (here / "runs" / run.name / "run.json").read_text() == "went on"


STUB = """#!/usr/bin/env bash
mkdir -p "runs/$1-$2-seed3" "runs/$1-$2-seed4"
echo "$JOBS: $*" >>"runs/said"
echo of seed 3 >"benchmarks/results/$1-$2-seed3.json"
touch "runs/$1-$2-seed3/done.txt"
exec sleep "$5"
"""


def test_many_runs_bring_the_records_and_agents_of_those_that_are_done(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "many.sh").write_text(STUB)
    (tmp_path / "benchmarks" / "many.sh").chmod(0o755)
    (tmp_path / "export.py").write_text("import sys; open(sys.argv[2], 'x').write(sys.argv[1])")
    for seconds, said in (("0", "all are finished"), (str(runs.HANG), "the time is over")):
        done = gpu(tmp_path, "many", "tiny", "dot", "3 4", "0.01", "train.env_steps=9", seconds, JOBS="5")
        assert done.returncode == 0 and said in done.stdout, done.stderr
    assert (tmp_path / "runs" / "said").read_text().splitlines() == [
        "5: tiny dot 3 4 train.env_steps=9 0", f"5: tiny dot 3 4 train.env_steps=9 {runs.HANG}",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "tiny-dot-seed3-results.tar", "tiny-dot-seed3.agent",
    ]  # fmt: skip
    assert (tmp_path / "out" / "tiny-dot-seed3.agent").read_text() == "runs/tiny-dot-seed3"
    assert gpu(tmp_path, "many", "tiny", "dot").returncode == 2


def test_damaged_pieces_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny-dot-seed3"
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    assert gpu(tmp_path, "pack", "dot", "3").returncode == 0
    with (tmp_path / "out" / "tiny-dot-seed3.tar.000").open("ab") as piece:
        piece.write(b"x")
    shutil.rmtree(tmp_path / "runs")
    done = gpu(tmp_path, "unpack", "out")
    assert done.returncode == 1 and "damaged" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_slimmed_wheel_lists_what_it_holds(tmp_path: Path) -> None:
    full, small = tmp_path / "full.whl", tmp_path / "small.whl"
    names = ["a/__init__.py", "a/large/x, y.bin", "a/larger.py", "a-1.dist-info/RECORD"]
    with zipfile.ZipFile(full, "w") as wheel:
        for name in names[:-1]:
            wheel.writestr(name, name)
        wheel.writestr(names[-1], 'a/__init__.py,sha256=1,13\n"a/large/x, y.bin",sha256=2,16\na/larger.py,,\n')
    wheels.slim(full, small, ("a/large/",))
    with zipfile.ZipFile(small) as wheel:
        assert wheel.namelist() == [names[0], names[2], names[3]]
        listed = csv.reader(wheel.read(names[3]).decode().splitlines())
        assert list(listed) == [["a/__init__.py", "sha256=1", "13"], ["a/larger.py", "", ""]]
        assert wheel.read(names[2]) == names[2].encode()
    with pytest.raises(ValueError, match="has no a/gone/"):
        wheels.slim(full, small, ("a/gone/",))


def test_all_that_is_imported_travels_or_is_there() -> None:
    """Third parties of the project, and what those that travel require."""
    modules = importlib.metadata.packages_distributions()
    files = [
        path
        for room in ("agents", "envs", "training", "worldmodel", "benchmarks")
        for path in (ROOT / room).rglob("*.py")
    ]
    found = set()
    for path in [*files, ROOT / "train.py", ROOT / "evaluate.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {modules[name][0] for name in (name.partition(".")[0] for name in names) if name in modules}
    for package in wheels.PACKAGES:
        for line in importlib.metadata.requires(package) or []:
            if ";" not in line:
                found.add(re.match(r"[\w.-]+", line).group())  # type: ignore[union-attr]
    known = {*wheels.PACKAGES, *wheels.THERE, *wheels.LEFT_BEHIND, "worldmodel"}
    assert {re.sub(r"[._]", "-", name).lower() for name in found} - known == set()


def test_the_lock_names_what_travels_with_hashes() -> None:
    for package in wheels.PACKAGES:
        lines = wheels.locked(package)
        assert lines.startswith(f"{package}==") and "--hash=sha256:" in lines
        assert len(re.findall(r"^\S+==", lines, re.MULTILINE)) == 1
