"""Each kind of inbox has a row in one table, and what reads the table finds it."""

from __future__ import annotations

import re
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from basiq_async import InboxError, receiver
from basiq_async._wire.hosts import show_place
from basiq_async._work.inbox_kinds import EXTRAS, KINDS, InboxKind, kind_of
from tests.support.command_line import run_command
from tests.support.environment import ROOT
from tests.support.inboxes import opened

PLACES = [kind for kind in KINDS if kind.places is not None]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_is_public_and_on_its_pages(kind: InboxKind) -> None:
    assert kind.name in receiver.__all__
    assert getattr(receiver, kind.name).__module__ == f"basiq_async.receiver.inboxes.{kind.module}"
    assert re.search(rf"^\| `{kind.name}\(", (ROOT / "docs" / "inboxes.md").read_text(), re.MULTILINE)


def test_each_class_that_is_an_inbox_has_a_row() -> None:
    public = {name for name in receiver.__all__ if name.endswith("Inbox") and name != "Inbox"}
    assert public == {kind.name for kind in KINDS}


def test_each_extra_of_a_kind_is_one_of_the_package() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(each.startswith(package) for each in known[extra])


@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.name)
async def test_the_place_that_the_command_line_names_is_of_its_kind(
    kind: InboxKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kind_of(kind.example) is kind
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    shown = run_command("inbox", "check", "--help", env={"COLUMNS": "200"}).stdout
    assert "://" not in kind.example or kind.example in shown
    place = {"redis": "redis://127.0.0.1:9", "sql": f"sqlite+aiosqlite:///{tmp_path}/sql.db"}.get(kind.extra or "")
    async with AsyncExitStack() as stack:
        opened = kind.open(stack, place or str(tmp_path / "inbox.db"), make=True)
        assert type(opened).__name__ == kind.name
    if kind.extra != "redis":  # which has nothing of its own to end
        with pytest.raises(InboxError, match="closed"):
            await opened.known(["k"])


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("sqlite+aiosqlite:///FOLDER/sql.db?service=mailer", "sqlite+aiosqlite:///FOLDER/sql.db?service=mailer"),
        ("sqlite+aiosqlite:///FOLDER/sql.db?timeout=3&service=mailer", "sqlite+aiosqlite:///FOLDER/sql.db?…"),
    ],
)
async def test_a_place_in_a_database_names_the_service_which_is_shown(place: str, shown: str, tmp_path: Path) -> None:
    place, shown = (each.replace("FOLDER", str(tmp_path)) for each in (place, shown))
    async with opened(place) as mailer, opened(place.partition("?")[0]) as other:
        assert await mailer.complete("k", "a")
        assert (await mailer.known(["k"]), await other.known(["k"])) == ({"k"}, set())
        assert "of mailer" in repr(mailer)
    assert show_place(place) == shown
