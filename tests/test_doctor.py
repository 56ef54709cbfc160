"""doctor.py: whatever is broken is a line with the command that mends it, and never an end."""

import errno
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import runs

from training import doctor
from training.configuration.components import ROOT
from training.doctor import checks, measure, probes, report, verdicts
from training.doctor.probes import Broken
from training.doctor.report import Finding
from training.run_folder import lock

PLAIN = {"version": "2.9", "built_for": "13.0", "device": "cpu", "precision": "fp32", "cores": 8, "quota": None,
         "busy": False, "small": 100_000, "bf16_speed": 0.5}  # fmt: skip


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules that are found before those that are installed."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return write


def looked(folder: Path, python: str = sys.executable, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [python, str(ROOT / "doctor.py"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=runs.HANG)


@pytest.mark.slow
def test_this_machine_can_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "EXTRAS", {"play": checks.EXTRAS["play"]})  # the others only take time
    assert doctor.examine(str(tmp_path / "runs" / "deep"), True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["can_train"]
    found = {line["check"]: line for line in told["checks"]}
    for name in "python packages torch gpu threads precision environment disk locks training".split():  # noqa: SIM905
        assert found[name]["status"] in ("ok", "slow"), found[name]
    assert {"replay", "tensorboard", "mujoco", "[play]"} <= set(found)
    assert not list(tmp_path.iterdir())  # nothing is left


def test_without_any_package_it_still_tells(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    done = looked(tmp_path, str(tmp_path / "bare" / "bin" / "python"))
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and not done.stderr and lines[-1] == "training cannot run"
    assert lines[0].startswith("ok       python")
    for name in ("torch", "numpy", "rich", "hydra", "training", "[ray]"):
        assert any(line.startswith(f"missing  {name} ") for line in lines), name
    assert any(line.startswith("ok       locks") for line in lines)
    mended = next(line for line in lines if line.startswith("numpy, torch, "))  # one command for all
    assert "activate" in mended or "pip install -e" in mended


# ---- probes ----


def test_a_probe_that_raises_crashes_or_hangs_is_told() -> None:
    assert (
        probes.call("import nothing_of_this_name")[1] == "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    )
    assert probes.call("import os; os.abort()") == ([], "it crashed (SIGABRT)")
    assert probes.call("while True: pass", patience=0.2) == ([], "it did not answer within 0.2 s")
    assert probes.call("raise SystemExit(3)")[1] == "it ended with exit code 3"
    assert probes.call("print('doctor: [1]'); import os; os.abort()")[0] == [[1]]


def test_a_module_that_crashes_does_not_hide_the_others(stub: Any) -> None:
    stub("crashes", "import os; os.abort()")
    stub("leaves", "import os; os._exit(0)")
    stub("raises", "raise OSError('libGL.so.1: cannot open shared object file')")
    broken = probes.imports(["json", "crashes", "string", "leaves", "raises", "re"])
    assert broken == {
        "crashes": "it crashed (SIGABRT)",
        "leaves": "it ended the program",
        "raises": "OSError: libGL.so.1: cannot open shared object file",
    }
    assert verdicts.mended_by(broken["raises"]) == "apt-get install libgl1"


def test_a_torch_that_crashes_is_a_line(stub: Any) -> None:
    stub("torch", "import os; os.abort()")
    with pytest.raises(Broken, match="it crashed"):
        probes.facts("torch_facts")
    lines = checks.safely("torch", True, lambda: verdicts.torch(probes.facts("torch_facts"), ""))
    assert [(line.check, line.status, line.text, line.needed) for line in lines] == [
        ("torch", "missing", "it crashed (SIGABRT)", True)
    ]
    assert not doctor.can_train(lines)


def test_a_renderer_that_crashes_is_a_line(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    stub("mujoco", "import os; os.abort()")
    (line,) = checks.rendering()
    assert (line.status, line.command, line.needed) == ("missing", "apt-get install libegl1", False)
    assert "egl: it crashed (SIGABRT); osmesa: it crashed (SIGABRT)" in line.text
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert checks.rendering()[0].command == "unset MUJOCO_GL"


def test_an_extra_that_is_not_there_or_broken(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stub("aiohttp", "import nothing_of_this_name")
    line = checks.extra("play")
    assert line.status == "missing" and "nothing_of_this_name" in line.text and not line.needed
    monkeypatch.setitem(checks.EXTRAS, "play", ({"nothing": "no-distribution-of-this-name"}, "play.py"))
    assert checks.extra("play").text == "nothing (for play.py)"
    assert doctor.can_train([line])


def test_whatever_a_check_raises_is_a_line() -> None:
    def check() -> list[Finding]:
        raise KeyError("x")

    assert checks.safely("disk", True, check)[0][:3] == ("disk", "missing", "KeyError: 'x'")


# ---- disk ----


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refused)
    lines = verdicts.disk(measure.disk_facts(str(tmp_path)), str(tmp_path))
    assert [(line.check, line.status) for line in lines][1:] == [("locks", "missing")]
    assert "this disk has no file locks" in lines[1].text and "runs=" in lines[1].command
    assert not doctor.can_train(lines)


def test_a_disk_that_is_sound(tmp_path: Path) -> None:
    facts = measure.disk_facts(str(tmp_path))
    assert facts["locks"] and facts["free"] > 0 and facts["fsync"] > 0
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_slow_or_not_ours() -> None:
    facts = {"free": 5e8, "locks": True, "why": "", "fsync": 0.01}
    assert verdicts.disk(facts, "runs")[0].status == "missing"
    assert verdicts.disk(facts | {"free": 5e9}, "runs")[0].status == "slow"
    assert verdicts.disk(facts | {"free": 5e10, "fsync": 0.5}, "runs")[0].status == "slow"
    assert verdicts.disk(facts | {"free": 5e10}, "runs")[0].status == "ok"
    lines = checks.safely("disk", True, lambda: verdicts.disk(probes.facts("disk_facts", "/nowhere/at/all"), ""))
    assert lines[0].status == "missing" and "FileNotFoundError" in lines[0].text


# ---- verdicts ----


@pytest.mark.parametrize(
    ("facts", "driver", "status", "text"),
    [
        ({}, "", "ok", "the CPU computes"),
        ({"device": "cuda", "gpu": "H100", "gpu_memory": 80 * 2**30}, "570", "ok", "H100, 80 GiB; agent.device=auto"),
        ({}, "470", "slow", "its driver 470 is too old"),
        ({"built_for": None}, "570", "slow", "built for CPUs alone"),
    ],
)
def test_a_gpu_and_whether_it_is_used(facts: dict[str, Any], driver: str, status: str, text: str) -> None:
    line = verdicts.torch(PLAIN | facts, driver)[1]
    assert (line.check, line.status) == ("gpu", status) and text in line.text
    assert bool(line.command) == (status != "ok")


@pytest.mark.parametrize(
    ("facts", "status", "text"),
    [
        ({}, "ok", "auto takes 8 for models of 100,000 parameters or more, 1 for smaller ones"),
        ({"busy": True}, "slow", "1 now"),
        ({"quota": 1.5}, "slow", "the time of 1.5"),
        ({"quota": 8.0}, "ok", "auto takes 8"),
    ],
)
def test_threads(facts: dict[str, Any], status: str, text: str) -> None:
    line = verdicts.threads(PLAIN | facts)
    assert line.status == status and text in line.text


@pytest.mark.parametrize(("ratio", "taken", "status"), [(3, "bf16", "ok"), (0.5, "bf16", "slow"), (3, "fp32", "slow"),
                                                       (0.4, "fp32", "ok")])  # fmt: skip
def test_precision(ratio: float, taken: str, status: str) -> None:
    line = verdicts.precision(PLAIN | {"bf16_speed": ratio, "precision": taken})
    assert line.status == status and f"{ratio:.1f} times" in line.text
    assert (status == "ok") == (not line.command)


@pytest.mark.parametrize(("version", "status"), [((3, 10), "missing"), ((3, 11), "ok"), ((3, 13), "ok"),
                                                 ((3, 14), "missing")])  # fmt: skip
def test_python(version: tuple[int, int], status: str) -> None:
    line = verdicts.python(version, "x", "y")
    assert line.status == status and line.needed


def test_replay() -> None:
    facts = {"needed": 12.3e9, "available": 16e9, "rows": 400_000, "kind": "memory"}
    assert verdicts.replay(facts).status == "ok"
    assert verdicts.replay(facts | {"kind": "disk"}).command.startswith("replay.capacity=400000")
    assert verdicts.replay(facts | {"kind": None}).status == "missing"


def test_what_draws() -> None:
    fast, soft = (
        {"per_second": 900.0, "drawn_by": "NVIDIA H100"},
        {"per_second": 90.0, "drawn_by": "llvmpipe (LLVM)"},
    )
    assert verdicts.rendering({"egl": fast, "osmesa": soft}, False, "570")[0].status == "ok"
    assert verdicts.rendering({"egl": soft}, False, "570")[0].command == "apt-get install libnvidia-gl-570"
    assert verdicts.rendering({"egl": soft}, False, "")[0].status == "ok"
    (line,) = verdicts.rendering({"egl": "crashed", "osmesa": soft | {"per_second": 9.0}}, False, "")
    assert line.status == "slow" and line.text.startswith("osmesa: 9 frames a second")


def test_what_installs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Our own environment, another one beside it, and another one alone."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(verdicts, "HOME", tmp_path / "a clone")
    home, venv_ = tmp_path / "a clone", tmp_path / "a clone" / ".venv"
    assert verdicts.installs("dmc").endswith(f"-m pip install -e '{home}[dmc]'")
    venv_.mkdir(parents=True)
    (venv_ / ".installed").touch()
    assert verdicts.installs() == f". '{venv_}/bin/activate'"
    monkeypatch.setattr(sys, "prefix", str(venv_))
    assert verdicts.installs() == f"rm -f '{venv_}/.installed' && make -C '{home}' setup"


def test_lines_come_without_rich_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("a", "ok", "fine", "never told"), Finding("b", "slow", "[x] :warning:", "mend"),
                Finding("c", "missing", "why", "mend")]  # fmt: skip
    report.shown(findings)
    with_rich = capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.console", None)
    report.shown(findings)
    plain = capsys.readouterr().out
    for said in (with_rich, plain):
        assert "[x] :warning:" in said and "b, c: mend" in said.splitlines() and "never told" not in said
    assert plain.splitlines()[0] == "ok       a            fine"
