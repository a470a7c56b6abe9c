"""One item that cannot be read ends no verdict and no run: it is set aside, and no handler gets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import Delivery, MemoryInbox, Result, WebhookReceiver
from basiq_async.replay import Replay, recover
from basiq_async.testing import FakeBasiq
from basiq_async.transports.base import Request, Response, Transport

URL = "https://service.example/basiq"


def change(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda item: item.update({field: value})


MALFORMED: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a bad date": ("/messages", change("attempts", [{"id": "a", "timestamp": "noon", "statusCode": 500}])),
    "attempts of another form": ("/messages", change("attempts", {"a": 1})),
    "a payload of another form": ("/messages", change("payload", ["a"])),
    "a message without an id": ("/messages", lambda item: item.pop("id")),
    "an event's bad date": ("/events", change("createdDate", "noon")),
    "an event without an id": ("/events", lambda item: item.pop("id")),
}


@attrs.define
class Malforming:
    """A transport that changes the first item of one of the lists."""

    inner: Transport
    path: str
    malform: Callable[[dict[str, Any]], None]

    async def send(self, request: Request) -> Response:
        response = await self.inner.send(request)
        if request.url.partition("?")[0].endswith(self.path) and response.status == 200:
            body = json.loads(response.body)
            if body.get("data"):
                self.malform(body["data"][0])
                return attrs.evolve(response, body=json.dumps(body).encode())
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.mark.parametrize("name", MALFORMED)
async def test_each_kind_of_malformed_item_ends_nothing_and_is_handed_to_no_handler(name: str) -> None:
    path, malform = MALFORMED[name]
    fake, got = FakeBasiq(), list[Delivery]()
    webhook_id = fake.add_webhook(URL, ["user.created"])
    fake.endpoint_down(URL)
    for _ in range(3):
        await fake.emit("user.created")
    await fake.advance(minutes=10)
    transport = Malforming(InMemoryTransport(fake), path, malform)
    async with BasiqClient(fake.api_key, transport=transport) as basiq:
        inbox = MemoryInbox(clock=fake.clock)
        receiver = WebhookReceiver(fake.secret(webhook_id), webhook_id=webhook_id, inbox=inbox, clock=fake.clock)

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            got.append(delivery)

        await basiq.webhooks.diagnose(webhook_id, receiver=receiver)
        await recover(basiq, webhook_id, receiver, inbox=inbox).plan()
        await recover(basiq, webhook_id, receiver, inbox=inbox)
        await Replay(basiq, webhook_id, receiver, inbox=inbox).plan()
        await Replay(basiq, webhook_id, receiver, inbox=inbox).run()
        for outcome in await receiver.retry_quarantined():
            assert outcome.result in (Result.UNREADABLE, Result.HANDLED, Result.DUPLICATE)
        assert all(each.event_type_id and each.event_id for each in got)
        assert 2 <= len({each.event_id for each in got}) == len(got) <= 3
