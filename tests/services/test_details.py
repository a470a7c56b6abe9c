"""What a list does not tell of its messages is read from each message, and what cannot change is remembered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from basiq_async import (
    BasiqClient,
    InMemoryTransport,
    Message,
    Request,
    Response,
    RetryPolicy,
    ServerError,
    TransportError,
)
from basiq_async.services.details import Details, RawMessages, tells_attempts
from basiq_async.testing import FakeBasiq, Quirks


class Reads(InMemoryTransport):
    """A transport that lists the single messages that are requested, and may respond itself."""

    def __init__(self, fake: FakeBasiq, respond: Callable[[Request], Response | None] = lambda request: None) -> None:
        super().__init__(fake)
        self.respond = respond
        self.alone: list[str] = []

    async def send(self, request: Request, /) -> Response:
        if "/messages/" not in request.url:
            return await super().send(request)
        self.alone.append(request.url.rpartition("/")[2])
        return self.respond(request) or await super().send(request)


@attrs.define
class History:
    """The messages of a webhook as a list without attempts has them, and the notes of a record."""

    client: BasiqClient
    transport: Reads
    webhook_id: str
    items: list[dict[str, Any]]
    notes: dict[str, str] = attrs.Factory(dict[str, str])

    def details(self, **options: Any) -> Details:
        async def note(name: str) -> str | None:
            return self.notes.get(name)

        async def set_note(name: str, text: str) -> None:
            assert len(text) <= 64_000
            self.notes[name] = text

        return Details(self.client._api, self.webhook_id, note=note, set_note=set_note, **options)

    async def fill(self, details: Details, items: list[dict[str, Any]] | None = None) -> list[Message]:
        """Fill in what tells whether a message failed. Return the messages."""
        found = RawMessages(self.items if items is None else items)
        await details.fill(found, range(len(found)), failed)
        return [Message(each["id"], each) for each in found]


def failed(message: Message) -> bool | None:
    return None if message.delivered is None else message.delivered is False


@asynccontextmanager
async def a_history(count: int, form: Any = "absent", *, failed: float = 0.2, **options: Any) -> AsyncIterator[History]:
    fake = FakeBasiq(quirks=Quirks(attempts=form))
    transport = Reads(fake, **options)
    webhook_id = fake.seed_messages(count, failed=failed)
    retry = RetryPolicy(max_retries=0)
    async with BasiqClient(fake.api_key, transport=transport, retry=retry) as client:
        items = [dict(each.raw) for each in await client.messages.list(webhook_id).collect()]
        yield History(client, transport, webhook_id, items)


@pytest.mark.parametrize("form", ["absent", "strings"])
async def test_each_message_is_read_once_and_what_was_delivered_is_not_read_again(form: str) -> None:
    async with a_history(40, form) as history:
        told = await history.fill(history.details())
        assert all(tells_attempts(each) for each in told)
        assert len(history.transport.alone) == len(set(history.transport.alone)) == 40
        left = [each.id for each in told if each.delivered is False]
        history.transport.alone.clear()
        again = await history.fill(history.details())
        assert sorted(history.transport.alone) == sorted(left), "what failed can be delivered meanwhile"
        assert [each.delivered for each in again] == [each.delivered for each in told]
        assert [each.first_attempt and each.first_attempt.timestamp for each in again] == [
            each.first_attempt and each.first_attempt.timestamp for each in told
        ]


async def test_a_list_that_tells_needs_neither_requests_nor_notes() -> None:
    async with a_history(10, "objects") as history:
        assert [each.raw for each in await history.fill(history.details())] == history.items
        assert (history.transport.alone, history.notes) == ([], {})


async def test_more_than_one_note_holds_what_was_read() -> None:
    async with a_history(3_000) as history:
        await history.fill(history.details())
        assert len(history.notes) == 2
        history.transport.alone.clear()
        delivered = [each for each in await history.fill(history.details()) if each.delivered is True]
        assert len(history.transport.alone) == 3_000 - len(delivered)


async def test_what_another_program_wrote_into_a_note_is_read_again() -> None:
    async with a_history(10) as history:
        await history.fill(history.details())
        (name,) = history.notes
        for text in ("", "%%%", "AAAA"):
            history.notes[name] = text
            history.transport.alone.clear()
            assert all(tells_attempts(each) for each in await history.fill(history.details()))
            assert len(history.transport.alone) == 10


@pytest.mark.parametrize("filtered", [False, True])
async def test_what_the_list_no_longer_has_is_forgotten_unless_a_filter_hides_it(filtered: bool) -> None:
    async with a_history(40) as history:
        await history.fill(history.details())
        details = history.details()
        await history.fill(details, history.items[:10])
        await details.forget(filtered=filtered)
        history.transport.alone.clear()
        told = await history.fill(history.details())
        delivered = [each.delivered is True for each in told]
        assert len(history.transport.alone) == delivered.count(False) + (0 if filtered else sum(delivered[10:]))


async def test_what_was_delivered_since_it_was_noted_as_failed_is_noted_again() -> None:
    async with a_history(20, failed=1.0) as history:
        told = await history.fill(history.details())
        late = next(each for each in told if each.delivered is False)
        success = {"timestamp": "2026-03-01T00:00:00Z", "status": "Success", "responseStatusCode": 200}
        body = json.dumps({"id": late.id, "attempts": [*late.raw["attempts"], success]}).encode()

        def deliver(request: Request) -> Response | None:
            return answer(200, body)(request) if request.url.endswith(late.id) else None

        history.transport.respond = deliver
        await history.fill(history.details())
        history.transport.alone.clear()
        again = await history.fill(history.details())
        assert late.id not in history.transport.alone
        assert next(each for each in again if each.id == late.id).delivered is True


async def test_nothing_is_noted_by_what_may_not_write() -> None:
    async with a_history(10) as history:
        await history.fill(history.details(is_noting=False))
        assert history.notes == {}


def answer(status: int, body: bytes = b"{}") -> Callable[[Request], Response]:
    return lambda request: Response(status, {"content-type": "application/json"}, body)


@pytest.mark.parametrize(
    ("respond", "refused"),
    [
        (answer(404), False),
        (answer(400), False),
        (answer(403), True),
        (answer(200, b"<html>"), False),
        (answer(200, b"[]"), False),
        (answer(200, b'{"id": "another", "attempts": []}'), False),
        (answer(200, b'{"attempts": ["a1"]}'), False),
        (answer(200, b'{"attempts": [{"timestamp": "no date"}]}'), False),
    ],
    ids=["gone", "bad", "forbidden", "a page", "a list", "another message", "ids", "unreadable"],
)
async def test_a_message_that_cannot_be_read_stays_unknown(respond: Any, refused: bool) -> None:
    async with a_history(20, respond=respond) as history:
        details = history.details()
        assert {each.delivered for each in await history.fill(details)} == {None}
        assert (details.is_refused, history.notes) == (refused, {})
        if refused:
            assert len(history.transport.alone) <= 8, "no further one is asked for"


async def test_an_answer_without_the_payload_takes_nothing_of_what_the_list_tells() -> None:
    async with a_history(3) as history:

        def without_payload(request: Request) -> Response:
            found = {
                "id": request.url.rpartition("/")[2],
                "payload": None,
                "eventId": 5,
                "attempts": [{"status": "Failed"}],
            }
            return answer(200, json.dumps(found).encode())(request)

        history.transport.respond = without_payload
        told = await history.fill(history.details())
        assert [(each.payload, each.delivered) for each in told] == [(each["payload"], False) for each in history.items]


async def test_an_answer_that_may_come_later_is_an_error_and_not_unknown() -> None:
    async with a_history(20, respond=answer(503)) as history:
        with pytest.raises(ServerError):
            await history.fill(history.details())


async def test_a_message_that_is_too_large_alone_stays_unknown() -> None:
    def refuse(request: Request) -> Response:
        error = TransportError("the response's body is larger than 9 bytes")
        error._too_large = True
        raise error

    async with a_history(4, respond=refuse) as history:
        assert [each.delivered for each in await history.fill(history.details())] == [None] * 4
        assert len(history.transport.alone) == 8, "once more without its long texts"


async def test_an_id_that_no_path_can_hold_stays_unknown() -> None:
    async with a_history(1) as history:
        (told,) = await history.fill(history.details(), [{**history.items[0], "id": "../x"}])
        assert (told.delivered, history.transport.alone) == (None, [])


async def test_an_empty_list_of_attempts_is_asked_about_too() -> None:
    """A list that does not tell them may show none."""
    async with a_history(5) as history:
        told = await history.fill(history.details(), [{**each, "attempts": []} for each in history.items])
        assert all(each.attempts for each in told)
