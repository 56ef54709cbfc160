"""A run from somebody else, or one that was hurt: nothing is followed out of its folder, a log is not worth a run, and
what was edited by hand is told.
"""

import contextlib
import errno
import importlib.metadata
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents
import evaluate
from training import build
from training.reporting import history
from training.reporting.tensorboard import TensorBoard
from training.run_folder import checkpoint, lock, versions
from training.run_folder.attempts import Attempts
from training.run_folder.metrics import Metrics
from training.run_folder.run import Run, RunError
from training.run_folder.trained import TrainedRun

SECRET = b"of somebody else"
LOGS = ("metrics.jsonl", "curve.png", "losses.png", "dream.png", "evaluation.json", "videos/dream.png",
        "videos/episode-0.mp4")  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints, evaluated; copy it before changing it."""
    folder = tmp_path_factory.mktemp("whole")
    assert runs.go(folder, "train.env_steps=30") == 0
    assert evaluate.main([str(folder / "r"), "--episodes", "1", "--video", "--device", "cpu"]) == 0
    return folder / "r"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy. Beside it is what does not belong to it: a file and a folder."""
    shutil.copytree(whole, tmp_path / "r")
    (tmp_path / "file").write_bytes(SECRET)
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", f"{'0' * 64}.npz", f"{'0' * 64}.tmp-1"):
        (tmp_path / "folder" / name).write_bytes(SECRET)
    (tmp_path / "folder" / "step-00000005-00000000-0000").mkdir()
    return tmp_path / "r"


def unharmed(run: Path) -> bool:
    inside = {path.name for path in (run.parent / "folder").iterdir()}
    files = [run.parent / "file", *(path for path in (run.parent / "folder").iterdir() if path.is_file())]
    return len(inside) == 4 and all(path.read_bytes() == SECRET for path in files)


def plant(run: Path, name: str, kind: str) -> None:
    """Something else in the place of a file or folder of the run."""
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    {
        "link": lambda: path.symlink_to(run.parent / "file"),
        "link to a folder": lambda: path.symlink_to(run.parent / "folder"),
        "hard link": lambda: os.link(run.parent / "file", path),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "link to a folder", "folder"])
def test_what_is_logged_goes_to_no_other_file(run: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    event = next(path.name for path in run.iterdir() if path.name.startswith("events"))
    for name in (*LOGS, event):
        plant(run, name, kind)
    assert runs.go(run.parent, "train.env_steps=35") == 0
    code = evaluate.main([str(run), "--episodes", "1", "--video", "--device", "cpu"])
    assert unharmed(run)
    said = capsys.readouterr()
    assert "return " in said.out and "Traceback" not in said.err
    if kind == "folder":  # in a file's place: it stays, and what is in it
        assert "metrics.jsonl cannot be written, training goes on" in said.out
        assert code == 1 and "evaluation.json" in said.err
    else:
        assert code == 0
        assert json.loads((run / "evaluation.json").read_bytes())["checkpoint"].startswith("step-00000035")
        assert all((run / name).is_file() and not (run / name).is_symlink() for name in LOGS)
        assert {row["step"] for row in Run.read(run).metrics.history()} >= {35}


@pytest.mark.parametrize("kind", ["link", "link to a folder", "pipe"])
@pytest.mark.parametrize("name", ["lock", "run.json", "config.yaml", "replay", "checkpoints", "validation", "videos"])
def test_a_run_that_leads_out_of_its_folder_is_refused(
    run: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(run, name, kind)
    assert runs.go(run.parent, "train.env_steps=35") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and str(run) in said and name in said
    if name != "lock":
        with pytest.raises(RunError, match=name):
            agents.load(run)
    assert unharmed(run)


def test_the_empty_run_of_a_stranger_does_not_empty_a_folder(run: Path) -> None:
    """Its checkpoints list no chunks, its replay is a link: nothing may be deleted there."""
    for name in checkpoint.names(run / "checkpoints"):
        manifest = run / "checkpoints" / name / checkpoint.MANIFEST
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"chunks": []}))
    plant(run, "replay", "link to a folder")
    assert runs.go(run.parent, "train.env_steps=35") == 1
    assert unharmed(run)


@pytest.mark.parametrize("kind", ["link", "link to a folder", "pipe", "folder"])
def test_a_chunk_that_leads_elsewhere_is_a_damaged_one(
    run: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoint.verify(run / "checkpoints" / checkpoint.names(run / "checkpoints")[0])
    plant(run, f"replay/{newest.chunks[0].digest}.npz", kind)
    assert runs.go(run.parent, "train.env_steps=35") == 1
    assert "skip_damaged=true" in capsys.readouterr().err
    assert runs.go(run.parent, "train.env_steps=35", "skip_damaged=true") == 0
    assert unharmed(run)


@pytest.mark.parametrize("place", ["the checkpoint", "its weights", "its manifest"])
def test_a_checkpoint_that_leads_elsewhere_is_a_damaged_one(
    run: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, older = checkpoint.names(run / "checkpoints")
    inside = {"the checkpoint": "", "its weights": "/model.safetensors", "its manifest": f"/{checkpoint.MANIFEST}"}
    path = run / f"checkpoints/{newest}{inside[place]}"
    path.rename(run.parent / "moved")  # all of it would be right
    path.symlink_to(run.parent / "moved")
    before = {found: found.read_bytes() for found in (run.parent / "moved").rglob("*") if found.is_file()}
    assert runs.go(run.parent, "train.env_steps=35") == 0
    assert f"resumed from {older}" in capsys.readouterr().out
    assert unharmed(run) and all(found.read_bytes() == content for found, content in before.items())


def test_the_folder_itself_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    run.rename(tmp_path / "big disk" / "r")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r").symlink_to(tmp_path / "big disk" / "r")
    assert runs.go(tmp_path / "runs", "train.env_steps=35") == 0
    assert runs.digests(tmp_path / "big disk" / "r")["env_steps"] == 35


# ---- logs ----


def test_bad_lines_of_a_log_are_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (run / "metrics.jsonl").read_bytes()
    bad = [b"\xff\xfe", b"[]", b"{", b"7", b"[" * 99_999, b'{"step": "x", "updates": 1}', b'{"step": 1}', b"\0" * 999,
           b'{"step": 1, "updates": 1, "evaluate/return": {"a": 1}}', b'{"step": Infinity, "updates": 1}',
           b'{"step": 1, "updates": 1, "learn/loss_x": ' + b"9" * 5000 + b"}", b"x" * (history.LONGEST_LINE + 9),
           b'{"step": 1, "updates": 1, "evaluate/return": true}']  # fmt: skip
    content = b"\n".join(bad) + b"\n" + good
    (run / "metrics.jsonl").write_bytes(content)
    metrics = Metrics(run)
    metrics.rewind(len(content), {}, 30)
    assert f"{len(bad)} lines cannot be read, and are left out" in capsys.readouterr().out
    assert len(metrics.history()) == len(good.splitlines())
    metrics.draw_curves()
    assert not metrics.attempt.failed
    metrics.close()
    assert (run / "metrics.jsonl").read_bytes() == content  # checkpoints know how long it was
    (run / "metrics.jsonl").write_bytes(good[:50] + b"\xff" + good[51:])
    assert runs.go(run.parent, "train.env_steps=35") == 0


def test_logs_that_are_deleted_while_training_do_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, count = Metrics.log, [0]

    def spoil(self: Metrics, *words: Any) -> None:
        count[0] += 1
        if count[0] == 4:
            for path in [self.path, *self.folder.glob("events*")]:
                path.unlink()
        if count[0] == 8:
            self.path.unlink()
            self.path.mkdir()
        log(self, *words)

    monkeypatch.setattr(Metrics, "log", spoil)
    assert runs.go(tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count("metrics.jsonl cannot be written, training goes on") == 1
    assert f"metrics.jsonl could not be written, {count[0] - 7} times" in out
    assert list((tmp_path / "r").glob("events*"))
    assert runs.digests(tmp_path / "r")["env_steps"] == 60


def test_drawing_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("training.reporting.pictures.curves", fail)
    monkeypatch.setattr("training.reporting.tensorboard.tag_of", fail)
    assert runs.go(tmp_path, "train.env_steps=20") == 0
    assert capsys.readouterr().out.count("training goes on: RuntimeError no font") == 2


@pytest.fixture
def curves(tmp_path: Path) -> TensorBoard:
    """Of a folder of its own, with one point at step 0."""
    (tmp_path / "r").mkdir()
    made = TensorBoard(tmp_path / "r", Attempts(tmp_path / "r"))
    made.scalars(0, 0, {"learn/a": 0.0})
    return made


def steps(curves: TensorBoard) -> list[int]:
    return [event.step for event in EventAccumulator(str(curves.folder)).Reload().Scalars("learn/a")]


def test_a_folder_that_goes_while_curves_are_written_is_told_once(
    curves: TensorBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By who writes: no thread has begun, that would print a traceback of its own."""
    before = set(threading.enumerate())
    curves.folder.rename(tmp_path / "moved")
    for step in range(1, 100):
        curves.scalars(step, step, {"learn/a": 0.0})
    assert set(threading.enumerate()) <= before
    (tmp_path / "moved").rename(curves.folder)
    curves.scalars(100, 100, {"learn/a": 1.0})
    curves.attempt.sum_up()
    told = capsys.readouterr().out
    assert told.count("TensorBoard's files cannot be written, training goes on") == 1
    assert "TensorBoard's files could not be written, 99 times" in told
    assert steps(curves) == [0, 100]


def test_a_full_disk_leaves_neither_half_a_point_nor_empty_files(
    curves: TensorBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Any]:
        with open(path, "ab") as file:

            class Half:
                fileno, truncate = file.fileno, file.truncate

                def write(self, content: bytes) -> None:
                    file.write(content[: len(content) // 2])
                    raise OSError(errno.ENOSPC, "No space left on device")

            yield Half()

    with monkeypatch.context() as patch:
        patch.setattr("worldmodel.files.appended", full)
        for step in range(1, 10):
            curves.scalars(step, step, {"learn/a": 0.0})
    assert curves.attempt.failed == {"TensorBoard's files": 9}
    curves.scalars(10, 10, {"learn/a": 0.0})
    assert len(curves.files()) == 2 and steps(curves) == [0, 10]


@pytest.mark.parametrize("change", ["put back", "cut", "half a report"])
def test_curves_go_on_whatever_was_done_to_their_file(curves: TensorBoard, change: str) -> None:
    (file,) = curves.files()
    if change == "put back":  # by a backup
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    elif change == "cut":
        os.truncate(file, 0)
    else:
        curves.scalars(1, 1, {"learn/a": 0.0, "learn/b": None})  # type: ignore[dict-item]
    curves.scalars(2, 2, {"learn/a": 0.0})
    assert steps(curves) == {"put back": [0, 2], "cut": [2], "half a report": [0, 1, 2]}[change]


def test_memory_does_not_grow_with_the_log() -> None:
    drawn = history.History(re.compile("a|b"))
    for step in range(50_000):
        drawn.add({"step": step, "updates": 0, "a": step} | ({"b": step, "c": 1} if step % 100 == 0 else {}))
    rows = drawn.rows()
    assert history.ROWS < len(rows) <= 2 * history.ROWS + 2
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps) and (steps[0], steps[-1]) == (0, 49_999)
    often = [row["step"] for row in rows if "b" not in row]
    assert max(after - before for before, after in itertools.pairwise(often)) <= 2 * 64
    assert sum("b" in row for row in rows) == 500 and not any("c" in row for row in rows)
    for number in range(9999):  # names that somebody made up
        drawn.add({"step": 0, "updates": 0, "a": 1} | {f"b{number}": 0})
    assert len(drawn.kinds) == 2


def test_an_evaluation_does_not_read_the_log_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("training.run_folder.metrics.rows", fail)
    assert runs.go(tmp_path, "train.env_steps=20") == 0
    assert (tmp_path / "r" / "curve.png").exists()


# ---- config.yaml and run.json ----


def test_run_json_says_what_a_score_depends_on(run: Path) -> None:
    """What docs/reproducing.md looks up there."""
    info = json.loads((run / "run.json").read_text())
    assert (info["seed"], info["device"], info["precision"], info["threads"]) == (0, "cpu", "fp32", 1)
    assert info["processor"].endswith(torch.backends.cpu.get_cpu_capability())
    assert info["versions"]["torch"] == importlib.metadata.version("torch") and info["python"] and info["command"]
    assert "commit" in info


def test_a_config_that_was_edited_is_told_and_can_be_restored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, path = (run / "config.yaml").read_text(), run / "config.yaml"
    path.write_text(f"# a comment is no change\n{good}")
    agents.load(run, device="cpu")
    assert "was changed" not in capsys.readouterr().out
    path.write_text(good.replace("horizon: 3", "horizon: 4").replace("candidates: 6", "candidates: 7"))
    newest = checkpoint.names(run / "checkpoints")[0]
    agents.load(run, device="cpu")
    said = capsys.readouterr().out
    assert f"warning: config.yaml was changed since {newest} (" in said
    assert "actor.horizon: 3 then, 4 now" in said and "actor.candidates: 6 then, 7 now" in said
    undo = said.splitlines()[0].partition("to undo that: ")[2]
    assert runs.go(run.parent, "train.env_steps=35", recipe=[]) == 0
    assert f"config.yaml was changed since {newest}" in capsys.readouterr().out
    agents.load(run, device="cpu")  # the newest checkpoint is of the edited one
    assert "was changed" not in capsys.readouterr().out
    subprocess.run(shlex.split(undo), check=True)
    assert path.read_text() == good


def test_a_run_json_that_was_edited_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"initial_rows": 7}))
    agents.load(run, device="cpu")
    assert "run.json was changed since" in (said := capsys.readouterr().out) and "initial_rows: 0 then, 7 now" in said


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"\xff{")], ids=["lost", "damaged"])
def test_a_lost_file_is_restored_from_its_copy(
    run: Path, name: str, spoil: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    good, before = (run / name).read_bytes(), sorted(run.rglob("*"))
    spoil(run / name)
    assert runs.go(run.parent, "train.env_steps=35") == 1
    assert [path for path in before if not path.exists()] in ([], [run / name])
    hint = capsys.readouterr().err.strip().partition("there is a copy: ")[2]
    subprocess.run(shlex.split(hint), check=True)
    assert (run / name).read_bytes() == good
    assert runs.go(run.parent, "train.env_steps=35") == 0


@pytest.mark.parametrize("left", ["checkpoints", "replay", "metrics.jsonl"])
def test_without_run_json_nothing_begins_over_what_is_left(
    run: Path, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in run.iterdir():
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = sorted(run.rglob("*"))
    assert runs.go(run.parent) == 1
    assert f"{run} holds {left}, but no run.json" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


# ---- two at once ----


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_a_lock_is_a_file_of_its_own(run: Path, kind: str) -> None:
    plant(run, "lock", kind)
    with pytest.raises(RunError, match="lock cannot be opened to hold the run"):
        lock.acquire(run)
    assert unharmed(run)


@pytest.mark.parametrize("number", lock.NO_LOCKS)
def test_a_disk_without_locks_is_told_as_that(run: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def without(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", without)
    with pytest.raises(RunError, match=r"this disk has no file locks \(.*\): use another"):
        lock.acquire(run)


def test_asking_who_holds_a_run_changes_nothing(run: Path) -> None:
    with lock.acquire(run):
        with pytest.raises(RunError, match=f"is being trained by process {os.getpid()} on "):
            lock.refuse_if_held(run)
        with pytest.raises(RunError, match="is being trained by"):
            lock.acquire(run)
    lock.refuse_if_held(run)
    lock.refuse_if_held(run.parent)  # no run at all
    assert not (run.parent / "lock").exists()


@pytest.mark.parametrize("when", ["while it is verified", "while the agent is built"])
def test_a_checkpoint_that_training_deletes_meanwhile_is_no_damage(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    newest, older = checkpoint.names(run / "checkpoints")
    where = checkpoint.Checkpoint if when == "while it is verified" else build
    name = "tensors" if when == "while it is verified" else "trained_agent"
    function = getattr(where, name)

    def deleted(*words: Any) -> Any:
        shutil.rmtree(run / "checkpoints" / newest, ignore_errors=True)
        return function(*words)

    monkeypatch.setattr(where, name, deleted)
    trained = TrainedRun(run, "cpu", 0)
    assert trained.checkpoint.folder.name == older and "damaged" not in capsys.readouterr().out
    shutil.rmtree(run / "checkpoints")  # all that is needed is in memory
    agent, _ = trained.prepare_agent(None, 1)
    assert trained.result(None, agent, *trained.evaluate(agent, 1))["checkpoint"] == older


def test_a_run_that_is_moved_while_it_trains_ends_and_says_so(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, moved = tmp_path / "r", tmp_path / "moved"
    shutil.copytree(whole, run)
    save = Run.save

    def elsewhere(self: Run, *words: Any) -> None:
        if not moved.exists():
            run.rename(moved)
            run.mkdir()  # as pictures and logs do
        save(self, *words)

    monkeypatch.setattr(Run, "save", elsewhere)
    with pytest.raises(RunError, match=re.escape(f"{run} was moved or deleted while it was trained")):
        runs.go(tmp_path, "train.env_steps=60")
    assert "saved" not in capsys.readouterr().out
    assert not (run / "checkpoints").exists() and not (run / "replay").exists()
    shutil.rmtree(run, ignore_errors=True)
    moved.rename(run)
    monkeypatch.setattr(Run, "save", save)
    assert runs.go(tmp_path, "train.env_steps=60") == 0


def test_what_is_no_run_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.agent").write_bytes(b"")
    for folder, why in ((tmp_path / "mine.agent", "it is a file"), (tmp_path / "no", "there is no such folder"),
                        (tmp_path, "it has no run.json")):  # fmt: skip
        with pytest.raises(RunError, match=re.escape(f"{folder} is not a run: {why}")):
            Run.read(folder)


def test_the_commit_is_that_of_the_repository_unless_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLDMODEL_COMMIT", raising=False)
    found = versions.commit()
    assert found is None or len(found.rstrip("+")) == 40
    monkeypatch.setenv("WORLDMODEL_COMMIT", "carried+")  # beside a copy of the code may lie an older repository
    assert versions.commit() == "carried+"
