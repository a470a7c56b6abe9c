"""Jobs with a name and arguments, that the workers of a taskiq broker share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from taskiq import InMemoryBroker

from basiq_async import ConfigurationError
from basiq_async.distributed import Fleet
from basiq_async.replay import Progress, Replay
from tests.support import virtual
from tests.support.histories import History, Recorder, Watching, history

KEY = "a2V5"


class Broker(InMemoryBroker):
    """A broker whose tasks wait for a worker, so that a test can look at them, change them and lose them."""

    def __init__(self) -> None:
        super().__init__(await_inplace=True)
        self.kicked: list[Any] = []

    async def kick(self, message: Any) -> None:
        self.kicked.append(message)

    async def work(self) -> None:
        """Have a worker do the tasks that were kicked."""
        while self.kicked:
            await super().kick(self.kicked.pop(0))


@attrs.define(eq=False)
class Crew:
    """A coordinator and a worker: two processes of one program, each with its broker and fleet."""

    history: History
    inbox: Watching = attrs.field(factory=Watching)
    target: Recorder = attrs.field(factory=Recorder)
    opened: list[Any] = attrs.field(factory=list)
    open_now: int = 0

    def fleet(self, broker: Broker, **options: Any) -> Fleet:
        fleet = Fleet(broker, **{"api_key": KEY, **options})

        @fleet.job("refill")
        @asynccontextmanager
        async def refill(*args: Any) -> AsyncIterator[Replay]:
            self.opened.append(args)
            self.open_now += 1
            try:
                async with asyncio.timeout(100_000):  # is left in the task that entered it
                    yield self.history.replay(self.target, inbox=self.inbox, concurrency=4)
            finally:
                self.open_now -= 1

        return fleet


async def task_of(crew: Crew, *args: Any, **options: Any) -> tuple[Broker, str]:
    """The text of the first task of a job, which nobody has worked on."""
    broker = Broker()
    fleet = crew.fleet(broker, **options)
    running = asyncio.create_task(fleet.run("refill", *args))
    while not broker.kicked:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    message = broker.formatter.loads(broker.kicked[0].message)
    return broker, message.args[0]


@virtual.clocked
async def test_a_job_runs_here_and_in_the_workers_and_its_report_counts_both() -> None:
    async with history(200, page_size=20) as h:
        crew, broker, seen = Crew(h), Broker(), list[Progress]()
        crew.target._behave = lambda _: asyncio.sleep(1)
        coordinator, worker = crew.fleet(broker), Broker()
        crew.fleet(worker)
        running = asyncio.create_task(coordinator.run("refill", h.webhook_id, 7, [None], progress=seen.append))
        while not running.done():
            worker.kicked, broker.kicked = broker.kicked, worker.kicked
            await worker.work()
            await asyncio.sleep(0.1)
        report = await running
        assert (report.handled, report.failed, report.finished) == (200, 0, True)
        assert Counter(crew.target.ids) == Counter(await h.ids())
        assert crew.opened == [(h.webhook_id, 7, [None])] * 2, "a worker opens it once"
        assert seen[-1] is report
        assert crew.open_now == 1
        await worker.shutdown()
        assert crew.open_now == 0


@virtual.clocked
async def test_a_worker_closes_a_job_that_gets_no_pages_any_more() -> None:
    async with history(40, page_size=20) as h:
        crew = Crew(h)
        _, task = await task_of(crew)
        worker = Broker()
        fleet = crew.fleet(worker)
        await fleet._task.kiq(task)
        await worker.work()
        assert crew.open_now == 1
        await asyncio.sleep(30)
        await fleet._task.kiq(task)
        await worker.work()
        await asyncio.sleep(45)
        assert crew.open_now == 1
        await asyncio.sleep(60)
        assert crew.open_now == 0
        await fleet._task.kiq(task)
        await worker.work()
        assert len(crew.opened) == 3
        await worker.shutdown()


async def refused(fleet: Fleet, task: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await fleet._work(task)
    return str(caught.value)


@virtual.clocked
async def test_who_writes_to_the_broker_has_no_job_opened_and_changes_no_argument() -> None:
    async with history(40, page_size=20) as h:
        crew = Crew(h)
        broker, task = await task_of(crew, "https://service.example/hook")
        stranger = Crew(h)
        _, other = await task_of(stranger, "https://stranger.example", api_key="b3RoZXI=")
        fleet, opened = crew.fleet(Broker()), len(crew.opened)
        assert "another API key" in await refused(fleet, other)
        assert "was changed" in await refused(fleet, task[:-6] + "AAAAAA")
        for text in ("", "x" * 400_000, None, 7, ["a"]):
            assert "must be a text" in await refused(fleet, text)
        assert len(crew.opened) == opened
        assert crew.target.ids == []
        assert "https" not in repr(broker.kicked[0].labels)


async def test_a_job_that_is_not_there_or_yields_no_replay_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with history(20) as h:
        crew = Crew(h)
        fleet = crew.fleet(Broker())

        @fleet.job("plain")
        def plain() -> Any: ...

        @fleet.job("empty")
        @asynccontextmanager
        async def empty() -> AsyncIterator[Any]:
            yield None

        @fleet.job("broken")
        @asynccontextmanager
        async def broken() -> AsyncIterator[Any]:
            raise OSError("no database")
            yield

        with pytest.raises(ConfigurationError, match="there is no job 'other' here: deploy"):
            await fleet.run("other")
        with pytest.raises(ConfigurationError, match="is no async context manager"):
            await fleet.run("plain")
        with pytest.raises(ConfigurationError, match="'empty' must yield a Replay"):
            await fleet.run("empty")
        with pytest.raises(OSError, match="no database"):
            await fleet.run("broken")
        for wrong in (object(), (1, 2), b"x", {1: 2}):
            with pytest.raises(ConfigurationError, match="must be values of JSON"):
                await fleet.run("refill", wrong)
        with pytest.raises(ConfigurationError, match="has a job 'refill' already"):
            fleet.job("refill")(plain)
        with pytest.raises(ConfigurationError, match="a job needs a name"):
            fleet.job("")
        with pytest.raises(ConfigurationError, match="must be a broker of taskiq"):
            Fleet("redis://127.0.0.1")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="has a fleet already"):
            Fleet(fleet._task.broker)
        assert repr(fleet) == "Fleet(jobs=['broken', 'empty', 'plain', 'refill'])"
        monkeypatch.delenv("BASIQ_API_KEY", raising=False)
        unsealed = crew.fleet(Broker(), api_key=None)
        with pytest.raises(ConfigurationError, match="no API key"):
            await unsealed._work("x")


@virtual.clocked
async def test_a_worker_that_cannot_open_a_job_tries_it_again_at_the_next_page() -> None:
    async with history(40, page_size=20) as h:
        crew, ready = Crew(h), False
        fleet = Fleet(Broker(), api_key=KEY)

        @fleet.job("refill")
        @asynccontextmanager
        async def refill() -> AsyncIterator[Replay]:
            if not ready:
                raise OSError("no database")
            yield h.replay(crew.target, inbox=crew.inbox)

        _, task = await task_of(crew)
        for _ in range(2):
            with pytest.raises(OSError, match="no database"):
                await fleet._work(task)
        ready = True
        await fleet._work(task)
        assert len(crew.target.ids) == 20
        await fleet._close(fleet._task.broker.state)
