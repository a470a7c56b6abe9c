"""The conformance suite for an ``Inbox``."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from typing import Any, Literal

import attrs

from ..._work.protocol import Inbox, TransactionalInbox, WaitingInbox
from ...errors import InboxError
from ..fake._clock import ManualClock
from . import _inbox_model, _inbox_promises, _inbox_records  # noqa: F401  # they register promises
from ._inbox_memory import known_since_opened
from ._inbox_probe import (
    CLAIMED,
    DONE,
    LONG,
    InboxProbe,
    MakeInbox,
    always,
    made,
    make_delivery,
    with_leases,
    without_leases,
)
from ._inbox_transactions import Write, transacted
from ._inbox_waiting import WaitingProbe, waiting, waiting_with_leases
from ._runner import hold, keep, promise_of

Outage = Callable[[], AbstractAsyncContextManager[object]]


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
    for promise, check in {**always.checks, **(with_leases if leases else without_leases).checks}.items():
        promises[promise] = partial(_try, make_inbox, check, clock, workers=1)
        if shared:
            promises[promise + " (across two workers)"] = partial(_try, make_inbox, check, clock, workers=2)
    for promise, check_waiting in {**waiting.checks, **(waiting_with_leases.checks if leases else {})}.items():
        promises[promise] = partial(_try_waiting, make_inbox, check_waiting, clock, workers=1)
        if shared:
            promises[promise + " (across two workers)"] = partial(
                _try_waiting, make_inbox, check_waiting, clock, workers=2
            )
    promises[promise_of(known_since_opened)] = partial(known_since_opened, make_inbox, clock)
    promises[promise_of(transacted)] = partial(_in_a_transaction, make_inbox, clock, write)
    if outage is not None:
        promises[promise_of(away)] = partial(away, make_inbox, outage)
    if processes:
        promises[promise_of(raced)] = partial(raced, make_inbox)
        promises[promise_of(killed)] = partial(killed, make_inbox, seconds)
    await keep("the inbox", promises, seconds=seconds)


async def _try(
    make_inbox: MakeInbox,
    check: Callable[[InboxProbe], Awaitable[None]],
    clock: ManualClock | None,
    *,
    workers: Literal[1, 2],
) -> None:
    async with AsyncExitStack() as stack:
        inboxes = [await stack.enter_async_context(made(make_inbox)) for _ in range(workers)]
        await check(InboxProbe(inboxes[0], inboxes[-1], clock))


async def _try_waiting(
    make_inbox: MakeInbox,
    check: Callable[[WaitingProbe], Awaitable[None]],
    clock: ManualClock | None,
    *,
    workers: Literal[1, 2],
) -> None:
    async with AsyncExitStack() as stack:
        inboxes = [await stack.enter_async_context(made(make_inbox)) for _ in range(workers)]
        first, last = inboxes[0], inboxes[-1]
        if isinstance(first, WaitingInbox) and isinstance(last, WaitingInbox):
            await check(WaitingProbe(first, last, clock))


async def _in_a_transaction(make_inbox: MakeInbox, clock: ManualClock | None, write: Write | None) -> None:
    async with made(make_inbox) as inbox:
        if isinstance(inbox, TransactionalInbox):
            await transacted(inbox, InboxProbe(inbox, inbox, clock), write)


async def away(make_inbox: MakeInbox, outage: Outage) -> None:
    """While the storage is away, every call raises InboxError; afterwards all records are unchanged"""
    async with made(make_inbox) as inbox:
        probe = InboxProbe(inbox, inbox, None)
        handled, new = f"{probe.key}-handled", f"{probe.key}-new"
        await inbox.complete(handled, "token")
        await probe.claim_a(CLAIMED, "the first claim")
        delivery = await probe.quarantine_a()
        waits = make_delivery(f"{probe.key}-waits", failures=0)
        if isinstance(inbox, WaitingInbox):
            await inbox.store(waits, webhook_id=probe.key)
        async with outage():
            calls: dict[str, Coroutine[Any, Any, object]] = {
                "check": inbox.check(),
                "claim": inbox.claim(f"{new}-claim", "token", lease=LONG),
                "complete": inbox.complete(f"{new}-complete", "token"),
                "known": inbox.known([f"{new}-known"]),
                "note": inbox.note("name"),
                "set_note": inbox.set_note("name", "text"),
                "complete of many": inbox.complete([f"{new}-1", f"{new}-2"], "token"),
                "known_since": inbox.known_since(),
                "fail": inbox.fail(f"{new}-fail", "token"),
                "quarantine": inbox.quarantine(f"{new}-quarantine", "token", make_delivery(f"{new}-quarantine")),
                "quarantined": inbox.quarantined(),
                "claim_quarantined": inbox.claim_quarantined(probe.key, "token", lease=LONG),
                "drop_quarantined": inbox.drop_quarantined(probe.key),
            }
            if isinstance(inbox, WaitingInbox):
                entry = make_delivery(f"{new}-store", failures=0)
                calls["store"] = inbox.store(entry, webhook_id=probe.key)
                calls["claim_due"] = inbox.claim_due(probe.key, "token", limit=1, lease=LONG)
                calls["put_off"] = inbox.put_off(waits.key, "token", seconds=0)
                calls["waiting"] = inbox.waiting(probe.key)
                calls["list_waiting"] = inbox.list_waiting()
            found = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, result in zip(calls, found, strict=True):
            hold(
                isinstance(result, InboxError),
                f"while the storage was away, {name}() resulted in {result!r}, not in an InboxError",
            )
        claim = await inbox.claim(handled, "another token", lease=LONG)
        hold(claim.status is DONE, f"after the outage, a claim of a handled key was {claim.status.name}, not DONE")
        hold(await probe.deliveries() == [delivery], "after the outage, the quarantine was changed")
        claim = await inbox.claim(new, "another token", lease=LONG)
        hold(claim.status is CLAIMED, f"after the outage, a claim of a new key was {claim.status.name}, not CLAIMED")
        hold(await inbox.complete(new, "another token"), "after the outage, complete() was not True")
        if isinstance(inbox, WaitingInbox):
            due = await inbox.claim_due(probe.key, "another token", limit=10, lease=LONG)
            hold(due == [waits], f"after the outage, {len(due)} deliveries were due, or another one than was stored")


_DEFERRED = 4
"""Of so many deliveries of a process that is killed, one was only stored, one claimed, and one put off."""


async def raced(make_inbox: MakeInbox) -> None:
    """If two processes claim the same keys at once, each key is handled by one of them"""
    keys = [f"{uuid.uuid4()}-{number}" for number in range(50)]
    loop = asyncio.get_running_loop()
    # Spawned, not forked: two processes cannot use the same open connection.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = await asyncio.gather(*(loop.run_in_executor(pool, _take_all, make_inbox, keys) for _ in range(2)))
    everything = [key for one in taken for key in one]
    hold(
        len(set(everything)) == len(keys),
        f"{len(keys) - len(set(everything))} of {len(keys)} keys were handled by no process",
    )
    hold(
        len(everything) == len(keys),
        f"{len(everything) - len(keys)} of {len(keys)} keys were handled by both processes",
    )


def _take_all(make_inbox: MakeInbox, keys: list[str]) -> list[str]:
    """Claim and complete each key that is free, in a separate process. Return the completed keys."""

    async def take(inbox: Inbox, key: str) -> list[str]:
        token = uuid.uuid4().hex
        for _ in range(1000):
            claim = await inbox.claim(key, token, lease=LONG)
            if claim.status is CLAIMED:
                hold(await inbox.complete(key, token), "complete() by the holder was not True")
                return [key]
            if claim.status is DONE:
                return []
            await asyncio.sleep(0.002)
        raise AssertionError("a claim of a key was still BUSY after 1,000 tries")

    async def run() -> list[str]:
        async with made(make_inbox) as inbox:
            return [key for wanted in keys for key in await take(inbox, wanted)]

    return asyncio.run(run())


async def killed(make_inbox: MakeInbox, seconds: float) -> None:
    """What a process recorded is there after it was killed"""
    name = str(uuid.uuid4())
    loop = asyncio.get_running_loop()
    # The pool is broken when its process was killed.
    with suppress(BrokenProcessPool), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        await loop.run_in_executor(pool, _record_and_die, make_inbox, name, seconds)
    async with made(make_inbox) as inbox:
        probe = InboxProbe(inbox, inbox, None)
        probe.key = f"{name}-completed"
        await probe.known(True, "for a key that a process had completed before it was killed")
        await probe.claim_a(DONE, "a claim of a key that a process had completed before it was killed")
        probe.key = f"{name}-quarantined"
        deliveries = [delivery.key for delivery in await probe.deliveries()]
        hold(deliveries == [probe.key], "what a process had put into the quarantine before it was killed was not there")
        many = [f"{name}-many-{number}" for number in range(3)]
        hold(len(await inbox.known(many)) == 3, "what a process completed at once before it was killed was not there")
        hold(await inbox.note(name) == "text", "the note of a process that was killed was not there")
        failures = await inbox.fail(f"{name}-failed", probe.a)
        hold(failures == 2, f"the failure after one of a process that was killed was counted as {failures}, not 2")
        if isinstance(inbox, WaitingInbox):
            found = await inbox.waiting(name)
            hold(
                (found.count, found.fresh) == (_DEFERRED, _DEFERRED - 1),
                f"a process stored {_DEFERRED} deliveries, put one off and was killed: waiting() was {found}",
            )
            known = await inbox.known([f"{name}-waiting-{number}" for number in range(_DEFERRED)])
            hold(len(set(known)) == _DEFERRED, f"known() had {len(set(known))} of {_DEFERRED} that wait")


def _record_and_die(make_inbox: MakeInbox, key: str, seconds: float) -> None:
    """Record with five inboxes, in a separate process, and be killed before they are closed."""

    async def run() -> None:
        async with asyncio.timeout(seconds), AsyncExitStack() as stack:
            first, second, third, fourth, fifth = [await stack.enter_async_context(made(make_inbox)) for _ in range(5)]
            await first.fail(f"{key}-failed", "token")
            await second.quarantine(f"{key}-quarantined", "token", make_delivery(f"{key}-quarantined"))
            await third.claim(f"{key}-completed", "token", lease=LONG)
            await third.complete(f"{key}-completed", "token")
            await fourth.complete([f"{key}-many-{number}" for number in range(3)], "token")
            await fifth.set_note(key, "text")
            await _defer_all(key, [first, second, third, fourth, fifth])
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(run())


async def _defer_all(key: str, inboxes: Sequence[Inbox]) -> None:
    """Store deliveries, claim them, and put one off after a failure, each call with another inbox."""
    storing, claiming, putting_off, *_ = inboxes
    if not (
        isinstance(storing, WaitingInbox)
        and isinstance(claiming, WaitingInbox)
        and isinstance(putting_off, WaitingInbox)
    ):
        return
    names = [f"{key}-waiting-{number}" for number in range(_DEFERRED)]
    for name in names[1:]:
        await storing.store(make_delivery(name, failures=0), webhook_id=key)
    entries = await claiming.claim_due(key, "token", limit=_DEFERRED, lease=LONG)
    await putting_off.put_off(entries[0].key, "token", seconds=LONG, delivery=attrs.evolve(entries[0], failures=1))
    await storing.store(make_delivery(names[0], failures=0), webhook_id=key)
