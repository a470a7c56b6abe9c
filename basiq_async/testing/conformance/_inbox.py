"""The conformance suite for an ``Inbox``."""

from __future__ import annotations

import asyncio
import multiprocessing
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from ..._work.protocol import Inbox
from ...errors import InboxError
from . import _inbox_model as model
from . import _inbox_promises as tries
from ._inbox_probe import CLAIMED, DONE, LONG, Check, InboxProbe, MakeInbox, PassTime, made, make_delivery
from ._runner import hold, keep

Outage = Callable[[], AbstractAsyncContextManager[object]]


async def check_inbox(
    make_inbox: MakeInbox,
    *,
    shared: bool = False,
    leases: bool = True,
    pass_time: PassTime | None = None,
    outage: Outage | None = None,
    processes: bool = False,
    seconds: float = 20.0,
) -> None:
    """Check that an inbox keeps the promises of ``Inbox``.

    make_inbox: called for each promise. An inbox with ``aclose`` is closed after it. Keys are always new, so the
        storage can be used again.
    shared: whether all inboxes have the same storage, such as a file or a server. Each promise is then also checked
        with two inboxes.
    leases: False if a claim ends with its worker, not after a time.
    pass_time: moves the inbox's own clock by so many seconds. Without it, leases of 30 ms expire in real time.
    outage: returns an async context manager in which the storage is away, for example a stopped server. Every call must
        then fail within its time limit, and all records must still be there afterwards.
    processes: also call ``make_inbox`` in two new processes that claim the same keys. It must be possible to pickle it.
    seconds: the time limit of each promise.

    Raises ``BrokenPromisesError``, an ``AssertionError`` that names each broken promise and what happened instead.
    """
    promises: dict[str, Callable[[], Awaitable[None]]] = {}
    for check in _CHECKS:
        if check in (_WITH_LEASES if not leases else _WITHOUT_LEASES):
            continue
        promise = _promise(check)
        promises[promise] = partial(_alone, make_inbox, check, pass_time)
        if shared:
            promises[promise + " (across two workers)"] = partial(_across, make_inbox, check, pass_time)
    if outage is not None:
        promises[_promise(away)] = partial(away, make_inbox, outage)
    if processes:
        promises[_promise(raced)] = partial(raced, make_inbox)
    await keep("the inbox", promises, seconds=seconds)


def _promise(check: Callable[..., object]) -> str:
    return (check.__doc__ or check.__name__).strip().rstrip(".")


async def _alone(make_inbox: MakeInbox, check: Check, pass_time: PassTime | None) -> None:
    async with made(make_inbox) as inbox:
        await check(InboxProbe(inbox, inbox, pass_time))


async def _across(make_inbox: MakeInbox, check: Check, pass_time: PassTime | None) -> None:
    async with made(make_inbox) as inbox, made(make_inbox) as other:
        await check(InboxProbe(inbox, other, pass_time))


_CHECKS = (
    tries.checked,
    tries.free,
    tries.apart,
    tries.again,
    tries.completed,
    tries.seen,
    tries.released,
    tries.knows_since,
    tries.not_mine,
    tries.kept,
    tries.crashed,
    tries.late,
    tries.race,
    tries.cancelled,
    tries.cancelled_anywhere,
    tries.failed,
    tries.failed_late,
    tries.quarantined,
    tries.quarantined_by_another,
    tries.retried,
    tries.retry_given_back,
    tries.retry_abandoned,
    tries.holds_on,
    tries.dropped,
    tries.paged,
    tries.odd_deliveries,
    model.walked,
)
_WITH_LEASES = (
    model.walked,
    tries.again,
    tries.crashed,
    tries.late,
    tries.failed_late,
    tries.retry_abandoned,
)
_WITHOUT_LEASES = (tries.holds_on,)


async def away(make_inbox: MakeInbox, outage: Outage) -> None:
    """While the storage is away, every call raises InboxError; afterwards all records are unchanged"""
    async with made(make_inbox) as inbox:
        probe = InboxProbe(inbox, inbox, None)
        handled, new = f"{probe.key}-handled", f"{probe.key}-new"
        await inbox.complete(handled, "token")
        await probe.claim_a(CLAIMED, "the first claim")
        delivery = await probe.quarantine_a()
        async with outage():
            calls: dict[str, Coroutine[Any, Any, object]] = {
                "check": inbox.check(),
                "claim": inbox.claim(f"{new}-claim", "token", lease=LONG),
                "complete": inbox.complete(f"{new}-complete", "token"),
                "seen": inbox.seen(f"{new}-seen"),
                "known_since": inbox.known_since(),
                "fail": inbox.fail(f"{new}-fail", "token"),
                "quarantine": inbox.quarantine(f"{new}-quarantine", "token", make_delivery(f"{new}-quarantine")),
                "quarantined": inbox.quarantined(),
                "claim_quarantined": inbox.claim_quarantined(probe.key, "token", lease=LONG),
                "drop_quarantined": inbox.drop_quarantined(probe.key),
            }
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
