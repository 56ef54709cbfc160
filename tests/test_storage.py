"""Where replay lies changes nothing that is learned; memory, disk and GPU are never asked for more than they have."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import tiny
import torch
import yaml

from training.collecting.rollout import Interrupted
from training.configuration.components import ROOT
from training.configuration.config import check_section
from training.run_folder.trained import TrainedRun
from worldmodel.base import Batch, ConfigError, Spec
from worldmodel.replay import storage
from worldmodel.replay.buffer import Replay, ReplayConfig
from worldmodel.replay.prefetch import prefetched
from worldmodel.replay.storage import CPU, Storage, StoragePlan, plan, row_bytes

STORAGES = ("memory", "disk", "device")
SPEC = Spec((3, 5, 7), 2, False)  # rows of 105 bytes: they begin and end anywhere in a page


def ring(kind: str, folder: Path, capacity: int = 40) -> Replay:
    config = ReplayConfig(batch_size=8, batch_length=6, capacity=capacity, storage=kind, memory_gb=None, context=False)  # type: ignore[arg-type]
    return Replay(config, SPEC, None, Storage(kind, CPU, folder))  # type: ignore[arg-type]


def fill(store: Replay, episodes: int) -> None:
    for number in range(episodes):
        store.add(tiny.episode(1 + number * 5 % 11, SPEC, seed=number, terminal=number % 2 == 0))


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one[:5], other[:5], strict=True))


# ---- the same rows, wherever they lie ----


@pytest.mark.parametrize("episodes", [1, 3, 25])  # 2 rows: less than a sequence; 16: half full; 174: around and around
@pytest.mark.parametrize("storage", STORAGES[1:])
def test_batches_are_the_same_in_every_storage(tmp_path: Path, storage: str, episodes: int) -> None:
    memory, other = ring("memory", tmp_path), ring(storage, tmp_path)
    for store in (memory, other):
        fill(store, episodes)
    assert episodes < 25 or memory.begin[0] > memory.capacity
    for seed in range(30):
        length = 2 + seed % 15
        one, same = (store.sample(np.random.default_rng(seed), 5, length) for store in (memory, other))
        assert equal(one, same) and one.image.shape == (5, length, 3, 5, 7)
    drawn = prefetched(lambda seed: other.sample(np.random.default_rng(seed)), range(10))
    for seed, batch in enumerate(drawn):
        assert equal(batch, memory.sample(np.random.default_rng(seed)))


def test_chunks_go_from_any_kindinto_any_other(tmp_path: Path) -> None:
    memory = ring("memory", tmp_path)
    fill(memory, 25)
    chunks = memory.save(tmp_path / "memory")
    for name in STORAGES:
        first, again = ring(name, tmp_path), ring(name, tmp_path)
        fill(first, 25)
        assert first.save(tmp_path / name) == chunks
        again.load(tmp_path / "memory", chunks)
        again.clear()  # as after a damaged chunk
        again.load(tmp_path / name, chunks)
        assert equal(again.sample(np.random.default_rng(0)), memory.sample(np.random.default_rng(0)))
    for path in (tmp_path / "memory").iterdir():
        assert (tmp_path / "disk" / path.name).read_bytes() == path.read_bytes()


def test_a_batch_in_use_is_never_overwritten(tmp_path: Path) -> None:
    store = ring("disk", tmp_path)
    fill(store, 6)
    batches = [store.sample(np.random.default_rng(seed)) for seed in range(4)]
    copies = [Batch(*(part.clone() for part in batch[:5])) for batch in batches]
    fill(store, 25)
    for seed in range(9):
        store.sample(np.random.default_rng(seed))
    assert all(equal(batch, copy) for batch, copy in zip(batches, copies))


def test_a_run_is_the_same_on_disk_and_goes_on_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped while it learns, with a batch under way, and resumed elsewhere."""
    words = ("train.learn.model.updates=5", "train.env_steps=30")
    assert runs.go(tmp_path / "a", *words) == 0
    assert runs.go(tmp_path / "b", *words, "replay.memory_gb=0.00001", stop=runs.StopAt(23)) == 143
    assert "on disk: the budget is 0.00 GB" in capsys.readouterr().out
    stopped = runs.digests(tmp_path / "b" / "r")
    assert stopped["updates"] == 7 and stopped["replay"] != runs.digests(tmp_path / "a" / "r")["replay"]
    assert runs.go(tmp_path / "b", *words, "replay.storage=device", "replay.memory_gb=1") == 0
    assert runs.digests(tmp_path / "b" / "r") == runs.digests(tmp_path / "a" / "r")
    assert runs.logged(tmp_path / "b" / "r") == runs.logged(tmp_path / "a" / "r")
    assert not any("prefetch" in thread.name for thread in threading.enumerate())


def test_a_run_of_before_goes_on_and_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its config does not have the keys; no more does it ask for them."""
    assert runs.go(tmp_path, "train.env_steps=20") == 0
    path = tmp_path / "r" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key in ("storage", "memory_gb"):
        del config["replay"][key]
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert runs.go(tmp_path, "train.env_steps=25") == 0  # with exp= and without
    assert runs.go(tmp_path, "train.env_steps=30", "replay.storage=disk", recipe=()) == 0
    assert runs.digests(tmp_path / "r")["env_steps"] == 30
    assert "on disk: " in capsys.readouterr().out
    assert len(TrainedRun(tmp_path / "r", "cpu", 0).replay) == 6 * 6


# ---- what fits where ----

MEGA = 1_000_000
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend to have so many bytes beside the reserve, and on a GPU altogether."""

    def has(memory: int = 0, disk: int = 0, gpu: int = 0) -> None:
        monkeypatch.setattr(storage, "available_memory", lambda: memory + storage.RESERVE)
        monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: Usage(0, 0, disk + storage.RESERVE))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gpu, 2 * gpu))

    return has


def planned(device: str, wanted: str = "auto", memory_gb: float | None = None, rows: int = 1000) -> StoragePlan:
    folder = Path("there/is/no/such/folder")
    return plan(wanted, memory_gb, Spec((3, 64, 64), 6, False), rows, torch.device(device), folder)  # type: ignore[arg-type]


def test_rows_take_what_was_planned() -> None:
    assert row_bytes(Spec((3, 64, 64), 6, False)) == 3 * 64 * 64 + 6 * 4 + 4 + 1 + 1
    store = ring("memory", Path(), capacity=50)
    columns = (store.image, store.action, store.reward, store.first, store.terminal)
    assert sum(column.rows.nbytes for column in columns) == 50 * row_bytes(SPEC)


def test_auto_takes_the_gpu_then_memory_then_the_disk(machine: Any) -> None:
    """A thousand rows are 12.318 MB, the images of them 12.288."""
    need = 1000 * row_bytes(Spec((3, 64, 64), 6, False))
    for device, has, kind in (
        ("cuda", {"memory": need, "disk": need, "gpu": 2 * need}, "device"),
        ("cuda", {"memory": need, "disk": need, "gpu": 2 * need - 2}, "memory"),
        ("cuda", {"memory": need - 1, "disk": need, "gpu": 2 * need - 2}, "disk"),
        ("cpu", {"memory": need, "disk": need, "gpu": 2 * need}, "memory"),
        ("cpu", {"memory": need - 1, "disk": 12_288_000}, "disk"),
        ("cpu", {"memory": 30_000, "disk": 12_288_000}, "disk"),
    ):
        machine(**has)
        found = planned(device)
        assert (found.storage.kind, found.rows, found.needed) == (kind, 1000, need), has
        assert found.storage.device.type == (device if kind == "device" else "cpu")
        assert found.storage.pinned == (device == "cuda" and kind != "device")
        assert found.storage.prefetch == (kind == "disk" or found.storage.pinned)
    for has in ({"memory": need - 1, "disk": 12_287_999}, {"memory": 29_999, "disk": need}):
        machine(**has)
        with pytest.raises(
            MemoryError, match=r"1,000 rows need 0\.01 GB, but .* of memory .* of disk .*: lower replay"
        ):
            planned("cpu")


def test_the_budget_counts_where_there_is_as_much(machine: Any) -> None:
    machine(memory=13 * MEGA, disk=100 * MEGA)
    assert planned("cpu", memory_gb=0.0125).storage.kind == "memory"
    on_disk = planned("cpu", memory_gb=0.0122)
    assert on_disk.storage.kind == "disk"
    assert str(on_disk) == (
        "replay: at most 1,000 rows, 0.01 GB, on disk: the budget is 0.01 GB of memory; "
        "1.17 GB of disk are free, of which 1.07 GB stay reserved"
    )
    machine(memory=12 * MEGA, disk=100 * MEGA)
    assert planned("cpu", memory_gb=50).storage.kind == "disk"
    assert "in memory: 14.07 GB of memory are available, of which 1.07 GB" in (
        machine(memory=13_000 * MEGA) or str(planned("cpu", memory_gb=50))
    )


@pytest.mark.parametrize(
    ("device", "wanted", "memory_gb", "message"),
    [
        ("cpu", "memory", None, "1.08 GB of memory are available, of which 1.07 GB stay reserved: choose another"),
        ("cpu", "memory", 0.005, "the budget is 0.01 GB of memory: choose another place than replay.storage=memory, or "
                                 "raise replay.memory_gb, or lower replay.capacity"),
        ("cpu", "disk", None, "1.08 GB of disk are free, of which 1.07 GB stay reserved: choose another place"),
        ("cuda", "device", None, "1.08 GB of the GPU's memory are free, of which 1.07 GB stay reserved: choose"),
        ("cpu", "device", None, "1.08 GB of memory are available"),
    ],
)  # fmt: skip
def test_a_choice_that_does_not_fit_is_an_error(
    machine: Any, device: str, wanted: str, memory_gb: float | None, message: str
) -> None:
    machine(memory=11 * MEGA, disk=11 * MEGA, gpu=storage.RESERVE + 11 * MEGA)
    with pytest.raises(MemoryError) as caught:
        planned(device, wanted, memory_gb)
    assert str(caught.value).startswith("replay: 1,000 rows need 0.01 GB, but ")
    assert message in str(caught.value)
    assert "train.prefill, or use smaller images" in str(caught.value)


def test_too_small_a_disk_is_told_before_anything_starts(
    tmp_path: Path, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(disk=100)
    assert runs.go(tmp_path, "replay.storage=disk") == 1
    assert "rows need 0.00 GB, but" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_sections_keys_are_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"replay.storage: missing\nreplay.memory_gb: missing"):
        check_section("replay", {"replay": {"batch_size": 1, "batch_length": 2, "capacity": 3}})


# ---- the file ----


def test_what_the_system_does_in_pieces_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: write(file, content[:100], place))
    monkeypatch.setattr(os, "preadv", lambda file, contents, place: read(file, [contents[0][:100]], place))
    memory, disk = ring("memory", tmp_path), ring("disk", tmp_path)
    for store in (memory, disk):
        fill(store, 25)
    for cold in (False, True):
        disk.image.cold = cold  # type: ignore[union-attr]
        assert equal(disk.sample(np.random.default_rng(0)), memory.sample(np.random.default_rng(0)))


def test_a_file_that_was_cut_is_an_error_not_a_crash(tmp_path: Path) -> None:
    store = ring("disk", tmp_path)
    fill(store, 3)
    os.ftruncate(store.image.file, 1000)  # type: ignore[union-attr]
    with pytest.raises(OSError, match=r"ends before byte [\d,]+: was it cut"):
        store.sample(np.random.default_rng(0))


def test_a_disk_that_is_full_in_mid_run_ends_it_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, left = os.pwrite, [4]

    def full(file: int, content: Any, place: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(file, content, place)

    monkeypatch.setattr(os, "pwrite", full)
    words = ("replay.storage=disk", "train.env_steps=25")
    assert runs.go(tmp_path, *words) == 1
    assert "replay's file was not written, No space left on device: " in capsys.readouterr().err
    monkeypatch.undo()
    assert runs.go(tmp_path, *words) == 0
    assert "resumed from step-00000015" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thread's error reaches the caller."""

    def broken(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    assert runs.go(tmp_path, "replay.storage=disk") == 1
    assert "Input/output error" in capsys.readouterr().err
    assert not any("prefetch" in thread.name for thread in threading.enumerate())


def test_the_file_is_closed_with_its_replay(tmp_path: Path) -> None:
    store = ring("disk", tmp_path)
    number = store.image.file  # type: ignore[union-attr]
    os.fstat(number)
    del store
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


CHILD = """
import gc, json, sys, time
import numpy as np, psutil, torch
from pathlib import Path
from worldmodel.base import Spec
from worldmodel.replay import storage
from worldmodel.replay.buffer import Replay, ReplayConfig
from worldmodel.replay.episodes import Episode
torch.set_num_threads(1)
spec, resident, budget = Spec((1, 64, 64), 1, False), psutil.Process().memory_info, 8e6
capacity = int(4 * budget / storage.row_bytes(spec))
config = ReplayConfig(batch_size=8, batch_length=8, capacity=capacity, storage="auto",
                      memory_gb=budget / 1e9, context=False)
rng = np.random.default_rng(0)
def episode():
    image = rng.integers(256, size=(50, 1, 64, 64), dtype=np.uint8)
    return Episode(image, np.zeros((50, 1), np.float32), np.zeros(50, np.float32), np.zeros(50, bool))
def made(folder, kind, rows):
    plan = storage.plan(kind, config.memory_gb, spec, rows, torch.device("cpu"), folder)
    return plan, Replay(config, spec, rows, plan.storage)
_, small = made(Path(sys.argv[1]), "disk", 100)
small.add(episode()); small.sample(rng)
before = resident().rss
plan, store = made(Path(sys.argv[1]), "auto", config.capacity)
highest = 0
for number in range(2 * config.capacity // 50):
    store.add(episode())
    store.sample(rng)
    highest = max(highest, resident().rss)
for _ in range(300):
    store.sample(rng)
    highest = max(highest, resident().rss)
print(json.dumps([str(plan), len(store) * storage.row_bytes(spec), budget, highest - before]), flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, subprocess.Popen[str], Path]]:
    """A process with a replay on disk, four times its budget; what it said of itself; the file's folder."""
    folder = tmp_path_factory.mktemp("child")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    words = [sys.executable, "-c", CHILD, str(folder)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline()), process, folder
        finally:
            process.kill()


def test_the_budget_is_held_with_four_times_as_much(child: Any) -> None:
    (said, size, budget, grown), *_ = child
    assert "on disk: the budget is 0.01 GB of memory" in said
    assert size > 3.9 * budget
    assert grown <= 1.1 * budget


def test_nothing_is_left_after_a_kill(child: Any) -> None:
    _, process, folder = child
    files = [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert any(str(folder) in file for file in files)  # it is in use there,
    assert not list(folder.iterdir())  # without a name
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(folder.iterdir())


# ---- drawing ahead ----


def test_one_is_drawn_ahead_in_another_thread_and_none_beyond_the_last() -> None:
    asked: list[int] = []
    threads = set()

    def draw(number: int) -> int:
        asked.append(number)
        threads.add(threading.current_thread())
        return number * number

    found = []
    for got in prefetched(draw, range(3, 8)):
        found.append(got)
        expected = min(len(found) + 1, 5)
        runs.wait_for(lambda expected=expected: len(asked) >= expected)
        time.sleep(0.01)
        assert asked == list(range(3, 3 + expected))
    assert found == [9, 16, 25, 36, 49]
    assert len(threads) == 1 and threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)
    assert list(prefetched(draw, [])) == [] and list(prefetched(draw, [2])) == [4]


def test_without_it_nothing_is_drawn_before_its_turn() -> None:
    asked: list[int] = []
    for number in prefetched(lambda number: asked.append(number) or number, range(4), ahead=False):  # type: ignore[func-returns-value]
        assert asked == list(range(number + 1))
    assert len(asked) == 4


def test_an_error_comes_when_its_turn_does() -> None:
    def draw(number: int) -> int:
        if number == 2:
            raise OSError("the disk is gone")
        return number

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        for number in prefetched(draw, range(5)):
            found.append(number)
    assert found == [0, 1]
    assert not any("prefetch" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("reason", [KeyboardInterrupt, Interrupted, None])
def test_it_stops_amid_a_draw(reason: type[BaseException] | None) -> None:
    """The draw which is under way is waited for, no other begins, and its error, if it has one, hides nothing."""
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def draw(number: int) -> int:
        if number == 1:
            begun.set()
            assert go_on.wait(runs.HANG)
            ended.append(number)
            raise OSError("too late to be told")
        return number

    told = pytest.raises(reason) if reason else contextlib.nullcontext()
    with told, contextlib.closing(prefetched(draw, range(5))) as numbers:
        assert next(numbers) == 0
        assert begun.wait(runs.HANG)
        threading.Timer(0.05, go_on.set).start()
        if reason:
            raise reason
    assert ended == [1]
    assert not any("prefetch" in thread.name for thread in threading.enumerate())


# ---- with a GPU ----


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_and_on_the_way_to_it_batches_are_the_same(tmp_path: Path) -> None:
    gpu, memory = torch.device("cuda"), ring("memory", tmp_path)
    fill(memory, 25)
    for name in STORAGES:
        store = Replay(memory.config, SPEC, None, Storage(name, gpu, tmp_path))  # type: ignore[arg-type]
        fill(store, 25)
        for seed, batch in enumerate(prefetched(lambda n, s=store: s.sample(np.random.default_rng(n)), range(10))):  # type: ignore[misc]
            assert all(part.is_cuda if name == "device" else part.is_pinned() for part in batch[:5])
            there = batch.to(gpu)
            assert equal(there.to(CPU), memory.sample(np.random.default_rng(seed)))
        assert store.save(tmp_path / name) == memory.save(tmp_path / name)


def test_a_containers_page_cache_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives it back when somebody needs it; a container that has read its recordings is not full."""
    files = {"max": "3000000\n", "current": "2900000\n", "stat": "anon 100\nactive_file 7\ninactive_file 2000000\n"}
    read = Path.read_text

    def told(path: Path, *words: Any) -> str:
        return files[path.suffix[1:]] if str(path).startswith("/sys/fs/cgroup/memory.") else read(path, *words)

    monkeypatch.setattr(Path, "read_text", told)
    assert storage.available_memory() == 2_100_000
    files["stat"] = ""
    assert storage.available_memory() == 100_000
    files["max"] = "2800000"  # lowered since
    assert storage.available_memory() == 0
