"""The conformance suite for an ``Inbox``."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

from ..._work.protocol import Inbox
from ..fake._clock import ManualClock
from ._inbox_model import LATER, SHORT
from ._inbox_promises import InboxPromises
from ._inbox_waiting import WaitingPromises
from ._inbox_workers import Workers, Write
from ._runner import Check, hold, keep, made, promises_of

Made = Inbox | Awaitable[Inbox] | AbstractAsyncContextManager[Inbox]
MakeInbox = Callable[[], Made]
"""A function that makes an inbox: it returns the inbox, an awaitable of it, or an async context manager."""
MakeSharedInbox = Callable[[str], Made]
"""The same with the name of its storage, in letters, digits and underscores."""
_ALIKE = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_OLDEST = timedelta(days=3650)
CHECKS: dict[str, tuple[type[Workers[Any]], Check]] = {
    promise: (kind, check) for kind in (InboxPromises, WaitingPromises) for promise, check in promises_of(kind).items()
}
"""For each promise, what checks it, and with what it is called."""


async def check_inbox(
    make_inbox: MakeInbox | MakeSharedInbox,
    *,
    shared: bool = False,
    leases: bool = True,
    clock: ManualClock | None = None,
    write: Write | None = None,
    seconds: float = 20.0,
) -> None:
    """Check that an inbox keeps the promises of ``Inbox``, and of ``WaitingInbox`` if it is one.

    make_inbox: called for each promise. An inbox with ``aclose`` is closed after it. An inbox is all that one service
        knows, so each promise needs a storage of its own: see ``shared``.
    shared: whether a storage, such as a file or a server, may have several inboxes. ``make_inbox`` then takes a name:
        the inboxes of one name have one storage. Each promise is then also checked with two inboxes.
    leases: False if a claim ends with its worker, not after a time.
    clock: the clock of all inboxes. The suite moves it, and also checks for how long a key is remembered. Without it,
        leases of 30 ms expire in real time.
    write: for a ``TransactionalInbox``. Called with the session of a handler: it writes a row, and returns how many
        there were before. Without it, only the inbox's own entry is checked.
    seconds: the time limit of each promise.

    Raises ``BrokenPromisesError``, an ``AssertionError`` that names each broken promise and what happened instead.
    """
    promises: dict[str, Callable[[], Awaitable[None]]] = {}
    for promise, (kind, check) in CHECKS.items():
        attempt = partial(_try, kind=kind, check=check, clock=clock, leases=leases, write=write)
        promises[promise] = partial(attempt, _of_one_storage(make_inbox, shared), workers=1)
        if shared:
            alone = _of_one_storage(make_inbox, shared)
            promises[f"{promise} (across two workers)"] = partial(attempt, alone, workers=2)
    since = known_since_opened
    promises[since.__doc__ or since.__name__] = partial(since, _of_one_storage(make_inbox, shared), clock)
    await keep("the inbox", promises, seconds=seconds)


def _of_one_storage(make_inbox: MakeInbox | MakeSharedInbox, shared: bool) -> MakeInbox:
    """Return what makes the inboxes of one promise: all with one storage if they are ``shared``, else each with one."""
    name = (f"check_{uuid.uuid4().hex[:16]}",) if shared else ()
    return partial(cast(Callable[..., Made], make_inbox), *name)


async def _try(make_inbox: MakeInbox, kind: type[Workers[Any]], check: Check, *, workers: int, **options: Any) -> None:
    async with AsyncExitStack() as stack:
        inboxes = [await stack.enter_async_context(made(make_inbox)) for _ in range(workers)]
        if isinstance(inboxes[0], kind.needs):
            await check(kind(inboxes[0], inboxes[-1], **options))


async def known_since_opened(make_inbox: MakeInbox, clock: ManualClock | None) -> None:
    """known_since() is when the storage was first used, not earlier, and not when the inbox was opened"""
    async with made(make_inbox) as inbox:
        workers = Workers(inbox, inbox, clock)
        first = await inbox.known_since()
        hold(first.tzinfo is not None, f"known_since() was {first}, without a time zone")
        hold(first > workers.now() - _OLDEST, f"known_since() was {first}, when no inbox can have existed")
        await inbox.complete(workers.key, workers.a)
        await workers.wait(SHORT if clock is None else LATER)
        began = workers.now()
        _check_stayed(first, await inbox.known_since(), began, "")
    async with made(make_inbox) as inbox:
        again = await inbox.known_since()
        if await inbox.known([workers.key]):
            _check_stayed(first, again, began, " when the inbox was opened again")
        else:  # each inbox has a new storage
            skew = timedelta(minutes=1) if clock is None else timedelta()
            hold(again >= began - skew, f"known_since() of an inbox that was made at {began} was {again}")


def _check_stayed(first: datetime, again: datetime, now: datetime, when: str) -> None:
    """Check that a later ``known_since`` is the same. It may move if the inbox forgets what is older than a day."""
    stayed = first <= again < first + _ALIKE or first < again < now - _DAY
    hold(
        stayed,
        f"known_since() moved from {first} to {again}{when}, though the inbox remembers what was handled in between",
    )
