"""The webhooks of one service have one identity: each event is handled once, under one key, by whichever it came."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from basiq_async import ConfigurationError, InboxError
from basiq_async.receiver import Delivery, MemoryInbox, Result, SQLiteInbox, WebhookReceiver
from basiq_async.receiver.protocol import inbox_key
from tests.support.deliveries import SECRET, payload, signed, taking


def receiver_of(inbox: Any, webhook_id: str | Sequence[str], got: list[Delivery] | None = None) -> WebhookReceiver:
    return taking(got=got, webhook_id=webhook_id, inbox=inbox)


async def post(receiver: WebhookReceiver, event_id: str, *, message_id: str = "m1") -> Result:
    body = payload("user.created", event_id)
    return (await receiver.handle(signed(body, secret=SECRET, message_id=message_id), body)).result


async def test_an_event_is_handled_once_and_has_one_key_whichever_webhook_delivers_it() -> None:
    inbox, got = MemoryInbox(), list[Delivery]()
    async with receiver_of(inbox, "old", got) as receiver:
        assert await post(receiver, "e1") is Result.HANDLED
    for listed in (["new", "old"], "new, old", ("third", "new", "old")):
        async with receiver_of(inbox, listed, got) as receiver:
            assert receiver.webhook_id == "old"
            assert receiver.webhook_ids[-2:] == ("new", "old")
            assert await post(receiver, "e1", message_id="m2") is Result.DUPLICATE
            await post(receiver, "e2")
    assert [(each.event_id, each.webhook_id) for each in got] == [("e1", "old"), ("e2", "old")]
    assert {each.key for each in got} == {inbox_key("user.created", each, None, "old") for each in ("e1", "e2")}


@pytest.mark.parametrize("wrong", ["", [], [""], ["a", "a"], "a,", "a,,b", b"a", 3, ["a", None]])
def test_what_is_no_list_of_webhooks_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="webhook_id must be"):
        WebhookReceiver(SECRET, webhook_id=wrong)


async def test_a_list_in_the_wrong_order_is_refused_at_the_start_with_the_right_one() -> None:
    inbox = MemoryInbox()
    async with receiver_of(inbox, ["new", "old"]):
        pass
    with pytest.raises(ConfigurationError, match=r"pass \['new', 'old'\], newest first"):
        async with receiver_of(inbox, ["old", "new"]):
            pass


async def test_a_receiver_whose_inbox_is_away_at_its_start_notes_its_webhooks_at_the_first_delivery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away(MemoryInbox):
        away = True

        async def note(self, name: str) -> str | None:
            if self.away:
                raise InboxError("the database is away")
            return await super().note(name)

    inbox, got = Away(), list[Delivery]()
    async with receiver_of(inbox, ["new", "old"], got) as receiver, receiver_of(inbox, ["old", "new"], got) as wrong:
        assert await post(receiver, "e1") is Result.UNAVAILABLE
        inbox.away = False
        assert await post(receiver, "e1") is Result.HANDLED
        caplog.clear()
        assert await post(wrong, "e1") is Result.UNAVAILABLE
        assert "pass ['new', 'old'], newest first" in caplog.text
    assert len(got) == 1


async def test_a_receiver_that_was_never_entered_notes_its_webhooks_too() -> None:
    inbox = MemoryInbox()
    assert await post(receiver_of(inbox, "w"), "e1") is Result.HANDLED
    assert await post(receiver_of(inbox, ["w", "first"]), "e1") is Result.UNAVAILABLE


async def test_others_that_use_the_inbox_are_named_once_and_nothing_is_proposed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = MemoryInbox()
    async with receiver_of(inbox, "partner"):
        pass
    for warned in (1, 0):
        caplog.clear()
        async with receiver_of(inbox, "mine"):
            pass
        found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
        assert len(found) == warned
        assert all("other webhooks too (partner)" in each and "webhook_id" not in each for each in found)


async def test_a_webhook_does_not_join_while_something_of_it_waits_or_is_in_the_quarantine(tmp_path: Any) -> None:
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        async with receiver_of(inbox, "old"):
            pass
        alone = WebhookReceiver(SECRET, webhook_id="new", inbox=inbox, deferred=True)
        got: list[str] = []

        @alone.on("*")
        async def handle(delivery: Delivery) -> None:
            got.append(delivery.event_id)

        assert await post(alone, "e1") is Result.DEFERRED
        with pytest.raises(ConfigurationError, match=r"1 delivery of the webhook 'new' under its own id"):
            async with receiver_of(inbox, ["new", "old"]):
                pass
        assert await alone.dispatch(Delivery("m1", "user.created", "e1", {}, b"{}", {}, datetime.now(UTC), "new"))
        async with receiver_of(inbox, ["new", "old"]):
            pass
    assert got == ["e1"]
