"""The statements that are kept in files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import basiq_async.receiver.inboxes
from basiq_async._storage.statements import read_statements

FOLDER = Path(basiq_async.receiver.inboxes.__file__).parent


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"statements_of_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "some.sql").write_text(
        """
-- What is before the first heading is left out.

-- {table} --
things
-- {now} in one --
-- Not the other's.
clock()
-- {now} in other --
:clock
-- {nothing} in one --
-- {nothing} in other --
-- touch --
UPDATE {table}
SET at = {now}
    -- why
WHERE id = :id {nothing}
-- only in one --
SELECT '{LIMIT}'
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_statement_has_its_parts_and_no_comments(package: str) -> None:
    assert read_statements(package, "some.sql", "one", LIMIT=3) == {
        "touch": "UPDATE things\nSET at = clock()\nWHERE id = :id ",
        "only": "SELECT '3'",
    }
    assert read_statements(package, "some.sql", "other") == {"touch": "UPDATE things\nSET at = :clock\nWHERE id = :id "}


def test_lines_may_end_as_on_windows(package: str, tmp_path: Path) -> None:
    path = tmp_path / package / "some.sql"
    (tmp_path / package / "windows.sql").write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    found = read_statements(package, "windows.sql", "one", LIMIT=3)
    assert found == read_statements(package, "some.sql", "one", LIMIT=3)


def test_a_part_that_is_nowhere_is_an_error(package: str) -> None:
    with pytest.raises(KeyError, match="LIMIT"):
        read_statements(package, "some.sql", "one")


@pytest.mark.parametrize("inbox", ["sql", "sqlite"])
def test_each_statement_of_an_inbox_is_used_and_is_there(inbox: str) -> None:
    source = "".join(path.read_text() for path in FOLDER.glob(f"_{inbox}[_.]*py"))
    text = (FOLDER / f"_{inbox}_statements.sql").read_text()
    written = set(re.findall(r"^-- (?!create_)(\w+)(?: in \w+)? --$", text, re.MULTILINE))
    assert len(written) > 20
    assert set(re.findall(r'(?:sql|self)\["(\w+)"\]', source)) <= written <= set(re.findall(r'"(\w+)"', source))
