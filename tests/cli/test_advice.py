"""Each line that is offered is run with events in place: none is lost, none is handled again unless the text says so.

The service has handled events, events that wait, and events in its quarantine; Basiq has some that it missed.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import text

import basiq_async
from basiq_async import InboxError
from tests.support.environment import ROOT

from ..support.command_line import commands
from ..support.databases import engine_of
from ..support.databases import run as run_statements
from .conftest import TYPE, CommandResult, World, launched, wait_until
from .offered import OFFERED, Offered

DAYS_AGO = 0
LATER = "user.created"
_SERVICE = """\
import os
from contextlib import AsyncExitStack, asynccontextmanager
from basiq_async.receiver import SecretFile, SQLInbox, SQLiteInbox, WebhookReceiver

@asynccontextmanager
async def receiver():
    async with AsyncExitStack() as stack:
        if '://' in {place!r}:
            from sqlalchemy.ext.asyncio import create_async_engine
            engine = create_async_engine({place!r})
            stack.push_async_callback(engine.dispose)
            inbox = await stack.enter_async_context(SQLInbox(engine))
        else:
            inbox = await stack.enter_async_context(SQLiteInbox({place!r}))
        made = WebhookReceiver(SecretFile('the secret'), webhook_id={webhook_id!r}, inbox=inbox, quarantine_after=1)
        async def handle(delivery):
            if os.path.exists('broken'): raise ValueError('broken')
            with open('handled', 'a') as file: file.write(delivery.event_id + chr(10))
        made.on({type!r})(handle)
        made.on({later!r}, deferred=True)(handle)
        yield made
"""


@attrs.frozen
class Data:
    """A service with events in place, the names that stand in the lines, and the ids of all of its events."""

    world: World
    names: Mapping[str, str]
    events: frozenset[str]

    def run(self, offered: Offered) -> CommandResult:
        """Run a line; one that does not end by itself until nothing waits."""
        words = offered.words(**self.names)
        if words[0] != "work":
            return self.world.run(*words)
        with launched(*words) as process:
            wait_until(lambda: self.world.run("inbox", "waiting", "--inbox", self.names["INBOX"]).exit_code == 0)
            process.terminate()
            out, err = process.communicate()
        return CommandResult(process.returncode, out, err)

    def end(self) -> Counter[str]:
        """Let the service do what is left to do, and return how often each event was handled."""
        module = importlib.import_module(self.names["RECEIVER"].partition(":")[0])

        async def finish() -> None:
            async with module.receiver() as receiver:
                await receiver.retry_quarantined()
                await receiver.work(until_empty=True)

        recovered = self.world.run("recover", self.names["WEBHOOK_ID"], "--receiver", self.names["RECEIVER"])
        asyncio.run(finish())
        assert recovered.exit_code in (0, 1), recovered.output
        again = self.world.run("recover", self.names["WEBHOOK_ID"], "--receiver", self.names["RECEIVER"])
        assert again.exit_code == 0, again.output
        return Counter(Path("handled").read_text().split())


@pytest.fixture(params=["sqlite", "postgresql"])
def data(world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Data:
    w, webhook_id, place = world, world.webhook(TYPE, LATER), "inbox.db"
    if request.param == "postgresql":
        place = request.getfixturevalue("database")
    name = f"a_service_{time.time_ns()}"
    values = {"place": place, "webhook_id": webhook_id, "type": TYPE, "later": LATER}
    Path(f"{name}.py").write_text(_SERVICE.format(**values))
    monkeypatch.syspath_prepend(str(Path().absolute()))
    module: Any = importlib.import_module(name)

    def service(headers: Mapping[str, str], body: bytes) -> int:
        async def handle() -> Any:
            async with module.receiver() as receiver:
                return await receiver.handle(headers, body)

        outcome = asyncio.run(handle())
        w.endpoint.result = outcome.headers.get("basiq-async-result", "")
        return int(outcome.status)

    async def live() -> None:
        """All that happened before, in one process."""
        async with module.receiver() as receiver:
            w.fake.route(w.endpoint.url, receiver)
            for kind in (TYPE, TYPE, TYPE, LATER, LATER):
                await w.fake.emit(kind)
            Path("broken").touch()
            for _ in range(2):
                await w.fake.emit(TYPE)
            Path("broken").unlink()
            w.fake.endpoint_down(w.endpoint.url)
            for _ in range(2):
                await w.fake.emit(TYPE)
            await w.fake.advance(minutes=3)
            w.fake.endpoint_up(w.endpoint.url)
        w.fake._deliveries.routes.clear()  # private: from now on it is posted to

    w.served.run(live())
    w.endpoint.service = service
    rows = w.run("messages", "list", webhook_id).rows
    (quarantined, *_) = w.run("quarantine", "list", "--inbox", place).rows
    names = {
        "WEBHOOK_ID": webhook_id,
        "RECEIVER": f"{name}:receiver",
        "INBOX": place,
        "URL": w.endpoint.url,
        "SECRET_FILE": "the secret",
        "EVENT_ID": quarantined["event_id"],
        "MESSAGE_ID": rows[0]["id"],
    }
    return Data(w, names, frozenset(each["event_id"] for each in rows))


def test_the_data_is_in_place(data: Data) -> None:
    at = ("--inbox", data.names["INBOX"])
    assert len(data.events) == 9
    assert len(data.world.run("inbox", "waiting", *at).rows) == len(data.world.run("quarantine", "list", *at).rows) == 2
    assert len(Path("handled").read_text().split()) == 3
    assert data.end() == Counter(data.events)


@pytest.mark.parametrize("name", OFFERED)
def test_a_line_that_is_offered_loses_nothing_and_repeats_nothing(name: str, data: Data) -> None:
    offered = OFFERED[name]
    done = data.run(offered)
    assert done.exit_code in (0, 1), (offered, done.output)
    counts = data.end()
    assert counts.keys() == data.events, "lost"
    again = {event: count for event, count in counts.items() if count > 1}
    assert (again == {}) is (offered.again is None), (offered, again)
    if offered.again is not None:
        command = offered.line.split()[0]
        assert offered.again in " ".join(data.world.run(command, "--help").output.replace("│", " ").split())


def test_the_lines_of_doctor_with_events_in_place_lose_nothing_and_repeat_nothing(data: Data) -> None:
    """Pasted one after the other, as a person does who reads them from the top."""
    at = ("--receiver", data.names["RECEIVER"])
    looked = data.world.run("webhooks", "doctor", data.names["WEBHOOK_ID"], *at)
    lines = [each["command"] for each in looked.row["problems"]]
    assert len(lines) > 1, looked.output
    for line in lines:
        words = line.split()[1:]
        words = words[2:] if words[0] == "--base-url" else words
        assert data.run(Offered(" ".join(words))).exit_code in (0, 1), line
    assert data.end() == Counter(data.events)


def test_what_waits_and_names_a_user_is_forgotten_once_the_lines_of_the_error_were_run(data: Data) -> None:
    module = importlib.import_module(data.names["RECEIVER"].partition(":")[0])

    async def user() -> str:
        async with module.receiver() as receiver:
            (entry, *_) = await receiver.inbox.entries(waiting=True)
            (found,) = {*re.findall(rb"/users/([^/\"]+)", entry.body)}
            return found.decode()

    async def forget(user_id: str) -> int:
        async with module.receiver() as receiver:
            return await receiver.forget(user_id)

    named = asyncio.run(user())
    with pytest.raises(InboxError, match="wait to be handled") as refused:
        asyncio.run(forget(named))
    first, then = re.findall("`basiq-async ([^`]+)`", str(refused.value))
    assert data.run(Offered(first)).exit_code == 0
    assert data.run(Offered(then)).rows == []
    assert asyncio.run(forget(named)) == 0


# --- the example for production ---

_BREAKS = (
    "CREATE TABLE broken (n int)",
    "CREATE FUNCTION fail() RETURNS trigger AS $$ BEGIN IF EXISTS (SELECT 1 FROM broken) THEN RAISE 'broken'; END IF; "
    "RETURN NEW; END $$ LANGUAGE plpgsql",
    "CREATE TRIGGER fails BEFORE INSERT ON change FOR EACH ROW EXECUTE FUNCTION fail()",
)
"""The effects of the example fail while the table ``broken`` has a row."""
_OF_PRODUCTION = [
    name for name, each in OFFERED.items() if "RECEIVER" in each.line and not each.line.startswith("work")
]


@attrs.frozen
class Production:
    """The service of ``examples/service_parts.py``, with events that it handled, quarantined and missed."""

    world: World
    database: str
    webhook_id: str

    def sql(self, *statements: str) -> Any:
        async def execute() -> Any:
            async with engine_of(self.database) as engine:
                await run_statements(engine, *statements[:-1])
                async with engine.begin() as connection:
                    found = await connection.execute(text(statements[-1]))
                    return [each[0] for each in found] if found.returns_rows else []

        return asyncio.run(execute())

    def run(self, line: str) -> CommandResult:
        names = {"WEBHOOK_ID": self.webhook_id, "RECEIVER": "service_parts:receiver", "INBOX": self.database}
        done = self.world.run(*Offered(line).words(**names))
        assert done.exit_code in (0, 1), (line, done.output)
        return done


@pytest.fixture
def production(world: World, database: str, monkeypatch: pytest.MonkeyPatch) -> Production:
    w, webhook_id = world, world.webhook(TYPE)
    w.call(lambda basiq: basiq.webhooks.update(webhook_id, url=w.endpoint.url, name="changes"))
    w.pass_time(minutes=16)
    w.endpoint.secret = w.fake.secret(webhook_id)
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    module: Any = importlib.import_module("service_parts")
    made = Production(w, database, webhook_id)

    async def begin() -> None:
        async with module.opened() as (_, inbox), module.make_receiver(webhook_id, w.endpoint.secret, inbox):
            ...

    def service(headers: Mapping[str, str], body: bytes) -> int:
        async def handle() -> Any:
            async with module.opened() as (_, inbox):
                return await module.make_receiver(webhook_id, w.endpoint.secret, inbox).handle(headers, body)

        return int(asyncio.run(handle()).status)

    asyncio.run(begin())
    w.endpoint.service = service
    w.emit(3)
    made.sql(*_BREAKS, "INSERT INTO broken VALUES (1)")
    w.emit(2)
    w.pass_time(hours=8)  # five attempts
    made.sql("DELETE FROM broken")
    w.fake.endpoint_down(w.endpoint.url)
    w.emit(2)
    w.pass_time(minutes=3)
    w.fake.endpoint_up(w.endpoint.url)
    return made


def test_the_lines_lose_and_repeat_nothing_of_the_example_for_production(production: Production) -> None:
    """One after the other, on one database: whatever each leaves, the next begins with."""
    p = production
    assert len(p.run("quarantine list --receiver RECEIVER").rows) == 2
    assert len(p.sql("SELECT event_id FROM change")) == 3
    events = [row["event_id"] for row in p.world.run("messages", "list", p.webhook_id).rows]
    for name in _OF_PRODUCTION:
        if OFFERED[name].again is None:
            p.run(OFFERED[name].line)
    assert Counter(p.sql("SELECT event_id FROM change")) == Counter(events)
    p.run("replay WEBHOOK_ID --receiver RECEIVER --again bug-1234 --since 2d")
    assert Counter(p.sql("SELECT event_id FROM change")) == Counter(events * 2)


# --- the lines of pages and errors are in the table ---

_LINE = re.compile(r"basiq-async ((?:--\S+ \S+ )?[a-z][^`'\"\n|#;>]*)")
_RUNNABLE = [" ".join(path) for path, each in commands() if not hasattr(each, "commands")]
_LOCAL = ("mock", "demo", "listen", "trigger", "sign", "verify", "completion", "login", "logout", "profiles")
"""Commands that touch no service's events."""


def _command_of(line: str) -> str | None:
    found = [each for each in _RUNNABLE if line == each or line.startswith(f"{each} ")]
    return max(found, key=len, default=None)


def _offered_lines() -> Iterator[tuple[str, str]]:
    pages = [*(ROOT / "docs" / "howto").glob("*.md"), ROOT / "docs" / "troubleshooting.md", ROOT / "docs" / "cli.md"]
    sources = [each for each in Path(basiq_async.__file__).parent.rglob("*.py") if "testing" not in each.parts]
    for file in [*pages, *sources]:
        for line in _LINE.findall(file.read_text(encoding="utf-8")):
            if (name := _command_of(line.strip())) is not None and not name.startswith(_LOCAL):
                yield name, f"{file.name}: {line}"


def test_each_command_that_a_page_or_an_error_offers_has_a_line_in_the_table() -> None:
    known = {_command_of(each.line) for each in OFFERED.values()}
    found = dict(_offered_lines())
    assert len(found) > 10
    assert {name: line for name, line in found.items() if name not in known} == {}
