"""Each verdict is right, or says that it does not know, in each form in which Basiq may tell a message's attempts."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise, product
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, InMemoryTransport, Message, RetryPolicy
from basiq_async.receiver import MemoryInbox, WebhookReceiver
from basiq_async.replay import Progress, Recovery, Replay, failed_only, recover, since, until
from basiq_async.services.coverage import Coverage, coverage_note
from basiq_async.testing import FakeBasiq, ManualClock, Quirks
from basiq_async.transports.base import Request, Response
from tests.support import virtual
from tests.support.cancelling import SteppingInbox
from tests.support.worlds import World, a_world

LISTED = ("objects", "strings", "absent")
UNTOLD = ("strings", "absent")
ORDERS = ("oldest-first", "newest-first")


def quirks(listed: str, alone: str = "objects", order: str = "oldest-first", **more: Any) -> Quirks:
    chosen: dict[str, Any] = {"attempts": listed, "attempts_by_id": alone, "message_order": order, **more}
    return Quirks(**chosen)


each_form = pytest.mark.parametrize("listed", LISTED)
each_order = pytest.mark.parametrize("order", ORDERS)
untold = pytest.mark.parametrize("listed", UNTOLD)
untold_alone = pytest.mark.parametrize("alone", UNTOLD)


def asked(fake: FakeBasiq) -> tuple[int, int]:
    """How many pages of messages were requested, and how many single messages."""
    paths = [each.url.partition("?")[0] for each in fake.requests if each.method == "GET"]
    return sum(path.endswith("/messages") for path in paths), sum("/messages/" in path for path in paths)


@attrs.define
class Missed:
    """A service whose inbox began after ten messages were delivered; one of three since then was missed."""

    world: World
    old: list[str]
    live: list[str]
    missed: list[str]


@asynccontextmanager
async def a_service(form: Quirks) -> AsyncIterator[Missed]:
    async with a_world(timedelta(days=3), quirks=form) as world:
        old = await world.emit(10)
        await world.fake.advance(hours=1)
        world.inbox = MemoryInbox(clock=world.fake.clock)
        receiver = world.receiver()
        world.fake.route("https://service.example/basiq", receiver)
        live = await world.emit(2)
        world.fake.route("https://service.example/basiq", refuse)
        missed = await world.emit(1)
        await world.fake.advance(minutes=4)
        assert sorted(world.got) == sorted(live)
        world.got.clear()
        yield Missed(world, old, live, missed)


async def refuse(headers: Any, body: bytes) -> int:
    return 503


@each_form
@each_order
async def test_a_recovery_passes_what_was_missed_and_nothing_else(listed: str, order: str) -> None:
    async with a_service(quirks(listed, order=order)) as service:
        world = service.world
        found = await world.recover(world.receiver())
        assert (world.got, found.passed_over, found.unknown, found.finished) == (service.missed, 10, 0, True)
        # Not the two that the inbox knows. The plan of a first recovery has read what was missed before.
        assert found.messages.read_by_id == (0 if listed == "objects" else 12)
        assert found.events is not None
        assert found.events.read_by_id == 0, "an event tells all of itself"
        again = await world.recover(world.receiver())
        assert (len(world.got), again.passed_over, again.finished, again.messages.read_by_id) == (1, 10, True, 0)


@untold
@untold_alone
async def test_a_recovery_passes_nothing_of_which_it_does_not_know_whether_it_was_missed(
    listed: str, alone: str
) -> None:
    async with a_service(quirks(listed, alone)) as service:
        world = service.world
        found = await world.recover(world.receiver())
        assert (world.got, found.unknown, found.finished) == ([], 11, False)
        assert "unknown" in {each.code for each in found.problems}
        looked = await world.basiq.webhooks.diagnose(world.webhook_id, receiver=world.receiver())
        assert (looked.look.unknown, looked.undelivered, looked.healthy) == (11, 0, False)
        everything = await world.recover(world.receiver(), everything=True)
        assert sorted(world.got) == sorted(service.old + service.missed), "a person said so"
        assert everything.unknown == 0


@each_form
@each_order
async def test_a_diagnosis_counts_what_a_recovery_passes(listed: str, order: str) -> None:
    async with a_service(quirks(listed, order=order)) as service:
        world = service.world
        for undelivered in (1, 0):
            looked = await world.basiq.webhooks.diagnose(world.webhook_id, receiver=world.receiver())
            assert (looked.undelivered, looked.passed_over, looked.look.unknown) == (undelivered, 10, 0)
            assert looked.healthy is (undelivered == 0), looked.problems
            await world.recover(world.receiver())
        outside = await world.basiq.webhooks.diagnose(world.webhook_id)
        assert (outside.undelivered, outside.attempts.by_status[204], outside.attempts.by_status[503]) == (1, 12, 2)


@each_form
@each_order
async def test_a_url_that_refuses_everything_is_named_though_a_recovery_has_handled_it_all(
    listed: str, order: str
) -> None:
    async with a_world(timedelta(days=3), quirks=quirks(listed, order=order)) as world:
        await world.emit(20, status=204)
        await world.fake.advance(hours=1)
        await world.emit(20, status=401)
        await world.fake.advance(minutes=4)
        assert (await world.recover(world.handle, inbox=world.inbox, everything=True)).finished
        looked = await world.basiq.webhooks.diagnose(world.webhook_id, inbox=world.inbox)
        assert (looked.attempts.refused, [each.code for each in looked.problems]) == (401, ["refused"])
        # Eight at each end of the list. What was delivered is remembered.
        assert looked.look.read_by_id == (0 if listed == "objects" else 8)


@untold
@pytest.mark.parametrize("alone", LISTED)
async def test_a_message_without_a_handler_is_neither_asked_for_nor_unknown(listed: str, alone: str) -> None:
    fake = FakeBasiq(quirks=quirks(listed, alone))
    webhook_id = fake.seed_messages(20, event_types=["user.created", "consent.revoked"], failed=0.5)
    types = [each.event.type_id for each in fake.messages(webhook_id)]
    inbox = MemoryInbox(clock=fake.clock)
    receiver = WebhookReceiver(fake.secret(webhook_id), webhook_id=webhook_id, inbox=inbox)

    @receiver.on("consent.*")
    async def handle(delivery: object) -> None: ...

    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        report = await Replay(client, webhook_id, receiver, inbox=inbox, where=failed_only()).run()
        assert report.skipped["no-handler"] == types.count("user.created")
        assert report.read_by_id == asked(fake)[1] == types.count("consent.revoked")
        found = await recover(client, webhook_id, receiver, inbox=inbox)
        assert found.messages.skipped["no-handler"] == types.count("user.created")
        assert found.unknown == (0 if alone == "objects" else types.count("consent.revoked"))


@virtual.clocked
async def test_progress_is_told_while_a_first_recovery_counts_by_reading_single_messages() -> None:
    fake = FakeBasiq(quirks=quirks("absent"))
    webhook_id = fake.seed_messages(64, failed=0.5)
    told: list[Progress] = []
    counted: list[int] = []

    class Slow(InMemoryTransport):
        async def send(self, request: Request, /) -> Response:
            await asyncio.sleep(0.1)
            return await super().send(request)

    async def take(message: Message) -> None: ...

    async with BasiqClient(fake.DEFAULT_API_KEY, transport=Slow(fake)) as client:
        run = recover(client, webhook_id, take, inbox=MemoryInbox())
        run._on_plan = lambda plan: counted.extend(each.read_by_id for each in told)
        await run.run(told.append)
    assert counted == sorted(counted)
    assert 0 < counted[0] < 64


@untold_alone
async def test_what_is_unknown_is_not_noted_as_read(alone: str) -> None:
    async with a_service(quirks("absent", alone)) as service:
        world = service.world

        async def is_read() -> bool:
            return Coverage.read(await world.inbox.note(coverage_note(world.webhook_id))).read_up_to is not None

        began = world.fake.clock() - timedelta(minutes=30)
        lately = await world.recover(world.receiver(), since=began)
        assert ([each.code for each in lately.problems], await is_read()) == (["unknown"], False)
        everything = await world.recover(world.receiver(), since=began - timedelta(days=9), everything=True)
        assert ([each.code for each in everything.problems], await is_read()) == (["unknown-activity"], False)
        known = await world.recover(world.receiver(), acknowledged=world.fake.clock())
        assert (known.finished, await is_read()) == (True, True)


@each_form
async def test_an_event_of_the_minute_before_the_webhook_was_active_again_is_left_to_the_next_recovery(
    listed: str,
) -> None:
    async with a_world(timedelta(days=9), quirks=quirks(listed)) as world:
        await world.emit(20)
        await world.fake.advance(minutes=4)
        assert (await world.recover(world.handle, inbox=world.inbox, everything=True)).finished
        await world.disable()
        (late,) = await world.emit(1)
        await world.basiq.webhooks.reactivate(world.webhook_id)
        found = await world.recover(world.handle, inbox=world.inbox)
        assert (found.webhook.status, found.recent, found.finished, late in world.got) == ("active", 1, False, False)
        await world.fake.advance(minutes=4)
        assert (await world.recover(world.handle, inbox=world.inbox)).finished
        assert late in world.got


@each_form
@each_order
async def test_a_selection_has_what_the_messages_tell(listed: str, order: str) -> None:
    async with a_service(quirks(listed, order=order)) as service:
        world = service.world
        began = world.fake.clock() - timedelta(minutes=30)

        async def select(where: Any) -> list[str]:
            got: list[str] = []

            async def take(message: Any) -> None:
                got.append(message.event_id)

            report = await Replay(world.basiq, world.webhook_id, take, inbox=MemoryInbox(), where=where).run()
            assert report.finished
            return sorted(got)

        lately = sorted(service.live + service.missed)
        assert await select(failed_only()) == service.missed
        assert await select(~failed_only()) == sorted(service.old + service.live)
        assert await select(since(began)) == lately
        assert await select(until(began)) == sorted(service.old)
        assert await select(since(began) & ~failed_only()) == sorted(service.live)
        assert await select(lambda message: message.delivered is False) == service.missed
        assert await select(failed_only() | (lambda message: message.event_id in service.live)) == lately


@untold
@untold_alone
async def test_a_selection_of_what_no_message_tells_is_empty_and_not_finished(listed: str, alone: str) -> None:
    async with a_service(quirks(listed, alone)) as service:
        world = service.world
        for where in (failed_only(), since(timedelta(hours=1)), ~failed_only()):
            replay = Replay(world.basiq, world.webhook_id, world.handle, inbox=MemoryInbox(), where=where)
            assert (await replay.plan()).skipped == {"unknown": 13}
            report = await replay.run()
            assert (report.handled, report.skipped, report.finished) == (0, {"unknown": 13}, False)
            again = await replay.run()
            assert again.skipped == {"unknown": 13}, "no resume point passes them"
        assert world.got == []


# --- each pair of forms that meets in an answer ---

NAMES = (
    "attempts attempts_by_id attempt_order message_order event_order paging listed status_code no_response message_ids "
    "links list_data type_case messages_path event_data event_type"
)
FORMS = NAMES.split()


def pairs_of(form: Mapping[str, str]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    return set(combinations(sorted(form.items()), 2))


def each_pair() -> Iterator[Quirks]:
    """Yield few settings of the fake, in which each two forms of two quirks occur together."""
    choices, known = random.Random(1), {name: Quirks.forms()[name] for name in FORMS}
    left = {
        pair
        for one, other in combinations(sorted(FORMS), 2)
        for pair in product([(one, form) for form in known[one]], [(other, form) for form in known[other]])
    }
    while left:
        tried = [{name: choices.choice(forms) for name, forms in known.items()} for _ in range(50)]
        best = max(tried, key=lambda form: len(left & pairs_of(form)))
        left -= pairs_of(best)
        yield Quirks(**best)  # type: ignore[arg-type]  # of the fields' own Literals


@pytest.mark.parametrize("form", [*each_pair(), Quirks.engine(), Quirks.engine(attempts_by_id="strings")], ids=repr)
async def test_each_verdict_is_right_or_unknown_for_each_pair_of_forms(form: Quirks) -> None:
    told = "objects" in (form.attempts, form.attempts_by_id)
    async with a_service(form) as service:
        world = service.world
        began = world.fake.clock() - timedelta(minutes=30)
        looked = await world.basiq.webhooks.diagnose(world.webhook_id, receiver=world.receiver())
        assert (looked.undelivered, looked.look.unknown, looked.healthy) == ((1, 0, False) if told else (0, 11, False))
        for where, wanted in (
            (failed_only(), service.missed),
            (since(began), service.live + service.missed),
            (~failed_only() & until(began), service.old),
        ):
            got: list[str] = []

            async def take(message: Message, got: list[str] = got) -> None:
                got.append(message.event_id or "")

            report = await Replay(world.basiq, world.webhook_id, take, inbox=MemoryInbox(), where=where).run()
            assert (sorted(got), report.finished) == (sorted(wanted) if told else [], told)
        found = await world.recover(world.receiver())
        assert (world.got, found.unknown, found.finished) == ((service.missed, 0, True) if told else ([], 11, False))
        healthy = await world.basiq.webhooks.diagnose(world.webhook_id, receiver=world.receiver())
        assert (healthy.healthy, healthy.recovered + healthy.undelivered <= 1) == (told, True), healthy.problems


@untold
async def test_everything_since_a_moment_is_passed_where_only_single_messages_tell_their_times(listed: str) -> None:
    async with a_service(quirks(listed)) as service:
        world = service.world
        begins = world.fake.clock() - timedelta(minutes=30)
        found = await world.recover(everything=True, since=begins)
        assert (sorted(world.got), found.finished) == (sorted(service.missed), True)


# --- the requests ---


@attrs.define
class Runs:
    """What runs of a recovery over a seeded history asked for."""

    pages: list[int]
    alone: list[int]
    last: Recovery


async def recover_often(
    form: Quirks, count: int, *, runs: int = 10, every: float = 1.0, page_size: int = 500, failed: float = 0.01
) -> Runs:
    fake = FakeBasiq(quirks=form, clock=ManualClock(datetime.now(UTC)), page_size=page_size)
    webhook_id = fake.seed_messages(count, failed=failed, every=every)
    inbox = SteppingInbox(10, clock=fake.clock, max_entries=100_000)  # the loop goes on while it is asked
    found = Runs([], [], None)  # type: ignore[arg-type]  # it is set below

    async def handle(message: object) -> None: ...

    retry = RetryPolicy(max_retries=0)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake), retry=retry) as client:
        for _ in range(runs):
            before = asked(fake)
            found.last = await recover(client, webhook_id, handle, inbox=inbox)
            pages, alone = asked(fake)
            found.pages.append(pages - before[0])
            found.alone.append(alone - before[1])
            await fake.advance(minutes=30)
    return found


@untold
@each_order
async def test_the_tenth_recovery_asks_for_no_single_message_again(listed: str, order: str) -> None:
    found = await recover_often(quirks(listed, order=order), 1_200)
    assert found.last.finished
    assert 1_200 <= found.alone[0] <= 1_250
    assert found.alone[1:] == [0] * 9
    assert found.pages[9] == 4


@each_form
async def test_a_list_that_begins_with_the_newest_is_read_back_only_as_far_as_the_last_recovery_needs(
    listed: str,
) -> None:
    """Where the list tells no times, some messages of each page do."""
    newest = await recover_often(quirks(listed, order="newest-first"), 1_200, runs=3, every=3_600, page_size=50)
    assert newest.last.finished
    assert newest.pages[0] >= 24
    # Nine days are on five pages; the sixth has only older messages. Where it tells no times, one more was requested
    # ahead. A few of the first page are requested again.
    assert newest.pages[2] == (7 if listed == "objects" else 8)
    assert newest.alone[2] <= 8 * 8
    oldest = await recover_often(quirks(listed), 1_200, runs=3, every=3_600, page_size=50)
    assert (oldest.pages[2] >= 24, oldest.alone[2]) == (True, 0)


async def test_a_list_with_one_message_a_page_is_read_back_no_further_though_the_inbox_knows_them_all() -> None:
    found = await recover_often(
        quirks("absent", order="newest-first"), 300, runs=2, every=3_600, page_size=1, failed=1.0
    )
    assert found.last.finished
    assert 216 < found.pages[1] < 260


async def test_a_recovery_forgets_what_was_remembered_of_messages_that_are_not_listed_any_more() -> None:
    class Hiding(InMemoryTransport):
        hides = False

        async def send(self, request: Request, /) -> Response:
            response = await super().send(request)
            if not (self.hides and request.url.partition("?")[0].endswith("/messages")):
                return response
            listed = json.loads(response.body)
            return attrs.evolve(response, body=json.dumps({**listed, "data": listed["data"][:15]}).encode())

    fake = FakeBasiq(quirks=quirks("absent"))
    webhook_id, transport, inbox, alone = fake.seed_messages(40), Hiding(fake), MemoryInbox(), [0]

    async def handle(message: object) -> None: ...

    async with BasiqClient(fake.api_key, transport=transport) as client:
        for hides in (False, False, True, False):
            transport.hides = hides
            await recover(client, webhook_id, handle, inbox=inbox)
            alone.append(asked(fake)[1])
    assert [after - before for before, after in pairwise(alone)] == [40, 0, 0, 25]


async def test_a_recovery_that_stops_early_forgets_nothing_of_what_it_did_not_read() -> None:
    fake = FakeBasiq(quirks=quirks("absent", order="newest-first"), clock=ManualClock(datetime.now(UTC)), page_size=50)
    webhook_id = fake.seed_messages(600, failed=0.05, every=3_600)
    inbox = MemoryInbox(clock=fake.clock)

    async def handle(message: object) -> None: ...

    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        for _ in range(2):
            found = await recover(client, webhook_id, handle, inbox=inbox)
        assert found.messages.read < 600
        whole = await Replay(client, webhook_id, handle, inbox=inbox, where=failed_only()).run()
        assert (whole.read, whole.read_by_id) == (600, 0)
