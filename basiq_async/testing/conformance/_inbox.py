"""The promises of an ``Inbox``, as a suite that any implementation can be held to."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from ...receiver.inboxes._memory import ClaimStatus, Inbox

__all__ = ["MakeInbox", "check_inbox"]

MakeInbox = Callable[[], Inbox | Awaitable[Inbox] | AbstractAsyncContextManager[Inbox]]
"""Makes an inbox: directly, by an ``async def``, or as an async context manager that closes it."""

PassTime = Callable[[float], object]

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY

SHORT = 0.03
LONG = 60.0


async def check_inbox(make_inbox: MakeInbox, *, shared: bool = False, pass_time: PassTime | None = None) -> None:
    """Hold an inbox to what ``Inbox`` promises; an ``AssertionError`` says which promise was broken.

    ``make_inbox`` is called for each check. Say ``shared=True`` where all that it makes have one storage, as
    processes that share a file or a server do: then it is checked across two of them as well. Leases are let
    run out in real time (30 ms each), or by ``pass_time(seconds)`` where the inbox has a clock of its own.
    Keys are new each time, so that a storage may be used again. An inbox with ``aclose`` is closed.
    """
    for check in _CHECKS:
        async with _made(make_inbox) as inbox:
            await _run(check, _Probe(inbox, inbox, pass_time))
        if shared:
            async with _made(make_inbox) as inbox, _made(make_inbox) as other:
                await _run(check, _Probe(inbox, other, pass_time), " (across two workers)")


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


async def _run(check: Callable[[_Probe], Coroutine[Any, Any, None]], probe: _Probe, where: str = "") -> None:
    promise = (check.__doc__ or check.__name__).strip().rstrip(".") + where
    try:
        async with asyncio.timeout(20):
            await check(probe)
    except AssertionError as exc:
        raise AssertionError(f"an inbox promises: {promise}; but {exc}") from exc
    except TimeoutError as exc:
        raise AssertionError(f"an inbox promises: {promise}; but it did not answer within 20 s") from exc


def _must(kept: bool, but: str) -> None:
    # Not an assert statement, which python -O leaves out.
    if not kept:
        raise AssertionError(but)


class _Probe:
    """A key that nobody used yet, and what two workers, A and B, do with it."""

    def __init__(self, inbox: Inbox, other: Inbox, pass_time: PassTime | None) -> None:
        self.inbox = inbox
        self.other = other
        self.key = f"check:{uuid.uuid4()}"
        self.a, self.b = uuid.uuid4().hex, uuid.uuid4().hex
        self._pass_time = pass_time

    async def claim_a(self, expected: ClaimStatus, what: str, *, lease: float = LONG) -> None:
        claim = await self.inbox.claim(self.key, self.a, lease=lease)
        _must(claim.status is expected, f"{what} was {claim.status.name}, not {expected.name}")

    async def claim_b(self, expected: ClaimStatus, what: str, *, lease: float = LONG) -> None:
        claim = await self.other.claim(self.key, self.b, lease=lease)
        _must(claim.status is expected, f"{what} was {claim.status.name}, not {expected.name}")

    async def seen(self, expected: bool, what: str) -> None:
        for inbox in (self.inbox, self.other):
            _must(await inbox.seen(self.key) is expected, f"seen() was {not expected} {what}")

    async def wait(self, seconds: float) -> None:
        if self._pass_time is None:
            await asyncio.sleep(seconds)
        else:
            self._pass_time(seconds)


async def _free(probe: _Probe) -> None:
    """A key that is free can be claimed, and then another worker is told to wait"""
    await probe.claim_a(CLAIMED, "the first claim of a key")
    claim = await probe.other.claim(probe.key, probe.b, lease=LONG)
    _must(claim.status is BUSY, f"the claim of a second worker was {claim.status.name}, not BUSY")
    _must(0 < claim.retry_after <= LONG, f"retry_after was {claim.retry_after}, with a lease of {LONG:g} s")


async def _apart(probe: _Probe) -> None:
    """Keys do not touch each other, however alike, and up to 400 characters of ASCII"""
    long = probe.key.ljust(399, "x")
    alike = [*(probe.key + end for end in ("", " ", "%", "'\";*")), probe.key.upper(), long + "1", long + "2"]
    for number, key in enumerate(alike):
        claim = await probe.inbox.claim(key, f"{probe.a}-{number}", lease=LONG)
        _must(claim.status is CLAIMED, f"a claim of the key {key!r} was {claim.status.name}")
        _must(await probe.inbox.complete(key, f"{probe.a}-{number}"), f"the key {key!r} could not be completed")


async def _again(probe: _Probe) -> None:
    """A token that holds a key may claim it again, and its lease begins anew"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.claim_a(CLAIMED, "the same token's second claim")
    await probe.wait(SHORT * 1.2)
    await probe.claim_b(BUSY, "another worker's claim, when only the first lease had run out,")


async def _completed(probe: _Probe) -> None:
    """What is completed stays completed, for everybody, and is recorded once"""
    await probe.claim_a(CLAIMED, "the first claim")
    _must(await probe.inbox.complete(probe.key, probe.a) is True, "complete() by the holder was not True")
    await probe.claim_b(DONE, "another worker's claim after that")
    await probe.claim_a(DONE, "the same worker's claim after that")
    _must(await probe.inbox.complete(probe.key, probe.a) is False, "a second complete() was not False")
    _must(await probe.other.complete(probe.key, probe.b) is False, "another's complete() was not False")
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
    _must(await probe.other.complete(probe.key, probe.b) is False, "complete() by another was not False")
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
    _must(await probe.inbox.complete(probe.key, probe.a) is False, "the late one's complete() was not False")
    await probe.seen(False, "after the late one's complete()")
    _must(await probe.other.complete(probe.key, probe.b) is True, "complete() by the one who took over was not True")


async def _late(probe: _Probe) -> None:
    """A worker whose lease ran out can still complete, where nobody took over"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.wait(SHORT * 1.2)
    _must(await probe.inbox.complete(probe.key, probe.a) is True, "its complete() was not True")
    await probe.claim_b(DONE, "a claim after that")


async def _race(probe: _Probe) -> None:
    """Of fifty workers that claim a key at once, one gets it"""
    tokens = [f"{probe.a}-{number}" for number in range(50)]
    inboxes = [probe.inbox, probe.other] * 25

    async def claim(inbox: Inbox, token: str) -> ClaimStatus:
        return (await inbox.claim(probe.key, token, lease=LONG)).status

    found = await asyncio.gather(*map(claim, inboxes, tokens))
    _must(found.count(CLAIMED) == 1, f"{found.count(CLAIMED)} got it")
    _must(found.count(BUSY) == 49, f"{found.count(BUSY)} were told that it is BUSY, not 49")


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
)
