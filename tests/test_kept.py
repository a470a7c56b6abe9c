"""Whatever is kept has an end: ``kept.txt`` names each kind, who writes it, and the tests that say when it goes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from basiq_async._work.deaths import NOTE, Deaths
from basiq_async._work.inbox_calls import InboxCalls
from basiq_async._work.noted import HANDLED, JOBS
from basiq_async.cli._problems import note_target  # private: what it notes is listed here
from basiq_async.receiver import MemoryInbox, inbox_metadata
from basiq_async.receiver.inboxes import _redis_calls  # private: what it keeps is listed here
from basiq_async.replay._memory import Memory, note_name  # private: what it notes is listed here
from basiq_async.services.coverage import Coverage, Inactivity, coverage_note, note_coverage
from tests.support.environment import ROOT

PACKAGE = ROOT / "basiq_async"
WRITERS = {
    *("set_note", "_set_note", "replace_private", "open_private", "lock_file", "TemporaryDirectory", "mkstemp"),
    *("NamedTemporaryFile", "mkdtemp", "write_text", "write_bytes", "touch"),
}
PASSING_ON = {"_work/inbox_calls.py::set_note"}
"""It writes nothing itself."""
LONGEST = 65_536
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@attrs.frozen
class Kind:
    """A paragraph of ``kept.txt``."""

    name: str
    writers: set[str]
    tables: set[str]
    keys: set[str]
    tests: list[str]


def read_kinds() -> Iterator[Kind]:
    text = (ROOT / "tests" / "kept.txt").read_text().partition("\n\n")[2]
    for name, lines in re.findall(r"^(\S.*)\n((?:    .*\n?)+)", text, re.MULTILINE):
        by, *tests = map(str.strip, lines.splitlines())
        words = by.removeprefix("by ").split()
        named: dict[str, set[str]] = {"writers": set(), "tables": set(), "keys": set()}
        kind = "writers"
        for word in words:
            if word in named:
                kind = word
            else:
                named[kind].add(word)
        yield Kind(name, **named, tests=tests)


KINDS = list(read_kinds())


def find_writers() -> Iterator[str]:
    """Yield each function of the package that writes a note or a file."""

    def look(node: ast.AST, place: str, name: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else name
            if isinstance(child, ast.Call):
                called = child.func.attr if isinstance(child.func, ast.Attribute) else getattr(child.func, "id", "")
                if called in WRITERS:
                    yield f"{place}::{name}"
            yield from look(child, place, inner)

    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        if not place.startswith("testing/conformance/"):  # they write into inboxes of a test
            yield from look(ast.parse(file.read_text()), place, "")


def test_each_function_that_writes_a_note_or_a_file_is_listed_with_what_it_keeps() -> None:
    assert {each for kind in KINDS for each in kind.writers} == {*find_writers()} - PASSING_ON


def test_each_table_and_each_key_is_listed_with_what_it_keeps() -> None:
    tables = {*inbox_metadata().tables}
    for file in (PACKAGE / "receiver" / "inboxes").glob("*.sql"):
        tables |= {*re.findall(r"^CREATE TABLE (\w+)", file.read_text(), re.MULTILINE)}
    assert {each for kind in KINDS for each in kind.tables} == tables
    calls = _redis_calls.RedisCalls
    keys = {each.rpartition("}:")[2].partition(":")[0] for each in calls.keys(FakeCalls(), "k")}  # type: ignore[arg-type]
    sources = "".join(file.read_text() for file in (PACKAGE / "receiver" / "inboxes").glob("_redis*.py"))
    keys |= {*re.findall(r'\.at\("(\w+)"\)', sources)}
    assert {each for kind in KINDS for each in kind.keys} >= keys - {"check", "began"}, "a check's goes in a second"


class FakeCalls:
    """Names keys as ``RedisCalls`` does."""

    def at(self, name: str) -> str:
        return f"{{p}}:{name}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.partition(":")[0])
def test_the_tests_that_say_when_a_kind_goes_are_there(kind: Kind) -> None:
    assert kind.tests
    assert ": " in kind.name, "its end"
    for test in kind.tests:
        file, _, name = test.partition("::")
        assert test.startswith("none: ") or f"def {name}(" in (ROOT / "tests" / file).read_text(), test


# --- notes that are one text ---


async def note_jobs(inbox: MemoryInbox, count: int) -> None:
    for number in range(count):
        await InboxCalls(inbox, 5.0).note_job(f"post:{number:016x}")


async def note_types(inbox: MemoryInbox, count: int) -> None:
    for number in range(count):
        await InboxCalls(inbox, 5.0).note_handled_types([f"connection.invalidated.{number:06}", "*"])


async def note_processes(inbox: MemoryInbox, count: int) -> None:
    for _ in range(count // 2):
        await Deaths(InboxCalls(inbox, 5.0)).begin(job=True)


async def note_targets(inbox: MemoryInbox, count: int) -> None:
    for number in range(count // 5):
        await note_target(inbox, f"https://service.example/{number:09}/{'path' * 300}", None)


async def note_coverages(inbox: MemoryInbox, count: int) -> None:
    lost = [Inactivity(NOW + number * timedelta(days=1), NOW + number * timedelta(days=1.5)) for number in range(count)]
    coverage = Coverage(read_up_to=NOW, lost=tuple(lost))
    await note_coverage(InboxCalls(inbox, 5.0), "w", coverage, None, lambda: NOW)
    read = Coverage.read(await inbox.note(coverage_note("w"))).lost
    assert read[0].since == NOW
    assert read[-1] == lost[-1], "all of it is named, some as one period"


async def note_memories(inbox: MemoryInbox, count: int) -> None:
    async def set_note(text: str) -> None:
        await inbox.set_note(note_name("w"), text)

    for kind in ("recovery", "messages", "events"):
        memory = Memory(set_note, kind, {}, None, None, None, None)  # type: ignore[arg-type]
        payloads = [{"payload": {"eventTypeId": f"connection.invalidated.{number:06}"}} for number in range(count)]
        memory.see([*payloads, *({"entity": "connection", "eventType": f"x.{number}"} for number in range(count))], [])
        await memory.note(None, NOW)


FILLS: dict[str, tuple[str, Callable[[MemoryInbox, int], Awaitable[None]]]] = {
    "posting jobs": (JOBS, note_jobs),
    "handled types": (HANDLED, note_types),
    "processes": (NOTE, note_processes),
    "posting targets": ("posting targets", note_targets),
    "coverage": (coverage_note("w"), note_coverages),
    "memory": (note_name("w"), note_memories),
}


@pytest.mark.parametrize("what", FILLS)
async def test_a_note_is_bounded_however_much_was_noted(what: str) -> None:
    name, fill = FILLS[what]
    sizes = []
    for count in (550, 650):
        inbox = MemoryInbox()
        await fill(inbox, count)
        sizes.append(len(inbox._notes[name]))
        assert len(json.loads(inbox._notes[name])) > 0
    assert sizes[1] <= sizes[0] + 256
    assert sizes[1] <= LONGEST, "what any inbox can store"
