"""The read-only part of the contract, against the real API: ``make live``, with BASIQ_API_KEY in the environment.

Nothing is created, changed or deleted, and no test message is sent. In the ordinary run these tests are skipped, and
``test_comparison.py`` calls them with a mock.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import basiq_async.testing
from basiq_async import BasiqClient, Message, NotFoundError, RequestEvent
from basiq_async._wire.urls import VENDOR_URL
from tests.support.environment import ROOT

from .comparison import compare
from .live_page import render, write_page

LIVE = bool(os.environ.get("BASIQ_API_KEY")) and os.environ.get("BASIQ_LIVE") == "1"
pytestmark = pytest.mark.skipif(not LIVE, reason="the real API is called by `make live` alone, with BASIQ_API_KEY set")

BASE_URL = os.environ.get("BASIQ_BASE_URL", VENDOR_URL)
NOWHERE = "11111111-2222-4333-8444-555555555555"
DESCRIPTION: dict[str, Any] = yaml.safe_load(Path(basiq_async.testing.__file__).with_name("basiq.yaml").read_text())


def check(name: str, raw: Any) -> None:
    """Hold one object of an answer to our description of it."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DESCRIPTION["components"]}
    jsonschema.Draft202012Validator(schema).validate(raw)


@pytest.fixture
async def basiq() -> AsyncIterator[BasiqClient]:
    async with BasiqClient(base_url=BASE_URL) as client:
        yield client


async def test_first_of_all_what_a_list_and_a_message_tell_of_the_attempts(basiq: BasiqClient) -> None:
    """What that decides is printed, and stands in docs/howto/recover.md."""
    async for webhook in basiq.webhooks.list():
        listed = await basiq.messages.list(webhook.id, page_size=3, prefetch=0).first()
        if listed is None:
            continue
        told = [describe_attempts(each) for each in (listed, await basiq.messages.get(webhook.id, listed.id))]
        print(f"a list of messages tells of the attempts: {told[0]}; a single message: {told[1]}")
        if told[0] == OBJECTS:
            print("so recover, doctor and selections need the list alone")
        elif told[1] == OBJECTS:
            print("so recover, doctor and selections read each message once that the inbox does not know")
        else:
            print("so nothing tells what was delivered: recover and doctor say 'unknown', and end with 3")
        return
    pytest.skip("no webhook has a message")


OBJECTS = "objects"


def describe_attempts(message: Message) -> str:
    attempts = message.raw.get("attempts")
    if not attempts:
        return "nothing" if attempts is None else "an empty list"
    return OBJECTS if all(isinstance(each, dict) for each in attempts) else "ids"


async def test_the_fake_responds_like_the_real_api() -> None:
    """What the account has no data for is skipped. The shapes of the responses are written to a page."""
    found = await compare(base_url=BASE_URL)
    print(render(found, datetime.now(UTC).date()))
    if BASE_URL == VENDOR_URL:
        write_page(found, ROOT, datetime.now(UTC).date())
    found.assert_equal()


async def test_the_event_types_are_as_described(basiq: BasiqClient) -> None:
    types = await basiq.event_types.list().collect()
    assert types
    for event_type in types[:3]:
        assert (await basiq.event_types.get(event_type.id)).id == event_type.id


async def test_the_webhooks_and_their_messages_are_as_described(basiq: BasiqClient) -> None:
    for webhook in await basiq.webhooks.list().collect(max_items=3):
        check("Webhook", webhook.raw)
        assert (await basiq.webhooks.get(webhook.id)).id == webhook.id
        for message in await basiq.messages.list(webhook.id, page_size=3).collect(max_items=3):
            check("Message", message.raw)
            assert (await basiq.messages.get(webhook.id, message.id)).id == message.id


async def test_the_events_are_as_described(basiq: BasiqClient) -> None:
    for event in await basiq.events.list().collect(max_items=3):
        check("Event", event.raw)
        assert (await basiq.events.get(event.id)).id == event.id


async def test_what_is_not_there_is_not_found(basiq: BasiqClient) -> None:
    with pytest.raises(NotFoundError) as caught:
        await basiq.webhooks.get(NOWHERE)
    assert caught.value.code == "resource-not-found"
    assert caught.value.correlation_id


async def test_one_token_is_enough() -> None:
    seen: list[RequestEvent] = []
    async with BasiqClient(on_request=seen.append, base_url=BASE_URL) as basiq:
        for _ in range(3):
            await basiq.event_types.list().first()
    assert [event.path for event in seen].count("/token") == 1
