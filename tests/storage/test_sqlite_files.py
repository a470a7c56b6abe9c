"""A SQLite file of this library: made once, for its owner alone, and told from every other file."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from basiq_async import ConfigurationError, InboxError
from basiq_async._storage.sqlite_files import FileKind, SQLiteFile

KIND = FileKind("shelf", 0x1234, 2, ("CREATE TABLE shelf (name TEXT)",), InboxError)


def fill(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO shelf VALUES ('first')")


def make(path: Path, kind: FileKind = KIND) -> None:
    file = SQLiteFile(path, kind)
    connection = file.open(timeout=1, fill=fill)
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


def test_what_is_not_to_be_created_is_none(tmp_path: Path) -> None:
    path = tmp_path / "shelf.db"
    assert SQLiteFile(path, KIND).open(timeout=1, create=False) is None
    assert not path.exists()
    path.touch(0o600)
    assert SQLiteFile(path, KIND).open(timeout=1, create=False) is None


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


@pytest.mark.parametrize("beside", ["-journal", "-wal", "-shm"])
def test_a_file_of_sqlites_that_others_can_open_is_refused(beside: str, tmp_path: Path) -> None:
    path = tmp_path / "shelf.db"
    make(path)
    odd = tmp_path / f"shelf.db{beside}"
    odd.touch()
    odd.chmod(0o666)
    with pytest.raises(InboxError, match="other users can open it"):
        make(path)


def test_a_file_that_was_replaced_while_it_was_open_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shelf.db"
    file = SQLiteFile(path, KIND)
    connection = file.open(timeout=1)
    assert connection is not None
    file.check_in_place()
    path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(InboxError, match="was deleted or replaced while it was open"):
        file.check_in_place()
    file.close(connection)


@pytest.mark.parametrize("path", ["", ":memory:", "file:x?mode=memory", "a\0b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="path must be the path of a file on a local disk, for the shelf"):
        SQLiteFile(path, KIND)
