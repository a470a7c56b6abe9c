"""Arguments that cannot be right are refused early, by name, and nothing is sent."""

from __future__ import annotations

import pytest

from basiq_async import (
    BasiqClient,
    ConfigurationError,
    Event,
    InMemoryTransport,
    Message,
    NotFoundError,
    Response,
    ResponseDecodeError,
)
from tests.support import virtual
from tests.support.scripted import API_KEY, Scripted, answer, client


@pytest.mark.parametrize("base_url", ["http://localhost:4010/basiq", "http://127.9.9.9", "http://[::1]:4010"])
def test_http_is_for_this_machine(base_url: str) -> None:
    BasiqClient(API_KEY, transport=Scripted(answer()), base_url=base_url)


# tests/wire/test_hosts.py has every form of a host.
@pytest.mark.parametrize("base_url", ["HTTP://example.com", "http://10.0.0.1:4010", "http://127.1"])
def test_http_to_another_machine_has_to_be_allowed(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_http=True"):
        BasiqClient(API_KEY, transport=Scripted(answer()), base_url=base_url)
    BasiqClient(API_KEY, transport=Scripted(answer()), base_url=base_url, allow_http=True)


def test_http_can_be_allowed_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_ALLOW_HTTP", "1")
    BasiqClient(API_KEY, transport=Scripted(answer()), base_url="http://mock:4010")
    monkeypatch.setenv("BASIQ_ALLOW_HTTP", "")
    with pytest.raises(ConfigurationError, match="BASIQ_ALLOW_HTTP=1"):
        BasiqClient(API_KEY, transport=Scripted(answer()), base_url="http://mock:4010")


def test_the_base_url_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_BASE_URL", "http://127.0.0.1:4010/mock")
    assert repr(BasiqClient(API_KEY, transport=Scripted())) == "BasiqClient(base_url='http://127.0.0.1:4010/mock')"
    explicit = BasiqClient(API_KEY, transport=Scripted(), base_url="https://proxy.example")
    assert repr(explicit) == "BasiqClient(base_url='https://proxy.example')"
    monkeypatch.setenv("BASIQ_BASE_URL", "")
    assert repr(BasiqClient(API_KEY, transport=Scripted())) == "BasiqClient(base_url='https://au-api.basiq.io')"
    monkeypatch.setenv("BASIQ_BASE_URL", "http://example.com")
    with pytest.raises(ConfigurationError, match="base_url"):
        BasiqClient(API_KEY, transport=Scripted())


class Source:
    """What has the links of a thin payload."""

    def __init__(self, event_id: str | None = None, **links: str) -> None:
        self.event_id = event_id
        self.links = links


EVENT = answer({"id": "e", "entity": "consent", "eventType": "revoked"})


def test_an_event_is_fetched_by_its_link_or_else_by_its_id() -> None:
    async def main() -> None:
        transport = Scripted(EVENT)
        basiq = client(transport, base_url="https://proxy.example/basiq")
        await basiq.events.fetch(Source("e", event="https://au-api.basiq.io/events/e?x='1'"))
        await basiq.events.fetch(Source("e/1"))
        payload = {"eventId": "e", "links": {"event": "https://au-api.basiq.io/events/inner"}}
        await basiq.events.fetch(Message("m", {"payload": payload, "links": {"event": "https://x.example"}}))
        assert transport.urls == [
            "https://proxy.example/basiq/events/e?x='1'",
            "https://proxy.example/basiq/events/e%2F1",
            "https://proxy.example/basiq/events/inner",
        ]
        with pytest.raises(ConfigurationError, match="neither a link 'event' nor an event id"):
            await basiq.events.fetch(Source())

    virtual.run(main())


def test_an_entity_is_fetched_as_json() -> None:
    async def main() -> None:
        transport = Scripted(answer({"any": ["thing"]}))
        basiq = client(transport)
        assert await basiq.events.fetch_entity(Source(eventEntity="https://au-api.basiq.io/users/u")) == {
            "any": ["thing"]
        }
        assert transport.urls == ["https://au-api.basiq.io/users/u"]
        with pytest.raises(ConfigurationError, match="no link 'eventEntity'"):
            await basiq.events.fetch_entity(Source("e"))

    virtual.run(main())


def test_an_answer_that_cannot_be_read_says_which_request_it_was_to() -> None:
    async def main() -> None:
        basiq = client(Scripted(answer({"no": "id"})))
        for call in (basiq.events.get("e"), basiq.event_types.get("e"), basiq.messages.get("w", "m")):
            with pytest.raises(Exception, match=r"^\$\.id: .*\(GET /"):
                await call
        with pytest.raises(Exception, match=r"^\$: the response's body is empty \(GET /users/u\)"):
            await client(Scripted(answer())).events.fetch_entity(Source(eventEntity="/users/u"))

    virtual.run(main())


def test_the_entity_of_an_event_is_fetched_by_its_reference_to_the_data() -> None:
    async def main() -> None:
        transport = Scripted(answer([1, {"a": None}]))
        basiq = client(transport)
        event = Event("e", data_ref="https://au-api.basiq.io/users/u/accounts", links={"eventEntity": "/other"})
        assert await basiq.events.fetch_entity(event) == [1, {"a": None}]
        await basiq.events.fetch_entity(Event("e", links={"eventEntity": "/other"}))
        assert transport.urls == ["https://au-api.basiq.io/users/u/accounts", "https://au-api.basiq.io/other"]
        for wrong in (Event("e"), Event("e", data_ref="https://evil.example/x")):
            with pytest.raises(ConfigurationError, match="eventEntity"):
                await basiq.events.fetch_entity(wrong)

    virtual.run(main())


@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_page_of_a_proxy_does_not_pass_for_an_empty_answer(status: int) -> None:
    async def main() -> None:
        basiq = client(Scripted(Response(status, {}, b"<html>Sign in to the network</html>")))
        for call in (basiq.webhooks.delete("w"), basiq.messages.send_test("user.created")):
            with pytest.raises(ResponseDecodeError, match="is not JSON"):
                await call
        for body in (b"", b" ", b"{}"):
            basiq = client(Scripted(Response(status, {}, body)))
            await basiq.webhooks.delete("w")
            await basiq.messages.send_test("user.created")
        await client(Scripted(Response(204, {}, b"<html>"))).webhooks.delete("w")

    virtual.run(main())


def test_a_closed_client_says_so() -> None:
    async def main() -> None:
        transport = Scripted(EVENT)
        async with client(transport) as basiq:
            await basiq.events.get("e")
        with pytest.raises(Exception, match=r"the client is closed \(GET /events/e\)"):
            await basiq.events.get("e")
        await basiq.aclose()
        assert transport.closed == 0

    virtual.run(main())


def test_waiting_until_active_is_patient() -> None:
    async def main() -> None:
        transport = Scripted(answer({"id": "w", "url": "u", "status": "pending-approval"}))
        began = virtual.now()
        with pytest.raises(TimeoutError, match="after 1020 s"):
            await client(transport).webhooks.wait_until_active("w")
        assert virtual.now() - began == pytest.approx(1020)
        assert len(transport.requests) < 50

    virtual.run(main())


async def test_the_default_fake_of_the_in_memory_transport_is_its_own() -> None:
    first, second = InMemoryTransport(), InMemoryTransport()
    assert first.fake is not second.fake
    async with BasiqClient(first.fake.DEFAULT_API_KEY, transport=first) as basiq:
        with pytest.raises(NotFoundError):
            await basiq.events.get("nothing")
    assert isinstance(Event("e"), Event)
