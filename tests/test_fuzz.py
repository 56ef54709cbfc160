"""The fuzzer: mutants of runs, agents' files and recordings are refused properly or do no harm; what would be harm is
seen.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from benchmarks import fuzz
from training.configuration.components import ROOT
from training.run_folder.run import RunError

BAD = """
import os, pathlib, shutil, socket, subprocess, sys
from benchmarks.fuzz_audit import Watch

folder, outside = map(pathlib.Path, sys.argv[1:])
watch, seen = Watch(), []
(folder / "link").symlink_to(outside / "victim")
for act in (
    lambda: os.system("true"),
    lambda: subprocess.run(["true"]),
    lambda: exec(compile("1", "<file>", "exec")),
    lambda: __import__("this_is_not_there"),
    lambda: socket.socket().connect(("127.0.0.1", 1)),
    lambda: (outside / "new").write_text("x"),
    lambda: (folder / "link").write_text("x"),
    lambda: (outside / "new").unlink(),
    lambda: (outside / "new").rename(folder / "new"),
    lambda: shutil.rmtree(outside),
):
    with watch.on(folder):
        try:
            act()
        except (OSError, ImportError):
            pass
    seen.append(bool(watch.seen))
with watch.on(folder):
    (folder / "mine").write_text("x")
    (folder / "mine").unlink()
    (folder / "link").unlink()
assert not watch.seen, watch.seen
sys.exit(str(seen) if not all(seen) else 0)
"""


def test_the_audit_hook_sees_what_a_loader_may_not_do(tmp_path: Path) -> None:
    folder, outside = tmp_path / "mutant", tmp_path / "outside"
    folder.mkdir(), outside.mkdir()
    (outside / "victim").write_text("x")
    words = [sys.executable, "-c", BAD, str(folder), str(outside)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=runs.HANG)
    assert done.returncode == 0, done.stderr


def raised(error: Exception, behind: Exception | None = None) -> Exception:
    try:
        raise error from behind
    except Exception as caught:
        return caught


def test_what_a_loader_raises_is_judged() -> None:
    assert fuzz.judged(raised(RunError("the run is damaged"))) == ("refused", "the run is damaged")
    assert fuzz.judged(raised(MemoryError("memory: too little for this run")))[0] == "refused"  # a preflight's
    assert fuzz.judged(fuzz.Hang())[0] == "hang"
    for error in (
        MemoryError(),
        raised(RunError("the run is damaged"), MemoryError()),  # which it is not
        RuntimeError("can't allocate memory: you tried to allocate 9 bytes"),
        raised(RunError("the run is damaged"), RuntimeError("can't allocate memory: you tried to allocate 9 bytes")),
    ):
        assert fuzz.judged(error)[0] == "memory"
    for error in (KeyError("deter"), ValueError("raised elsewhere"), RunError("x" * 6001), RunError("\x1b[2J")):
        assert fuzz.judged(error)[0] == "raw"


@pytest.mark.slow
def test_mutants_are_refused_or_harmless(tmp_path: Path) -> None:
    words = [sys.executable, "benchmarks/fuzz.py", "--mutants", "2000", "--json", str(tmp_path / "found.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=runs.HANG)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["found"]
    assert sum(sum(kinds.values()) for kinds in found.values()) == 2000
    assert all(kinds["refused"] > 100 and kinds["harmless"] for name, kinds in found.items() if name != "?")
