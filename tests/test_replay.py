"""Replay gives back what went in, every row as often, marks every boundary, and trusts no file."""

import io
import weakref
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import chisquare

from worldmodel.base import Batch, Spec
from worldmodel.replay import episodes
from worldmodel.replay.buffer import Replay, ReplayConfig
from worldmodel.replay.episodes import Chunk, DamagedChunk, Episode, read_chunk, write_chunk
from worldmodel.replay.storage import IN_MEMORY, row_bytes

SPEC = Spec((1, 2, 2), 2, False)
LARGEST = 2**16  # name


def settings(capacity: int, length: int, batch: int) -> ReplayConfig:
    return ReplayConfig(
        batch_size=batch, batch_length=length, capacity=capacity, storage="memory", memory_gb=None, context=False
    )


def make(capacity: int = 20, length: int = 6, batch: int = 64, rows: int | None = None, streams: int = 1) -> Replay:
    return Replay(settings(capacity, length, batch), SPEC, rows, IN_MEMORY, streams)


def chunks(ring: Replay) -> list[Chunk]:
    """The live ones, oldest first."""
    return [piece.chunk for piece in ring.pieces]


def unsaved(ring: Replay) -> int:
    """Pieces that are not on disk yet."""
    return sum(piece.digest is None for piece in ring.pieces)


def numbered(number: int, actions: int, terminal: bool = True) -> Episode:
    """An episode in which every row says which it is, 100 * number + row, in all of its parts; but for the first row,
    which has neither action nor reward.
    """
    names = 100 * number + np.arange(actions + 1)
    image = np.stack([names // 256, names % 256, names * 0, names * 0], 1).astype(np.uint8).reshape(-1, 1, 2, 2)
    reward = np.where(np.arange(actions + 1) > 0, names, 0).astype(np.float32)
    action = np.stack([reward, -reward], 1) / LARGEST
    return Episode(image, action, reward, np.arange(actions + 1) == (actions if terminal else -1))


def named(image: Any) -> Any:
    """The names of rows (..., C, Y, X)."""
    pixels = image.reshape(*image.shape[:-3], 4)
    return (
        256 * pixels[..., 0].astype(int) + pixels[..., 1]
        if isinstance(image, np.ndarray)
        else (256 * pixels[..., 0].long() + pixels[..., 1])
    )


def check_sequences(batch: Batch, live: dict[int, int]) -> None:
    """Rows are those of live episodes ({number: actions}), whole; one that does not follow the one before is
    `first`."""
    name = named(batch.image)
    number, row = name // 100, name % 100
    last = torch.tensor([live.get(n, -1) for n in number.flatten().tolist()]).view(name.shape)
    assert ((row >= 0) & (row <= last)).all()
    assert torch.equal(batch.reward.long(), torch.where(row == 0, 0, name))
    assert torch.equal(batch.action, torch.stack([batch.reward, -batch.reward], -1) / LARGEST)
    assert torch.equal(batch.first, row == 0)
    assert torch.equal(batch.terminal, row == last)
    follows = name[:, 1:] == name[:, :-1] + 1
    assert torch.equal(follows, ~batch.first[:, 1:])
    assert torch.equal(~follows, row[:, :-1] == last[:, :-1])  # an episode is left after its last row only


def test_every_row_is_drawn_equally_often_the_last_ones_too() -> None:
    ring, rng = make(capacity=20), np.random.default_rng(0)
    for number, actions in enumerate((4, 9, 1, 5, 6)):  # 5 + 10 + 2 + 6 + 7 rows: the first two make room
        ring.add(numbered(number, actions))
    assert len(ring) == 15
    batch = ring.sample(rng, batch_size=15 * 400)
    for column in range(6):
        _, counts = np.unique(named(batch.image)[:, column], return_counts=True)
        assert len(counts) == 15 and chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_episodes_are_never_crossed_in_secret_nor_torn(seed: int) -> None:
    """Random lengths, one-action episodes among them; with eviction and a ring that wraps around."""
    rng = np.random.default_rng(seed)
    ring, added = make(capacity=30), {}
    for number in range(40):
        added[number] = int(rng.integers(1, 12)) if rng.random() < 0.7 else 1
        ring.add(numbered(number, added[number]))
        kept = dict(list(added.items())[-len(ring.pieces) :])
        assert sum(actions + 1 for actions in kept.values()) == len(ring) <= 30
        before = number - len(kept)  # the youngest of the evicted ones would not fit any more
        assert before < 0 or len(ring) + added[before] + 1 > 30
        check_sequences(ring.sample(rng, batch_size=100, length=int(rng.integers(2, 15))), kept)


def test_less_than_a_sequence_is_run_around_and_marked() -> None:
    ring = make()
    ring.add(numbered(1, 2))
    batch = ring.sample(np.random.default_rng(0), length=8)
    check_sequences(batch, {1: 2})
    assert (batch.first.sum(1) >= 2).all()


def test_sampling_is_decided_by_its_generator() -> None:
    ring = make()
    for number in range(3):
        ring.add(numbered(number, 5))
    one, same, other = (ring.sample(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one[:5], same[:5])) and not torch.equal(one.reward, other.reward)


def test_batches_have_the_promised_shapes_and_types() -> None:
    ring = make(batch=7)
    ring.add(numbered(0, 9))
    batch = ring.sample(np.random.default_rng(0))
    assert [(tuple(part.shape), part.dtype) for part in batch[:5]] == [
        ((7, 6, 1, 2, 2), torch.uint8),
        ((7, 6, 2), torch.float32),
        ((7, 6), torch.float32),
        ((7, 6), torch.bool),
        ((7, 6), torch.bool),
    ]
    batch.image.zero_()  # a copy: what a model does to its batch stays there
    assert ring.image.read(torch.arange(10)).any()


def test_an_episode_that_can_never_fit_is_refused_and_nothing_is_lost() -> None:
    ring = make(capacity=10)
    ring.add(numbered(0, 4))
    with pytest.raises(ValueError, match=r"11 rows does not fit: replay\.capacity is 10 rows; raise it"):
        ring.add(numbered(1, 10))
    assert len(ring) == 5
    ring.add(numbered(2, 9))
    assert len(ring) == 10


def test_a_run_that_is_short_reserves_only_what_it_can_fill() -> None:
    assert make(capacity=1000, rows=50).capacity == 50 and make(capacity=20, rows=50).capacity == 20
    assert make(capacity=1000, rows=2, length=6).capacity == 6


# ---- several streams, and episodes that come in pieces ----


def cut(episode: Episode, *sizes: int) -> list[Episode]:
    """Rows of an episode, so many at a time; the last piece has the rest."""
    ends = [*np.cumsum(sizes), len(episode.reward)]
    return [Episode(*(part[b:e] for part in episode)) for b, e in zip([0, *ends[:-1]], ends, strict=True)]


def give(ring: Replay, stream: int, *pieces: Episode) -> None:
    """An episode from its first row on."""
    for number, piece in enumerate(pieces):
        ring.add(piece, stream, continuation=number > 0)


def rows_of(ring: Replay, stream: int) -> list[int]:
    """The names of the live rows of a stream, oldest first, as its pieces list them."""
    parts = [named(ring.rows(piece).image) for piece in ring.pieces if piece.stream == stream]
    return np.concatenate(parts).tolist() if parts else []


def check_streams(ring: Replay, batch: Batch) -> None:
    """Every sequence stays in its stream and goes on from row to row; `first` is an episode's start, or the oldest live
    row, after which the newest is followed by it; and nothing else.
    """
    live = [rows_of(ring, stream) for stream in range(ring.streams)]
    for names, first, reward in zip(named(batch.image).tolist(), batch.first.tolist(), batch.reward, strict=True):
        (own,) = [rows for rows in live if names[0] in rows]
        at = own.index(names[0])
        assert names == [own[(at + t) % len(own)] for t in range(len(names))]
        assert first == [name % 100 == 0 or name == own[0] for name in names]
        assert reward.tolist() == [name if name % 100 else 0 for name in names]


def test_the_pieces_of_an_episode_are_joined_without_a_seam() -> None:
    whole, pieces = make(), make()
    whole.add(numbered(1, 9))
    give(pieces, 0, *cut(numbered(1, 9), 1, 3, 4))
    one, other = (ring.sample(np.random.default_rng(0), length=5) for ring in (whole, pieces))
    assert all(torch.equal(a, b) for a, b in zip(one[:5], other[:5], strict=True))
    check_sequences(other, {1: 9})


def test_streams_are_interleaved_and_never_mixed() -> None:
    ring = make(capacity=60, streams=3)
    parts = [cut(numbered(number, 11), 4, 4) for number in (1, 2, 3)]
    for number in range(3):
        for stream in range(3):
            ring.add(parts[stream][number], stream, continuation=number > 0)
    assert [rows_of(ring, stream) for stream in range(3)] == [[100 * (s + 1) + t for t in range(12)] for s in range(3)]
    batch = ring.sample(np.random.default_rng(0), 300, 8)
    check_streams(ring, batch)
    assert {*(named(batch.image)[:, 0] // 100).tolist()} == {1, 2, 3}


def test_every_row_of_every_stream_is_drawn_equally_often() -> None:
    ring = make(capacity=60, streams=3)
    for stream, actions in ((0, 4), (2, 9)):  # the second has none yet
        give(ring, stream, *cut(numbered(stream, actions), 2))
    batch = ring.sample(np.random.default_rng(0), batch_size=15 * 400)
    for column in range(6):
        _, counts = np.unique(named(batch.image)[:, column], return_counts=True)
        assert len(counts) == 15 and chisquare(counts).pvalue > 1e-3


def test_the_oldest_piece_of_the_stream_makes_room_and_the_row_after_it_is_marked() -> None:
    ring = make(capacity=24, streams=2)  # 12 rows each
    ring.add(numbered(5, 7), stream=1)
    give(ring, 0, *cut(numbered(1, 11), 4, 2, 4))  # 4 + 2 may be saved together, the others not
    assert [piece.end - piece.begin for piece in ring.pieces] == [8, 6, 6]
    batch = ring.sample(np.random.default_rng(0), 200, 12)
    assert {*named(batch.image)[batch.first].tolist()} == {100, 500}
    ring.add(numbered(2, 1), stream=0)  # two rows more: the first six go
    assert rows_of(ring, 0) == [106, 107, 108, 109, 110, 111, 200, 201]
    assert rows_of(ring, 1) == [500 + t for t in range(8)]  # the other stream lost nothing
    batch = ring.sample(np.random.default_rng(0), 200, 12)
    check_streams(ring, batch)
    assert {*named(batch.image)[batch.first].tolist()} == {106, 200, 500}


def test_a_piece_grows_until_it_is_saved(tmp_path: Path) -> None:
    ring = make(capacity=40)
    pieces = cut(numbered(1, 9), 2, 2, 2, 2)
    give(ring, 0, *pieces[:2])
    assert [chunk.rows for chunk in ring.save(tmp_path)] == [4]
    for piece in pieces[2:4]:
        ring.add(piece, continuation=True)
    assert [chunk.rows for chunk in ring.save(tmp_path)] == [4, 4]
    ring.add(pieces[4], continuation=True)
    listed = ring.save(tmp_path)
    assert [(chunk.rows, chunk.stream, chunk.continuation) for chunk in listed] == [
        (4, 0, False),
        (4, 0, True),
        (2, 0, True),
    ]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_long_episode_in_pieces_is_evicted_piece_by_piece() -> None:
    """An episode that never ends must not fill the ring as one chunk, which could not go before its end."""
    ring = make(capacity=20)
    for number in range(40):
        piece = Episode(*(part[number : number + 1] for part in numbered(0, 39)))
        ring.add(piece, continuation=number > 0)
        assert min(number + 1, 10) <= len(ring) <= 20
        assert rows_of(ring, 0)[-1] == number
        check_streams(ring, ring.sample(np.random.default_rng(number), 20, 5))


@pytest.mark.parametrize("seed", range(5))
def test_pieces_streams_evictions_saves_and_loads_drawn_at_random(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    ring = make(capacity=75, streams=3)
    number, waiting = 0, [[], [], []]
    began = [False] * 3
    for _ in range(80):
        stream = int(rng.integers(3))
        if not waiting[stream]:
            rows = int(rng.integers(2, 20))
            number += 1
            sizes = rng.multinomial(rows, [0.25] * 4)
            waiting[stream] = [piece for piece in cut(numbered(number, rows - 1), *sizes[:-1]) if len(piece.reward)]
            began[stream] = True
        before = len(ring), [piece for piece in ring.pieces if piece.stream == stream]
        piece = waiting[stream].pop(0)
        ring.add(piece, stream, continuation=not began[stream])
        began[stream] = False
        gone = [old for old in before[1] if old not in ring.pieces]
        assert gone == before[1][: len(gone)]  # the oldest ones
        check_streams(ring, ring.sample(rng, 20, int(rng.integers(2, 9))))
        if rng.random() < 0.2:
            copy = make(capacity=75, streams=3)
            copy.load(tmp_path, ring.save(tmp_path))
            assert copy.digest() == ring.digest() and chunks(copy) == chunks(ring)
            one, other = (r.sample(np.random.default_rng(1), 40, 7) for r in (ring, copy))
            assert all(torch.equal(a, b) for a, b in zip(one[:5], other[:5], strict=True))
            if rng.random() < 0.5:
                ring = copy  # it goes on from there


def test_a_piece_that_can_never_fit_its_stream_is_refused_and_nothing_is_lost() -> None:
    ring = make(capacity=20, streams=2)
    ring.add(numbered(0, 4), stream=1)
    with pytest.raises(
        ValueError, match=r"11 rows does not fit: replay\.capacity is 10 rows for each environment; raise"
    ):
        ring.add(numbered(1, 10), stream=1)
    assert len(ring) == 5 and len(ring.pieces) == 1


def test_a_piece_after_a_damaged_one_does_not_go_on_from_the_one_before_it(tmp_path: Path) -> None:
    ring = make()
    for number, piece in enumerate(cut(numbered(1, 8), 3, 3)):
        ring.add(piece, continuation=number > 0)
        listed = ring.save(tmp_path)  # each in a chunk of its own
    (tmp_path / f"{listed[1].digest}.npz").write_bytes(b"")
    rest, again = make(), make()
    rest.load(tmp_path, listed, lambda _: None)
    again.load(tmp_path, rest.save(tmp_path))  # and it stays so
    for loaded in (rest, again):
        assert rows_of(loaded, 0) == [100, 101, 102, 106, 107, 108]
        batch = loaded.sample(np.random.default_rng(0), 100, 6)
        assert {*named(batch.image)[batch.first].tolist()} == {100, 106}
        assert not batch.reward[batch.first].any() and not batch.action[batch.first].any()


def test_what_goes_on_after_a_damaged_last_piece_begins_anew(tmp_path: Path) -> None:
    ring, again, third = make(), make(), make()
    first, second, rest = cut(numbered(2, 8), 3, 3)
    ring.add(numbered(1, 4))
    ring.add(first)
    ring.save(tmp_path)
    ring.add(second, continuation=True)
    listed = ring.save(tmp_path)
    for chunk in listed[1:]:
        (tmp_path / f"{chunk.digest}.npz").write_bytes(b"")
    again.load(tmp_path, listed, lambda _: None)
    again.add(rest, continuation=True)  # by a collector that has played the open episode again
    third.load(tmp_path, again.save(tmp_path))
    for loaded in (again, third):
        assert rows_of(loaded, 0) == [*range(100, 105), 206, 207, 208]
        batch = loaded.sample(np.random.default_rng(0), 100, 6)
        assert {*named(batch.image)[batch.first].tolist()} == {100, 206}
        assert not batch.reward[batch.first].any() and not batch.action[batch.first].any()


# ---- digests ----


def test_any_byte_changes_the_digest() -> None:
    episode = numbered(0, 3)
    seen = {episode.digest()}
    for field in range(4):
        for byte in range(episode[field].nbytes):
            parts = [part.copy() for part in episode]
            parts[field].view(np.uint8).reshape(-1)[byte] ^= 1
            seen.add(Episode(*parts).digest())
    assert len(seen) == 1 + sum(part.nbytes for part in episode)
    assert episode._replace(reward=episode.reward.view(np.int32)).digest() not in seen
    assert episode._replace(image=episode.image.reshape(4, 1, 4, 1)).digest() not in seen
    assert episode._replace(action=np.asfortranarray(episode.action)).digest() in seen  # the content counts


def test_the_replays_digest_is_of_its_episodes_in_order() -> None:
    digests = set()
    for order in ((0, 1), (1, 0), (0,), (0, 1, 2)):
        ring = make()
        for number in order:
            ring.add(numbered(number, 3))
        digests.add(ring.digest())
    assert len(digests) == 4


# ---- on disk ----


def saved(folder: Path, actions: int = 3) -> tuple[Path, Chunk, Episode]:
    """An episode in a file."""
    ring, episode = make(), numbered(7, actions)
    ring.add(episode)
    (chunk,) = ring.save(folder)
    return folder / f"{chunk.digest}.npz", chunk, episode


def test_an_episode_that_waits_to_be_saved_is_not_held_twice(tmp_path: Path) -> None:
    ring, episode = make(), numbered(3, 5)
    ring.add(episode)
    alive = weakref.ref(episode.image)
    del episode
    assert alive() is None and unsaved(ring) == 1
    (chunk,) = ring.save(tmp_path)
    assert read_chunk(tmp_path / f"{chunk.digest}.npz", chunk, SPEC).digest() == numbered(3, 5).digest()


def test_what_is_kept_is_what_has_the_digest(tmp_path: Path) -> None:
    """Also if an episode comes with other types than those that were promised."""
    ring, episode = make(), numbered(3, 5)
    ring.add(episode._replace(reward=episode.reward.astype(np.float64), action=np.asfortranarray(episode.action)))
    make().load(tmp_path, ring.save(tmp_path))
    assert chunks(ring)[0].digest == episode.digest()


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    ring, copy = make(), make()
    for number, actions in enumerate((4, 9, 1, 5, 6)):
        ring.add(numbered(number, actions))
        if number == 2:
            ring.save(tmp_path)  # chunks that are evicted later stay until a checkpoint no longer lists them
    listed = ring.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    copy.load(tmp_path, listed)
    assert copy.digest() == ring.digest() and chunks(copy) == chunks(ring) == listed
    assert not unsaved(copy) and not unsaved(ring)
    one, other = (r.sample(np.random.default_rng(1)) for r in (ring, copy))
    assert all(torch.equal(a, b) for a, b in zip(one[:5], other[:5]))
    for chunk in listed:
        assert read_chunk(tmp_path / f"{chunk.digest}.npz", chunk, SPEC).digest() == chunk.digest


def test_saving_writes_new_episodes_only_and_none_that_were_evicted(tmp_path: Path) -> None:
    ring = make(capacity=10)
    for number in range(3):
        ring.add(numbered(number, 4))
    listed = ring.save(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {chunk.digest for chunk in listed} and len(listed) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    ring.save(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_an_episode_that_happens_twice_is_saved_although_its_first_copy_is_evicted(tmp_path: Path) -> None:
    ring = make(capacity=10)
    for number in (0, 0, 1):
        ring.add(numbered(number, 4))
    make(capacity=10).load(tmp_path, ring.save(tmp_path))


def test_a_crash_while_saving_leaves_no_chunk_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    ring = make()
    ring.add(numbered(0, 3))
    with pytest.raises(OSError, match="No space"):
        ring.save(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert len(ring.save(tmp_path)) == len(list(tmp_path.iterdir())) == 1


def test_a_flipped_bit_anywhere_is_found_or_harmless(tmp_path: Path) -> None:
    path, chunk, episode = saved(tmp_path)
    good, found = path.read_bytes(), 0
    for byte in range(0, len(good), 3):
        path.write_bytes(good[:byte] + bytes([good[byte] ^ 1 << byte % 8]) + good[byte + 1 :])
        try:
            got = read_chunk(path, chunk, SPEC)
        except DamagedChunk:
            found += 1
        else:  # a date in the archive, say
            assert all(np.array_equal(a, b) for a, b in zip(got, episode))
    assert found > len(good) / 3 / 2


def test_a_truncated_or_missing_chunk_is_damaged(tmp_path: Path) -> None:
    path, chunk, _ = saved(tmp_path)
    good = path.read_bytes()
    for size in (0, 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(DamagedChunk, match=f"{chunk.digest}.npz is damaged"):
            read_chunk(path, chunk, SPEC)
    path.unlink()
    with pytest.raises(DamagedChunk, match="missing"):
        read_chunk(path, chunk, SPEC)


def test_images_that_cannot_be_compressed_are_read_back(tmp_path: Path) -> None:
    spec, rows = Spec((3, 96, 96), 1, False), 1001
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (rows, *spec.image_shape), np.uint8)
    action, reward = rng.uniform(-1, 1, (rows, 1)), rng.normal(size=rows)
    episode = Episode(image, action, reward, np.zeros(rows)).begun().plain()
    write_chunk(tmp_path / "a.npz", episode)
    assert (tmp_path / "a.npz").stat().st_size > rows * row_bytes(spec) + 4096
    assert read_chunk(tmp_path / "a.npz", Chunk(episode.digest(), rows), spec).digest() == episode.digest()


def test_another_episode_under_that_name_is_damaged(tmp_path: Path) -> None:
    path, chunk, _ = saved(tmp_path)
    parts = numbered(8, 3)._asdict()
    np.savez_compressed(path, **parts)
    with pytest.raises(DamagedChunk, match="does not match its digest"):
        read_chunk(path, chunk, SPEC)
    del parts["reward"]
    np.savez_compressed(path, **parts)
    with pytest.raises(DamagedChunk, match="reward"):
        read_chunk(path, chunk, SPEC)


def test_chunks_of_another_image_size_or_length_are_damaged(tmp_path: Path) -> None:
    path, chunk, _ = saved(tmp_path)
    with pytest.raises(DamagedChunk, match=r"'image' is uint8 \(4, 1, 2, 2\), not uint8 \(4, 3, 1, 1\)"):
        read_chunk(path, chunk, Spec((3, 1, 1), 2, False))
    with pytest.raises(DamagedChunk, match="'image' is uint8"):
        read_chunk(path, chunk._replace(rows=5), SPEC)


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (open, ("unpickled", "w"))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, chunk, episode = saved(tmp_path / "replay")
    for name in Episode._fields:
        np.savez_compressed(path, **{**episode._asdict(), name: np.array([Payload()], object)})
        with pytest.raises(DamagedChunk, match="holds Python objects"):
            read_chunk(path, chunk, SPEC)
    assert not (tmp_path / "unpickled").exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path, chunk, episode = saved(tmp_path)
    np.savez_compressed(path, **{**episode._asdict(), "image": np.zeros((50_000, 1, 2, 2), np.uint8)})
    assert path.stat().st_size < 5000
    with pytest.raises(DamagedChunk, match=r"'image' is uint8 \(50000, 1, 2, 2\), not uint8 \(4, 1, 2, 2\)"):
        read_chunk(path, chunk, SPEC)


def test_a_header_that_claims_too_much_is_damaged(tmp_path: Path) -> None:
    """The archive's sizes are honest here; numpy would reserve what the array's own header claims."""
    path, chunk, episode = saved(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in episode._asdict().items():
            file = io.BytesIO()
            claim = (1 << 50, 1, 2, 2) if name == "image" else array.shape
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": claim}
            np.lib.format.write_array_header_1_0(file, header)
            archive.writestr(f"{name}.npy", file.getvalue() + array.tobytes())
    with pytest.raises(DamagedChunk):
        read_chunk(path, chunk, SPEC)


def test_a_chunk_beyond_memory_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older checkpoint would be gone on with, or it would be left out."""
    path, chunk, _ = saved(tmp_path)
    monkeypatch.setattr(episodes, "available_memory", lambda: 100)
    with pytest.raises(MemoryError, match=r"has 4 rows, [\d,]+ bytes; 50 are half of what is free"):
        read_chunk(path, chunk, SPEC)


def test_damaged_chunks_are_left_out_only_when_asked(tmp_path: Path) -> None:
    ring = make()
    for number in range(3):
        ring.add(numbered(number, 3))
    listed = ring.save(tmp_path)
    (tmp_path / f"{listed[1].digest}.npz").write_bytes(b"")
    with pytest.raises(DamagedChunk):
        make().load(tmp_path, listed)
    told: list[str] = []
    rest = make()
    rest.load(tmp_path, listed, told.append)
    assert chunks(rest) == [listed[0], listed[2]]
    assert len(told) == 1 and "left out" in told[0] and listed[1].digest in told[0]


def test_a_sequence_longer_than_the_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_length is 6 but capacity only 5 rows: raise capacity"):
        make(capacity=5)


def test_unrounded_rewards_survive(tmp_path: Path) -> None:
    ring = Replay(settings(9, 4, 4), tiny.SPEC)
    episode = tiny.episode(8)
    ring.add(episode)
    (chunk,) = ring.save(tmp_path)
    got = read_chunk(tmp_path / f"{chunk.digest}.npz", chunk, tiny.SPEC)
    assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(got, episode))


# ---- chunks that are signed, but wrong ----


def put(array: np.ndarray, at: Any, value: float) -> np.ndarray:
    changed = array.copy()
    changed[at] = value
    return changed


SIGNED: dict[str, tuple[dict[str, Any], str]] = {
    "a wider action": ({"action": lambda a: np.zeros((4, 3), np.float32)}, r"'action' is float32 \(4, 3\)"),
    "one action for all": ({"action": lambda a: a[:1]}, r"'action' is float32 \(1, 2\)"),
    "a column": ({"action": lambda a: a[:, :1]}, r"'action' is float32 \(4, 1\)"),
    "a short terminal": ({"terminal": lambda a: a[:2]}, r"'terminal' is bool \(2,\)"),
    "rewards of two axes": ({"reward": lambda a: a[:, None]}, r"'reward' is float32 \(4, 1\)"),
    "float images": ({"image": lambda a: a.astype(np.float32)}, "'image' is float32"),
    "signed images": ({"image": lambda a: a.astype(np.int8)}, "'image' is int8"),
    "other images": ({"image": lambda a: a.reshape(4, 2, 2, 1)}, r"'image' is uint8 \(4, 2, 2, 1\)"),
    "complex rewards": ({"reward": lambda a: a.astype(np.complex64)}, "'reward' is complex64"),
    "double rewards": ({"reward": lambda a: a.astype(np.float64)}, "'reward' is float64"),
    "big-endian rewards": ({"reward": lambda a: a.astype(">f4")}, "'reward' is >f4"),
    "numbers as flags": ({"terminal": lambda a: a.astype(np.uint8)}, "'terminal' is uint8"),
    "a reward of NaN": ({"reward": lambda a: put(a, 2, np.nan)}, "'reward' is not finite"),
    "an infinite reward": ({"reward": lambda a: put(a, 2, -np.inf)}, "'reward' is not finite"),
    "an action of NaN": ({"action": lambda a: put(a, 2, np.nan)}, r"'action' is not in \[-1, 1\]"),
    "a large action": ({"action": lambda a: put(a, 2, 1.1)}, r"'action' is not in \[-1, 1\]"),
    "a death amid it": ({"terminal": lambda a: put(a, 1, True)}, "'terminal' is true before the last row"),
    "an action before it": ({"action": lambda a: put(a, 0, 0.5)}, "its first row has an action or a reward"),
    "a reward before it": ({"reward": lambda a: put(a, 0, 0.5)}, "its first row has an action or a reward"),
}


@pytest.mark.parametrize("wrong", SIGNED)
def test_a_chunk_that_is_signed_but_wrong_is_refused(wrong: str, tmp_path: Path) -> None:
    changes, said = SIGNED[wrong]
    _, chunk, episode = saved(tmp_path / "good")
    episode = episode._replace(**{name: change(getattr(episode, name)) for name, change in changes.items()})
    chunk, path = chunk._replace(digest=episode.digest()), tmp_path / f"{episode.digest()}.npz"
    np.savez_compressed(path, **episode._asdict())
    with pytest.raises(DamagedChunk, match=said):
        read_chunk(path, chunk, SPEC)
    with pytest.raises(DamagedChunk, match=said):
        make().load(tmp_path, [chunk])


def test_discrete_actions_of_a_chunk_are_one_hot(tmp_path: Path) -> None:
    spec = SPEC._replace(action_dim=3, discrete=True)
    action = np.eye(3, dtype=np.float32)[[0, 2, 1, 0]] * (np.arange(4) > 0)[:, None].astype(np.float32)
    for at, value, sound in (((1, 2), 1, True), ((1, 2), 0.5, False), ((1, 0), 1, False), ((1, 2), 0, False)):
        episode = numbered(0, 3)._replace(action=put(action, at, value))
        path = tmp_path / f"{episode.digest()}.npz"
        np.savez_compressed(path, **episode._asdict())
        if sound:
            assert read_chunk(path, Chunk(path.stem, 4), spec).digest() == path.stem
        else:
            with pytest.raises(DamagedChunk, match="'action' is not one-hot somewhere"):
                read_chunk(path, Chunk(path.stem, 4), spec)


def test_a_manifest_that_lists_chunks_in_wrong_places_is_refused(tmp_path: Path) -> None:
    ring = make()
    give(ring, 0, *cut(numbered(1, 8), 3)[:1])
    (begin,) = ring.save(tmp_path)
    give(ring, 0, numbered(2, 3))
    _, whole = ring.save(tmp_path)
    for listed, said in (
        ([whole, begin._replace(continuation=True)], "goes on with an episode that has ended"),
        ([begin._replace(rows=10**12)], "1,000,000,000,000 rows; there is room for 20"),
        ([begin._replace(rows=19)], r"'image' is uint8 \(3, 1, 2, 2\)"),
        ([begin._replace(stream=1)], "is of stream 1 of 1"),
    ):
        with pytest.raises(DamagedChunk, match=said):
            make().load(tmp_path, listed)
    with pytest.raises(DamagedChunk, match=r"'image' is uint8 \(3, 1, 2, 2\)"):
        read_chunk(tmp_path / f"{begin.digest}.npz", begin._replace(rows=10**12), SPEC)
