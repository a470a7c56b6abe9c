"""What does an event cost that is acknowledged first and handled afterwards, and how long does Basiq wait for it?

16 senders send signed deliveries to services on FastAPI and PostgreSQL: those of ``_service``. Each stores an event
durably, responds, and handles it in the same process, 16 at once: one row of the handler. The time of an event is the
processor's, of the service and of PostgreSQL together, until all is handled and recorded. PostgreSQL does not sync to
the disk, because the disk's time would hide the difference.

The time of the response is measured in two ways: while 64 senders send and handlers take 2 s, and at 50 and at 100
deliveries a second.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from sqlalchemy import create_engine

from benchmarks import _service
from benchmarks._harness import Figure, best_slices, figure, microseconds, processor_time, ratios
from benchmarks._receiver_load import load, load_at, percentile, request, server
from benchmarks.service import Database
from tests.support.servers import PostgresServer, postgres_server

_SENDERS, _MANY_SENDERS = 16, 64
_PEERS = {
    "table": "a table and a loop by hand",
    "procrastinate": "procrastinate",
    "dbos": "DBOS, a transaction of its datasource",
    "dbos-step": "DBOS, a plain step",
}
_MARKS = {"table": "<= 1.0", "procrastinate": "<= 0.6", "dbos": "<= 0.2", "dbos-step": ""}
_FEWER = {"dbos": 50, "dbos-step": 50}
_RATES = (50, 100)
"""Deliveries a second."""
_JOB = "an event in FastAPI and PostgreSQL, acknowledged first and handled afterwards"
_SETTLED = 0.1
"""Seconds within which a service records that it has handled the last event."""
LATENCY = "time of 99 %"
MEDIAN = "median time"


async def deliver(pid: int, port: int, database: Database, count: int) -> float:
    """Send deliveries, and wait until they are handled. Return the processor time of an event, in seconds."""
    requests = [request(uuid.uuid4().hex) for _ in range(count)]
    wanted = database.effects() + count
    before = processor_time(pid) + database.processor_time()
    _, statuses, _ = await load(port, requests, _SENDERS)
    assert set(statuses) <= {202, 204}, set(statuses)
    await _wait_for(database, wanted)
    return (processor_time(pid) + database.processor_time() - before) / count


async def acknowledge(port: int, count: int) -> float:
    """Send deliveries by many senders. Return the time within which 99 % of them had their response, in seconds."""
    _, statuses, latencies = await load(port, [request(uuid.uuid4().hex) for _ in range(count)], _MANY_SENDERS)
    assert set(statuses) == {202}, set(statuses)
    return percentile(latencies, 0.99)


async def acknowledge_at(
    rate: int, ports: dict[str, int], database: Database, runs: int, slices: int, count: int
) -> list[Figure]:
    """Send so many deliveries a second to each service in turn. Compare the times of their responses.

    The services work meanwhile on what they have acknowledged, and have handled it when the next one's turn comes.
    """
    medians: dict[str, list[float]] = {way: [] for way in ports}
    highest: dict[str, list[float]] = {way: [] for way in ports}
    for _ in range(runs):
        found: dict[str, list[float]] = {way: [] for way in ports}
        for number in range(slices):
            for way in list(ports)[:: -1 if number % 2 else 1]:
                wanted = database.effects() + count
                statuses, latencies = await load_at(ports[way], [request(uuid.uuid4().hex) for _ in range(count)], rate)
                assert set(statuses) <= {202, 204}, set(statuses)
                found[way] += latencies
                await _wait_for(database, wanted)
        for way, latencies in found.items():
            medians[way].append(percentile(latencies, 0.5))
            highest[way].append(percentile(latencies, 0.99))
    return [
        figure(
            f"the acknowledgement of an event, {rate} a second",
            _PEERS["procrastinate"],
            ratios(times["ours-deferred"], times["procrastinate"]),
            "<= 1",
            what=what,
            ours=f"{min(times['ours-deferred']) * 1e3:.1f} ms",
        )
        for what, times in ((MEDIAN, medians), (LATENCY, highest))
    ]


async def _wait_for(database: Database, effects: int) -> None:
    until = time.monotonic() + 60
    while database.effects() < effects:
        assert time.monotonic() < until, "an effect is missing"
        await asyncio.sleep(0.02)
    await asyncio.sleep(_SETTLED)


@contextmanager
def _services(*ways: str) -> Iterator[tuple[PostgresServer, dict[str, tuple[int, int]]]]:
    """Run services with a database of their own. Yield it, and the process and port of each."""
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        engine = create_engine(postgres.url("psycopg"))
        _service.METADATA.create_all(engine)
        engine.dispose()
        found = {way: stack.enter_context(server(way, "--at", postgres.url(), program="_service.py")) for way in ways}
        yield postgres, {way: (process.pid, port) for way, (process, port) in found.items()}


async def measure(runs: int = 3, slices: int = 3, events: int = 200) -> list[Figure]:
    with _services("ours-deferred", *_PEERS) as (postgres, services):
        database = Database(postgres)
        contestants = {
            way: partial(deliver, pid, port, database, _FEWER.get(way, events)) for way, (pid, port) in services.items()
        }
        for each in contestants.values():  # connections are opened
            await each()
        found = await best_slices(contestants, runs=runs, slices=slices, clock=None)
        ports = {way: services[way][1] for way in ("ours-deferred", "procrastinate")}
        at_rates = [
            one for rate in _RATES for one in await acknowledge_at(rate, ports, database, runs, slices, 4 * rate)
        ]
    with _services("ours-slow", "table-slow") as (_, services):
        slow = {way: partial(acknowledge, port, 3 * events) for way, (_, port) in services.items()}
        waits = await best_slices(slow, runs=runs, slices=slices, clock=None)
    ours = found["ours-deferred"]
    milliseconds = f"{min(waits['ours-slow']) * 1e3:.0f} ms"
    return [
        *(
            figure(_JOB, peer, ratios(ours, found[way]), _MARKS[way], ours=microseconds(ours))
            for way, peer in _PEERS.items()
        ),
        *at_rates,
        figure(
            "the acknowledgement of an event at 64 senders, while handlers take 2 s",
            _PEERS["table"],
            ratios(waits["ours-slow"], waits["table-slow"]),
            "<= 1.5",
            what=LATENCY,
            ours=milliseconds,
        ),
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
