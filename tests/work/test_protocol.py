from __future__ import annotations

from types import SimpleNamespace

import attrs
import pytest

from basiq_async import InboxError
from basiq_async.receiver import Inbox, InboxEntry, MemoryInbox, SQLiteInbox
from basiq_async.receiver.protocol import Claim, ClaimStatus
from tests.support.deliveries import quarantined_delivery


def test_ours_are_inboxes_and_others_are_not() -> None:
    assert isinstance(MemoryInbox(), Inbox)
    assert issubclass(SQLiteInbox, Inbox)
    assert not isinstance(SimpleNamespace(claim=None), Inbox)


ODD = attrs.evolve(quarantined_delivery("k"), body=bytes(range(256)), error='ü "\x00"\n\U0001f600 \ud800')


def test_a_stored_delivery_does_not_show_its_body() -> None:
    assert repr(ODD.body) not in repr(ODD)


def test_a_quarantined_delivery_is_packed_as_ascii_and_unpacked_unchanged() -> None:
    text = ODD.pack()
    assert text.isascii()
    for stored in (str(text), text.encode()):
        assert InboxEntry.unpack(stored) == ODD


def test_a_packed_delivery_does_not_show_its_body_in_an_error_report() -> None:
    assert repr(ODD.pack()) == f"<{len(ODD.pack())} characters>"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", "[" * 100_000, '{"body": "secret"}', ODD.pack()[:-1], b"\xff"]
)
def test_any_other_text_is_refused_with_an_inbox_error(text: str | bytes) -> None:
    with pytest.raises(InboxError, match="the quarantine holds data that no inbox has written") as caught:
        InboxEntry.unpack(text)
    assert caught.traceback[-1].frame.f_locals.get("text") is None, "the frame of the error holds the text"


def test_a_claim_that_is_not_busy_asks_for_no_wait() -> None:
    claim = Claim(ClaimStatus.CLAIMED)
    assert (claim.retry_after, claim.holder) == (0.0, None)
