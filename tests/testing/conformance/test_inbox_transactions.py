"""The suite for inboxes names one whose entry and whose handler's writes are not one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext, suppress

import pytest

from basiq_async.receiver import Inbox, MemoryInbox
from basiq_async.receiver.protocol import Claim
from basiq_async.testing import BrokenPromisesError, check_inbox
from basiq_async.testing.conformance._inbox_promises import InboxPromises  # private: its promise is what is broken


class Transactional(MemoryInbox):
    """A handler's rows are a list, which is its session; they commit with the entry."""

    keeps_rows_of_a_failure = keeps_no_rows = swallows = commits_early = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        self._session: list[int] = []

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        if transaction:
            self._session = self.rows if self.keeps_rows_of_a_failure else self.rows.copy()
        return await super().claim(key, token, lease=lease, quarantined=quarantined)

    @asynccontextmanager
    async def transaction(self, key: str, token: str, *, session: bool = True) -> AsyncGenerator[list[int]]:
        with suppress(Exception) if self.swallows else nullcontext():
            yield self._session
        if self.commits_early:
            await super().complete(key, token)

    async def complete(self, key: str, token: str) -> bool:
        if not self.keeps_no_rows:
            self.rows = self._session
        return await super().complete(key, token)


async def write(session: list[int]) -> int:
    session.append(1)
    return len(session) - 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("keeps_rows_of_a_failure", "a handler that failed left 1 of its rows, not 0"),
        ("keeps_no_rows", "a handler that was completed left 0 rows, not 1"),
        ("swallows", "the exception of a handler with a session was swallowed by transaction()"),
        ("commits_early", "a claim before complete() of a handler with a session was DONE, not BUSY"),
    ],
)
async def test_an_inbox_whose_entry_and_writes_are_not_one_is_told_so(fault: str, said: str) -> None:
    def make() -> Inbox:
        inbox = Transactional()
        setattr(inbox, fault, True)
        return inbox

    with pytest.raises(BrokenPromisesError) as caught:
        await check_inbox(make, write=write)
    assert caught.value.broken == {str(InboxPromises.commit_together.__doc__): said}


async def test_an_inbox_whose_entry_and_writes_are_one_keeps_every_promise() -> None:
    await check_inbox(Transactional, write=write)
