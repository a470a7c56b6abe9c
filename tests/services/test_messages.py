"""The messages of a webhook, and test messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from basiq_async import (
    BadRequestError,
    ConfigurationError,
    F,
    NotFoundError,
)
from tests.support import virtual
from tests.support.scripted import Scripted, answer, client

from .conftest import URL, Basiq, active, create

NOWHERE = "00000000-0000-4000-8000-000000000000"


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
