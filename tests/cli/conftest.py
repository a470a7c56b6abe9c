"""The command line is run as a user does: a process of its own loop, the fake behind real HTTP in another thread."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shlex
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, InMemoryTransport, RetryPolicy
from basiq_async.cli._results import Output, Row, View  # private: what is shown is compared with what was announced
from basiq_async.receiver import SQLiteInbox, WebhookReceiver, verify
from basiq_async.testing import FakeBasiq, ManualClock

from ..support import deliveries, programs, wire
from ..support.command_line import PROGRAM, CommandResult, run_command
from ..support.databases import engine_of, new_table
from ..support.databases import run as run_statements
from ..support.deliveries import payload, signed
from ..support.programs import Program
from ..support.real_time import PATIENCE
from ..support.served import Handler, Served, answering
from ..support.servers import PostgresServer, redis_server

if sys.platform != "win32":
    from ..support.terminal import Terminal as Terminal
on_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

Run = Callable[..., CommandResult]


def help_lines(printed: str) -> list[list[str]]:
    """The lines that help, as the words after the name of the program."""
    return [shlex.split(line)[1:] for line in printed.splitlines() if line.startswith("  basiq-async ")]


TYPE = "consent.revoked"
_ROW = Output._row
_NUMBERS = itertools.count()
SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1yZXBsYXk="


class Endpoint:
    """A server in a thread, which keeps what it is posted and answers as a test says."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.bodies: list[bytes] = []
        self.status = 204
        self.secret = SECRET
        self.on_post: Callable[[], object] = lambda: None
        """Called with each request."""
        self.service: Callable[[Mapping[str, str], bytes], int] | None = None
        """Answers in place of ``status``."""
        self.result = ""
        """What a receiver says by its header that it has made of a delivery."""
        self.release = threading.Event()
        self.release.set()
        self.asked = threading.Event()
        self.url = ""
        self._stack = ExitStack()

    def __enter__(self) -> Endpoint:
        outer = self

        class Posted(Handler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked.set()
                outer.on_post()
                outer.release.wait(PATIENCE)
                headers = dict(self.headers.items())
                verify(outer.secret, headers=headers, body=body)
                outer.ids.append(self.headers["webhook-id"])
                outer.bodies.append(body)
                status = outer.status if outer.service is None else outer.service(headers, body)
                self.respond(status, **({"basiq_async_result": outer.result} if outer.result else {}))

        self.url = f"{self._stack.enter_context(answering(Posted))}/basiq"
        return self

    def __exit__(self, *args: object) -> None:
        self.release.set()
        self._stack.close()


def install(folder: Path) -> str:
    """Put the program into a folder. Return a path for shells that find it there."""
    folder.mkdir()
    (folder / "basiq-async").write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    (folder / "basiq-async").chmod(0o700)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@asynccontextmanager
async def started(*words: str, program: Sequence[str] = PROGRAM, **more: Any) -> AsyncIterator[Program]:
    """Start ``basiq-async`` with these arguments. It is killed at the end, or if the test hangs."""
    async with asyncio.timeout(PATIENCE), programs.started(*program, *words, **more) as running:
        yield running


@contextmanager
def launched(*words: str, program: Sequence[str] = PROGRAM, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Start ``basiq-async``, for a test that has no loop. It is killed at the end, or if the test hangs."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*program, *words], **pipes | more) as process:
        limit = threading.Timer(PATIENCE, process.kill)
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            process.kill()


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until something is true of a program that runs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@asynccontextmanager
async def hanging() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A service that does not respond: its URL, and whether a request has reached it."""
    reached = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        with suppress(ConnectionError):
            await reader.read()  # until the other side is gone

    async with wire.listening(hang) as port:
        yield f"http://127.0.0.1:{port}/hook", reached


@asynccontextmanager
async def listening(*options: str, **more: Any) -> AsyncIterator[Program]:
    """``listen`` at a free port, when it can be called."""
    env = {**os.environ, "BASIQ_WEBHOOK_SECRET": deliveries.SECRET}
    async with started("listen", "--port", "0", *options, env=env, **more) as program:
        ready = await program.hear()
        program.url = json.loads(ready)["url"] if ready.startswith("{") else ready.split()[-1]
        program.shown = ""
        yield program


def write_service(
    webhook_id: str | Sequence[str] | None,
    *on: str,
    more: str = "",
    handle: str = "...",
    secret: str = SECRET,
    inbox: bool = True,
) -> str:
    """Write the module of a service that does this with a delivery, and return the place of its receiver."""
    name = f"a_service_{next(_NUMBERS)}"
    named = f", webhook_id={webhook_id!r}, inbox=SQLiteInbox('inbox.db')" if inbox else ""
    Path(f"{name}.py").write_text(
        "import asyncio, os\n"
        "from basiq_async.receiver import SecretFile, SQLiteInbox, WebhookReceiver\n"
        "def receiver():\n"
        f"    made = WebhookReceiver({secret if '(' in secret else repr(secret)}{named}{more})\n"
        f"    @made.on({', '.join(map(repr, on or ('*',)))})\n"
        f"    async def handle(delivery):\n{textwrap.indent(handle, ' ' * 8)}\n"
        "    return made\n"
    )
    return f"{name}:receiver"


_HANDLE = """\
await asyncio.sleep(0.01)
if os.path.exists('broken'): raise ValueError('broken')
with open('handled', 'a') as file: file.write(delivery.event_id + '\\n')"""


def make_inbox(webhook_id: str | Sequence[str] | None = None) -> None:
    """Make the inbox ``inbox.db`` of a service."""

    async def make() -> None:
        async with SQLiteInbox("inbox.db") as inbox:
            if webhook_id is not None:
                async with WebhookReceiver(SECRET, webhook_id=webhook_id, inbox=inbox):
                    pass

    asyncio.run(make())


async def store(webhook_id: str, secret: str, *given: tuple[Mapping[str, str], bytes]) -> None:
    """Let a service store deliveries in the inbox ``inbox.db``, which it does not handle."""
    async with SQLiteInbox("inbox.db") as inbox:
        receiver = deliveries.taking(secret, webhook_id=webhook_id, inbox=inbox, deferred=True)
        for headers, body in given:
            done = await receiver.handle(headers, body)
            assert done.status in (200, 202), done


def receive(webhook_id: str, *event_ids: str, bad: Collection[str] = (), **options: Any) -> None:
    """Have a service with the inbox ``inbox.db`` receive events. Its handler fails for the ``bad`` ones."""

    async def received() -> None:
        async with SQLiteInbox("inbox.db") as inbox:
            service = deliveries.Service(inbox=inbox, webhook_id=webhook_id, **options)
            for event_id in event_ids:
                service.broken = event_id in bad
                await service.post(payload(TYPE, event_id), message_id=f"m-{event_id}")

    asyncio.run(received())


def let_wait(webhook_id: str, *event_ids: str) -> None:
    """Let deferred deliveries wait in the inbox for ten minutes."""
    bodies = {event_id: payload(TYPE, event_id) for event_id in event_ids}
    each = [(signed(body, secret=SECRET, message_id=f"m-{event_id}"), body) for event_id, body in bodies.items()]
    asyncio.run(store(webhook_id, SECRET, *each))
    with closing(sqlite3.connect("inbox.db")) as database, database:
        database.execute("UPDATE inbox SET stored = stored - 600")


def state_of(run: Run, event_id: str, *more: str, inbox: str = "inbox.db") -> dict[str, Any]:
    """What an inbox knows of an event."""
    done = run("inbox", "get", event_id, "--inbox", inbox, "--webhook", "w1", *more)
    found: dict[str, Any] = done.row
    assert done.exit_code == (0 if found["state"] == "handled" else 1), done.output
    return found


async def ran(*words: str, **variables: str) -> tuple[int | None, str, str]:
    """Run a command in a process of its own: its exit code and its two outputs."""
    async with started(*words, env=variables) as program:
        out, err = await program.process.communicate()
        return program.process.returncode, out.decode(), err.decode()


@attrs.frozen
class World:
    """A Basiq, an endpoint whose secret is in the file ``the secret``, and a folder with a service and its inbox."""

    run: Run
    served: Served
    endpoint: Endpoint

    @property
    def fake(self) -> FakeBasiq:
        return self.served.fake

    def webhook(self, *types: str, active: bool = True) -> str:
        found = self.fake.add_webhook(self.endpoint.url, types or (TYPE,), active=active)
        self.endpoint.secret = self.fake.secret(found)
        Path("the secret").write_text(self.endpoint.secret)
        return found

    def emit(self, count: int, event_type: str = TYPE) -> None:
        async def emitted() -> None:
            for _ in range(count):
                await self.fake.emit(event_type)

        self.served.run(emitted())

    def pass_time(self, **more: float) -> None:
        self.served.run(self.fake.advance(**more))

    def outage(self, missed: int = 2, later: int = 0) -> None:
        """The endpoint is down while events happen; ``later`` of them after the webhook was disabled."""
        self.fake.endpoint_down(self.endpoint.url)
        self.emit(missed)
        self.pass_time(minutes=10)
        if later:
            self.pass_time(hours=30)
            self.emit(later)
            self.pass_time(minutes=10)
        self.fake.endpoint_up(self.endpoint.url)

    def call(self, ask: Callable[[BasiqClient], Any]) -> None:
        async def called() -> None:
            async with BasiqClient(self.fake.api_key, transport=InMemoryTransport(self.fake)) as basiq:
                await ask(basiq)

        self.served.run(called())

    def service(self, webhook_id: str | Sequence[str], *on: str, more: str = "", secret: str = SECRET) -> str:
        """Write and start a service with an inbox; its handler raises while the file ``broken`` exists."""

        make_inbox(webhook_id)
        return write_service(webhook_id, *on, more=more, handle=_HANDLE, secret=secret)

    def handled(self) -> int:
        """The number of events that the service has handled, each once."""
        events = Path("handled").read_text().split() if Path("handled").exists() else []
        assert len(set(events)) == len(events)
        return len(events)

    def posted(self) -> int:
        """The number of messages that the endpoint got, each once."""
        assert len(set(self.endpoint.ids)) == len(self.endpoint.ids)
        return len(self.endpoint.ids)

    def subscribe(self, webhook_id: str, *types: str) -> None:
        """Change the types of a webhook, and wait for its cool-off."""
        self.call(lambda basiq: basiq.webhooks.update(webhook_id, url=self.endpoint.url, subscribed_events=types))
        self.pass_time(minutes=16)

    def codes(self, *doctor: str) -> list[str]:
        """The codes of the problems that doctor names."""
        done = self.run("webhooks", "doctor", *doctor)
        found = [each["code"] for each in done.row["problems"]]
        assert done.exit_code == (1 if found else 0), done.output
        return found

    def help_for(self, problem: str, *doctor: str, code: int = 1) -> list[str]:
        """The words of the line that doctor prints for a problem."""
        done = self.run("webhooks", "doctor", *doctor)
        assert done.exit_code == code, done.output
        (line,) = [each["command"] for each in done.row["problems"] if each["code"] == problem]
        return shlex.split(line)[1:]


@pytest.fixture(autouse=True, scope="session")
def begin_warm(warm_programs: None) -> None: ...


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A fake whose clock begins so many ``DAYS_AGO`` as the module says; the event list has 7 days."""
    days = getattr(request.module, "DAYS_AGO", None)
    clock = None if days is None else ManualClock(datetime.now(UTC) - timedelta(days=days))
    with Served(FakeBasiq() if clock is None else FakeBasiq(clock=clock)) as running:
        yield running


@pytest.fixture
def run(served: Served, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command against the served fake."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    return run_command


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in a folder of its own with the secret of ``Endpoint``, and waits little between attempts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("basiq_async.transports.retry.RetryPolicy", partial(RetryPolicy, base=0.001))
    monkeypatch.setattr("basiq_async.replay._throttle.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("basiq_async.services._secret_keeper._ANOTHER_MAY_STORE", 0.1)
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", SECRET)
    monkeypatch.setattr(Output, "_row", _announced_row)


def _announced_row(output: Output, item: Any, view: View[Any]) -> Row:
    """What a command shows, of which it said each field before it did anything."""
    row = _ROW(output, item, view)
    assert output.raw or not output.known or row.keys() <= {*output.known}, row
    return row


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A service."""
    with Endpoint() as running:
        yield running


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The URL of a PostgreSQL database of its own, without any table."""
    name = new_table()

    async def make() -> None:
        async with engine_of(postgres.url(), isolation_level="AUTOCOMMIT") as engine:
            await run_statements(engine, f"CREATE DATABASE {name}")

    asyncio.run(make())
    return f"{postgres.url().rpartition('/')[0]}/{name}"


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an inbox of each kind is, which is not there yet."""
    if request.param == "redis":
        (tmp_path / "redis").mkdir()
        with redis_server(tmp_path / "redis") as server:
            yield server.url
    else:
        files = {"sqlite": "inbox.db", "sqlite+aiosqlite": f"sqlite+aiosqlite:///{tmp_path}/sql.db"}
        yield files.get(request.param) or request.getfixturevalue("database")


@pytest.fixture
def world(run: Run, endpoint: Endpoint, served: Served) -> World:
    return World(run, served, endpoint)


@pytest.fixture
def webhook_id(world: World) -> str:
    """A webhook with 3 delivered messages, 4 failed ones, and 5 events that happened while it was disabled."""
    found = world.webhook(TYPE, "user.created")
    world.emit(3, "user.created")
    world.outage(4, later=5)
    world.call(lambda basiq: basiq.webhooks.reactivate(found))
    world.endpoint.ids.clear()
    world.endpoint.asked.clear()
    world.endpoint.secret = SECRET
    return found
