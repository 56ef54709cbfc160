"""HDF5 files and Minari datasets of strangers: nothing outside the file is read, no code is run, sizes hold first."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import layouts
import numpy as np
import pytest
from layouts import lives, shown

from training.configuration.components import ROOT
from worldmodel.replay import recorded
from worldmodel.replay.recorded import RecordedError, read


def refusal(folder: Path) -> str:
    with pytest.raises(RecordedError) as caught:
        list(read(folder))
    return str(caught.value)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A file of V-D4RL, alone in its folder."""
    layouts.vd4rl_hdf5(tmp_path / "all")
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(tmp_path / "all" / "0.hdf5", tmp_path / "data"))


def change(path: Path, how: Any) -> str:
    assert read(path.parent).lengths == [10, 3]
    with h5py.File(path, "a") as file:
        how(file)
    return refusal(path.parent)


def replace(file: Any, name: str, **how: Any) -> None:
    del file[name]
    file.create_dataset(name, **how)


def test_links_out_of_a_file_are_refused(shard: Path, tmp_path: Path) -> None:
    def link(file: Any, to: Any, name: str = "observation") -> None:
        del file[name]
        file[name] = to

    other = str(tmp_path / "all" / "1.hdf5")
    good = shard.read_bytes()
    links = (h5py.ExternalLink(other, "observation"), h5py.SoftLink("/reward"), h5py.SoftLink("/nowhere"))
    for to in links:
        assert "'observation' is a link" in change(shard, lambda file, to=to: link(file, to))
        shard.write_bytes(good)
    source = h5py.VirtualSource(other, "reward", (12,))
    virtual = h5py.VirtualLayout((13,), np.float32)
    virtual[:12] = source

    def make_virtual(file: Any) -> None:
        del file["reward"]
        file.create_virtual_dataset("reward", virtual)

    assert "'reward' lies in another file, which is never read" in change(shard, make_virtual)
    shard.write_bytes(good)
    raw = dict(shape=(13,), dtype=np.float32, external=[(other, 0, 13 * 4)])
    assert "'reward' lies in another file" in change(shard, lambda file: replace(file, "reward", **raw))
    assert "'more/deep' is a link to another file" in linked_deep(shard, good, other)


def linked_deep(shard: Path, good: bytes, other: str) -> str:
    shard.write_bytes(good)

    def deep(file: Any) -> None:
        file.create_group("more")["deep"] = h5py.ExternalLink(other, "reward")

    return change(shard, deep)


def test_a_group_that_contains_itself_ends(shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        group = file.create_group("round")
        group["again"] = group
    assert read(shard.parent).lengths == [10, 3]


@pytest.mark.parametrize("name", ["observation", "action", "reward", "step_type"])
def test_huge_shapes_are_refused_before_anything_is_read(
    name: str, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes no space on disk may claim any: rows, or a block in which they lie."""
    monkeypatch.setattr(recorded, "available_memory", lambda: 64 << 20)
    with h5py.File(shard) as file:
        shape, kind = file[name].shape, file[name].dtype
    good = shard.read_bytes()
    huge = dict(shape=(1 << 40, *shape[1:]), dtype=kind, chunks=(1, *shape[1:]))
    assert change(shard, lambda file: replace(file, name, **huge))
    shard.write_bytes(good)
    if name != "observation":
        block = dict(shape=shape, dtype=kind, maxshape=(None, *shape[1:]), chunks=(1 << 20, *shape[1:]))
        assert "would unpack to" in change(shard, lambda file: replace(file, name, **block))


def test_more_images_than_actions_can_lead_to_are_refused(tmp_path: Path) -> None:
    """Nothing else in the file says how many rows there are."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["action"] = np.zeros((5, 2))
        file.create_dataset("image", shape=(1 << 40, 16, 16, 3), dtype=np.uint8, chunks=(1, 16, 16, 3))
    assert "it holds 1,099,511,627,776 images, but 5 actions" in refusal(tmp_path)


def test_text_references_and_rows_of_any_length_are_refused(shard: Path) -> None:
    good = shard.read_bytes()
    for kind in (h5py.string_dtype(), h5py.vlen_dtype(np.uint8), h5py.ref_dtype, np.dtype([("a", "f4")])):
        said = change(shard, lambda file, kind=kind: replace(file, "reward", shape=(13,), dtype=kind))
        assert "'reward' holds Python objects" in said or "save it as numbers" in said
        shard.write_bytes(good)


def test_a_damaged_file_is_named(shard: Path) -> None:
    whole = shard.read_bytes()
    for content in (b"", b"\x89HDF\r\n\x1a\n", whole[: len(whole) // 2], b"text"):
        shard.write_bytes(content)
        assert "0.hdf5: damaged, or no HDF5 file" in refusal(shard.parent)


def test_a_limit_holds_for_an_episode(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10 * 3 * layouts.SIZE**2
    monkeypatch.setattr(recorded, "available_memory", lambda: 4 * (size - 1))
    assert f"'observation' would unpack to {size:,} bytes" in refusal(shard.parent)


# ---- Minari ----


def test_minari_with_jpeg_and_a_bare_box(tmp_path: Path) -> None:
    layouts.minari(tmp_path, nested=False, jpeg=True)
    for one, other in zip(read(tmp_path), lives(), strict=True):
        assert np.allclose(shown(one.image)[1:], other.action[:, 0], atol=0.05)  # JPEG is not exact
        assert np.array_equal(one.action[1:], other.action) and one.terminal[-1] == other.died


def test_a_dataset_that_would_make_an_environment_is_refused(tmp_path: Path) -> None:
    layouts.minari(tmp_path)
    layouts.metadata(tmp_path, observation_space=None, env_spec='{"id": "os:system-v0", "entry_point": "os:system"}')
    assert "has no observation_space: it must say them itself" in refusal(tmp_path)


def test_minari_that_lies_is_refused(tmp_path: Path) -> None:
    layouts.minari(tmp_path, nested=False)
    (data,) = (path.parent for path in tmp_path.rglob("metadata.json"))
    kept = {path: path.read_bytes() for path in data.iterdir()}

    def again() -> None:
        for path, content in kept.items():
            path.write_bytes(content)

    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1/observations"]
        file["episode_1/observations"] = h5py.ExternalLink("/etc/passwd", "x")
    assert "'episode_1/observations' is a link to another file" in refusal(tmp_path)
    again()
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = np.zeros(3)
    assert "episode 1: its parts differ in length" in refusal(tmp_path)
    again()
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_1"].attrs["total_steps"] = 1 << 40
    assert "would unpack to" in refusal(tmp_path)
    again()
    layouts.metadata(
        tmp_path, action_space='{"type": "MultiDiscrete", "nvec": [2, 2], "dtype": "int64", "start": [0, 0]}'
    )
    assert "the action space is MultiDiscrete" in refusal(tmp_path)
    again()
    layouts.metadata(tmp_path, data_format="arrow")
    assert "only hdf5 is read" in refusal(tmp_path)
    (data / "metadata.json").write_text("{")
    assert "no Minari dataset that can be read" in refusal(tmp_path)


@pytest.mark.slow
def test_neither_h5py_nor_minari_is_imported_until_such_a_file_is_read() -> None:
    script = (
        "import sys, training.recordings, worldmodel.replay.check; "
        "sys.exit(bool({'h5py', 'minari'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
