"""A message looks alike whichever way it is replayed: into a receiver, or posted to the endpoint that has one."""

from __future__ import annotations

from typing import Any

import pytest

from basiq_async import BasiqClient, InMemoryTransport, Message, RetryPolicy
from basiq_async._wire.payloads import payload_bytes
from basiq_async.receiver import Delivery, MemoryInbox
from basiq_async.replay import HttpTarget, Replay
from basiq_async.testing import FakeBasiq, Quirks
from tests.support.deliveries import SECRET
from tests.support.histories import Receiving
from tests.support.served import serving

LINKS = {"event": "https://au-api.basiq.io/events/e1"}
MESSAGES: dict[str, dict[str, Any]] = {
    "plain": {"id": "m", "payload": {"eventTypeId": "user.created", "eventId": "e1", "links": LINKS}},
    "ids beside the payload": {"id": "m", "eventTypeId": "user.created", "eventId": "e1", "payload": {"links": LINKS}},
    "no payload": {"id": "m", "eventTypeId": "user.created", "eventId": "e1"},
    "one id beside it": {"id": "m", "eventId": "e1", "payload": {"eventTypeId": "user.created"}},
    "an id that is null": {"id": "m", "eventId": "e1", "payload": {"eventTypeId": "user.created", "eventId": None}},
    "numbers": {"id": "m", "payload": {"eventTypeId": "user.created", "eventId": 7, "amount": 1.10, "big": 10**18}},
    "not ASCII": {"id": "m", "payload": {"eventTypeId": "user.created", "eventId": "e1", "name": "Zoë 😀 \u2028"}},
    "half a surrogate pair": {"id": "m", "payload": {"eventTypeId": "user.created", "eventId": "\ud800ü"}},
    "nothing": {"id": "m"},
}


def shape(delivery: Delivery) -> tuple[object, ...]:
    """All but when it was signed."""
    return (delivery.id, delivery.event_type_id, delivery.event_id, delivery.links, delivery.body, delivery.raw)


@pytest.mark.parametrize("raw", MESSAGES.values(), ids=MESSAGES)
async def test_both_ways_give_the_same_delivery(raw: dict[str, Any]) -> None:
    message = Message("m", raw)
    posted = Receiving()
    async with serving(posted.receiver.aiohttp_handler) as url, HttpTarget(url, SECRET) as target:
        await target.deliver(message)
    direct = Delivery.from_message(message)
    assert shape(posted.got[0]) == shape(direct)
    assert posted.got[0].key == direct.key
    assert direct.body == payload_bytes(message)


@pytest.mark.parametrize("quirks", list(Quirks.each_form()), ids=str)
async def test_both_ways_give_the_same_deliveries_for_every_form_of_a_history(quirks: Quirks) -> None:
    fake = FakeBasiq(quirks=quirks)
    webhook_id = fake.seed_messages(5)
    posted, direct = Receiving(), Receiving()
    async with (
        BasiqClient(fake.api_key, transport=InMemoryTransport(fake), retry=RetryPolicy(max_retries=0)) as client,
        serving(posted.receiver.aiohttp_handler) as url,
        HttpTarget(url, SECRET) as target,
    ):
        for each in (target, direct.receiver):
            inbox = MemoryInbox() if each is target else direct.receiver.inbox
            report = await Replay(client, webhook_id, each, inbox=inbox, concurrency=1).run()
            assert report.handled == 5
    assert [shape(each) for each in posted.got] == [shape(each) for each in direct.got]
    assert all(each.event_type_id and each.event_id for each in direct.got)
