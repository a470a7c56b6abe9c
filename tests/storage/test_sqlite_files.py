"""A SQLite file of this library: made once, for its owner alone, and distinguished from every other file."""

from __future__ import annotations

import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import ConfigurationError, InboxError
from basiq_async._storage.sqlite_files import FileKind, SQLiteFile
from tests.support.real_time import PATIENCE

KIND = FileKind(0x1234, 2, ("CREATE TABLE shelf (name TEXT)",))
BESIDE = ["-journal", "-wal", "-shm"]


def fill(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO shelf VALUES ('first')")


def make(path: Path, kind: FileKind = KIND) -> None:
    file = SQLiteFile(path, kind)
    connection = file.open(timeout=PATIENCE, fill=fill)
    assert connection is not None
    file.close(connection)


def rows(path: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name FROM shelf").fetchall()


def test_a_file_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "shelf.db"
    for _ in range(2):
        make(path)
    assert rows(path) == [("first",)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (attrs.evolve(KIND, version=3), "has format 2, and this release knows only format 3"),
        (attrs.evolve(KIND, application_id=5), "is a SQLite file of another program"),
    ],
)
def test_another_kind_or_version_is_refused_and_left_as_it_is(other: FileKind, said: str, tmp_path: Path) -> None:
    path = tmp_path / "shelf.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(InboxError, match=said):
        make(path, other)
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", ["", ":memory:", "file:x?mode=memory", "a\0b", b"shelf.db"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="path must be the path of a file on a local disk, for the inbox"):
        SQLiteFile(path, KIND)


# --- other users ---


def refused(path: Path, said: str) -> None:
    """Check that a file is refused, and left as it is."""
    before = path.read_bytes()
    with pytest.raises(InboxError, match=said):
        make(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", ["", *BESIDE])
def test_a_file_that_others_can_open_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "shelf.db"
    make(path)
    loose = tmp_path / f"shelf.db{suffix}"
    loose.touch()
    loose.chmod(0o640)
    refused(path, r"other users can open it \(mode 0640\): chmod 600")
    loose.chmod(0o600)
    make(path)


def test_the_error_of_a_copy_with_a_wide_mode_names_the_file_itself(tmp_path: Path) -> None:
    """SQLite's own backup makes such a copy; the files beside it have its mode, and are gone when it is closed."""
    path, copy = tmp_path / "shelf.db", tmp_path / "copy.db"
    make(path)
    copy.touch(0o644)
    copy.chmod(0o644)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    refused(
        copy,
        r"^the inbox '[^']*copy.db' cannot be opened: other users can open it \(mode 0644\): chmod 600 it, or [^-]*$",
    )
    with closing(sqlite3.connect(copy)) as other:
        other.execute("INSERT INTO shelf VALUES ('second')")
        other.commit()
        refused(copy, "copy.db' cannot be opened: other users can open it .*the files beside it .* the same mode$")
    copy.chmod(0o600)
    make(copy)


@pytest.mark.parametrize("dangling", [True, False])
def test_a_symbolic_link_is_refused_and_nothing_is_made_behind_it(dangling: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "target.db", tmp_path / "shelf.db"
    if not dangling:
        make(target)
    link.symlink_to(target)
    with pytest.raises(InboxError, match="symbolic link: pass the path of the file itself"):
        make(link)
    assert target.exists() is not dangling


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shelf.db"
    make(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    refused(path, "belongs to another user")


@pytest.mark.parametrize("suffix", BESIDE)
def test_what_another_user_puts_beside_a_file_is_refused_and_changes_nothing(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shelf.db"
    make(path)
    planted = tmp_path / f"shelf.db{suffix}"
    planted.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")  # as a rollback journal begins
    planted.chmod(0o600)
    lstat = os.lstat

    def anothers(name: object, **options: Any) -> os.stat_result:
        found = lstat(name, **options)  # type: ignore[arg-type]
        return os.stat_result([*found[:4], found[4] + (str(name) == str(planted)), *found[5:]])

    monkeypatch.setattr(os, "lstat", anothers)
    refused(path, rf"{suffix}.*another user.*remove it")


@pytest.mark.parametrize("suffix", BESIDE)
def test_what_is_put_beside_a_file_while_it_is_being_opened_is_noticed(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shelf.db"
    make(path)
    connect = sqlite3.connect

    def plant(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened = connect(*arguments, **options)
        opened.execute("SELECT 1 FROM sqlite_schema").fetchone()  # has made its own
        (tmp_path / f"shelf.db{suffix}").touch()
        (tmp_path / f"shelf.db{suffix}").chmod(0o666)
        return opened

    monkeypatch.setattr(sqlite3, "connect", plant)
    with pytest.raises(InboxError, match=r"other users can open it .*remove it"):
        make(path)


def test_a_folder_that_others_may_write_to_is_no_reason_to_refuse(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    make(tmp_path / "shelf.db")


# --- a file that cannot be made at once ---


def answer_journal_mode(monkeypatch: pytest.MonkeyPatch, *answers: str | Exception) -> None:
    """Let the statements that turn the journal on end with each of these, and then as usual."""
    left = iter(answers)

    class Answering(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            answer = next(left, None) if "journal_mode" in sql else None
            if isinstance(answer, Exception):
                raise answer
            return super().execute(sql if answer is None else f"SELECT '{answer}'", *parameters)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(path, factory=Answering, **options))


def locked() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


def test_a_file_system_without_wal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_journal_mode(monkeypatch, "delete")
    with pytest.raises(InboxError, match="local disk"):
        make(tmp_path / "shelf.db")


def test_of_several_that_make_the_file_at_once_each_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_journal_mode(monkeypatch, locked(), locked())
    path = tmp_path / "shelf.db"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, [path] * 8))
    assert rows(path) == [("first",)]


def test_a_lock_that_lasts_while_the_file_is_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_journal_mode(monkeypatch, *(locked() for _ in range(10_000)))
    with pytest.raises(InboxError, match="locked"):
        SQLiteFile(tmp_path / "shelf.db", KIND).open(timeout=0.01)
