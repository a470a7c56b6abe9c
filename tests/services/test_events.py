"""Events, and what they are about."""

from __future__ import annotations

import pytest

from basiq_async import (
    ConfigurationError,
    Event,
    F,
    Message,
    NotFoundError,
    ResponseDecodeError,
)
from tests.support import virtual
from tests.support.scripted import Scripted, answer, client

from .conftest import Basiq, active


class Source:
    """What has the links of a thin payload."""

    def __init__(self, event_id: str | None = None, **links: str) -> None:
        self.event_id = event_id
        self.links = links


EVENT = answer({"id": "e", "entity": "consent", "eventType": "revoked"})


@virtual.clocked
async def test_an_event_is_fetched_by_its_link_or_else_by_its_id() -> None:
    transport = Scripted(EVENT)
    basiq = client(transport, base_url="https://proxy.example/basiq")
    await basiq.events.fetch(Source("e", event="https://au-api.basiq.io/events/e?x='1'"))
    await basiq.events.fetch(Source("e 1"))
    payload = {"eventId": "e", "links": {"event": "https://au-api.basiq.io/events/inner"}}
    await basiq.events.fetch(Message("m", {"payload": payload, "links": {"event": "https://x.example"}}))
    assert transport.urls == [
        "https://proxy.example/basiq/events/e?x='1'",
        "https://proxy.example/basiq/events/e%201",
        "https://proxy.example/basiq/events/inner",
    ]
    with pytest.raises(ConfigurationError, match="neither a link 'event' nor an event id"):
        await basiq.events.fetch(Source())


@virtual.clocked
async def test_an_entity_is_fetched_as_json() -> None:
    transport = Scripted(answer({"any": ["thing"]}))
    basiq = client(transport)
    assert await basiq.events.fetch_entity(Source(eventEntity="https://au-api.basiq.io/users/u")) == {"any": ["thing"]}
    assert transport.urls == ["https://au-api.basiq.io/users/u"]
    with pytest.raises(ConfigurationError, match="no link 'eventEntity'"):
        await basiq.events.fetch_entity(Source("e"))


@virtual.clocked
async def test_the_entity_of_an_event_is_fetched_by_its_reference_to_the_data() -> None:
    transport = Scripted(*[answer({"a": None})] * 2, answer([1]))
    basiq = client(transport)
    event = Event("e", data_ref="https://au-api.basiq.io/users/u/accounts", links={"eventEntity": "/other"})
    assert await basiq.events.fetch_entity(event) == {"a": None}
    await basiq.events.fetch_entity(Event("e", links={"eventEntity": "/other"}))
    assert transport.urls == ["https://au-api.basiq.io/users/u/accounts", "https://au-api.basiq.io/other"]
    with pytest.raises(ResponseDecodeError, match="expected an object, got a list"):
        await basiq.events.fetch_entity(event)
    for wrong in (Event("e"), Event("e", data_ref="https://evil.example/x")):
        with pytest.raises(ConfigurationError, match="eventEntity"):
            await basiq.events.fetch_entity(wrong)


async def test_events_and_the_way_to_them_from_a_thin_payload(basiq: Basiq) -> None:
    webhook = await active(basiq)
    await basiq.fake.emit("consent.revoked", user_id="11111111-1111-4111-8111-111111111111")
    (message,) = await basiq.client.messages.list(webhook.id).collect()
    event = await basiq.client.events.fetch(message)
    assert (event.type, event.id) == ("consent.revoked", message.event_id)
    assert await basiq.client.events.get(event.id) == event
    listed = await basiq.client.events.list(filter=F("event.entity").eq("consent")).collect()
    assert [found.id for found in listed] == [event.id]
    with pytest.raises(NotFoundError):
        await basiq.client.events.get("no-such-event")
