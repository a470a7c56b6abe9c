from __future__ import annotations

from types import SimpleNamespace

from basiq_async.receiver import Inbox, MemoryInbox, SQLiteInbox


def test_ours_are_inboxes_and_others_are_not() -> None:
    assert isinstance(MemoryInbox(), Inbox)
    assert issubclass(SQLiteInbox, Inbox)
    assert not isinstance(SimpleNamespace(claim=None), Inbox)
