"""Checkpoints are complete or absent, damage never passes unseen, and a full disk costs nothing that was there
before.
"""

import errno
import hashlib
import json
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.run_folder import checkpoint
from training.run_folder.checkpoint import MANIFEST, Damaged
from training.run_folder.run import Run
from worldmodel.base import Spec
from worldmodel.replay.buffer import Replay, ReplayConfig
from worldmodel.replay.episodes import Chunk, DamagedChunk, Episode

SPEC = Spec((1, 4, 4), 2, False)
CONFIG = ReplayConfig(batch_size=2, batch_length=3, capacity=40, storage="memory", memory_gb=None, context=False)


class Small:
    """A run with a replay, saved every 'episode'; nothing is learned."""

    def __init__(self, folder: Path) -> None:
        self.run, self.replay, self.step = (
            Run.create(folder, {"seed": 0, "plugins": []}, SPEC, "cpu"),
            Replay(CONFIG, SPEC),
            0,
        )

    def live(self) -> None:
        rng = np.random.default_rng(self.step)
        image = rng.integers(0, 256, (6, *SPEC.image_shape), np.uint8)
        action, reward = rng.uniform(-1, 1, (6, 2)).astype(np.float32), rng.normal(size=6).astype(np.float32)
        action[0], reward[0] = 0, 0
        self.replay.add(Episode(image, action, reward, np.zeros(6, bool)))
        self.step += 5

    @property
    def name(self) -> str:
        return f"step-{self.step:08d}-{self.step:08d}"

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        weights = torch.randn(7, 5, generator=torch.Generator().manual_seed(self.step))
        return {
            "model": {"w": weights},
            "actor": {},
            "optim": {"w/step": torch.tensor(1.0)},
            "rng": {"cpu": torch.arange(9)},
        }

    def save(self, keep: int = 2) -> Path:
        self.run.save(self.name, self.tensors(), {"counters": {"env_steps": self.step}}, self.replay, keep)
        return self.run.checkpoints / self.name


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Small]:
    """Nothing saved yet."""
    made = Small(tmp_path / "r")
    yield made
    made.run.close()


@pytest.fixture
def small(empty: Small) -> Small:
    """Two checkpoints: after 5 and after 10 steps."""
    for _ in range(2):
        empty.live()
        empty.save()
    return empty


def loaded(run: Run) -> tuple[str, list[str]]:
    """The checkpoint that loads, its replay included, and what was reported on the way."""
    said: list[str] = []
    for found in run.verified(said.append):
        try:
            Replay(CONFIG, SPEC).load(run.replay, found.chunks)
        except DamagedChunk as error:
            said.append(str(error))
            continue
        return found.folder.name, said
    return "", said


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_written_is_read_back(small: Small) -> None:
    found = small.run.newest()
    assert found.folder.name == small.name
    assert found.state == {"counters": {"env_steps": 10}, "metrics_bytes": 0, "event_bytes": {}}
    for name, group in small.tensors().items():
        read = found.tensors(name)
        assert read.keys() == group.keys() and all(torch.equal(read[key], group[key]) for key in group)
    replay = Replay(CONFIG, SPEC)
    replay.load(small.run.replay, found.chunks)
    assert replay.digest() == small.replay.digest()
    for key in ("image", "action", "reward", "first", "terminal"):
        assert torch.equal(getattr(replay, key).rows[:12], getattr(small.replay, key).rows[:12])


def test_no_flipped_bit_gets_through(small: Small) -> None:
    rng = random.Random(0)
    newest = small.run.checkpoints / small.name
    for path in files(newest):
        good = path.read_bytes()
        for _ in range(60):
            at, bit = rng.randrange(len(good)), rng.randrange(8)
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            name, said = loaded(small.run)
            assert name == "step-00000005-00000005", (path.name, at, bit)
            if path.name != MANIFEST:
                assert f"{small.name}/{path.name}" in said[0] and "falling back to step-00000005-00000005" in said[0]
        path.write_bytes(good)
    assert loaded(small.run) == (small.name, [])


def test_no_flipped_bit_of_a_chunk_gets_through(small: Small) -> None:
    rng = random.Random(1)
    chunk = small.run.newest().chunks[-1]
    path = small.run.replay / f"{chunk.digest}.npz"
    good = path.read_bytes()
    seen = 0
    for _ in range(300):
        at, bit = rng.randrange(len(good)), rng.randrange(8)
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
        replay = Replay(CONFIG, SPEC)
        try:
            replay.load(small.run.replay, small.run.newest().chunks)
        except DamagedChunk as error:
            assert path.name in str(error)
            seen += 1
        else:  # a date in the zip: the content is untouched
            assert replay.digest() == small.replay.digest() and torch.equal(
                replay.image.rows[:12], small.replay.image.rows[:12]
            )
    assert seen > 200


def test_a_chunk_that_holds_another_episode_is_refused(small: Small) -> None:
    first, second = (small.run.replay / f"{piece.digest}.npz" for piece in small.replay.pieces)
    shutil.copy(first, second)
    with pytest.raises(DamagedChunk, match="does not match its digest"):
        Replay(CONFIG, SPEC).load(small.run.replay, small.run.newest().chunks)


def test_a_chunk_of_a_stream_that_is_not_there_is_refused(small: Small) -> None:
    chunks = [Chunk(*chunk[:2], stream=1) for chunk in small.run.newest().chunks]
    with pytest.raises(DamagedChunk, match="stream 1"):
        Replay(CONFIG, SPEC).load(small.run.replay, chunks)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def swapped(path: Path) -> None:
    other = next(folder for folder in path.parent.parent.iterdir() if folder != path.parent) / path.name
    shutil.copy(other, path)


@pytest.mark.parametrize("spoil", [truncated, emptied, longer, Path.unlink, swapped])
def test_spoiled_files_are_named_and_the_previous_checkpoint_is_taken(
    small: Small, spoil: Callable[[Path], Any]
) -> None:
    newest = small.run.checkpoints / small.name
    for path in files(newest):
        if spoil is swapped and path.name not in ("model.safetensors", "state.json"):
            continue  # the same in both; and a manifest's own swap is tested below
        good = path.read_bytes()
        spoil(path)
        with pytest.raises(Damaged, match=small.name if path.name == MANIFEST else f"{small.name}/{path.name}"):
            checkpoint.verify(newest)
        name, said = loaded(small.run)
        assert (name, len(said)) == ("step-00000005-00000005", 1)
        path.write_bytes(good)
    assert loaded(small.run) == (small.name, [])


def test_a_foreign_manifest_is_refused(small: Small) -> None:
    newest = small.run.checkpoints / small.name
    shutil.copy(small.run.checkpoints / "step-00000005-00000005" / MANIFEST, newest)
    with pytest.raises(Damaged, match=f"{small.name}/"):
        checkpoint.verify(newest)


def test_when_all_are_damaged_all_are_reported(small: Small) -> None:
    for name in checkpoint.names(small.run.checkpoints):
        emptied(small.run.checkpoints / name / "model.safetensors")
    name, said = loaded(small.run)
    assert (name, len(said)) == ("", 2)
    assert "there is none before it" in said[1]


def test_a_damaged_checkpoint_is_replaced_when_training_comes_by_again(small: Small) -> None:
    emptied(small.run.checkpoints / small.name / "model.safetensors")
    small.save()
    assert loaded(small.run) == (small.name, [])


def test_a_damaged_chunk_is_replaced_when_training_comes_by_again(small: Small) -> None:
    emptied(small.run.replay / f"{small.replay.pieces[-1].digest}.npz")
    again = Small.__new__(Small)
    again.run, again.replay, again.step = small.run, Replay(CONFIG, SPEC), 5
    again.replay.load(small.run.replay, checkpoint.verify(small.run.checkpoints / "step-00000005-00000005").chunks)
    again.live()
    again.save()
    assert loaded(small.run) == (small.name, [])


def test_a_checkpoint_of_other_episodes_is_replaced_when_training_comes_by_again(small: Small) -> None:
    """On another device a resumed run plays other episodes, of the same lengths: what is saved then must load."""
    emptied(small.run.replay / f"{small.replay.pieces[-1].digest}.npz")
    again = Small.__new__(Small)
    again.run, again.replay, again.step = small.run, Replay(CONFIG, SPEC), 5
    again.replay.load(small.run.replay, checkpoint.verify(small.run.checkpoints / "step-00000005-00000005").chunks)
    again.step = 777
    again.live()
    again.step = 10
    again.save()
    newest = checkpoint.verify(small.run.checkpoints / small.name)
    assert newest.chunks == [piece.chunk for piece in again.replay.pieces]
    assert loaded(small.run) == (small.name, [])


# ---- rotation ----


def test_leftovers_of_killed_saves_are_never_listed_and_go(small: Small) -> None:
    leftover = small.run.checkpoints / "step-00000099-00000099.tmp-1"
    shutil.copytree(small.run.checkpoints / small.name, leftover)
    half = small.run.replay / f"{small.replay.pieces[0].digest}.tmp-1"
    unknown = small.run.replay / f"{'0' * 64}.npz"
    half.write_bytes(b"half"), unknown.write_bytes(b"of a killed save")
    assert loaded(small.run)[0] == small.name
    small.live()
    small.save()
    assert loaded(small.run)[0] == small.name
    assert not leftover.exists() and not half.exists() and not unknown.exists()


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_none_half_listed(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path, **_: Any) -> None:
        next(path for path in Path(folder).iterdir()).unlink()
        raise KeyboardInterrupt

    small.live()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        small.save(keep=3)
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        small.run.rotation.prune(2)
    listed = checkpoint.names(small.run.checkpoints)
    assert [checkpoint.verify(small.run.checkpoints / name).folder.name for name in listed] == [small.name, listed[1]]
    small.run.rotation.prune(2)
    assert len(list(small.run.checkpoints.iterdir())) == 2


def test_rotation_keeps_the_newest_by_number(empty: Small) -> None:
    made = empty
    for step in (99_999_990, 99_999_995, 100_000_000, 1_000_000_000):
        made.live()
        made.step = step
        made.save()
        assert made.run.newest().folder.name == made.name
    assert len(checkpoint.names(made.run.checkpoints)) == 2


def test_a_chunk_goes_when_no_kept_checkpoint_lists_it(empty: Small) -> None:
    made = empty
    for _ in range(12):  # the capacity is 6 episodes
        made.live()
        made.save(keep=3)
        kept = [checkpoint.verify(made.run.checkpoints / name) for name in checkpoint.names(made.run.checkpoints)]
        listed = {chunk.digest for found in kept for chunk in found.chunks}
        assert {path.stem for path in made.run.replay.iterdir()} == listed
    assert (len(kept), len(listed)) == (3, 8)


def test_chunks_stay_while_a_manifest_cannot_be_read(small: Small) -> None:
    emptied(small.run.checkpoints / "step-00000005-00000005" / MANIFEST)
    orphan = small.run.replay / f"{'0' * 64}.npz"
    orphan.write_bytes(b"perhaps of the damaged one")
    small.run.rotation.forget_chunks()
    assert orphan.exists()


def step(number: int) -> str:
    return f"step-{number:08d}-{number:08d}"


def test_damaged_checkpoints_do_not_push_out_the_one_that_was_restored(empty: Small, tmp_path: Path) -> None:
    """The two newest are damaged, an older one is restored from a copy, as is advised, and training goes on."""
    for _ in range(4):
        empty.live()
        shutil.copytree(empty.save(), tmp_path / "copies" / empty.name)
    for number in (15, 20):
        emptied(empty.run.checkpoints / step(number) / "model.safetensors")
    shutil.copytree(tmp_path / "copies" / step(10), empty.run.checkpoints / step(10))
    again = Small.__new__(Small)
    again.run, again.replay, again.step = empty.run, Replay(CONFIG, SPEC), 10
    again.replay.load(empty.run.replay, checkpoint.verify(empty.run.checkpoints / step(10)).chunks)
    again.live()
    again.step = 12
    again.save()
    assert loaded(empty.run)[0] == step(12)
    assert {step(10), step(12)} <= set(checkpoint.names(empty.run.checkpoints))
    for number in (16, 18, 21, 23):  # it comes by the damaged ones, which go then
        again.live()
        again.step = number
        again.save()
        assert loaded(empty.run)[0] == step(number) or number < 20
    assert checkpoint.names(empty.run.checkpoints) == [step(23), step(21)]


@pytest.mark.parametrize("change", ["a missing chunk", "a chunk that was found damaged", "a file changed meanwhile"])
def test_what_cannot_be_resumed_does_not_count(small: Small, change: str) -> None:
    if change == "a missing chunk":
        (small.run.replay / f"{small.replay.pieces[-1].digest}.npz").unlink()
        small.replay.pieces.pop()
    elif change == "a chunk that was found damaged":
        small.run.rotation.torn.add(small.name)
    else:
        emptied(small.run.checkpoints / small.name / "optim.safetensors")
    small.step += 1
    small.save()
    assert checkpoint.names(small.run.checkpoints) == [step(11), step(10), step(5)]


def test_empty_folders_and_other_names_are_no_checkpoints(small: Small) -> None:
    for name in ("step-99999999-99999999", "step-99999998-00000000-0000", "step-notes", "step-1-2.bak"):
        (small.run.checkpoints / name).mkdir()
    (small.run.checkpoints / "step-notes" / "mine.txt").write_text("keep")
    (small.run.checkpoints / "step-77777777-77777777").write_text("no folder")
    assert loaded(small.run) == (small.name, [])
    small.live()
    small.save()
    assert checkpoint.names(small.run.checkpoints) == [small.name, step(10)]
    assert (small.run.checkpoints / "step-notes" / "mine.txt").read_text() == "keep"


def test_what_is_not_ours_stays_in_replay(small: Small) -> None:
    (small.run.replay / ".ipynb_checkpoints").mkdir()
    (small.run.replay / f"{'1' * 64}.npz").mkdir()  # not even a folder with a chunk's name
    for name in ("notes.txt", "other.npz", f"{'0' * 63}.npz"):
        (small.run.replay / name).write_text("mine")
    before = {path.name for path in small.run.replay.iterdir()}
    small.live()
    small.save()
    assert before < {path.name for path in small.run.replay.iterdir()}


# ---- a full disk ----


def full(budget: int) -> Callable[[Path, bytes], None]:
    left = [budget]

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content[: left[0]])
        left[0] -= len(content)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return write


def test_a_full_disk_costs_nothing_that_was_saved(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    before, total = small.name, sum(path.stat().st_size for path in files(small.run.checkpoints / small.name))
    small.live()
    for budget in range(0, total, max(1, total // 20)):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_synced", full(budget))
            written = r"No space left on device: [\d,]+ bytes were written and [\d,]+ are free"
            with pytest.raises(OSError, match=written) as caught:
                small.save()
        assert caught.value.errno == errno.ENOSPC and small.name in str(caught.value)
        assert loaded(small.run) == (before, [])
        assert len(list(small.run.checkpoints.iterdir())) == 2
    small.save()  # there is room again
    assert loaded(small.run) == (small.name, [])


@pytest.mark.parametrize("size", [0, 1, 100, 300, 500])
def test_a_disk_that_fills_in_a_replay_chunk_costs_nothing(small: Small, size: int) -> None:
    before, chunks = small.name, files(small.run.replay)
    small.live()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))  # the system itself refuses to write more
    try:
        with pytest.raises(OSError, match=r"replay chunk .* [\d,]+ bytes") as caught:
            small.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert small.replay.rows(small.replay.pieces[-1]).digest() in str(caught.value)
    assert loaded(small.run) == (before, [])
    assert files(small.run.replay) == chunks
    small.save()
    assert loaded(small.run) == (small.name, [])


# ---- hostile ----

DIGEST = "0" * 64
FILE = {"bytes": 4, "sha256": DIGEST}
NAMES = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\0b",
    "\ud800",
    "x" * 10_000,
    "no",
    "MANIFEST.json",
]
ENTRIES = [
    None,
    7,
    [],
    {},
    {"bytes": 10**30, "sha256": DIGEST},
    {"bytes": -1, "sha256": None},
    {"bytes": "4", "sha256": []},
]
CHUNKS = [
    7, "ab", [7], [[]], [[DIGEST]], [["../" * 21 + "x", 6]], [[DIGEST[1:], 6]], [["z" * 64, 6]], [[DIGEST, 0]],
    [[DIGEST, -6]], [[DIGEST, "6"]], [[DIGEST, 1e300]], [[DIGEST, None]], [[{"a": 1}, 6]], {"a": 1}, [[DIGEST, 6, 6]],
    [[DIGEST, 6, -1, False]], [[DIGEST, 6, "0", False]], [[DIGEST, 6, 0, 1]], [[DIGEST, 6, 0, None]],
    [[DIGEST, 6, 0, False, 0]],
    [[DIGEST, 6]] * 100_000 + [[0, 0]],
]  # fmt: skip
HOSTILE: list[Any] = [
    *(None, [], 7, "text", {}, {"format": 1}, {"format": 1, "files": [], "chunks": None}, {"format": 1, "files": None}),
    *({"format": 1, "files": {name: FILE}, "chunks": []} for name in NAMES),
    *({"format": 1, "files": {"state.json": entry}, "chunks": []} for entry in ENTRIES),
    *({"format": 1, "files": {}, "chunks": chunks} for chunks in CHUNKS),
    *({"format": number, "files": {}, "chunks": []} for number in (2, 0, "1", [1], None, 10**300)),
]


@pytest.mark.parametrize("manifest", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_manifest_is_only_damaged(small: Small, manifest: Any) -> None:
    folder = small.run.checkpoints / small.name
    if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
        manifest = manifest | {"files": small.run.newest().manifest["files"] | manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match=small.name):
        checkpoint.verify(folder)
    assert loaded(small.run)[0] == "step-00000005-00000005"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b'{"format": 1, "files": {}, "chunks": [NaN]}',
        b"\0" * 99,
    ],
    ids=repr,
)
def test_a_manifest_that_is_no_json_is_only_damaged(small: Small, content: bytes) -> None:
    folder = small.run.checkpoints / small.name
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(Damaged, match=small.name):
        checkpoint.verify(folder)


def test_an_endless_manifest_is_not_read(small: Small) -> None:
    folder = small.run.checkpoints / small.name
    os.truncate(folder / MANIFEST, 1 << 40)  # sparse
    with pytest.raises(Damaged, match="more than the 67,108,864 that are expected"):
        checkpoint.verify(folder)


def test_a_newer_format_is_refused_with_a_message(small: Small) -> None:
    folder = small.run.checkpoints / small.name
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(Damaged, match=f"{small.name} has format 2, this version reads 1"):
        checkpoint.verify(folder)


def header(entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


GARBAGE = [
    b"", b"garbage", (2**63).to_bytes(8, "little"), (50).to_bytes(8, "little") + b"{}", header({"w": 1}) + b"\0" * 8,
    header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}) + b"\0" * 8,
    header({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}) + b"\0" * 8,
    header({"w": {"dtype": "Q7", "shape": [2], "data_offsets": [0, 8]}}) + b"\0" * 8,
    header({k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "ab"}) + b"\0" * 8,
    b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
]  # fmt: skip


@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_safetensors_garbage_is_refused_although_its_digest_is_right(small: Small, content: bytes) -> None:
    folder = small.run.checkpoints / small.name
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"]["model.safetensors"] = {"bytes": len(content), "sha256": digest}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match=small.name):
        checkpoint.verify(folder)


def test_a_manifest_that_leaves_files_out_is_damaged(small: Small) -> None:
    folder = small.run.checkpoints / small.name
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in checkpoint.FILES:  # runs of earlier versions have no copies of config.yaml and run.json
        rest = {key: value for key, value in manifest["files"].items() if key != name}
        (folder / MANIFEST).write_text(json.dumps(manifest | {"files": rest}))
        with pytest.raises(Damaged, match=f"{small.name}.*{name}"):
            checkpoint.verify(folder)


def signed(folder: Path, name: str, content: bytes) -> None:
    """A file of a checkpoint with other content, and its digest in the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / name).write_bytes(content)
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (b"[]", "input should be a valid dictionary"),
        (b'{"counters": {"env_steps": "10"}, "metrics_bytes": 0}', "counters.env_steps"),
        (b'{"counters": {}, "metrics_bytes": -1}', "metrics_bytes"),
        (b'{"counters": {}, "metrics_bytes": 0, "sums": {"loss": []}}', "sums.loss"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (5 << 20), "more than 4,194,304"),
    ],
    ids=range(6),
)
def test_a_state_of_other_types_is_damaged_although_its_digest_is_right(small: Small, state: bytes, said: str) -> None:
    folder = small.run.checkpoints / small.name
    signed(folder, "state.json", state)
    with pytest.raises(Damaged, match=f"{small.name}/state.json: .*{said}"):
        checkpoint.verify(folder)
    assert loaded(small.run)[0] == "step-00000005-00000005"


def test_a_million_tensors_are_not_made(small: Small) -> None:
    folder = small.run.checkpoints / small.name
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    signed(folder, "optim.safetensors", header({f"w{number}": empty for number in range(60_000)}))
    with pytest.raises(Damaged, match=r"optim\.safetensors: it holds more than 50,000 tensors"):
        checkpoint.verify(folder)
    signed(folder, "optim.safetensors", header({"w" * (17 << 20): empty}))
    with pytest.raises(Damaged, match=r"optim\.safetensors: its header has 17,\d+,\d+ bytes"):
        checkpoint.verify(folder)


def test_a_file_beyond_memory_is_not_read(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it damaged for that: an older checkpoint would be gone on with, and this one lost."""
    monkeypatch.setattr(checkpoint, "available_memory", lambda: 100)
    for read in (lambda: checkpoint.verify(small.run.checkpoints / small.name), lambda: loaded(small.run)):
        with pytest.raises(MemoryError, match=r"has \d+ bytes; 50 are half of what is free"):
            read()
    small.live()
    small.save()  # which looks whether older ones are sound
    monkeypatch.undo()
    assert loaded(small.run) == (small.name, [])
