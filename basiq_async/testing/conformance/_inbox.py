"""The suite for an ``Inbox`` of your own: what every inbox promises, and what its storage does."""

from __future__ import annotations

import asyncio
import multiprocessing
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from ..._inbox.protocol import Inbox
from ...errors import InboxError
from . import _inbox_model as model
from . import _inbox_promises as tries
from ._inbox_probe import CLAIMED, DONE, LONG, Check, InboxProbe, MakeInbox, PassTime, made, make_letter
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
    """Check that an inbox does what ``Inbox`` promises.

    ``make_inbox`` is called for each promise. Pass ``shared=True`` where all inboxes that it makes have one storage,
    such as a file or a server: each promise is then checked across two of them as well. Pass ``leases=False`` where a
    claim ends with its worker, and not by a clock. Leases expire in real time (30 ms each), or by
    ``pass_time(seconds)`` where the inbox has a clock of its own. Keys are new each time, so that a storage may be used
    again. An inbox with ``aclose`` is closed.

    ``outage()`` is an async context manager in which the storage is away, such as a server that is stopped. Every call
    must then fail within its time limit, and what was recorded must be there afterwards. With ``processes=True``, two
    new processes call ``make_inbox`` as well, and take the same keys; it must be possible to pickle it.

    Each promise may take ``seconds``. Raises ``BrokenPromisesError``, an ``AssertionError`` that names every broken
    promise and what happened instead.
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
    tries.pinned,
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
    tries.odd_letters,
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
    """While the storage is away every call raises InboxError, and afterwards it is as it was"""
    async with made(make_inbox) as inbox:
        probe = InboxProbe(inbox, inbox, None)
        handled, new = f"{probe.key}-handled", f"{probe.key}-new"
        await inbox.complete(handled, "token")
        await probe.claim_a(CLAIMED, "the first claim")
        letter = await probe.quarantine_a()
        async with outage():
            calls: dict[str, Coroutine[Any, Any, object]] = {
                "check": inbox.check(),
                "claim": inbox.claim(f"{new}-claim", "token", lease=LONG),
                "complete": inbox.complete(f"{new}-complete", "token"),
                "seen": inbox.seen(f"{new}-seen"),
                "known_since": inbox.known_since(),
                "pinned": inbox.pinned(f"{new}-pin"),
                "pin": inbox.pin(f"{new}-pin", "text"),
                "fail": inbox.fail(f"{new}-fail", "token"),
                "quarantine": inbox.quarantine(f"{new}-quarantine", "token", make_letter(f"{new}-quarantine")),
                "quarantined": inbox.quarantined(),
                "claim_quarantined": inbox.claim_quarantined(probe.key, "token", lease=LONG),
                "drop_quarantined": inbox.drop_quarantined(probe.key),
            }
            found = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, result in zip(calls, found, strict=True):
            hold(isinstance(result, InboxError), f"{name}() came to {result!r}, without the storage")
        claim = await inbox.claim(handled, "another token", lease=LONG)
        hold(claim.status is DONE, f"afterwards a claim of what was handled was {claim.status.name}, not DONE")
        hold(await probe.letters() == [letter], "afterwards the quarantine was another one")
        claim = await inbox.claim(new, "another token", lease=LONG)
        hold(claim.status is CLAIMED, f"afterwards a claim of a new key was {claim.status.name}, not CLAIMED")
        hold(await inbox.complete(new, "another token"), "afterwards complete() was not True")


async def raced(make_inbox: MakeInbox) -> None:
    """Of two processes that take the same keys at once, one gets each"""
    keys = [f"{uuid.uuid4()}-{number}" for number in range(50)]
    loop = asyncio.get_running_loop()
    # New processes, not forks: an open connection cannot be used on both sides of a fork.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = await asyncio.gather(*(loop.run_in_executor(pool, _take_all, make_inbox, keys) for _ in range(2)))
    everything = [key for one in taken for key in one]
    hold(len(set(everything)) == len(keys), f"{len(keys) - len(set(everything))} of {len(keys)} got nobody")
    hold(len(everything) == len(keys), f"{len(everything) - len(keys)} of {len(keys)} got both")


def _take_all(make_inbox: MakeInbox, keys: list[str]) -> list[str]:
    """Handle, in a process of its own, every key that nobody else handles; return them."""

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
        raise AssertionError("a claim was BUSY for ever")

    async def run() -> list[str]:
        async with made(make_inbox) as inbox:
            return [key for wanted in keys for key in await take(inbox, wanted)]

    return asyncio.run(run())
