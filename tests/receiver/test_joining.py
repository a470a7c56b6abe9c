"""An inbox is one service's: it notes the webhooks that deliver into it, and refuses others before each use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from basiq_async import ConfigurationError, InboxError
from basiq_async.receiver import Delivery, MemoryInbox, Result, WebhookReceiver
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
    for listed in (["new", "old"], "old, new", ("third", "new"), "third"):
        async with receiver_of(inbox, listed, got) as receiver:
            assert await post(receiver, "e1", message_id="m2") is Result.DUPLICATE
            await post(receiver, "e2")
    assert [(each.event_id, each.key) for each in got] == [("e1", "e1"), ("e2", "e2")]


@pytest.mark.parametrize("wrong", ["", [], [""], ["a", "a"], "a,", "a,,b", b"a", 3, ["a", None]])
def test_what_is_no_list_of_webhooks_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="webhook_id must be"):
        WebhookReceiver(SECRET, webhook_id=wrong)


async def test_a_webhook_that_is_not_noted_is_refused_at_the_start_and_no_list_is_offered() -> None:
    inbox = MemoryInbox()
    async with receiver_of(inbox, ["new", "old"]):
        pass
    with pytest.raises(ConfigurationError, match=r"of the webhook 'new', 'old', and not of 'another'") as caught:
        async with receiver_of(inbox, "another"):
            pass
    assert "inbox join" in str(caught.value)
    assert "webhook_id" not in str(caught.value)


async def test_a_receiver_whose_inbox_is_away_at_its_start_asks_it_at_the_first_delivery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away(MemoryInbox):
        away = True

        async def note(self, name: str) -> str | None:
            if self.away:
                raise InboxError("the database is away")
            return await super().note(name)

    inbox, got = Away(), list[Delivery]()
    async with receiver_of(inbox, "old", got) as receiver, receiver_of(inbox, "another", got) as wrong:
        assert await post(receiver, "e1") is Result.UNAVAILABLE
        inbox.away = False
        assert await post(receiver, "e1") is Result.HANDLED
        assert await post(wrong, "e1") is Result.UNAVAILABLE
    assert "the inbox is of the webhook 'old'" in caplog.text  # one a second is logged, the last one at the end
    assert len(got) == 1


async def test_a_receiver_that_was_never_entered_is_refused_too() -> None:
    inbox = MemoryInbox()
    assert await post(receiver_of(inbox, "w"), "e1") is Result.HANDLED
    assert await post(receiver_of(inbox, "another"), "e2") is Result.UNAVAILABLE
    assert await post(receiver_of(inbox, ["w", "another"]), "e2") is Result.HANDLED
