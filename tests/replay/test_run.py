"""A run: everything once, in bounds, stoppable, and resumable with nothing lost."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import statistics
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from basiq_async import (
    APIError,
    BasiqClient,
    ConfigurationError,
    InboxError,
    InMemoryTransport,
    Message,
    ReplayError,
    Request,
    Response,
    ServerError,
)
from basiq_async._wire.codec import _strict_loads
from basiq_async.receiver import InboxEntry, MemoryInbox, SQLiteInbox, WebhookReceiver
from basiq_async.replay import Progress, Replay, Report, Target, limit, recover
from basiq_async.replay._engine import Engine, FailedMessage  # private: a replay drives it
from basiq_async.replay._sources import FixedMessages  # private: a replay drives it
from basiq_async.replay._tally import RunSettings  # private: a replay drives it
from basiq_async.testing import FakeBasiq, ManualClock, Quirks
from tests.support import virtual
from tests.support.deliveries import SECRET
from tests.support.histories import Collecting, Recorder, Refusing, Table, Watching, history, listed, quarantine_of
from tests.support.real_time import PATIENCE
from tests.support.scripted import Scripted, page


@pytest.mark.usefixtures("both_orders")
@pytest.mark.parametrize("count", [0, 1_234])
async def test_every_message_of_the_history_is_handled_once(count: int) -> None:
    target = Recorder()
    async with history(count) as h:
        report = await h.replay(target).run()
        assert sorted(target.ids) == sorted(await h.ids())
    assert (report.handled, report.failed, report.skipped) == (count, 0, {})
    assert (report.read, report.finished, report.in_flight) == (count, True, 0)
    assert (report.rate > 0) == (count > 0)


async def test_no_message_is_kept_once_it_is_handled() -> None:
    given: list[weakref.ref[Message]] = []
    alive: list[int] = []

    async def target(message: Message) -> None:
        given.append(weakref.ref(message))
        if len(given) % 500 == 0:
            gc.collect()  # what is in a cycle counts as gone
            alive.append(sum(each() is not None for each in given))

    async with history(3_000) as h:
        await h.replay(target, concurrency=8).run()
    assert len(alive) == 6
    assert max(alive) < 1_500, "more than the page that is passed to the handler, the next one and what is under way"


@pytest.mark.usefixtures("both_orders")
async def test_a_second_run_handles_what_came_since() -> None:
    target = Recorder()
    async with history(30) as h:
        replay = h.replay(target)
        await replay.run()
        again = await replay.run()
        assert (again.handled, again.finished) == (0, True)
        await h.fake.emit("user.created")
        await h.fake.emit("user.created")
        more = await replay.run()
        assert (more.handled, more.finished) == (2, True)
        assert sorted(target.ids) == sorted(await h.ids())


@pytest.mark.parametrize("kind", ["function", "receiver"])
async def test_a_message_whose_payload_has_expired_is_skipped_and_not_recorded(kind: str) -> None:
    fake = FakeBasiq(quirks=Quirks(payloads="expire-90d"))
    webhook_id = fake.seed_messages(5, every=timedelta(days=40), failed=1)  # 200, 160, 120, 80 and 40 days ago
    inbox, handled = MemoryInbox(clock=fake.clock), Recorder()
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    receiver.on("*")(handled)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        replay = Replay(basiq, webhook_id, handled if kind == "function" else receiver, inbox=inbox)
        first, again = await replay.run(), await replay.run()
    assert (first.handled, first.skipped, first.finished) == (2, {"expired": 3}, True)
    assert (again.handled, again.skipped) == (0, {"expired": 3, "handled-before": 2})
    assert len(inbox) == 2


@pytest.mark.parametrize("concurrency", [1, 3, 32])
async def test_no_more_than_concurrency_are_under_way_and_slow_records_count(concurrency: int) -> None:
    inbox = Watching(delay=0.001)
    begun = most = 0

    async def behave(message: Message) -> None:
        nonlocal begun, most
        begun += 1
        most = max(most, begun - len(inbox.completed))
        await asyncio.sleep(0)

    async with history(300) as h:
        target = Recorder(behave)
        await h.replay(target, inbox=inbox, concurrency=concurrency).run()
    assert 0.8 * concurrency < most <= concurrency
    assert len(inbox.completed) == begun == 300


async def test_claims_and_records_that_are_under_way_at_once_share_a_transaction(tmp_path: Path) -> None:
    async with history(1_000) as h, SQLiteInbox(tmp_path / "inbox.db") as inbox:
        commits, commit = 0, inbox._store._commit

        def count(calls: Sequence[Any]) -> None:
            nonlocal commits
            commits += 1
            commit(calls)

        inbox._store._commit = count  # type: ignore[method-assign]
        report = await h.replay(Recorder(), inbox=inbox, concurrency=64).run()
    assert report.handled == 1_000
    assert commits < 200, "of 2,000 claims and records"


@virtual.clocked
async def test_a_message_that_ends_while_the_place_is_noted_is_recorded_afterwards() -> None:
    class Slow(MemoryInbox):
        async def set_note(self, name: str, text: str, **more: Any) -> bool:
            await asyncio.sleep(3)
            return await super().set_note(name, text, **more)

    seconds = itertools.chain([1.0] * 18, (6.0, 7.0))
    async with history(20, page_size=2) as h:
        target = Recorder(lambda message: asyncio.sleep(next(seconds)))
        async with asyncio.timeout(300):
            report = await h.replay(target, inbox=Slow(clock=virtual.clock), concurrency=2).run()
    assert (report.handled, report.finished) == (20, True)


async def test_a_slow_target_holds_the_pages_back() -> None:
    release = asyncio.Event()
    target = Recorder(lambda message: release.wait())
    async with history(2_000, page_size=100) as h:
        running = asyncio.create_task(h.replay(target, concurrency=8).run())
        while target.at_once < 8:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        asked = sum("/messages" in request.url for request in h.fake.requests)
        assert asked <= 2
        release.set()
        assert (await running).handled == 2_000


async def test_a_message_that_takes_long_lets_all_the_others_by() -> None:
    inbox, last = Watching(), asyncio.Event()
    async with history(700) as h, asyncio.timeout(PATIENCE):
        ids = await h.ids()

        async def behave(message: Message) -> None:
            if message.id == ids[0]:
                await last.wait()
            elif len(target.ids) == 698:
                last.set()

        target = Recorder(behave)
        report = await h.replay(target, inbox=inbox).run()
    assert (report.handled, target.ids[-1]) == (700, ids[0])


# --- stopping and resuming ---


@pytest.mark.usefixtures("both_orders")
async def test_stop_finishes_what_is_under_way_and_the_next_run_continues() -> None:
    async with history(1_000, page_size=70) as h:

        async def behave(message: Message) -> None:
            await asyncio.sleep(0)
            if len(target.ids) == 333:
                replay.stop()

        target = Recorder(behave)
        replay = h.replay(target, concurrency=10)
        report = await replay.run()
        assert target.at_once == 0
        assert report.handled == len(target.ids) < 1_000
        assert not report.finished
        rest = await replay.run()
        assert rest.finished
        assert rest.handled + report.handled == 1_000
        assert sorted(target.ids) == sorted(await h.ids())


async def test_stop_gives_up_a_page_that_does_not_come() -> None:
    async def never(request: Request) -> Response:
        return await asyncio.get_running_loop().create_future()

    target = Recorder()
    script = Scripted(page([{"id": f"m{n}"} for n in range(10)], "/notifications/webhooks/w1/messages?next=2"), never)
    async with BasiqClient("a2V5", transport=script) as client:
        replay = Replay(client, "w1", target, inbox=MemoryInbox(), concurrency=2)
        running = asyncio.create_task(replay.run())
        while len(script.requests) < 2 or len(target.ids) < 10:
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)
        replay.stop()
        report = await running
    assert (report.handled, report.read, report.finished) == (10, 10, False)


async def test_stop_before_the_first_message_handles_none() -> None:
    class Slow(MemoryInbox):
        async def known(self, keys: Sequence[str]) -> Collection[str]:
            replay.stop()
            return await super().known(keys)

    target = Recorder()
    async with history(5) as h:
        replay = h.replay(target, inbox=Slow())
        replay.stop()  # with nothing under way this is forgotten
        assert (await replay.run()).handled == 0
    assert target.ids == []


@pytest.mark.usefixtures("both_orders")
async def test_another_api_key_goes_on_where_the_one_before_ended() -> None:
    fake, target, inbox = FakeBasiq(), Recorder(), MemoryInbox()
    webhook_id = fake.add_webhook()
    inner = InMemoryTransport(fake)

    class AcceptsAnyKey:
        aclose = inner.aclose

        async def send(self, request: Request, /) -> Response:
            headers = {**request.headers, "authorization": f"Basic {fake.api_key}"}
            return await inner.send(attrs.evolve(request, headers=headers) if "/token" in request.url else request)

    fake.seed_messages(1_200, webhook_id)
    for where in (limit(700), None):
        async with BasiqClient(fake.make_api_key(), transport=AcceptsAnyKey()) as basiq:
            report = await Replay(basiq, webhook_id, target, inbox=inbox, where=where).run()
    assert report.finished
    assert len(target.ids) == len(set(target.ids)) == 1_200


# --- what goes wrong ---


@pytest.mark.usefixtures("both_orders")
async def test_an_error_of_the_api_is_raised_after_what_was_read_is_recorded() -> None:
    inbox, target = MemoryInbox(), Recorder()
    async with history(40, page_size=10) as h:
        replay = h.replay(target, inbox=inbox)
        seen = 0

        async def behave(message: Message) -> None:
            nonlocal seen
            seen += 1
            if seen == 1:
                h.fake.fail_next(9, status=500, path="*/messages")

        target._behave = behave
        with pytest.raises(ServerError) as caught:
            await replay.run()
        assert any("run it again to continue" in note for note in caught.value.__notes__)
        assert 0 < len(inbox) == len(target.ids) < 40
        while True:
            try:
                report = await replay.run()
                break
            except APIError:
                pass
        assert report.finished
        assert sorted(target.ids) == sorted(await h.ids())


UNREADABLE: list[Any] = [
    {"no": "id"},
    {"id": "c", "attempts": [{"timestamp": "the day before yesterday"}]},
    {"id": "c", "payload": "text"},
    "text",
]


@pytest.mark.parametrize("item", UNREADABLE)
async def test_a_message_that_cannot_be_read_is_quarantined_with_its_json(item: Any) -> None:
    target, inbox = Recorder(), MemoryInbox()
    async with listed([{"id": "a"}, {"id": "b"}, item, {"id": "d"}], target, inbox=inbox) as replay:
        assert (await replay.plan()).total == 4
        report = await replay.run()
        (entry,) = await replay.quarantined()
        assert (report.handled, report.failed, report.finished) == (3, 1, True)
        assert sorted(target.ids) == ["a", "b", "d"]
        assert "data[2]" in entry.error
        assert (entry.kind, entry.acknowledged) == ("unreadable", False)
        assert json.loads(entry.body) == (item if isinstance(item, dict) else {"raw": item})
        # Read again, it is known; tried again, it fails with an error that says as much.
        assert (await replay.run()).failed == 0
        again = await replay.retry_quarantined()
        (entry,) = await replay.quarantined()
        assert (again.handled, again.failed, entry.failures) == (0, 1, 2)


async def test_a_message_without_an_id_is_the_same_one_whatever_the_order_of_its_names() -> None:
    async with listed([{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}], Recorder()) as replay:
        assert (await replay.run()).failed == 2, "what is listed twice is one message"
        assert len(await replay.quarantined()) == 2


@pytest.mark.parametrize("loads", ["orjson", "json"])
async def test_a_text_cut_anywhere_costs_its_own_message_at_most(loads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if loads == "json":
        monkeypatch.setattr("basiq_async._wire.codec.default_loads", lambda: _strict_loads)
    items = [f'{{"id":"m{index}","attempts":[{{"id":"a","response":"OK"}}]}}'.encode() for index in range(301)]
    items[100] = items[100].replace(b"OK", rb"Thanks \ud83d")
    items[200] = items[200].replace(b"OK", b"Thanks \xf0\x9f")
    target = Recorder()
    script = Scripted(Response(200, {}, b'{"type":"list","data":[' + b",".join(items) + b"]}"))
    async with BasiqClient("a2V5", transport=script) as client:
        replay = Replay(client, "w1", target, inbox=MemoryInbox())
        report = await replay.run()
        (entry,) = await replay.quarantined()
        assert (report.handled, report.failed, report.finished) == (300, 1, True)
        assert sorted(target.ids) == sorted(f"m{index}" for index in range(301) if index != 200)
        found = entry.delivery_id, json.loads(entry.body)
        assert found == ("m200", {"raw": items[200].decode(errors="backslashreplace")})
        assert "$.data[200]: is not JSON of UTF-8 text (not UTF-8)" in entry.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InboxError("the disk is full"), "could not be recorded: InboxError: the disk is full"),
        (RuntimeError("it is gone"), "could not be recorded: RuntimeError: it is gone"),
    ],
)
@virtual.clocked
async def test_an_inbox_that_cannot_record_ends_the_run_and_nothing_is_passed_any_more(
    error: Exception, said: str
) -> None:
    class Full(Watching):
        room = 100

        async def complete(self, key: str | Sequence[str], token: str) -> bool:
            if len(self) >= self.room:
                raise error
            return await super().complete(key, token)

    inbox, target = Full(), Recorder()
    inbox._lease_clock = virtual.now
    async with history(1_000) as h:
        replay = h.replay(target, inbox=inbox, concurrency=16)
        with pytest.raises(InboxError, match=said) as caught:
            await replay.run()
        assert len(inbox) < len(target.ids) <= len(inbox) + 16
        assert caught.value.__cause__ is error
        assert f"the replay stopped after {len(target.ids) - 16} messages" in caught.value.__notes__[0]
        inbox.room = 10_000
        assert (await replay.run()).finished
        assert set(target.ids) == set(await h.ids())
        assert len(target.ids) <= 1_000 + 16


async def test_a_full_disk_stops_the_job_and_room_lets_it_continue(
    tmp_path: Path,
) -> None:
    target, clock = Recorder(), ManualClock()
    async with history(400) as h, SQLiteInbox(tmp_path / "inbox.db", clock=clock) as inbox:
        ids = await h.ids()

        async def behave(message: Message) -> None:
            if message.id == ids[100]:
                await pragma("max_page_count = 1")

        async def pragma(text: str) -> None:
            store = inbox._store
            await store.run(lambda connection: connection.execute(f"PRAGMA {text}"))

        target._behave = behave
        replay = h.replay(target, inbox=inbox, concurrency=4)
        with pytest.raises(InboxError, match="disk is full"):
            await replay.run()
        target._behave = None
        await pragma("max_page_count = 1000000")
        clock.advance(timedelta(seconds=30))  # the claims of what was under way end: they could not be given back
        assert (await replay.run()).finished
        assert set(target.ids) == set(ids)
        assert len(target.ids) <= len(ids) + 4


async def test_a_message_that_cannot_be_quarantined_ends_the_job() -> None:
    class NoRoom(MemoryInbox):
        full = True

        async def quarantine(self, key: str, token: str, entry: InboxEntry) -> bool:
            if self.full:
                raise InboxError("no room")
            return await super().quarantine(key, token, entry)

    inbox = NoRoom()
    async with history(50) as h:
        ids = await h.ids()
        target = Refusing(*ids[10:20])
        replay = h.replay(target, inbox=inbox, concurrency=2)
        with pytest.raises(InboxError, match="no room"):
            await replay.run()
        assert await quarantine_of(replay) == {}
        inbox.full = False
        report = await replay.run()
        assert (report.finished, set(await quarantine_of(replay))) == (True, set(ids[10:20]))
        assert sorted(target.taken) == sorted(set(ids) - target.refused)


async def test_one_replay_does_one_run_at_a_time() -> None:
    async with history(5) as h:
        release = asyncio.Event()
        replay = h.replay(Recorder(lambda _: release.wait()))
        running = asyncio.create_task(replay.run())
        await asyncio.sleep(0.001)
        with pytest.raises(ReplayError, match="running already"):
            await replay.run()
        release.set()
        assert (await running).handled == 5


def test_a_keyboard_interrupt_in_the_target_gets_through() -> None:
    async def main() -> None:
        async with history(5) as h:
            target = Refusing((await h.ids())[2], error=KeyboardInterrupt)
            await h.replay(target).run()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


# --- how fast ---


@virtual.clocked
async def test_a_rate_is_kept_without_bursts() -> None:
    times: list[float] = []

    async def behave(message: Message) -> None:
        times.append(virtual.now())
        if len(times) == 50:
            await asyncio.sleep(2)  # what was missed meanwhile is not made up for

    async with history(200, page_size=50) as h:
        replay = h.replay(Recorder(behave), rate=40)
        report = await replay.run()
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert min(gaps) > 0.024
    assert report.duration == pytest.approx(199 / 40, abs=0.2)


class Failing:
    async def deliver(self, message: Message) -> None:
        raise ValueError("poisoned")


@pytest.mark.parametrize(("rate", "in_one"), [(10, 1), (10_000, 100)], ids=["slowly", "quickly"])
@virtual.clocked
async def test_a_record_begins_at_once_and_has_all_that_failed_during_the_one_before(rate: int, in_one: int) -> None:
    async def quarantine(failed: Sequence[FailedMessage]) -> None:
        sizes.append(len(failed))
        await asyncio.sleep(0.01)

    async def pages() -> AsyncGenerator[Sequence[Message]]:
        yield [Message(f"m{number}", {}) for number in range(400)]

    sizes: list[int] = []
    settings = RunSettings(concurrency=256, rate=rate, on_error="quarantine", max_failures=None, max_pause=1)
    await Engine(FixedMessages(pages()), target=Failing(), quarantine=quarantine, settings=settings).run()
    assert in_one / 2 <= statistics.median(sizes) <= in_one * 1.5
    assert sum(sizes) == 400


async def test_a_record_of_failures_that_fails_ends_the_run() -> None:
    async def quarantine(failed: Sequence[FailedMessage]) -> None:
        raise InboxError("the disk is full")

    async def pages() -> AsyncGenerator[Sequence[Message]]:
        yield [Message(f"m{number}", {}) for number in range(40)]

    settings = RunSettings(concurrency=4, rate=None, on_error="quarantine", max_failures=None, max_pause=1)
    with pytest.raises(InboxError, match="the disk is full"):
        async with asyncio.timeout(PATIENCE):
            await Engine(FixedMessages(pages()), target=Failing(), quarantine=quarantine, settings=settings).run()


@virtual.clocked
async def test_stop_does_not_wait_for_the_rate() -> None:
    inbox = MemoryInbox()
    async with history(100) as h:
        target = Recorder()
        replay = h.replay(target, inbox=inbox, rate=0.001)
        asyncio.get_running_loop().call_later(5, replay.stop)
        report = await replay.run()
        assert (report.handled, report.duration) == (1, pytest.approx(5))
        rest = await h.replay(target, inbox=inbox).run()
        assert rest.handled == 99


@virtual.clocked
async def test_progress_tells_counts_rate_and_with_a_plan_what_is_left() -> None:
    updates: list[Progress] = []
    async with history(100) as h:
        replay = h.replay(Recorder(), rate=20, where=lambda m: True)
        plan = await replay.plan()
        report = await replay.run(updates.append, plan=plan)
    assert len(updates) == pytest.approx(report.duration / 0.25, abs=2)
    middle, last = updates[len(updates) // 2], updates[-1]
    assert middle.rate == pytest.approx(20, rel=0.1)
    assert middle.remaining == 100 - middle.handled
    assert middle.eta == pytest.approx(middle.remaining / middle.rate)
    assert middle.in_flight > 0
    assert middle.paused == 0
    assert (last.handled, last.read, last.failed, last.skipped, last.remaining) == (100, 100, 0, {}, 0)
    assert last.duration == report.duration


@virtual.clocked
async def test_progress_has_no_rate_and_no_estimate_while_the_target_stalls() -> None:
    updates: list[Progress] = []

    async def stall(message: Message) -> None:
        await asyncio.sleep(60 if message.id == ids[40] else 0.1)

    async with history(100) as h:
        ids = await h.ids()
        replay = h.replay(stall, concurrency=1)
        await replay.run(updates.append, plan=await replay.plan())
    before = next(each for each in updates if each.handled == 39)
    assert (before.rate, before.eta) == (pytest.approx(10, rel=0.1), pytest.approx(6.1, rel=0.1))
    stalled = next(each for each in updates if each.duration > 20)
    assert (stalled.handled, stalled.rate, stalled.eta) == (40, 0.0, None), "a rate or an estimate while it stalls"
    after = next(each for each in updates if each.handled >= 90)
    assert after.rate == pytest.approx(5, rel=0.1), "the rate is not that of the last ten seconds"


async def test_an_observer_wraps_the_target_and_hears_of_each_list_and_of_the_progress() -> None:
    class Observing:
        wrapped: ClassVar[list[Target]] = []
        lists: ClassVar[list[str]] = []
        updates: ClassVar[list[Progress]] = []

        def wrap(self, target: Target) -> Target:
            self.wrapped.append(target)
            return target

        def begin(self, source: str) -> None:
            self.lists.append(source)

        def on_progress(self, progress: Progress) -> None:
            self.updates.append(progress)

    observer = Observing()
    async with history(3) as h:
        replay = h.replay(target := Recorder())
        replay._job.observe(observer)
        with pytest.raises(ConfigurationError, match="instrumented already"):
            replay._job.observe(observer)
        report = await replay.run()
        assert (len(target.ids), observer.lists, observer.updates[-1]) == (3, ["messages"], report)
        run = recover(h.client, h.webhook_id, Recorder(), inbox=MemoryInbox())
        run._job.observe(observer)
        await run
        assert observer.lists == ["messages", "messages", "events"]
        assert len(observer.wrapped) == 3


async def test_without_a_plan_nothing_is_claimed_of_what_is_left_and_a_failing_hook_does_no_harm() -> None:
    updates: list[Progress] = []

    def progress(now: Progress) -> None:
        updates.append(now)
        raise RuntimeError("a hook that fails")

    async with history(3) as h:
        report = await h.replay(Recorder()).run(progress)
    assert report.handled == 3
    assert updates[-1].remaining is None
    assert updates[-1].eta is None


def test_what_no_run_has_told_yet_is_nothing() -> None:
    nothing = {name: value for name, value in attrs.asdict(Progress()).items() if value}
    assert nothing == {"order": "unknown"}
    assert Report(finished=True).waiting == 0


async def with_session(message: Message, session: Any) -> None: ...


def yields(message: Message) -> Iterator[Message]:
    yield message


async def yields_messages(message: Message) -> AsyncIterator[Message]:
    yield message


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"rate": 0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": timedelta(seconds=1)}, "rate"),
        ({"max_failures": 0}, "max_failures"),
        ({"max_pause": -1}, "max_pause"),
        ({"on_error": "ignore"}, "on_error"),
        ({"inbox": "replay.db"}, "inbox"),
        ({"inbox": None}, "needs an inbox"),
        ({"where": "all"}, "where"),
        ({"filter": 7}, "filter"),
        ({"target": 7}, "target must be an async function"),
        ({"target": yields}, "target must be an async function"),
        ({"target": yields_messages}, "target must be an async function"),
        ({"target": print}, "not async"),
        ({"target": WebhookReceiver(SECRET)}, "has its own inbox"),
        ({"target": Table()}, "a Table is its own record: pass no inbox"),
        ({"target": Collecting(), "inbox": None}, "must be its own record"),
        ({"target": Collecting()}, "a Collecting is its own record: pass no inbox"),
        ({"target": with_session}, r"accepts one argument, the message.*such as SQLInbox"),
        ({"target": with_session, "inbox": None}, r"accepts one argument, the message.*such as SQLInbox"),
        ({"source": "both"}, "source must be"),
        ({"webhook_id": ""}, "webhook_id"),
    ],
)
async def test_arguments_that_cannot_be_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    async with BasiqClient("a2V5", transport=Scripted(page([]))) as client:
        good: dict[str, Any] = {"webhook_id": "w1", "target": Recorder(), "inbox": MemoryInbox()}
        with pytest.raises(ConfigurationError, match=named):
            Replay(client, **{**good, **wrong})
