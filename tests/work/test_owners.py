"""Whose an inbox is: since when it has the live deliveries of a webhook, and who may use it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from basiq_async import ConfigurationError
from basiq_async._work.owners import find_recording_since, note_webhook, refuse_others
from basiq_async.receiver import MemoryInbox


async def test_an_inbox_records_live_deliveries_since_it_began_or_since_its_receiver_did() -> None:
    inbox = MemoryInbox()
    began = await inbox.known_since()
    assert await find_recording_since(inbox, "w", timeout=1) is None
    await note_webhook(inbox, "v", live=began - timedelta(hours=1), timeout=1)
    assert await find_recording_since(inbox, "v", timeout=1) == began
    later = began + timedelta(hours=1)
    await note_webhook(inbox, "w", live=later, timeout=1)
    assert await find_recording_since(inbox, "w", timeout=1) == later


def test_an_inbox_of_another_webhook_is_refused_and_one_of_nobody_is_not() -> None:
    for owners in ((), ("w",), (None, "w")):
        refuse_others(owners, "w", "inbox")
    with pytest.raises(ConfigurationError, match="the inbox is of the webhook 'v', not of 'w'"):
        refuse_others(("v",), "w", "inbox")
