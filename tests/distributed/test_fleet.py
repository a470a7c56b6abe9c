"""A job over several workers, from its submission to its report."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis
from taskiq import InMemoryBroker

from basiq_async import (
    ConfigurationError,
    F,
    InMemoryTransport,
    Message,
    ReplayError,
    Request,
    Response,
)
from basiq_async.distributed import Fleet, Job, Work
from basiq_async.distributed._fleet import _on_signals  # private: only worker processes set them
from basiq_async.distributed._record_types import LONGEST_KEY  # private: what a record exchanges with its callers
from basiq_async.distributed.processes import run_workers
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.receiver.protocol import inbox_key
from basiq_async.replay import HttpTarget, Replay, failed_only, limit, message_time, since
from tests.support.deliveries import SECRET
from tests.support.fleets import Holding, JobStore, crew, progress_when
from tests.support.histories import Recorder, Refusing
from tests.support.real_time import PATIENCE, until


def test_a_missing_library_is_an_error_that_names_the_extra() -> None:
    code = """
import sys
for name in ("redis", "taskiq", "taskiq_redis"):
    sys.modules[name] = None
    try:
        import basiq_async.distributed
    except ImportError as error:
        print(type(error).__name__, error)
    del sys.modules[name]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text = "basiq_async.distributed needs the extra 'distributed': pip install '/path/to/the/clone[distributed]'"
    assert done.stdout.splitlines() == [f"MissingExtraError {text}"] * 3


async def test_every_message_is_handled_once_by_all_workers_though_basiq_is_away_for_a_while(redis_url: str) -> None:
    async def slowly(message: Message) -> None:
        await asyncio.sleep(0.005)

    async with crew(redis_url, Recorder(slowly), concurrency=4) as fleet:
        fleet.fake.fail_next(1, status=503)
        report = await fleet.run()
        assert sorted(fleet.recorder.ids) == sorted(await fleet.ids())
        assert (report.handled, report.failed, dict(report.skipped), report.read) == (60, 0, {}, 60)
        assert report.finished
        assert fleet.recorder.most_at_once > 4


async def test_where_is_decided_by_the_workers_and_counted_and_a_plan_says_what_is_left(redis_url: str) -> None:
    async with crew(redis_url, failed=0.5, where=failed_only()) as fleet:
        replay = Replay(fleet.client, fleet.webhook_id, Recorder(), inbox=MemoryInbox(), where=failed_only())
        job = await fleet.submit(plan=await replay.plan())
        report = await job.wait(timeout=PATIENCE)
        wanted = [m.id async for m in fleet.client.messages.list(fleet.webhook_id) if not m.delivered]
        assert sorted(fleet.recorder.ids) == sorted(wanted)
        assert report.skipped == {"where": 60 - len(wanted)}
        progress = await job.progress()
        assert (progress.remaining, progress.lag, progress.segments) == (0, 0, 0)


async def test_a_message_for_which_the_predicate_raises_goes_into_the_quarantine(redis_url: str) -> None:
    def where(message: Message) -> bool:
        if message.id == first:
            raise KeyError("missing")
        return True

    async with crew(redis_url, where=where) as fleet:
        first = (await fleet.ids())[0]
        job = await fleet.submit()
        report = await job.wait(timeout=PATIENCE)
        assert (report.handled, report.failed) == (59, 1)
        (entry,) = await job.quarantined()
        assert (entry.delivery_id, entry.kind, entry.acknowledged) == (first, "message", False)
        assert "KeyError" in entry.error
        await job.retry_quarantined()
        assert (await job.wait(timeout=PATIENCE)).handled == 60, "a retry asked the predicate again"
        assert await job.quarantined() == []


async def test_several_webhooks_and_several_filters_are_one_job(redis_url: str) -> None:
    async with crew(redis_url) as fleet:
        webhooks = [fleet.webhook_id, fleet.fake.seed_messages(15, fleet.fake.add_webhook(url="https://other.example"))]
        types = {m.event_type_id for each in webhooks async for m in fleet.client.messages.list(each)}
        assert len(types) > 2
        report = await fleet.run(webhook_id=webhooks, filter=[F("eventTypeId").eq(each) for each in sorted(types)])
        assert report.handled == len(fleet.recorder.ids) == len(set(fleet.recorder.ids)) == 75


async def test_an_empty_history_finishes_at_once(redis_url: str) -> None:
    async with crew(redis_url, messages=0) as fleet:
        report = await fleet.run()
        assert (report.handled, report.finished) == (0, True)


async def test_failures_in_a_row_end_the_job_over_all_segments(redis_url: str) -> None:
    async with crew(redis_url, target := Refusing(), max_failures=25, concurrency=4) as fleet:
        target.refused.update(await fleet.ids())
        job = await fleet.submit()
        with pytest.raises(ReplayError, match="in a row failed") as caught:
            await job.wait(timeout=PATIENCE)
        assert caught.value.report.failed >= 25
        target.refused.clear()
        await job.resume()
        report = await job.wait(timeout=PATIENCE)
        assert report.finished
        assert report.handled + report.failed == 60


async def test_on_error_stop_ends_the_job_in_front_of_the_message(redis_url: str) -> None:
    async with crew(redis_url, target := Refusing(), on_error="stop") as fleet:
        bad = (await fleet.ids())[25]
        target.refused.add(bad)
        job = await fleet.submit()
        with pytest.raises(ReplayError, match=bad):
            await job.wait(timeout=PATIENCE)
        target.refused.clear()
        await job.resume()
        assert (await job.wait(timeout=PATIENCE)).handled == 60
        assert len(target.taken) == len(set(target.taken)) == 60


async def test_a_job_can_be_paused_and_resumed(redis_url: str) -> None:
    async with crew(redis_url, target := Holding(), concurrency=2) as fleet:
        job = await fleet.submit()
        await target.began.wait()
        await job.pause("for the night")
        await until(lambda: all(segment.stopping for segment in fleet.segments))
        target.free.set()
        progress = await progress_when(job, lambda progress: not progress._held)
        assert (progress.state, progress.reason) == ("paused", "for the night")
        assert progress.handled == len(target.ids) <= 8
        await job.resume()
        report = await job.wait(timeout=PATIENCE)
        assert report.handled == len(target.ids) == len(set(target.ids)) == 60


async def test_a_cancelled_job_returns_what_was_done_and_its_key_continues_it_with_the_same_selection(
    redis_url: str,
) -> None:
    async def slowly(message: Message) -> None:
        await asyncio.sleep(0.01)

    async with crew(redis_url, Recorder(slowly), concurrency=1) as fleet:
        job = await fleet.submit()
        await job.cancel()
        report = await job.wait(timeout=PATIENCE)
        assert not report.finished
        assert report.handled < 60
        for _ in range(2):
            assert (await fleet.run()).handled == 60, "a known job that was cancelled is not resumed"
        assert len(fleet.recorder.ids) == 60
        with pytest.raises(ReplayError, match=r"the job 'job' is 'work' over .*, and not .*user\.created"):
            await fleet.submit(filter="eventTypeId.eq('user.created')")
        with pytest.raises(ReplayError, match="there is no job"):
            await fleet.fleet.get("nothing")


@pytest.mark.parametrize("when", ["before it is open", "while it is needed"])
@pytest.mark.parametrize("how", [OSError("no route to the database"), None], ids=["an error", "a cancellation"])
async def test_a_job_function_that_ends_by_itself_stops_its_job_and_is_opened_again_when_that_is_resumed(
    redis_url: str, how: Exception | None, when: str
) -> None:
    begun, opened, at_once = asyncio.Event(), 0, when == "before it is open"
    failures = 2 if at_once else 1

    async def behave(message: Message) -> None:
        begun.set()
        await asyncio.sleep(0.005)

    async def end(task: asyncio.Task[None]) -> None:
        if not at_once:
            await begun.wait()
        if how is not None:
            raise how
        task.cancel()

    async with crew(redis_url, workers=1) as fleet:

        @fleet.fleet.job("short-lived")
        @asynccontextmanager
        async def function() -> AsyncIterator[Work]:
            nonlocal opened
            opened += 1
            async with asyncio.TaskGroup() as group:
                if opened <= failures and (task := asyncio.current_task()) is not None:
                    await group.create_task(end(task)) if at_once else group.create_task(end(task))
                    await asyncio.sleep(0)
                yield Work(fleet.client, behave, concurrency=1)

        job = await fleet.submit("short-lived")
        for _ in range(failures):
            refusal = "'short-lived' failed to start: " if at_once else "'short-lived' ended while it was needed: "
            with pytest.raises(ReplayError, match=refusal + ("" if how else "it was cancelled from within")):
                await job.wait(timeout=PATIENCE)
            await job.resume()
        assert ((await job.wait(timeout=PATIENCE)).handled, opened) == (60, failures + 1)


async def test_a_job_function_that_yields_something_else_stops_its_job(redis_url: str) -> None:
    async with crew(redis_url, workers=1) as fleet:
        fleet.fleet.job("odd")(contextlib.nullcontext)  # type: ignore[arg-type]
        job = await fleet.submit("odd")
        with pytest.raises(ReplayError, match=r"'odd' failed to start: .*'odd' must yield a Work, not NoneType"):
            await job.wait(timeout=PATIENCE)


@pytest.mark.parametrize("what", ["a job function", "a page"])
async def test_a_worker_that_is_stopped_waits_neither_for_a_job_function_to_open_nor_for_a_page(
    redis_url: str, what: str
) -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    class Hanging(InMemoryTransport):
        async def send(self, request: Request, /) -> Response:
            if what == "a page" and "messages" in request.url:
                await hang()
            return await super().send(request)

    opened = hang if what == "a job function" else None
    async with crew(redis_url, opened=opened, transport=Hanging, workers=1, segments=0) as fleet:
        job = await fleet.submit()
        (worker,) = fleet.workers
        running = asyncio.create_task(worker.process_segment("job", "0.0"))
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
            worker.stop()
            await running
        progress = await job.progress()
        assert (progress.ended, progress._held, progress.reason, progress.problem) == (False, 0, "", "")


async def test_a_target_that_is_down_is_left_alone_by_the_whole_fleet_and_costs_no_message(redis_url: str) -> None:
    clock = asyncio.get_running_loop().time
    all_begun = asyncio.Event()
    began, attempts, down, width = 0, list[float](), True, 6 * 8

    async def behave(message: Message) -> None:
        nonlocal began
        if not down:
            return
        began += 1
        if began < width:
            await all_begun.wait()
        elif began == width:
            all_begun.set()
        else:
            attempts.append(clock())
        raise ConnectionRefusedError("no listener is there")

    async with crew(
        redis_url, Recorder(behave), messages=400, page_size=50, concurrency=8, workers=3, max_failures=1
    ) as fleet:
        job = await fleet.submit()
        await all_begun.wait()
        failed = clock()
        await until(lambda: attempts and attempts[-1] > failed + 1.2)
        progress = await progress_when(job, lambda progress: progress.paused)
        # The first pause lasts 0.5 s, each further one twice as long: after it, one message of a segment is tried.
        tries = math.floor(math.log2((attempts[-1] - failed) / 0.5 + 1) + 0.1)
        assert len(attempts) <= tries * 6
        assert (progress.state, progress.handled, progress.failed, progress.quarantined) == ("running", 0, 0, 0)
        down = False
        report = await job.wait(timeout=PATIENCE)
        assert (report.handled, report.failed) == (400, 0)
        assert len(fleet.recorder.ids) == 400


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_stops_the_worker_and_then_reaches_the_brokers_own_handler(number: signal.Signals) -> None:
    received: list[int] = []
    stopped = asyncio.Event()
    earlier = signal.signal(number, lambda received_number, frame: received.append(received_number))
    other = signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM
    ignored = signal.signal(other, signal.SIG_IGN)
    try:
        _on_signals(stopped.set)
        signal.raise_signal(number)
        async with asyncio.timeout(PATIENCE):
            await stopped.wait()
        assert received == [number], "the handler that was there before was not called"
        assert signal.getsignal(other) is signal.SIG_IGN, "a signal that was ignored is none any more"
    finally:
        signal.signal(number, earlier)
        signal.signal(other, ignored)


async def test_a_notification_that_the_broker_carries_reaches_the_worker_that_it_started(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[Callable[[], None]] = []
    monkeypatch.setattr("basiq_async.distributed._fleet._on_signals", signals.append)
    broker = InMemoryBroker()
    broker.is_worker_process = True
    async with crew(redis_url, workers=0) as made:
        fleet = Fleet(redis_url, lease=1.0, broker=broker)
        fleet.job("work")(made.fleet._functions["work"])
        task = broker.find_task("basiq_async.distributed:process_segment")
        assert task is not None
        await task.original_func("job", "0.0")  # before the worker is started, a notification does no harm
        async with fleet:
            job = await fleet.submit("work", made.webhook_id, key="job")
            assert (await job.wait(timeout=PATIENCE)).handled == 60
            signals[0]()
            assert fleet._worker is not None
            assert fleet._worker._stopping


def test_defaults_are_those_that_the_pages_name() -> None:
    defaults = {
        name: parameter.default
        for each in (Fleet, Fleet.submit, Work, Job.quarantined, Job.watch, JobStore, run_workers)
        for name, parameter in inspect.signature(each).parameters.items()
        if parameter.default not in (parameter.empty, None)
    }
    assert defaults == {
        "lease": 30.0, "prefix": "basiq", "source": "messages", "max_quarantined": 100_000, "concurrency": 32,
        "on_error": "quarantine", "max_failures": 1_000, "max_pause": 3_600.0, "limit": 100, "every": 0.5,
        "patience": 60.0, "processes": 1, "segments": 2,
    }  # fmt: skip


@pytest.mark.parametrize("on_error", ["quarantine", "skip", "stop"])
def test_an_engine_of_a_segment_counts_no_failures_in_a_row_and_has_time_to_record(on_error: Any) -> None:
    unused: Any = None
    work = Work(unused, Recorder(), concurrency=1, max_failures=1, on_error=on_error)
    settings = work.settings
    assert (settings.concurrency, settings.rate, settings.max_failures, work.max_failures) == (1, None, None, 1)
    assert settings.on_error == ("stop" if on_error == "stop" else "quarantine")
    assert settings.record_timeout > 4 * 60, "each try to record may wait a minute for Redis"
    assert Work(unused, Recorder(), max_failures=None).max_failures is None


@pytest.mark.parametrize("source", ["messages", "events"])
async def test_a_segment_asks_for_its_page_and_for_the_page_before_it(redis_url: str, source: Any) -> None:
    """One that is requested ahead belongs to the next segment, and so to another worker."""
    asked: list[str] = []

    class Counting(InMemoryTransport):
        async def send(self, request: Request, /) -> Response:
            asked.append(request.url)
            return await super().send(request)

    async with crew(redis_url, messages=0, transport=Counting, workers=1, segments=1) as fleet:
        for number in range(30):
            fleet.fake.emit("user.created", user_id=f"u{number}")
        count = len(await (fleet.client.events.list() if source == "events" else fleet.client.messages.list(
            fleet.webhook_id)).collect())  # fmt: skip
        pages, asked[:] = math.ceil(count / 10), []
        assert (await fleet.run(source=source)).read == count
    assert sum(f"/{source}" in url for url in asked) == 2 * pages - 1


WRONG: dict[str, list[tuple[str, Any]]] = {
    "Fleet": [("lease", 0), ("lease", 0.9), ("lease", 3_601), ("lease", True), ("prefix", "a b"), ("prefix", "")],
    "job": [("name", ""), ("name", " "), ("name", "n" * 201), ("name", 5), ("name", "work")],
    "Work": [("concurrency", 0), ("max_failures", 0), ("on_error", "none"), ("max_pause", 0), ("where", 5),
             ("where", limit(5)), ("inbox", 5)],
    "submit": [("name", "another"), ("webhook_id", []), ("webhook_id", " "), ("webhook_id", ["w-1", "w-1"]),
               ("key", ""), ("key", "with {braces}"), ("key", "k" * 201), ("rate", 0), ("rate", True), ("filter", []),
               ("filter", ["a", "a"]), ("filter", ["a", ""]), ("source", "nothing"), ("max_quarantined", 0)],
}  # fmt: skip


async def test_arguments_are_looked_over(redis_url: str) -> None:
    unused: Any = None
    async with crew(redis_url, workers=0) as fleet:
        calls: dict[str, Callable[..., Any]] = {
            "Fleet": partial(Fleet, redis_url), "job": fleet.fleet.job, "Work": partial(Work, unused, Recorder()),
        }  # fmt: skip
        for what, wrong in WRONG.items():
            for name, value in wrong:
                with pytest.raises(ConfigurationError):
                    await (calls[what](**{name: value}) if what in calls else fleet.submit(**{name: value}))
        with pytest.raises(ConfigurationError, match="is one list"):
            await fleet.submit(webhook_id=["w-1", "w-2"], source="events")
        longest = await fleet.submit(key="k" * LONGEST_KEY, max_quarantined=1)
        assert [job.key for job in await fleet.fleet.jobs()] == [longest.key]
        (worker,) = await fleet.start(1, segments=0)
        await worker.process_segment(longest.key, "0.0")
        assert (await longest.progress()).handled == 10
    fleet.fleet.job("n" * 200)(fleet.fleet._functions["work"])
    with pytest.raises(ConfigurationError, match="put @asynccontextmanager below"):
        fleet.fleet.job("no function")("text")  # type: ignore[arg-type]
    for lease in (1, 3_600):
        assert Fleet(redis_url, lease=lease).lease == lease
    notified = Fleet(redis_url, notify=fleet.notify)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="has no broker"):
        _ = notified.broker
    with pytest.raises(ConfigurationError, match="not both"):
        Fleet(redis_url, notify=fleet.notify, broker=fleet.fleet.broker)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="url must be that of a Redis server"):
        Fleet("http://127.0.0.1")


async def test_a_relative_moment_is_counted_from_the_submission(redis_url: str) -> None:
    async with crew(redis_url, messages=50, workers=0, where=since(timedelta(seconds=20.5))) as fleet:
        every = [message async for message in fleet.client.messages.list(fleet.webhook_id)]
        now = max(moment for message in every if (moment := message_time(message)) is not None)
        job = await fleet.submit()
        async with Redis.from_url(redis_url) as redis:
            await redis.hset("basiq:{job}", "submitted_at", now.isoformat())
        await fleet.start()
        report = await job.wait(timeout=PATIENCE)
        # The clock of the workers says otherwise: these are the 20 s before the submission.
        wanted = [m.id for m in every if (t := message_time(m)) is not None and t >= now - timedelta(seconds=20.5)]
        assert 0 < len(wanted) < 50
        assert sorted(fleet.recorder.ids) == sorted(wanted)
        assert report.skipped == {"where": 50 - len(wanted)}


async def test_a_deploy_that_adds_a_type_in_the_middle_of_a_page_loses_none_of_it(redis_url: str) -> None:
    """The first worker has handled some of the page and ends; the second one has the new handlers, and its where."""
    types, target = {"consent.revoked"}, Holding()

    def where(message: Message) -> bool:
        return message.event_type_id in types

    async with crew(redis_url, target, messages=0, workers=1, segments=1, concurrency=1, where=where) as fleet:
        for number in range(10):
            fleet.fake.emit("consent.revoked" if number % 2 else "user.created", user_id=f"u{number}")
        job = await fleet.submit()
        await target.began.wait()
        fleet.workers[0].stop()
        target.free.set()
        await progress_when(job, lambda progress: not progress._held)
        assert 0 < len(target.ids) < 5
        types.add("user.created")
        await fleet.start()
        report = await job.wait(timeout=PATIENCE)
        assert sorted(target.ids) == sorted(await fleet.ids())
        assert (report.read, report.handled, dict(report.skipped), report.finished) == (10, 10, {}, True)


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_a_fleet_that_posts_asks_the_service_what_it_knows_and_checks_the_place(
    redis_url: str, elsewhere: bool
) -> None:
    """What the service knows is not posted, and a job to another place than the webhook's url stops."""
    inbox, posted, endpoint_url = MemoryInbox(), list[str](), "https://service.example/basiq"
    async with crew(redis_url, messages=30) as c:
        await c.client.webhooks.update(c.webhook_id, url=endpoint_url)
        async with WebhookReceiver(SECRET, webhook_id=c.webhook_id, inbox=inbox):
            pass
        messages = await c.client.messages.list(c.webhook_id).collect()
        for each in messages[:20]:
            await inbox.complete(inbox_key(each.event_type_id, each.event_id, each.id, c.webhook_id), "t")

        class Counting(HttpTarget):
            async def deliver(self, message: Message) -> None:
                posted.append(message.id)

        @c.fleet.job("post")
        @asynccontextmanager
        async def post() -> AsyncIterator[Work]:
            async with Counting(endpoint_url + ("/elsewhere" if elsewhere else ""), SECRET) as target:
                yield Work(c.client, target, inbox=inbox)

        job = await c.submit("post")
        if elsewhere:
            with pytest.raises(ReplayError, match="another place"):
                await job.wait(timeout=PATIENCE)
        else:
            report = await job.wait(timeout=PATIENCE)
            assert (report.handled, report.skipped) == (10, {"handled-before": 20})
    assert sorted(posted) == ([] if elsewhere else sorted(each.id for each in messages[20:]))


async def test_a_fleet_counts_at_its_end_what_waits_and_what_failed_in_the_inbox_of_the_service(
    redis_url: str,
) -> None:
    """The service acknowledges what it only stored, or set aside. It works that off before the second job."""
    inbox, url, fails = MemoryInbox(), "https://service.example/basiq", True

    async with crew(redis_url, messages=30) as c:
        await c.client.webhooks.update(c.webhook_id, url=url)
        service = WebhookReceiver(SECRET, webhook_id=c.webhook_id, inbox=inbox, quarantine_after=1)
        waits = min([each.event_type_id or "" async for each in c.client.messages.list(c.webhook_id)])

        @service.on("*")
        async def handle(delivery: Delivery) -> None:
            if fails:
                raise ValueError("broken")

        service.on(waits, deferred=True)(handle)
        await service._lifecycle.note()  # as its start does, which would also work off what waits

        class Direct(HttpTarget):
            async def deliver(self, message: Message) -> None:
                request = self._request(message)
                assert (await service.handle(request.headers, request.body or b"")).status in (200, 202)

        @c.fleet.job("post")
        @asynccontextmanager
        async def post() -> AsyncIterator[Work]:
            async with Direct(url, SECRET) as target:
                yield Work(c.client, target, inbox=inbox)

        first = await c.run("post", key="first")
        waiting, failed = (await inbox.waiting(c.webhook_id)).count, len(await inbox.entries())
        assert min(waiting, failed) > 0
        assert (first.handled, first.waiting, first.at_service, first.finished) == (30, waiting, failed, False)
        fails = False
        async with service:
            await service.work(until_empty=True)
            await service.retry_quarantined()
        second = await c.run("post", key="second")
        assert (second.skipped, second.waiting, second.at_service) == ({"handled-before": 30}, 0, 0)
        assert second.finished
        progress = await (await c.fleet.get("first")).progress()
        assert (progress.state, progress.waiting, progress.at_service) == ("finished", waiting, failed)


async def test_lists_of_one_service_have_the_identity_that_is_given(redis_url: str) -> None:
    inbox, got = MemoryInbox(), list[str]()

    async def take(message: Message) -> None:
        got.append(message.id)

    async with crew(redis_url, take, messages=10, inbox=inbox) as c:
        report = await c.run(identity="first")
        assert report.handled == 10
        with pytest.raises(ReplayError, match="as 'first'"):
            await c.submit(identity="another")
        message = await c.client.messages.list(c.webhook_id).first()
    assert message is not None
    key = inbox_key(message.event_type_id, message.event_id, message.id, "first")
    assert await inbox.known([key]) == {key}
