from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from basiq_async import ConfigurationError
from basiq_async._storage.private_files import (
    check_private,
    create_private,
    open_new,
    open_private,
    replace_private,
)
from basiq_async.receiver import SecretFile, SQLiteInbox
from basiq_async.replay import JSONLinesTarget

APPEND = os.O_RDWR | os.O_CREAT


def test_a_new_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        assert create_private(str(tmp_path / "made"))
        os.close(open_private(str(tmp_path / "opened"), APPEND))
        os.close(open_new(tmp_path / "new"))
        replace_private(tmp_path / "replaced", b"one")
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}


def test_what_is_there_already_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    assert not create_private(str(path))
    with pytest.raises(FileExistsError):
        open_new(path)
    assert path.read_text() == "kept"


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", kill)
    with pytest.raises(KeyboardInterrupt):
        replace_private(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    replace_private(tmp_path / "file", b"content")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"content"]


@pytest.mark.parametrize(("hours", "left"), [(0.9, True), (1.1, False), (-40 * 24, False)])
def test_the_draft_of_a_process_that_was_killed_is_gone_after_an_hour(tmp_path: Path, hours: float, left: bool) -> None:
    draft, other = tmp_path / f".file.{'0' * 16}", tmp_path / ".file.another"
    for each in (draft, other):
        each.touch()
        os.utime(each, (time.time() - hours * 3600,) * 2)
    replace_private(tmp_path / "file", b"content")
    assert (draft.exists(), other.exists()) == (left, True)


def test_the_folder_of_a_replaced_file_is_synced_so_that_its_name_outlasts_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synced.append((found.st_dev, found.st_ino))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    replace_private(tmp_path / "file", b"content")
    places = [(each.st_dev, each.st_ino) for each in ((tmp_path / "file").stat(), tmp_path.stat())]
    assert synced == places


def test_what_is_replaced_has_the_new_content_and_others_cannot_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    replace_private(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


def test_no_link_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    assert not create_private(str(link))
    with pytest.raises(FileExistsError):
        open_new(link)
    with pytest.raises(PermissionError, match="symbolic link"):
        open_private(str(link), APPEND)
    assert "symbolic link" in (check_private(str(link)) or "")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_file_that_others_can_open_is_not_private(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with pytest.raises(PermissionError, match=rf"mode {mode:04o}\): chmod 600"):
        open_private(str(path), APPEND)
    assert check_private(str(path), mode=False) is None


def test_a_file_of_another_user_is_not_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "file")
    assert create_private(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in (check_private(path) or "")


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    assert "not a regular file" in (check_private(str(tmp_path)) or "")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in (check_private(str(tmp_path / "pipe")) or "")


def test_where_there_are_no_owners_and_modes_only_the_kind_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o666)
    monkeypatch.delattr(os, "geteuid")
    assert check_private(str(path)) is None


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR):
        with pytest.raises(OSError, match=r"not a regular file|No such device"):
            open_private(str(tmp_path / "pipe"), flags)


@pytest.mark.parametrize("make", [SQLiteInbox, SecretFile, JSONLinesTarget])
async def test_a_relative_path_stays_in_the_folder_in_which_it_was_named(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    thing = make("a file")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert repr(thing) == f"{make.__name__}({str(tmp_path / 'a file')!r})"
    if isinstance(thing, SQLiteInbox):
        await thing.check()
        await thing.aclose()
        assert (tmp_path / "a file").is_file()
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigurationError, match="working directory, which does not exist any more"):
        make("another file")
