"""The promises of an ``Inbox``, as a suite for your own implementation."""

from __future__ import annotations

import asyncio
import multiprocessing
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import attrs

from ...errors import InboxError
from ...receiver.inboxes._claim import ClaimStatus
from ...receiver.inboxes._protocol import Inbox
from ...receiver.inboxes._quarantine import QuarantinedDelivery
from ._runner import hold, keep

__all__ = ["MakeInbox", "check_inbox"]

MakeInbox = Callable[[], Inbox | Awaitable[Inbox] | AbstractAsyncContextManager[Inbox]]
"""Makes an inbox: directly, by an ``async def``, or as an async context manager that closes it."""

PassTime = Callable[[float], object]

Outage = Callable[[], AbstractAsyncContextManager[object]]

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY

SHORT = 0.03
LONG = 60.0


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
    as processes that share a file or a server do: each promise is then checked across two of them as well. Pass
    ``leases=False`` where a claim lives as long as its worker, and does not end by a clock. Leases
    expire in real time (30 ms each), or by ``pass_time(seconds)`` where the inbox has a clock of its own. Keys are
    new each time, so that a storage may be used again. An inbox with ``aclose`` is closed.

    ``outage()`` is an async context manager in which the storage is away, as a server that was stopped: every call
    must fail within its time limit then, and what was recorded must be there afterwards. With ``processes=True``,
    ``make_inbox`` is also called in two new processes, which take the same keys; it must be possible to pickle it.

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
        promises[_promise(_away)] = partial(_away, make_inbox, outage)
    if processes:
        promises[_promise(_raced)] = partial(_raced, make_inbox)
    await keep("the inbox", promises, seconds=seconds)


def _promise(check: Callable[..., object]) -> str:
    return (check.__doc__ or check.__name__).strip().rstrip(".")


async def _alone(make_inbox: MakeInbox, check: _Check, pass_time: PassTime | None) -> None:
    async with _made(make_inbox) as inbox:
        await check(_Probe(inbox, inbox, pass_time))


async def _across(make_inbox: MakeInbox, check: _Check, pass_time: PassTime | None) -> None:
    async with _made(make_inbox) as inbox, _made(make_inbox) as other:
        await check(_Probe(inbox, other, pass_time))


@asynccontextmanager
async def _made(make_inbox: MakeInbox) -> AsyncGenerator[Inbox]:
    made = make_inbox()
    # An inbox may be an async context manager itself; entering it opens it, leaving it closes it.
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


class _Probe:
    """A new key, and what two workers, A and B, do with it."""

    def __init__(self, inbox: Inbox, other: Inbox, pass_time: PassTime | None) -> None:
        self.inbox = inbox
        self.other = other
        self.key = f"check:{uuid.uuid4()}"
        self.a, self.b = uuid.uuid4().hex, uuid.uuid4().hex
        self._pass_time = pass_time

    async def claim_a(self, expected: ClaimStatus, what: str, *, lease: float = LONG) -> None:
        claim = await self.inbox.claim(self.key, self.a, lease=lease)
        hold(claim.status is expected, f"{what} was {claim.status.name}, not {expected.name}")

    async def claim_b(self, expected: ClaimStatus, what: str, *, lease: float = LONG) -> None:
        claim = await self.other.claim(self.key, self.b, lease=lease)
        hold(claim.status is expected, f"{what} was {claim.status.name}, not {expected.name}")

    async def seen(self, expected: bool, what: str) -> None:
        for inbox in (self.inbox, self.other):
            hold(await inbox.seen(self.key) is expected, f"seen() was {not expected} {what}")

    async def quarantine_a(self, *, failures: int = 3, at: datetime | None = None) -> QuarantinedDelivery:
        letter = _letter(self.key, failures=failures, at=at)
        recorded = await self.inbox.quarantine(self.key, self.a, letter)
        hold(recorded is True, f"quarantine() by the holder was {recorded}, not True")
        return letter

    async def letters(self) -> list[QuarantinedDelivery]:
        """The letters of this probe's keys: another user of the storage may have some too."""
        found: list[QuarantinedDelivery] = []
        page = await self.other.quarantined()
        while page:
            found += [letter for letter in page if letter.key.startswith(self.key)]
            page = await self.other.quarantined(after=page[-1])
        return found

    async def wait(self, seconds: float) -> None:
        if self._pass_time is None:
            await asyncio.sleep(seconds)
        else:
            self._pass_time(seconds)


async def _free(probe: _Probe) -> None:
    """A key that is free can be claimed, and then another worker is told to wait"""
    await probe.claim_a(CLAIMED, "the first claim of a key")
    claim = await probe.other.claim(probe.key, probe.b, lease=LONG)
    hold(claim.status is BUSY, f"the claim of a second worker was {claim.status.name}, not BUSY")
    hold(0 < claim.retry_after <= LONG, f"retry_after was {claim.retry_after}, with a lease of {LONG:g} s")


async def _apart(probe: _Probe) -> None:
    """Keys do not touch each other, however alike, and up to 400 characters of ASCII"""
    long = probe.key.ljust(399, "x")
    alike = [*(probe.key + end for end in ("", " ", "%", "'\";*")), probe.key.upper(), long + "1", long + "2"]
    for number, key in enumerate(alike):
        claim = await probe.inbox.claim(key, f"{probe.a}-{number}", lease=LONG)
        hold(claim.status is CLAIMED, f"a claim of the key {key!r} was {claim.status.name}")
        hold(await probe.inbox.complete(key, f"{probe.a}-{number}"), f"the key {key!r} could not be completed")


async def _again(probe: _Probe) -> None:
    """A token that holds a key may claim it again, and its lease begins anew"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.claim_a(CLAIMED, "the same token's second claim")
    await probe.wait(SHORT * 1.2)
    await probe.claim_b(BUSY, "another worker's claim, when only the first lease had run out,")


async def _completed(probe: _Probe) -> None:
    """What is completed stays completed, for everybody, and is recorded once"""
    await probe.claim_a(CLAIMED, "the first claim")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() by the holder was not True")
    await probe.claim_b(DONE, "another worker's claim after that")
    await probe.claim_a(DONE, "the same worker's claim after that")
    hold(await probe.inbox.complete(probe.key, probe.a) is False, "a second complete() was not False")
    hold(await probe.other.complete(probe.key, probe.b) is False, "another's complete() was not False")
    await probe.seen(True, "for a completed key")


async def _seen(probe: _Probe) -> None:
    """seen() is about what was handled, not about what was claimed or given back"""
    await probe.seen(False, "for a key that nobody knows")
    await probe.claim_a(CLAIMED, "a claim after seen()")
    await probe.seen(False, "for a key that is only claimed")
    await probe.inbox.release(probe.key, probe.a)
    await probe.seen(False, "for a key that was released")


async def _released(probe: _Probe) -> None:
    """A released key is free at once, and releasing twice does no harm"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.inbox.release(probe.key, probe.a)
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_b(CLAIMED, "another worker's claim after the release")
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_a(BUSY, "a claim after one who held it no more released it again")


async def _not_mine(probe: _Probe) -> None:
    """Only the holder can release or complete"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.other.release(probe.key, probe.b)
    await probe.claim_b(BUSY, "a claim after a release by one who did not hold the key")
    hold(await probe.other.complete(probe.key, probe.b) is False, "complete() by another was not False")
    await probe.seen(False, "after complete() by one who did not hold the key")


async def _kept(probe: _Probe) -> None:
    """A release does not undo what was completed"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.inbox.complete(probe.key, probe.a)
    await probe.inbox.release(probe.key, probe.a)
    await probe.seen(True, "no more after a release")
    await probe.claim_b(DONE, "a claim after complete() and release()")


async def _crashed(probe: _Probe) -> None:
    """A lease runs out, so that a worker that died holds nothing up, and one that was slow spoils nothing"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.wait(SHORT * 1.2)
    await probe.claim_b(CLAIMED, "another worker's claim after the lease ran out")
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_a(BUSY, "a claim after the late one's release")
    hold(await probe.inbox.complete(probe.key, probe.a) is False, "the late one's complete() was not False")
    await probe.seen(False, "after the late one's complete()")
    hold(await probe.other.complete(probe.key, probe.b) is True, "complete() by the one who took over was not True")


async def _late(probe: _Probe) -> None:
    """A worker whose lease ran out can still complete, where nobody took over"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.wait(SHORT * 1.2)
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "its complete() was not True")
    await probe.claim_b(DONE, "a claim after that")


async def _race(probe: _Probe) -> None:
    """Of fifty workers that claim a key at once, one gets it"""
    tokens = [f"{probe.a}-{number}" for number in range(50)]
    inboxes = [probe.inbox, probe.other] * 25

    async def claim(inbox: Inbox, token: str) -> ClaimStatus:
        return (await inbox.claim(probe.key, token, lease=LONG)).status

    found = await asyncio.gather(*map(claim, inboxes, tokens))
    hold(found.count(CLAIMED) == 1, f"{found.count(CLAIMED)} got it")
    hold(found.count(BUSY) == 49, f"{found.count(BUSY)} were told that it is BUSY, not 49")


async def _cancelled(probe: _Probe) -> None:
    """After a claim that was cancelled half-way, release() leaves the key free"""
    for steps in range(4):
        task = asyncio.create_task(probe.inbox.claim(probe.key, probe.a, lease=LONG))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await probe.inbox.release(probe.key, probe.a)
        await probe.claim_b(CLAIMED, f"another's claim, after one cancelled at step {steps} and its release,")
        await probe.other.release(probe.key, probe.b)


async def _cancelled_anywhere(probe: _Probe) -> None:
    """A call that is cancelled, wherever it is, has been carried out or not, and does no harm"""
    for number, wait in enumerate(_WAITS):
        key, a, b = f"{probe.key}-{number}", f"{probe.a}-{number}", f"{probe.b}-{number}"
        await probe.inbox.claim(key, a, lease=LONG)
        await _cancel(probe.inbox.complete(key, a), wait)
        await probe.inbox.complete(key, a)
        hold(await probe.other.seen(key), "after a cancelled complete() and another one, seen() was False")

        key += "-failed"
        await probe.inbox.claim(key, a, lease=LONG)
        await _cancel(probe.inbox.fail(key, a), wait)
        await probe.inbox.release(key, a)
        claim = await probe.other.claim(key, b, lease=LONG)
        hold(claim.status is CLAIMED, f"after a cancelled fail() and release(), a claim was {claim.status.name}")

        await _cancel(probe.other.quarantine(key, b, _letter(key)), wait)
        await probe.other.release(key, b)
        seen, letters = await probe.inbox.seen(key), [each for each in await probe.letters() if each.key == key]
        hold(seen is bool(letters), f"after a cancelled quarantine(), seen() was {seen}, with {len(letters)} letters")
        if not letters:
            await probe.other.quarantine(key, b, _letter(key))
        await _cancel(probe.inbox.claim_quarantined(key, a, lease=LONG), wait)
        await probe.inbox.release(key, a)
        claim = await probe.other.claim_quarantined(key, b, lease=LONG)
        hold(claim.status is CLAIMED, f"after a cancelled claim_quarantined(), another was {claim.status.name}")
        await probe.other.release(key, b)
        await _cancel(probe.inbox.drop_quarantined(key), wait)
        await probe.inbox.drop_quarantined(key)
        hold(await probe.other.seen(key), "after a cancelled drop_quarantined(), seen() was False")


_WAITS = (0, 1, 2, 3, 5, 8, 0.0005, 0.001, 0.002, 0.004)
"""Before a cancellation: so many turns of the event loop, or that fraction of a second."""


async def _cancel(call: Coroutine[Any, Any, object], wait: float) -> None:
    task = asyncio.create_task(call)
    if wait >= 1:
        for _ in range(int(wait)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(wait)
    task.cancel()
    await asyncio.wait({task})


async def _failed(probe: _Probe) -> None:
    """A failure gives the claim back and is counted, until the key is completed"""
    for number in (1, 2):
        await probe.claim_a(CLAIMED, "a claim")
        failures = await probe.inbox.fail(probe.key, probe.a)
        hold(failures == number, f"the failure number {number} was counted as {failures}")
        await probe.seen(False, "after a failure")
    await probe.claim_b(CLAIMED, "another worker's claim after a failure")
    failures = await probe.other.fail(probe.key, probe.b)
    hold(failures == 3, f"another worker's failure was counted as {failures}, not 3")
    await probe.claim_a(CLAIMED, "a claim after three failures")
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_a(CLAIMED, "a claim after a release")
    failures = await probe.inbox.fail(probe.key, probe.a)
    hold(failures == 4, f"after a release, the fourth failure was counted as {failures}")
    await probe.claim_a(CLAIMED, "a claim after four failures")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() after failures was not True")
    failures = await probe.inbox.fail(probe.key, probe.a)
    hold(failures == 0, f"a failure of a completed key was counted as {failures}, not 0")
    await probe.claim_b(DONE, "a claim after a failure of a completed key")


async def _failed_late(probe: _Probe) -> None:
    """A failure is counted, and another worker's claim stays, where the token holds the key no more"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.wait(SHORT * 1.2)
    await probe.claim_b(CLAIMED, "another worker's claim after the lease expired")
    failures = await probe.inbox.fail(probe.key, probe.a)
    hold(failures == 1, f"the late worker's failure was counted as {failures}, not 1")
    await probe.claim_a(BUSY, "a claim after the late worker's failure")
    failures = await probe.other.fail(probe.key, probe.b)
    hold(failures == 2, f"the failure of the worker that took over was counted as {failures}, not 2")


async def _quarantined(probe: _Probe) -> None:
    """What is in the quarantine counts as handled, and its letter can be read, whole, by everybody"""
    await probe.claim_a(CLAIMED, "the first claim")
    letter = await probe.quarantine_a()
    await probe.claim_b(DONE, "a claim of a key in the quarantine")
    await probe.seen(True, "for a key in the quarantine")
    hold(await probe.letters() == [letter], "the letter was not what was stored")
    again = await probe.inbox.quarantine(probe.key, probe.a, _letter(probe.key, failures=9))
    hold(again is False, "a second quarantine() was not False")
    hold(await probe.inbox.complete(probe.key, probe.a) is False, "complete() in the quarantine was not False")
    failures = await probe.other.fail(probe.key, probe.b)
    hold(failures == 0, f"a failure of a key in the quarantine was counted as {failures}, not 0")
    hold(await probe.letters() == [letter], "the letter was changed by a worker that does not hold it")


async def _quarantined_by_another(probe: _Probe) -> None:
    """Only the holder can quarantine, and nothing that was completed can be"""
    await probe.claim_a(CLAIMED, "the first claim")
    taken = await probe.other.quarantine(probe.key, probe.b, _letter(probe.key))
    hold(taken is False, "quarantine() by another was not False")
    hold(not await probe.letters(), "quarantine() by another stored a letter")
    await probe.inbox.complete(probe.key, probe.a)
    taken = await probe.inbox.quarantine(probe.key, probe.a, _letter(probe.key))
    hold(taken is False, "quarantine() of a completed key was not False")
    hold(not await probe.letters(), "quarantine() of a completed key stored a letter")


async def _retried(probe: _Probe) -> None:
    """A key in the quarantine can be claimed to handle it again, by one worker, and complete() removes its letter"""
    claim = await probe.inbox.claim_quarantined(probe.key, probe.a, lease=LONG)
    hold(claim.status is DONE, f"claim_quarantined() of a key without a letter was {claim.status.name}, not DONE")
    await probe.claim_a(CLAIMED, "the first claim")
    letter = await probe.quarantine_a()
    claim = await probe.inbox.claim_quarantined(probe.key, probe.a, lease=LONG)
    hold(claim.status is CLAIMED, f"claim_quarantined() was {claim.status.name}, not CLAIMED")
    claim = await probe.other.claim_quarantined(probe.key, probe.b, lease=LONG)
    hold(claim.status is BUSY, f"another's claim_quarantined() was {claim.status.name}, not BUSY")
    hold(0 < claim.retry_after <= LONG, f"retry_after was {claim.retry_after}, with a lease of {LONG:g} s")
    await probe.claim_b(DONE, "a claim during a retry")
    hold(await probe.letters() == [letter], "the letter was gone before complete()")
    hold(await probe.other.complete(probe.key, probe.b) is False, "another's complete() was not False")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() by the holder was not True")
    hold(not await probe.letters(), "the letter was still there after complete()")
    await probe.seen(True, "after complete()")
    await probe.claim_b(DONE, "a claim after complete()")


async def _retry_given_back(probe: _Probe) -> None:
    """After a retry that was released or failed, the key is in the quarantine as before"""
    await probe.claim_a(CLAIMED, "the first claim")
    letter = await probe.quarantine_a()
    for end in ("release", "fail"):
        claim = await probe.inbox.claim_quarantined(probe.key, probe.a, lease=LONG)
        hold(claim.status is CLAIMED, f"claim_quarantined() was {claim.status.name}, not CLAIMED")
        if end == "release":
            await probe.inbox.release(probe.key, probe.a)
        else:
            failures = await probe.inbox.fail(probe.key, probe.a)
            hold(failures == 4, f"after 3 failures, that of a retry was counted as {failures}")
        hold(await probe.letters() == [letter], f"the letter was gone after a retry that ended by {end}")
        await probe.claim_b(DONE, f"a claim after a retry that ended by {end}")
    claim = await probe.other.claim_quarantined(probe.key, probe.b, lease=LONG)
    hold(claim.status is CLAIMED, f"another's retry after that was {claim.status.name}, not CLAIMED")
    newer = attrs.evolve(letter, failures=5, error="ValueError: again")
    hold(await probe.other.quarantine(probe.key, probe.b, newer) is True, "quarantine() after a retry was not True")
    hold(await probe.letters() == [newer], "the new letter did not replace the old one")


async def _retry_abandoned(probe: _Probe) -> None:
    """After a retry whose lease expired, the key is in the quarantine as before"""
    await probe.claim_a(CLAIMED, "the first claim")
    letter = await probe.quarantine_a()
    await probe.inbox.claim_quarantined(probe.key, probe.a, lease=SHORT)
    await probe.wait(SHORT * 1.2)
    hold(await probe.letters() == [letter], "the letter was gone")
    await probe.claim_b(DONE, "a claim after that")
    claim = await probe.other.claim_quarantined(probe.key, probe.b, lease=LONG)
    hold(claim.status is CLAIMED, f"another's retry after that was {claim.status.name}, not CLAIMED")


async def _holds_on(probe: _Probe) -> None:
    """A claim holds for as long as its worker is there, and ends with it"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.claim_b(BUSY, "another worker's claim")
    close = getattr(probe.inbox, "aclose", None)
    if probe.other is probe.inbox or close is None:
        return
    await close()
    await probe.claim_b(CLAIMED, "another worker's claim after the first one's inbox was closed")


async def _dropped(probe: _Probe) -> None:
    """A letter that is dropped is gone, and its key stays handled"""
    dropped = await probe.inbox.drop_quarantined(probe.key)
    hold(dropped is False, f"drop_quarantined() of a key without a letter was {dropped}, not False")
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.quarantine_a()
    hold(await probe.other.drop_quarantined(probe.key) is True, "drop_quarantined() was not True")
    hold(not await probe.letters(), "the letter was still there")
    await probe.claim_b(DONE, "a claim after that")


async def _paged(probe: _Probe) -> None:
    """Letters come by the time they were set aside, page by page, though earlier ones are gone"""
    start = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
    ages = [3, 1, 2, 2, 5, 4]
    for number, age in enumerate(ages):
        key, token = f"{probe.key}-{number}", f"{probe.a}-{number}"
        await probe.inbox.claim(key, token, lease=LONG)
        await probe.inbox.quarantine(key, token, _letter(key, at=start + timedelta(microseconds=age)))
    expected = [f"{probe.key}-{number}" for number in (1, 2, 3, 0, 5, 4)]
    letters = await probe.letters()
    found = [letter.key for letter in letters]
    hold(found == expected, f"the order was {found}, not {expected}")
    page = await probe.inbox.quarantined(limit=1)
    hold(len(page) == 1, f"with a limit of 1 there were {len(page)}")
    await probe.inbox.drop_quarantined(expected[1])
    rest = await probe.inbox.quarantined(after=letters[1], limit=1000)
    found = [letter.key for letter in rest if letter.key.startswith(probe.key)]
    hold(found == expected[2:], f"after the second, which was dropped, they were {found}")


async def _odd_letters(probe: _Probe) -> None:
    """A letter may hold any bytes and any text"""
    await probe.claim_a(CLAIMED, "the first claim")
    letter = attrs.evolve(_letter(probe.key), body=bytes(range(256)), delivery_id=_ODD, event_id=_ODD, error=_ODD)
    await probe.inbox.quarantine(probe.key, probe.a, letter)
    found = await probe.letters()
    hold(found == [letter], f"it was {found!a}")


async def _away(make_inbox: MakeInbox, outage: Outage) -> None:
    """While the storage is away every call raises InboxError, and afterwards it is as it was"""
    async with _made(make_inbox) as inbox:
        probe = _Probe(inbox, inbox, None)
        handled, new = f"{probe.key}-handled", f"{probe.key}-new"
        await inbox.complete(handled, "token")
        await probe.claim_a(CLAIMED, "the first claim")
        letter = await probe.quarantine_a()
        async with outage():
            calls: dict[str, Coroutine[Any, Any, object]] = {
                "claim": inbox.claim(f"{new}-claim", "token", lease=LONG),
                "complete": inbox.complete(f"{new}-complete", "token"),
                "seen": inbox.seen(f"{new}-seen"),
                "fail": inbox.fail(f"{new}-fail", "token"),
                "quarantine": inbox.quarantine(f"{new}-quarantine", "token", _letter(f"{new}-quarantine")),
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


async def _raced(make_inbox: MakeInbox) -> None:
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
        async with _made(make_inbox) as inbox:
            return [key for wanted in keys for key in await take(inbox, wanted)]

    return asyncio.run(run())


_ODD = 'text with "quotes", a line\nbreak, \x00, ü, \U0001f600 and a lone \ud800'


def _letter(key: str, *, failures: int = 3, at: datetime | None = None) -> QuarantinedDelivery:
    return QuarantinedDelivery(
        key=key,
        delivery_id="msg_1",
        event_type_id="user.created",
        event_id="event-1",
        body=b'{"eventTypeId": "user.created"}',
        signed_at=datetime(2026, 1, 5, 12, 0, tzinfo=UTC),
        error="ValueError: no",
        failures=failures,
        quarantined_at=at or datetime.now(UTC),
    )


_Check = Callable[[_Probe], Coroutine[Any, Any, None]]

_CHECKS = (
    _free,
    _apart,
    _again,
    _completed,
    _seen,
    _released,
    _not_mine,
    _kept,
    _crashed,
    _late,
    _race,
    _cancelled,
    _cancelled_anywhere,
    _failed,
    _failed_late,
    _quarantined,
    _quarantined_by_another,
    _retried,
    _retry_given_back,
    _retry_abandoned,
    _holds_on,
    _dropped,
    _paged,
    _odd_letters,
)
_WITH_LEASES = (_again, _crashed, _late, _failed_late, _retry_abandoned)
_WITHOUT_LEASES = (_holds_on,)
