"""What does an event cost a service on FastAPI and PostgreSQL that handles each event once, and what its database?

16 senders send signed deliveries. The handler writes a row. The services are those of ``_service``. The time of an
event is the processor's, of the service alone, and of PostgreSQL alone; it ends when its row is written, also if that
happens after the response. The database does not sync to the disk, because the disk's time would hide the difference.

The same is done in one process, without a server: the deliveries are handed to the receiver.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
from orjson import loads
from sqlalchemy.ext.asyncio import async_sessionmaker
from standardwebhooks import Webhook

from basiq_async.receiver import WebhookReceiver, sign
from benchmarks import _service
from benchmarks._harness import Figure, best_slices, children_time, figure, microseconds, processor_time, ratios
from benchmarks._receiver_load import SECRET, load, request, server
from tests.support.servers import PostgresServer, postgres_server

_SENDERS = 16
_LATER = {"dbos": 50, "procrastinate": 100}
"""The services that handle events after the response, and how many deliveries they get in a slice."""
_PEERS = {
    "sqlalchemy": "SQLAlchemy by hand",
    "asyncpg": "asyncpg by hand",
    "procrastinate": "procrastinate",
    "dbos": "DBOS",
}
_JOB = "an event in FastAPI and PostgreSQL, handled once"
_ALONE = "an event in PostgreSQL, handled once, without a server"


class Database:
    """The server of PostgreSQL, and how many rows the services have written."""

    def __init__(self, server: PostgresServer) -> None:
        self._connection = psycopg.connect(server.plain_url, autocommit=True)
        assert server._process is not None
        self._pid = server._process.pid

    def effects(self) -> int:
        found = self._connection.execute("SELECT count(*) FROM effects").fetchone()
        assert found is not None
        return int(found[0])

    def processor_time(self) -> float:
        """Return that of the server, without what the questions of this object cost."""
        return children_time(self._pid) - processor_time(self._connection.info.backend_pid)


async def _deliver(pid: int, port: int, database: Database, spent: list[float], count: int) -> float:
    """Send deliveries, and wait for their effects. Return the service's processor time for an event, in seconds.

    ``spent`` gets that of the database.
    """
    requests = [request(uuid.uuid4().hex) for _ in range(count)]
    wanted = database.effects() + count
    before, before_database = processor_time(pid), database.processor_time()
    _, statuses, _ = await load(port, requests, _SENDERS)
    assert statuses == [204] * count, set(statuses)
    until = time.monotonic() + 60
    while database.effects() < wanted:
        assert time.monotonic() < until, "an effect is missing"
        await asyncio.sleep(0.05)
    spent.append((database.processor_time() - before_database) / count)
    return (processor_time(pid) - before) / count


async def with_servers(runs: int = 5, slices: int = 4, requests: int = 200) -> list[Figure]:
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        engine = _service.engine_of(postgres.url())
        async with engine.begin() as connection:
            await connection.run_sync(_service.METADATA.create_all)
        await engine.dispose()
        database = Database(postgres)
        services = {
            way: stack.enter_context(server(way, "--at", postgres.url(), program="_service.py"))
            for way in ("ours", "ours-by-connection", "ours-mounted", *_PEERS)
        }
        spent: dict[str, list[float]] = {way: [] for way in services}
        contestants = {
            way: partial(_deliver, process.pid, port, database, spent[way], _LATER.get(way, requests))
            for way, (process, port) in services.items()
        }
        for each in contestants.values():  # connections are opened
            await each()
        found = await best_slices(contestants, runs=runs, slices=slices, clock=None)
    ours = found["ours"]
    marks = {"sqlalchemy": "<= 1.1"}
    figures = [
        figure(_JOB, peer, ratios(ours, found[way]), marks.get(way, ""), ours=microseconds(ours))
        for way, peer in _PEERS.items()
    ]
    by_hand = found["sqlalchemy"]
    for way, how in (("ours-by-connection", "with a connection"), ("ours-mounted", "with receiver.asgi")):
        times = found[way]
        figures.append(figure(f"{_JOB}, {how}", _PEERS["sqlalchemy"], ratios(times, by_hand), ours=microseconds(times)))
    times = [min(spent["ours"][-slices * number :][:slices]) for number in range(runs, 0, -1)]
    beside = [min(spent["sqlalchemy"][-slices * number :][:slices]) for number in range(runs, 0, -1)]
    job = "PostgreSQL's share of that event"
    return [*figures, figure(job, _PEERS["sqlalchemy"], ratios(times, beside), "<= 1.2", ours=microseconds(times))]


Handle = Callable[[dict[str, str], bytes], Awaitable[object]]


async def _events(handle: Handle, count: int) -> None:
    """Handle so many new events, 16 at once."""

    async def some() -> None:
        for _ in range(count // _SENDERS):
            body = json.dumps({"eventTypeId": "user.created", "eventId": str(uuid.uuid4()), "links": {}}).encode()
            await handle(sign(SECRET, f"msg_{uuid.uuid4()}", datetime.now(UTC), body), body)

    async with asyncio.TaskGroup() as group:
        for _ in range(_SENDERS):
            group.create_task(some())


def _receiving(receiver: WebhookReceiver) -> Handle:
    async def handle(headers: dict[str, str], body: bytes) -> None:
        outcome = await receiver.handle(headers, body)
        assert outcome.status == 204, outcome

    return handle


def _by_hand(handle_once: Callable[[dict[str, Any]], Awaitable[bool]]) -> Handle:
    verifier = Webhook(SECRET)

    async def handle(headers: dict[str, str], body: bytes) -> None:
        verifier.verify(body, headers, json_parse=False)
        assert await handle_once(loads(body))

    return handle


async def alone(runs: int = 5, slices: int = 6, events: int = 160) -> list[Figure]:
    with postgres_server() as postgres:
        engine = _service.engine_of(postgres.url())
        async with engine.begin() as connection:
            await connection.run_sync(_service.METADATA.create_all)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        ways: dict[str, Handle] = {
            "session": _receiving(_service.receiver_of(SECRET, engine)),
            "connection": _receiving(_service.receiver_of(SECRET, engine, _service.write_by_connection)),
            "session by hand": _by_hand(partial(_service.handle_by_session, sessions)),
            "connection by hand": _by_hand(partial(_service.handle_by_connection, engine)),
        }
        contestants = {name: partial(_events, way, events) for name, way in ways.items()}
        found = await best_slices(contestants, runs=runs, slices=slices)
        await engine.dispose()
    marks = {"session": "<= 1.15", "connection": "<= 1.45"}
    return [
        figure(
            f"{_ALONE}, with a {how}",
            f"a {how} by hand",
            ratios(found[how], found[f"{how} by hand"]),
            mark,
            ours=microseconds(found[how], events),
        )
        for how, mark in marks.items()
    ]


async def measure(runs: int = 5) -> list[Figure]:
    return [*await with_servers(min(runs, 3)), *await alone(runs)]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
