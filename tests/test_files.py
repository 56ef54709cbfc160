"""Nothing is followed out of a folder: links, pipes, devices, folders and giants in a file's place."""

import os
from pathlib import Path

import pytest

from worldmodel import files

VICTIM = b"what a link leads to"


def link(path: Path) -> None:
    path.symlink_to(path.parent / "victim")


def link_to_a_folder(path: Path) -> None:
    path.symlink_to(path.parent / "folder")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def two_names(path: Path) -> None:
    os.link(path.parent / "victim", path)


def folder(path: Path) -> None:
    path.mkdir()


PLANTS = (link, link_to_a_folder, dangling, device, pipe, giant, folder)


@pytest.fixture(params=PLANTS, ids=lambda plant: plant.__name__)
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Something else in a file's place."""
    (tmp_path / "victim").write_bytes(VICTIM)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_bytes(VICTIM)
    request.param(tmp_path / "file")
    return tmp_path / "file"


def unharmed(path: Path) -> bool:
    return (
        [found.read_bytes() for found in (path.parent / "victim", path.parent / "folder" / "inside")] == [VICTIM] * 2
        and not (path.parent / "nowhere").exists()
        and len(list((path.parent / "folder").iterdir())) == 1
    )


def test_it_is_not_read(planted: Path) -> None:
    with pytest.raises(OSError):
        files.read(planted, 1 << 50)
    assert unharmed(planted)


def test_it_is_replaced_when_it_is_written(planted: Path) -> None:
    if planted.is_dir() and not planted.is_symlink():
        with pytest.raises(OSError):  # a folder stays
            files.write(planted, b"new")
        assert planted.is_dir()
    else:
        files.write(planted, b"new")
        assert not planted.is_symlink() and planted.read_bytes() == b"new"
    assert unharmed(planted) and not list(planted.parent.glob("*.tmp-*"))


def test_a_new_file_is_a_new_one(planted: Path) -> None:
    files.created(planted).close()
    assert not planted.is_symlink() and planted.read_bytes() == b""
    assert unharmed(planted)


def test_it_is_not_appended_to(planted: Path) -> None:
    with pytest.raises(OSError):
        files.appended(planted)
    assert unharmed(planted)


def test_it_is_no_folder(planted: Path) -> None:
    if planted.is_dir() and not planted.is_symlink():
        files.make_folder(planted)
        assert files.entries(planted) == []
        return
    assert not files.is_folder(planted)
    for enter in (files.check_folder, files.make_folder, files.entries):
        with pytest.raises(OSError):
            enter(planted)
    assert unharmed(planted)


def test_it_is_removed_and_what_it_leads_to_is_not(planted: Path) -> None:
    files.remove(planted)
    assert not os.path.lexists(planted) and unharmed(planted)
    files.remove(planted)  # nothing is there


def test_a_link_in_a_folder_that_is_removed_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(VICTIM)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_bytes(VICTIM)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "out").symlink_to(tmp_path / "folder")
    files.remove(tmp_path / "gone")
    assert unharmed(tmp_path / "gone") and not (tmp_path / "gone").exists()


def test_what_has_other_names_is_changed_under_its_own_only(tmp_path: Path) -> None:
    path, victim = tmp_path / "file", tmp_path / "victim"
    victim.write_bytes(VICTIM)
    two_names(path)
    with pytest.raises(OSError, match="hard links"):
        files.appended(path)
    assert files.make_own(path)
    with files.appended(path) as file:
        file.write(b" and more")
    assert (path.read_bytes(), victim.read_bytes()) == (VICTIM + b" and more", VICTIM)


def test_larger_than_expected_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(11))
    assert files.read(tmp_path / "file", 11) == bytes(11)
    with pytest.raises(OSError, match="11 bytes, more than the 10 that are expected"):
        files.read(tmp_path / "file", 10)


def test_a_guessed_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(VICTIM)
    (tmp_path / f"file.tmp-{os.getpid()}").symlink_to(tmp_path / "victim")
    files.write(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == VICTIM and (tmp_path / "file").read_bytes() == b"new"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    files.write(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_who_asks_may_follow_links_but_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(VICTIM)
    link(tmp_path / "file")
    with files.opened(tmp_path / "file", follow=True) as file:
        assert file.read() == VICTIM
    pipe(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        files.opened(tmp_path / "pipe", follow=True)
