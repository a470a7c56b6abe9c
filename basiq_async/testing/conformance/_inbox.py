"""The conformance suite for an ``Inbox``."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from ..._work.limits import limit
from ..._work.protocol import Inbox
from ...errors import InboxError
from ..fake._clock import ManualClock
from ._inbox_model import BUSY, CALLS, CLAIMED, LATER, LONG, SHORT, Call, make_delivery
from ._inbox_promises import InboxPromises
from ._inbox_waiting import WaitingPromises
from ._inbox_workers import Workers, Write
from ._runner import Check, hold, keep, promises_of

MakeInbox = Callable[[], Inbox | Awaitable[Inbox] | AbstractAsyncContextManager[Inbox]]
"""A function that makes an inbox: it returns the inbox, an awaitable of it, or an async context manager."""
_ALIKE = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_OLDEST = timedelta(days=3650)
_RACE = 60.0
Outage = Callable[[], AbstractAsyncContextManager[object]]
CHECKS: dict[str, tuple[type[Workers[Any]], Check]] = {
    promise: (kind, check) for kind in (InboxPromises, WaitingPromises) for promise, check in promises_of(kind).items()
}
"""For each promise, what checks it, and with what it is called."""
INTERRUPTED = (
    "claim a; complete a; ...; known b; claim b",
    "fail a; ...; fail b",
    "quarantine a; set_aside a 1; ...; quarantined b; known b; claim b; claim b 1",
    "set_note a; ...; note b",
    "store a; ...; waiting b; list_waiting b; known b; claim_due b",
    "store a; store a 1; claim_due a; put_off_for_long a; ...; waiting b; list_waiting b; known b; claim_due b",
)
"""What is recorded before something happens to the storage or to the process, and is there afterwards."""


async def check_inbox(
    make_inbox: MakeInbox,
    *,
    shared: bool = False,
    leases: bool = True,
    clock: ManualClock | None = None,
    outage: Outage | None = None,
    processes: bool = False,
    write: Write | None = None,
    seconds: float = 20.0,
) -> None:
    """Check that an inbox keeps the promises of ``Inbox``, and of ``WaitingInbox`` if it is one.

    make_inbox: called for each promise. An inbox with ``aclose`` is closed after it. Keys are always new, so the
        storage can be used again.
    shared: whether all inboxes have the same storage, such as a file or a server. Each promise is then also checked
        with two inboxes.
    leases: False if a claim ends with its worker, not after a time.
    clock: the clock of all inboxes. The suite moves it, and also checks for how long a key is remembered. Without it,
        leases of 30 ms expire in real time.
    outage: returns an async context manager in which the storage is away, for example a stopped server. Every call must
        then fail within its time limit, and all records must still be there afterwards.
    processes: also call ``make_inbox`` in new processes: two that claim the same keys, and one that is killed when it
        has recorded something. It must be possible to pickle ``make_inbox``.
    write: for a ``TransactionalInbox``. Called with the session of a handler: it writes a row, and returns how many
        there were before. Without it, only the inbox's own entry is checked.
    seconds: the time limit of each promise.

    Raises ``BrokenPromisesError``, an ``AssertionError`` that names each broken promise and what happened instead.
    """
    promises: dict[str, Callable[[], Awaitable[None]]] = {}
    for promise, (kind, check) in CHECKS.items():
        attempt = partial(_try, make_inbox, kind, check, clock=clock, leases=leases, write=write)
        promises[promise] = partial(attempt, workers=1)
        if shared:
            promises[f"{promise} (across two workers)"] = partial(attempt, workers=2)
    promises[str(known_since_opened.__doc__)] = partial(known_since_opened, make_inbox, clock)
    if outage is not None:
        promises[str(away.__doc__)] = partial(away, make_inbox, outage)
    if processes:
        promises[str(raced.__doc__)] = partial(raced, make_inbox)
        promises[str(killed.__doc__)] = partial(killed, make_inbox, seconds)
    await keep("the inbox", promises, seconds=seconds)


async def _try(make_inbox: MakeInbox, kind: type[Workers[Any]], check: Check, *, workers: int, **options: Any) -> None:
    async with AsyncExitStack() as stack:
        inboxes = [await stack.enter_async_context(made(make_inbox)) for _ in range(workers)]
        if isinstance(inboxes[0], kind.needs):
            await check(kind(inboxes[0], inboxes[-1], **options))


@asynccontextmanager
async def made(make_inbox: MakeInbox) -> AsyncGenerator[Inbox]:
    made = make_inbox()
    # An inbox may itself be an async context manager, which opens and closes it.
    if isinstance(made, AbstractAsyncContextManager):
        async with made as entered:
            yield entered
        return
    inbox = await made if isinstance(made, Awaitable) else made
    try:
        yield inbox
    finally:
        close = getattr(inbox, "aclose", None)
        if close is not None:
            await close()


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


async def away(make_inbox: MakeInbox, outage: Outage) -> None:
    """While the storage is away, every call raises InboxError; afterwards all records are unchanged"""
    async with made(make_inbox) as inbox:
        workers = Workers(inbox, inbox)
        scripts = [script.split("; ...; ") for script in INTERRUPTED]
        for number, (before, _) in enumerate(scripts):
            await workers.follow(before, name=f"{workers.key}-{number}")
        async with outage():
            key = f"{workers.key}-0-1"
            of = Call([key, f"{key}-2"], key, workers.b, make_delivery(key))
            calls = {name: call(inbox, of) for name, call in CALLS.items() if workers.makes(name)}
            calls["known_since"] = inbox.known_since()
            found = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, result in zip(calls, found, strict=True):
            hold(isinstance(result, InboxError), f"while the storage was away, {name} was {result!r}, not InboxError")
        for number, (before, after) in enumerate(scripts):
            await workers.follow(after, made=before, name=f"{workers.key}-{number}")
        await workers.follow("claim a; complete a")


async def raced(make_inbox: MakeInbox) -> None:
    """If two processes claim the same keys at once, each key is handled by one of them"""
    keys = [f"{uuid.uuid4()}-{number}" for number in range(50)]
    loop = asyncio.get_running_loop()
    # Spawned, not forked: two processes cannot use the same open connection.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = await asyncio.gather(*(loop.run_in_executor(pool, _take_all, make_inbox, keys) for _ in range(2)))
    by_none, by_both = set(keys).difference(*taken), set(taken[0]).intersection(taken[1])
    hold(not by_none, f"{len(by_none)} of {len(keys)} keys were handled by no process")
    hold(not by_both, f"{len(by_both)} of {len(keys)} keys were handled by both processes")


def _take_all(make_inbox: MakeInbox, keys: Sequence[str]) -> list[str]:
    """Claim and complete each key that is free, in a separate process. Return the completed keys."""

    async def run() -> list[str]:
        completed: list[str] = []
        async with limit(_RACE), made(make_inbox) as inbox:
            for key in keys:
                token = uuid.uuid4().hex
                while (claim := await inbox.claim(key, token, lease=LONG)).status is BUSY:  # noqa: ASYNC110  # the other process has it
                    await asyncio.sleep(0.002)
                if claim.status is CLAIMED:
                    hold(await inbox.complete(key, token), "complete() by the holder was not True")
                    completed.append(key)
        return completed

    return asyncio.run(run())


async def killed(make_inbox: MakeInbox, seconds: float) -> None:
    """What a process recorded is there after it was killed"""
    name = str(uuid.uuid4())
    loop = asyncio.get_running_loop()
    # The pool is broken when its process was killed.
    with suppress(BrokenProcessPool), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        await loop.run_in_executor(pool, _record_and_die, make_inbox, name, seconds)
    async with made(make_inbox) as inbox:
        for number, script in enumerate(INTERRUPTED):
            before, after = script.split("; ...; ")
            await Workers(inbox, inbox).follow(after, made=before, name=f"{name}-{number}")


def _record_and_die(make_inbox: MakeInbox, name: str, seconds: float) -> None:
    """Record with one inbox for each script, in a separate process, and be killed before they are closed."""

    async def run() -> None:
        async with limit(seconds), AsyncExitStack() as stack:
            for number, script in enumerate(INTERRUPTED):
                inbox = await stack.enter_async_context(made(make_inbox))
                await Workers(inbox, inbox).follow(script.partition("; ...; ")[0], name=f"{name}-{number}")
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows both end it at once

    asyncio.run(run())
