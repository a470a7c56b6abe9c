"""The messages of a webhook, and test messages."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import attrs
import pytest

from basiq_async import (
    AiohttpTransport,
    BadRequestError,
    BasiqClient,
    ConfigurationError,
    F,
    InMemoryTransport,
    Message,
    NotFoundError,
    ResponseDecodeError,
    RetryPolicy,
    TransportError,
)
from basiq_async._wire.abridging import Abridger
from basiq_async._wire.codec import ListPage
from basiq_async.receiver import MemoryInbox
from basiq_async.replay import recover
from basiq_async.testing import FakeBasiq, Quirks, serve
from basiq_async.transports.base import Request, Response
from tests.support import virtual
from tests.support.scripted import Scripted, answer, client

from .conftest import URL, Basiq, active, create

NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.mark.documented_world("it looks at what a list tells of attempts", "attempts")
async def test_a_test_message_is_delivered_and_is_in_the_history(basiq: Basiq) -> None:
    webhook = await active(basiq)
    await basiq.client.messages.send_test("consent.revoked", text="hello")
    await basiq.fake.deliver()
    messages = await basiq.client.messages.list(webhook.id).collect()
    assert [message.event_type_id for message in messages] == ["consent.revoked"]
    assert messages[0].delivered
    assert messages[0].webhook_id == webhook.id
    again = await basiq.client.messages.get(webhook.id, messages[0].id)
    assert again == messages[0]


async def test_a_test_message_in_the_form_of_the_guide(basiq: Basiq) -> None:
    webhook = await active(basiq)
    await basiq.client.messages.send_test_to(URL, ["consent.revoked", "account.updated"])
    await basiq.fake.deliver()
    sent = [message.event_type_id async for message in basiq.client.messages.list(webhook.id)]
    assert sorted(filter(None, sent)) == ["account.updated", "consent.revoked"]


@pytest.mark.parametrize(("text", "more"), [("hello", {"Text": "hello"}), (None, {})])
async def test_a_test_message_is_sent_in_the_form_of_the_reference(basiq: Basiq, text: str | None, more: Any) -> None:
    await active(basiq)
    await basiq.client.messages.send_test("consent.revoked", text=text)
    assert json.loads(basiq.fake.requests[-1].body or b"") == {"eventTypeId": "consent.revoked", **more}


async def test_a_test_message_without_a_webhook_is_a_bad_request(basiq: Basiq) -> None:
    with pytest.raises(BadRequestError, match="400 no-webhooks-found"):
        await basiq.client.messages.send_test("consent.revoked")


async def test_streaming_a_history_of_several_pages(basiq: Basiq) -> None:
    webhook_id = basiq.fake.seed_messages(1234)
    seen = [message.id async for message in basiq.client.messages.list(webhook_id)]
    assert (len(seen), len(set(seen))) == (1234, 1234)
    listed = [request.url for request in basiq.fake.requests if "/messages" in request.url]
    assert len(listed) == 3
    assert listed[0].endswith("/messages?limit=500")
    assert sum(request.url.endswith("/token") for request in basiq.fake.requests) == 1


async def test_filtering_a_history(basiq: Basiq) -> None:
    webhook_id = basiq.fake.seed_messages(60, event_types=["user.created", "user.deleted"])
    wanted = F("message.eventTypeId").eq("user.created")
    found = await basiq.client.messages.list(webhook_id, filter=wanted, page_size=7).collect()
    assert found
    assert {message.event_type_id for message in found} == {"user.created"}
    plain = await basiq.client.messages.list(webhook_id, filter=str(wanted)).collect()
    assert [message.id for message in plain] == [message.id for message in found]


async def test_a_message_that_is_not_there(basiq: Basiq) -> None:
    webhook = await create(basiq)
    with pytest.raises(NotFoundError) as caught:
        await basiq.client.messages.get(webhook.id, NOWHERE)
    text = str(caught.value)
    assert text.startswith("404 resource-not-found: ")
    assert f"(GET /notifications/webhooks/{webhook.id}/messages/{NOWHERE}, correlation id " in text


@pytest.mark.parametrize("event_type_id", ["", "  ", None, 5])
@virtual.clocked
async def test_a_test_message_needs_an_event_type(event_type_id: Any) -> None:
    transport = Scripted(answer())
    with pytest.raises(ConfigurationError, match=r"such as user\.created"):
        await client(transport).messages.send_test(event_type_id)
    assert transport.requests == []


# --- pages that are too large ---


@pytest.mark.parametrize("paging", ["item", "offset", "last-item"])
@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
async def test_a_page_that_is_too_large_is_asked_again_in_halves(paging: Any, order: Any) -> None:
    """A message has about 700 bytes here, and a page of 500 does not fit."""
    fake = FakeBasiq(quirks=Quirks(paging=paging, message_order=order))
    webhook_id = fake.seed_messages(700, failed=0.1)
    whole = [each["id"] async for each in _read_all(fake, webhook_id)]
    async with (
        serve(fake) as url,
        aclosing(AiohttpTransport(max_body_size=30_000)) as transport,
        BasiqClient(fake.DEFAULT_API_KEY, base_url=url, transport=transport) as client,
    ):
        before = len(fake.requests)
        paginator = client.messages.list(webhook_id)
        found = [message.id async for message in paginator]
        assert found == whole
        asked = len(fake.requests) - before
        assert asked < 700 / 20
        later = client.messages.list(webhook_id)
        async for message in later:
            if message.id == whole[340]:
                break
        assert [each.id async for each in client.messages.list(webhook_id, cursor=later.cursor)] == whole[341:]
        got: list[str] = []

        async def take(message: Message) -> None:
            got.append(message.id)

        assert (await recover(client, webhook_id, take, inbox=MemoryInbox(), everything=True)).finished
        assert sorted(got) == sorted(whole)
        assert (await client.webhooks.diagnose(webhook_id, max_items=None)).look.complete


async def test_no_page_stays_in_memory_after_one_was_too_large_also_while_no_circles_are_looked_for() -> None:
    fake, most = FakeBasiq(), 0
    webhook_id = fake.seed_messages(700)
    gc.collect()
    gc.disable()
    try:
        async with (
            serve(fake) as url,
            aclosing(AiohttpTransport(max_body_size=30_000)) as transport,
            BasiqClient(fake.DEFAULT_API_KEY, base_url=url, transport=transport) as client,
        ):
            async for _ in client.messages.list(webhook_id).pages():
                most = max(most, sum(type(each) is ListPage for each in gc.get_objects()))
    finally:
        gc.enable()
    assert 0 < most <= 2


async def _read_all(fake: FakeBasiq, webhook_id: str) -> AsyncIterator[dict[str, Any]]:
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client:
        async for message in client.messages.list(webhook_id):
            yield dict(message.raw)


def too_large() -> TransportError:
    failure = TransportError("the response's body is larger than 9 bytes")
    failure._too_large = True
    return failure


async def test_a_server_that_ignores_the_limit_or_one_item_that_is_too_large_is_an_error_that_says_so() -> None:
    transport = Scripted(too_large())
    async with client(transport) as basiq:
        with pytest.raises(
            TransportError, match=r"larger than 9 bytes; that is so with a limit of 1 too.*, the first of"
        ):
            await basiq.messages.list("w").collect()
    asked = ["500", "250", "125", "62", "31", "15", "7", "3", "1", "1"]
    assert [url.rpartition("=")[2] for url in transport.urls] == asked
    assert [each._abridged for each in transport.requests] == [False] * 9 + [True]


TYPES = ("user.created", "consent.revoked", "account.updated")


@attrs.define
class Bulky:
    """A history of messages, one of which has a long text, and a transport that takes 60,000 bytes at most.

    helps: whether the transport can leave out the long texts.
    """

    fake: FakeBasiq
    webhook_id: str
    messages: list[dict[str, Any]]
    """All of them, as they are listed."""
    place: str
    ignores_limit: bool = False
    helps: bool = True

    async def send(self, request: Request, /) -> Response:
        if self.ignores_limit:
            request = attrs.evolve(request, url=re.sub(r"limit=\d+", "limit=50", request.url))
        response = await InMemoryTransport(self.fake).send(request)
        body = self.lengthen(response.body)
        if request._abridged and self.helps:
            body = Abridger().feed(body)
        if len(body) > 60_000:
            raise too_large()
        return attrs.evolve(response, body=body)

    def lengthen(self, body: bytes) -> bytes:
        page = json.loads(body) if body else {}
        for item in [*page.get("data", ()), page]:
            if item.get("id") == self.bulky:
                box = item["attempts"][0] if self.place == "response" else item["payload"]
                box[self.place] = "x" * 70_000
        return json.dumps(page).encode()

    @property
    def bulky(self) -> str:
        return str(self.messages[140]["id"])

    async def aclose(self) -> None: ...


@pytest.fixture
async def bulky(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bulky, BasiqClient]]:
    fake = FakeBasiq(quirks=Quirks(message_order="oldest-first"))
    webhook_id = fake.seed_messages(300, failed=1.0, event_types=TYPES)
    messages = [each async for each in _read_all(fake, webhook_id)]
    made = Bulky(fake, webhook_id, messages, **request.param)
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=made, retry=RetryPolicy(max_retries=0)) as client:
        yield made, client


@pytest.mark.parametrize(
    "bulky",
    [{"place": "response"}, {"place": "response", "ignores_limit": True}],
    indirect=True,
    ids=["one message", "a limit that is ignored"],
)
async def test_a_response_of_an_endpoint_that_is_too_long_is_left_out_and_the_list_goes_on(
    bulky: tuple[Bulky, BasiqClient],
) -> None:
    b, client = bulky
    whole = [each["id"] for each in b.messages]
    found = await client.messages.list(b.webhook_id).collect()
    assert [each.id for each in found] == whole
    (lost,) = [each.id for each in found if each.attempts[0].response is None]
    assert lost == b.bulky
    assert (await client.messages.get(b.webhook_id, lost)).attempts[0].response is None
    got: list[str] = []

    async def take(message: Message) -> None:
        got.append(message.id)

    assert (await recover(client, b.webhook_id, take, inbox=MemoryInbox())).finished
    assert sorted(got) == sorted(whole)
    looked = await client.webhooks.diagnose(b.webhook_id, max_items=None)
    assert (looked.look.complete, looked.look.unreadable, looked.undelivered) == (True, 0, 300)


@pytest.mark.parametrize("bulky", [{"place": "x"}], indirect=True)
async def test_a_message_with_another_text_that_is_too_long_is_named_as_unreadable_and_the_list_goes_on(
    bulky: tuple[Bulky, BasiqClient],
) -> None:
    b, client = bulky
    with pytest.raises(ResponseDecodeError, match=r"a text of over 8,192 bytes was left out"):
        await client.messages.list(b.webhook_id).collect()
    with pytest.raises(ResponseDecodeError):
        await client.messages.get(b.webhook_id, b.bulky)
    unreadable: list[str | None] = []
    found = client.messages.list(b.webhook_id, on_unreadable=lambda item: unreadable.append(item.id))
    assert (len(await found.collect()), unreadable) == (299, [b.bulky])
    got: list[str | None] = []

    async def take(message: Message) -> None:
        got.append(message.event_id)

    inbox = MemoryInbox()
    recovered = await recover(client, b.webhook_id, take, inbox=inbox)
    assert (recovered.messages.handled, [each.code for each in recovered.problems]) == (299, ["quarantined"])
    assert len(set(got)) == len(got) == 300, "its event is in the event list"
    (entry,) = await inbox.entries(limit=2)
    assert "a text of over 8,192 bytes was left out" in entry.error
    looked = await client.webhooks.diagnose(b.webhook_id, max_items=None, inbox=inbox)
    assert (looked.look.complete, looked.look.unreadable) == (True, 1)


@pytest.mark.parametrize("bulky", [{"place": "response", "helps": False}], indirect=True)
async def test_one_message_that_is_too_large_is_named_by_its_place_and_what_is_before_it_is_passed(
    bulky: tuple[Bulky, BasiqClient],
) -> None:
    b, client = bulky
    whole = [each["id"] for each in b.messages]
    got: list[str] = []

    async def take(message: Message) -> None:
        got.append(message.id)

    place = f"the one after '{whole[139]}'.*with a filter"
    with pytest.raises(TransportError, match=place):
        await client.messages.list(b.webhook_id).collect()
    with pytest.raises(TransportError, match=place):
        await recover(client, b.webhook_id, take, inbox=MemoryInbox(), everything=True)
    assert got == whole[:140]
    # the filter that the error advises
    type_of = {each["id"]: each["payload"]["eventTypeId"] for each in b.messages}
    types = {*TYPES} - {type_of[b.bulky]}
    rest = [await client.messages.list(b.webhook_id, filter=F("eventTypeId").eq(each)).collect() for each in types]
    assert {each.id for page in rest for each in page} == {each for each in whole if type_of[each] in types}


async def test_an_error_of_another_kind_makes_no_page_smaller() -> None:
    transport = Scripted(TransportError("no"))
    async with client(transport) as basiq:
        with pytest.raises(TransportError, match=r"^no"):
            await basiq.messages.list("w").collect()
    assert len(transport.urls) == 1
