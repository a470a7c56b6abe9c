"""What a job quarantined: a live attempt may still handle it, and a retry hands it to the handlers as a delivery."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async.receiver import (
    Delivery,
    Inbox,
    InboxEntry,
    MemoryInbox,
    Result,
    SQLInbox,
    SQLiteInbox,
    WebhookReceiver,
)
from basiq_async.receiver.protocol import Claim, inbox_key
from tests.support.databases import engine_of
from tests.support.deliveries import NOW, SECRET, Service, payload, post
from tests.support.inboxes import opened

MESSAGE = {
    "id": "msg_7",
    "payload": {"eventTypeId": "user.created", "eventId": "e-1"},
    "attempts": [{"timestamp": "2026-01-04T00:00:00Z", "statusCode": 500}],
}
KEY = inbox_key("e-1", "msg_7")


def job_entry(kind: Any = "message", key: str = KEY, body: bytes | None = None) -> InboxEntry:
    """An entry as a job makes it."""
    return InboxEntry(
        key=key,
        delivery_id="msg_7",
        event_type_id="user.created",
        event_id="e-1",
        body=json.dumps(MESSAGE).encode() if body is None else body,
        signed_at=NOW,
        error="ValueError: no",
        failures=3,
        quarantined_at=NOW,
        kind=kind,
        acknowledged=False,
    )


@pytest.fixture(params=["memory", "file", "database"])
async def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Inbox]:
    if request.param == "memory":
        yield MemoryInbox()
    else:
        place = {"file": tmp_path / "inbox.db", "database": f"sqlite+aiosqlite:///{tmp_path}/sql.db"}[request.param]
        async with opened(place) as made:
            yield made


def service_on(inbox: Inbox, pattern: str = "*", **options: Any) -> Service:
    return Service(pattern, inbox=inbox, webhook_id="w1", **options)


async def retry(service: Service) -> list[Result]:
    return [outcome.result for outcome in await service.receiver.retry_quarantined()]


BODY = payload("user.created", "e-1")


async def test_basiqs_next_attempt_handles_it_and_it_leaves_the_quarantine(inbox: Inbox) -> None:
    one = service_on(inbox)
    await inbox.quarantine(KEY, "job", job_entry())
    assert (await post(one.receiver, BODY)).result is Result.HANDLED
    assert await inbox.entries() == []
    assert (await post(one.receiver, BODY)).result is Result.DUPLICATE
    assert await retry(one) == []


async def test_an_attempt_that_fails_leaves_it_there_and_its_own_failures_are_counted(inbox: Inbox) -> None:
    one = service_on(inbox, quarantine_after=2)
    await inbox.quarantine(KEY, "job", job_entry())
    one.broken = True
    assert (await post(one.receiver, BODY)).result is Result.FAILED, "the failures of the job do not count"
    assert await inbox.entries() == [job_entry()]
    assert (await post(one.receiver, BODY)).result is Result.QUARANTINED
    (entry,) = await inbox.entries()
    assert (entry.kind, entry.acknowledged, entry.failures, entry.body) == ("delivery", True, 2, BODY)
    assert (await post(one.receiver, BODY)).result is Result.DUPLICATE


@pytest.mark.parametrize("kind", ["message", "event"])
async def test_a_retry_hands_the_message_to_the_handlers_as_a_delivery(inbox: Inbox, kind: str) -> None:
    one = service_on(inbox)
    await inbox.quarantine(KEY, "job", job_entry(kind))
    assert await retry(one) == [Result.HANDLED]
    (delivery,) = one.handled
    assert (delivery.id, delivery.event_id) == ("msg_7", "e-1")
    assert json.loads(delivery.body) == MESSAGE["payload"]
    assert await inbox.entries() == []
    assert (await post(one.receiver, BODY)).result is Result.DUPLICATE


async def test_a_retry_that_fails_keeps_it_as_it_was_open_for_basiqs_next_attempt(inbox: Inbox) -> None:
    one = service_on(inbox)
    await inbox.quarantine(KEY, "job", job_entry())
    one.broken = True
    assert await retry(one) == [Result.QUARANTINED]
    (entry,) = await inbox.entries()
    assert (entry.kind, entry.acknowledged, entry.body) == ("message", False, job_entry().body)
    assert (entry.failures, entry.error) == (4, "RuntimeError: broken")
    one.broken = False
    assert (await post(one.receiver, BODY)).result is Result.HANDLED


async def test_a_type_without_a_handler_and_what_another_worker_holds_stay_each_with_its_word(inbox: Inbox) -> None:
    await inbox.quarantine(KEY, "job", job_entry())
    assert await retry(service_on(inbox, "consent.revoked")) == [Result.IGNORED]
    await inbox.claim(KEY, "another", lease=60)
    assert await retry(service_on(inbox)) == [Result.BUSY]
    assert await inbox.entries() == [job_entry()]


async def test_a_delivery_that_was_handled_while_it_was_read_is_a_duplicate() -> None:
    class Meanwhile(MemoryInbox):
        async def claim(
            self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
        ) -> Claim:
            await self.complete(key, "another")
            return await super().claim(key, token, lease=lease, quarantined=quarantined, transaction=transaction)

    one = service_on(inbox := Meanwhile())
    await inbox.quarantine(KEY, "job", job_entry())
    assert await retry(one) == [Result.DUPLICATE]
    assert one.handled == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"[" * 100_000, b'{"id": {"x": 1}, "payload": {}}', b"\xff"])
async def test_what_still_cannot_be_read_has_a_word_of_its_own_and_stays(inbox: Inbox, body: bytes) -> None:
    one = service_on(inbox)
    key = inbox_key(None, "odd")
    await inbox.quarantine(key, "job", job_entry("unreadable", key, body))
    assert await retry(one) == [Result.UNREADABLE]
    assert one.handled == []
    assert len(await inbox.entries()) == 1
    assert await one.receiver.drop_quarantined(["msg_7"]) == 1


@pytest.mark.parametrize("broken", [False, True])
async def test_what_was_unreadable_and_can_be_read_now_has_the_key_of_its_event(inbox: Inbox, *, broken: bool) -> None:
    one = service_on(inbox)
    key = inbox_key(None, "odd")
    await inbox.quarantine(key, "job", job_entry("unreadable", key))
    one.broken = broken
    assert await retry(one) == [Result.FAILED if broken else Result.HANDLED]
    assert len(await inbox.entries()) == int(broken)
    assert set(await inbox.known([KEY, key])) == ({key} if broken else {KEY, key})


async def test_an_unreadable_entry_that_another_worker_has_stays_though_its_event_is_handled(inbox: Inbox) -> None:
    one = service_on(inbox)
    key = inbox_key(None, "odd")
    await inbox.quarantine(key, "job", job_entry("unreadable", key))
    await inbox.claim(key, "another", lease=60, quarantined=True)
    assert await retry(one) == [Result.HANDLED]
    assert [entry.key for entry in await inbox.entries()] == [key]
    await inbox.release(key, "another")
    assert await retry(one) == [Result.DUPLICATE]
    assert await inbox.entries() == []


async def test_an_altered_entry_hinders_no_other_and_can_be_dropped_by_its_key(tmp_path: Path) -> None:
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        one = service_on(inbox)
        other = inbox_key("e-2", "msg_2")
        await inbox.quarantine(other, "job", attrs.evolve(job_entry(), key=other, event_id="e-2"))
        await inbox.quarantine(KEY, "job", job_entry())
        await inbox._store.run(
            lambda connection: connection.execute(f"UPDATE inbox SET entry_json = 'x' WHERE key = '{other}'")
        )
        outcomes = await one.receiver.retry_quarantined()
        assert sorted(outcome.result for outcome in outcomes) == [Result.HANDLED, Result.UNREADABLE]
        (entry,) = await one.receiver.quarantined()
        assert (entry.key, entry.delivery_id) == (other, other)
        assert "no inbox has written" in entry.error
        assert await one.receiver.drop_quarantined([other]) == 1


@pytest.mark.parametrize("prepares", [False, True])
async def test_a_handler_with_a_session_takes_what_a_job_quarantined(tmp_path: Path, *, prepares: bool) -> None:
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/sql.db") as engine, SQLInbox(engine) as inbox:
        receiver = WebhookReceiver(SECRET, inbox=inbox, webhook_id="w1")
        fails = [True]
        prepared: list[str] = []

        async def prepare(delivery: Delivery) -> None:
            prepared.append(delivery.event_id)

        async def handle(delivery: Delivery, session: object) -> None:
            if fails:
                raise RuntimeError("broken")

        async def handle_prepared(delivery: Delivery, session: object, prepared: None) -> None:
            await handle(delivery, session)

        receiver.on("*", prepare=prepare)(handle_prepared) if prepares else receiver.on("*")(handle)
        await inbox.quarantine(KEY, "job", job_entry())
        assert (await post(receiver, BODY)).result is Result.FAILED
        assert await inbox.entries() == [job_entry()]
        fails.clear()
        assert (await post(receiver, BODY)).result is Result.HANDLED
        assert await inbox.entries() == []
        assert (await post(receiver, BODY)).result is Result.DUPLICATE
        assert prepared == ["e-1"] * 2 * prepares, "an event that was handled is not prepared again"
