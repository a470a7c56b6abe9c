"""One item that cannot be read ends no verdict and no run: it is quarantined, and no handler gets it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import attrs
import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import Delivery, MemoryInbox, Result, WebhookReceiver
from basiq_async.replay import Replay, recover, share
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


@attrs.define
class Missing:
    """A service that missed three events, one of which is malformed in a list."""

    fake: FakeBasiq
    basiq: BasiqClient
    webhook_id: str
    inbox: MemoryInbox
    got: list[Delivery] = attrs.Factory(list[Delivery])

    def receiver(self) -> WebhookReceiver:
        secret, clock = self.fake.secret(self.webhook_id), self.fake.clock
        receiver = WebhookReceiver(secret, webhook_id=self.webhook_id, inbox=self.inbox, clock=clock)

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            self.got.append(delivery)

        return receiver

    def replay(self, name: str) -> Replay:
        """A replay of the list in which there is a malformed item."""
        source: Literal["messages", "events"] = "events" if MALFORMED[name][0] == "/events" else "messages"
        return Replay(self.basiq, self.webhook_id, self.receiver(), inbox=self.inbox, source=source)

    def assert_handled_once(self) -> None:
        assert all(each.event_type_id and each.event_id for each in self.got)
        assert 2 <= len({each.event_id for each in self.got}) == len(self.got) <= 3


class Shared(MemoryInbox):
    """An inbox that stands for one that several processes reach."""


@pytest.fixture
async def missing(name: str) -> AsyncIterator[Missing]:
    fake = FakeBasiq()
    webhook_id = fake.add_webhook(URL, ["user.created"])
    fake.endpoint_down(URL)
    for _ in range(3):
        await fake.emit("user.created")
    await fake.advance(minutes=10)
    transport = Malforming(InMemoryTransport(fake), *MALFORMED[name])
    async with BasiqClient(fake.api_key, transport=transport) as basiq:
        yield Missing(fake, basiq, webhook_id, Shared(clock=fake.clock))


@pytest.mark.parametrize("name", MALFORMED)
async def test_each_kind_of_malformed_item_ends_nothing_and_is_handed_to_no_handler(missing: Missing) -> None:
    m, receiver = missing, missing.receiver()
    await m.basiq.webhooks.diagnose(m.webhook_id, receiver=receiver)
    await recover(m.basiq, m.webhook_id, receiver, inbox=m.inbox).plan()
    await recover(m.basiq, m.webhook_id, receiver, inbox=m.inbox)
    await Replay(m.basiq, m.webhook_id, receiver, inbox=m.inbox).plan()
    await Replay(m.basiq, m.webhook_id, receiver, inbox=m.inbox).run()
    for outcome in await receiver.retry_quarantined():
        assert outcome.result in (Result.UNREADABLE, Result.HANDLED, Result.DUPLICATE)
    m.assert_handled_once()


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("lost", [False, True], ids=["worked on", "lost"])
async def test_a_malformed_item_of_a_shared_page_is_quarantined_once_by_the_last_run(
    name: str, missing: Missing, lost: bool
) -> None:
    m, worker, pages = missing, missing.replay(name), list[str]()

    async def send(page: str) -> None:
        pages.append(page)
        for _ in range(2 * (not lost)):  # doubled
            await worker.work(page)

    report = await share(m.replay(name), send)
    assert (len(pages), report.handled, report.failed, report.quarantined, report.finished) == (1, 2, 1, 1, True)
    for page in pages:
        await worker.work(page)  # as a queue that had lost it
    entries = await m.replay(name).quarantined()
    assert len(entries) == 1
    assert (await share(m.replay(name), send)).handled == 0
    retried = await m.replay(name).retry_quarantined()
    assert (retried.handled, retried.failed) == (0, 1)
    for outcome in await m.receiver().retry_quarantined():
        assert outcome.result is Result.UNREADABLE
    m.assert_handled_once()
