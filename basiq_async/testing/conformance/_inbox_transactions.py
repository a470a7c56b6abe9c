"""The promise of an inbox whose entry commits together with the handler's writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..._work.protocol import TransactionalInbox
from ._inbox_probe import BUSY, CLAIMED, DONE, LONG, InboxProbe
from ._runner import hold

Write = Callable[[Any], Awaitable[int]]
"""Called with the session of a handler. Writes a row, and returns how many there were before."""


class _RefusedError(Exception):
    """The failure of a handler."""


async def transacted(inbox: TransactionalInbox, probe: InboxProbe, write: Write | None) -> None:
    """A handler's writes commit together with the entry, and a handler that fails leaves neither"""
    rows: list[int] = []

    async def handle(key: str, *, fails: bool) -> None:
        claim = await inbox.claim_transaction(key, probe.a, lease=LONG)
        hold(claim.status is CLAIMED, f"claim_transaction() was {claim.status.name}, not CLAIMED")
        async with inbox.transaction(key, probe.a) as session:
            rows.append(await write(session) if write is not None else len(rows))
            if fails:
                raise _RefusedError

    try:
        await handle(probe.key, fails=True)
    except _RefusedError:
        await probe.fail_a(1, "the failure of a handler with a session")
    else:
        raise AssertionError("the exception of a handler with a session was swallowed by transaction()")
    await probe.known(False, "after a handler with a session failed")

    await handle(probe.key, fails=False)
    await probe.claim_b(BUSY, "a claim before complete() of a handler with a session")
    hold(await inbox.complete(probe.key, probe.a) is True, "complete() of a handler with a session was not True")
    await probe.known(True, "after complete() of a handler with a session")
    await probe.claim_b(DONE, "a claim after that")

    await handle(f"{probe.key}-next", fails=False)
    await inbox.release(f"{probe.key}-next", probe.a)
    if write is not None:
        before, after_failure, after_commit = rows
        hold(after_failure == before, f"a handler that failed left {after_failure - before} of its rows, not 0")
        hold(after_commit == before + 1, f"a handler that was completed left {after_commit - before} rows, not 1")
