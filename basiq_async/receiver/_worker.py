"""Work off what waits in the inbox: claim what is due, hand it to its handler, and put it off if that fails."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Awaitable, Callable

import attrs

from .._work.calls import HOST
from .._work.failures import failure_text
from .._work.limits import inbox_limit, wait_for_event
from .._work.protocol import QuarantinedDelivery
from .._work.tasks import TaskOwner, wait_uncancelled
from ._backlog import Backlog
from ._delivery import Delivery, UnreadableBodyError, read_delivery
from ._outcome import Outcome, shorten
from ._results import Result

logger = logging.getLogger("basiq_async.receiver")

_WAITS = (5.0, 30.0, 300.0, 1_800.0, 7_200.0)
"""Seconds after the first failure, the second, and so on; the last one for all others."""
_JITTER = 0.1
_LOOK_EVERY, _LOOK_ANYWAY = 1.0, 60.0
"""Seconds between two looks for what is due; and in a process that defers nothing, for what others have deferred."""
_COUNT_EVERY = 60.0
_LINGER = 0.005
"""Seconds for more handlers to end, so that one statement claims for all of them."""
_GRACE = 600.0
"""What a process cannot handle goes to the quarantine only after so many seconds: during a deploy, the processes before
it meet types and secrets that they do not know."""
_TRY_ELSEWHERE = 60.0
_MOST_REASONS = 1_000


@attrs.define
class Ticket:
    """A deferred delivery that this process has claimed by ``token``: its ``entry`` in the inbox.

    ``put_off`` ends the claim, and has the delivery tried again after so many seconds. ``excuse`` returns whether a
    failure that looks like an outage is one: not if others were handled meanwhile.
    """

    entry: QuarantinedDelivery
    token: str
    attempts: int
    put_off: Callable[[float, QuarantinedDelivery | None], Awaitable[object]]
    excuse: Callable[[], bool]

    def seconds_to_wait(self, failures: int) -> float:
        """Return the seconds until the next attempt, after so many failures."""
        return _jittered(_WAITS[min(failures, len(_WAITS)) - 1])


class Pause:
    """Whether work pauses, because the inbox or what handlers need is away: longer and longer, then one is tried."""

    SHORTEST, LONGEST, LONGEST_ASKED = 1.0, 60.0, 3_600.0
    MOST_EXCUSES = 3
    """An event that met so many outages, while others were handled, fails itself."""
    _MOST_KEYS = 256

    def __init__(self) -> None:
        self._until = -math.inf
        self._seconds = 0.0
        self._probing = False
        self._handled = 0
        self._met: dict[str, tuple[int, int]] = {}
        """For each event, how many outages it met, and how many others had been handled at the first."""

    def room(self, concurrency: int) -> int:
        """Return how many may be worked on at once now."""
        if asyncio.get_running_loop().time() < self._until:
            return 0
        return 1 if self._probing else concurrency

    def begin(self, seconds: float | None) -> None:
        """Pause for so many seconds; without a number, for twice the time of the last pause. Then one is tried."""
        now = asyncio.get_running_loop().time()
        self._probing = True
        if seconds is None:
            if now < self._until:  # others that were under way met the same outage
                return
            self._seconds = min(max(2 * self._seconds, self.SHORTEST), self.LONGEST)
            seconds = _jittered(self._seconds)
        self._until = max(self._until, now + min(seconds, self.LONGEST_ASKED))

    def end(self, key: str, *, handled: bool) -> None:
        """Note that an attempt met no outage."""
        self._seconds, self._probing = 0.0, False
        self._handled += handled
        self._met.pop(key, None)

    def excuse(self, key: str) -> bool:
        """Count an outage that an event met. Return whether it is one, and not a failure of the event itself."""
        met, handled = self._met.pop(key, (0, self._handled))
        self._met[key] = met + 1, handled
        if len(self._met) > self._MOST_KEYS:
            del self._met[next(iter(self._met))]
        return met + 1 < self.MOST_EXCUSES or handled == self._handled


class Worker:
    """Works off the deferred deliveries of one receiver, in a task of its own.

    ``handle`` hands a delivery to its handler. ``handles`` returns whether its type has one.
    """

    def __init__(
        self,
        backlog: Backlog,
        handle: Callable[[Delivery, Ticket], Awaitable[Outcome]],
        handles: Callable[[str], bool],
    ) -> None:
        self._backlog = backlog
        self._handle = handle
        self._handles = handles
        self._lease = backlog.settings.deferred_lease
        self._tasks = TaskOwner()
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._entered = self._stopping = self._told = False
        self._more = False
        """Whether more is due than there was room for."""
        self._ended = 0
        """How many attempts ended otherwise than by an outage."""
        self._pause = Pause()
        self._refused: dict[str, tuple[float, float]] = {}
        """For each reason for which this process could not handle a delivery, when it first and last met it."""

    def begin(self, *, certainly: bool = False) -> None:
        """Begin to work off what waits, if the inbox can keep it. ``certainly``: look for it every second."""
        self._entered = True
        self._backlog.used = self._backlog.used or certainly
        if self._backlog.can_wait() and not self._stopping and (self._task is None or self._task.done()):
            self._task = self._tasks.spawn(self._work())

    def tell_stored(self) -> None:
        """Begin with a delivery that was stored. Warn, once, if this process does not work it off."""
        if self._entered:
            self.begin(certainly=True)  # its first deferred handler may be younger than its start
        elif not self._told:
            self._told = True
            logger.warning(
                "a delivery was deferred, and this process does not work it off: enter the receiver (`async with "
                "receiver`, setup, a lifespan), unless another process calls receiver.work()"
            )
        self._news.set()

    async def join(self) -> None:
        """Wait until the work has ended, by ``stop``."""
        while self._task is not None and not self._task.done():
            await asyncio.wait((self._task,))

    async def stop(self, seconds: float) -> None:
        """Begin no more. Wait so many seconds for what runs; then it is cancelled, and waits in the inbox.

        If this call is cancelled, what runs is cancelled at once.
        """
        self._stopping = True
        self._news.set()
        try:
            if self._task is not None and (cancelled := await wait_uncancelled(self._task)) is not None:
                raise cancelled
            if self._running:
                await asyncio.wait(self._running, timeout=seconds)
        finally:
            await self._tasks.aclose()

    async def work_once(self) -> bool:
        """Handle what is due now, without a pause, and what runs. Return whether an attempt ended. For a test."""
        ended = self._ended
        await self._claim(self._backlog.settings.concurrency)
        if self._running:
            await asyncio.wait(set(self._running))
        return self._ended > ended

    async def _work(self) -> None:
        await asyncio.sleep(0)
        concurrency = self._backlog.settings.concurrency
        while not self._stopping:
            self._news.clear()
            await self._count()
            room = self._pause.room(concurrency) - len(self._running)
            found = await self._claim(room) if room > 0 else 0
            self._more = found >= room
            if not (found and self._more and room < concurrency):
                await self._wait()

    async def _count(self) -> None:
        if self._backlog.on_count is None:
            return
        try:
            await self._backlog.count(_COUNT_EVERY)
        except Exception as exc:
            logger.debug("what waits could not be counted: %s", failure_text(exc))

    async def _wait(self) -> None:
        """Wait for a new delivery, for room if more is due, or for the next look."""
        if await wait_for_event(self._news, _LOOK_EVERY if self._backlog.used else _LOOK_ANYWAY) and not self._stopping:
            await asyncio.sleep(_LINGER)

    async def _claim(self, room: int) -> int:
        """Claim what is due, and begin to handle it. Return how many were claimed."""
        # One token for all: together with the key it names one claim.
        token = f"{HOST}/{os.getpid()}/{os.urandom(16).hex()}"
        backlog = self._backlog
        try:
            async with inbox_limit(backlog.timeout):
                entries = await backlog.inbox.claim_due(backlog.webhook_id, token, limit=room, lease=self._lease)
        except Exception as exc:
            backlog.outages.report("", "that wait could not be claimed", exc, {})
            self._pause.begin(None)
            return 0
        if self._stopping:  # nothing new begins
            await asyncio.gather(*(self._give_back(entry, token, 0.0) for entry in entries))
            return 0
        self._backlog.used = self._backlog.used or bool(entries)
        for entry in entries:
            task = self._tasks.spawn(self._handle_one(entry, token))
            self._running.add(task)
            task.add_done_callback(self._end_one)
        return len(entries)

    async def _give_back(self, entry: QuarantinedDelivery, token: str, seconds: float) -> None:
        try:
            async with inbox_limit(self._backlog.timeout):
                await self._backlog.inbox.put_off(entry.key, token, seconds=seconds)
        except Exception as exc:
            text = "stays claimed until its lease runs out"
            self._backlog.outages.report(shorten(entry.delivery_id), text, exc, {})

    def _end_one(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._more:
            self._news.set()

    async def _handle_one(self, entry: QuarantinedDelivery, token: str) -> None:
        await asyncio.sleep(0)  # an eager task would run in the middle of ``_claim``
        try:
            await self._try_one(entry, token)
        except Exception:
            logger.exception("delivery %r stays claimed until its lease runs out", shorten(entry.delivery_id))

    async def _try_one(self, entry: QuarantinedDelivery, token: str) -> None:

        def put_off(seconds: float, changed: QuarantinedDelivery | None) -> Awaitable[bool]:
            sealed = None if changed is None else self._backlog.seal_again(changed)
            return self._backlog.inbox.put_off(entry.key, token, seconds=seconds, delivery=sealed)

        delivery = self._read(entry)
        if isinstance(delivery, _Refusal):
            await self._refuse(entry, token, delivery)
            return
        attempts = self._backlog.settings.attempts
        done = await self._handle(
            delivery, Ticket(entry, token, attempts, put_off, lambda: self._pause.excuse(entry.key))
        )
        if done.result is Result.UNAVAILABLE:
            self._pause.begin(done.retry_after)
            return
        self._pause.end(entry.key, handled=done.result is Result.HANDLED)
        self._ended += 1

    def _read(self, entry: QuarantinedDelivery) -> Delivery | _Refusal:
        """Return an entry as a delivery, or why this process cannot handle it."""
        fault = None if entry.seal is None else self._backlog.seal.find_fault(entry.seal, *entry.sealed_parts())
        if fault is not None:
            why = f"what was stored {fault}: another program wrote it, or the secret was replaced meanwhile"
            return _Refusal(why, elsewhere=entry.kind != "unreadable")
        at = int(entry.signed_at.timestamp())
        try:
            delivery = read_delivery(entry.delivery_id, at, entry.body, self._backlog.webhook_id)
        except UnreadableBodyError as exc:
            return _Refusal(str(exc), elsewhere=False)
        if not self._handles(delivery.event_type_id):
            why = f"no handler is registered for event type {shorten(delivery.event_type_id)!r} any more"
            return _Refusal(why, elsewhere=True)
        return delivery

    async def _refuse(self, entry: QuarantinedDelivery, token: str, refusal: _Refusal) -> None:
        """Leave a delivery to other processes for a while, then move it to the quarantine.

        Its seal stays, for a receiver that knows it.
        """
        if refusal.elsewhere and (left := self._seconds_left(refusal.why)) > 0:
            await self._give_back(entry, token, min(left, _TRY_ELSEWHERE))
            return
        logger.error(
            "delivery %r was deferred and cannot be handled: %s; it is in the quarantine",
            shorten(entry.delivery_id),
            refusal.why,
        )
        changed = attrs.evolve(entry, error=refusal.why, acknowledged=True, quarantined_at=self._backlog.now())
        try:
            async with inbox_limit(self._backlog.timeout):
                await self._backlog.inbox.quarantine(entry.key, token, changed)
        except Exception as exc:
            text = "could not be put into the quarantine"
            self._backlog.outages.report(shorten(entry.delivery_id), text, exc, {})
        self._ended += 1

    def _seconds_left(self, why: str) -> float:
        """Return for how many seconds what this process refuses for a reason is left to others."""
        now = self._backlog.clock()
        first, last = self._refused.get(why, (now, now))
        if now - last > _GRACE:  # another deploy
            first = now
        if first == now:
            text = "deferred deliveries are left to other processes for %.0f s, then they go to the quarantine: %s"
            logger.warning(text, _GRACE, why)
        if why in self._refused or len(self._refused) < _MOST_REASONS:
            self._refused[why] = first, now
            return first + _GRACE - now
        return 0.0


@attrs.frozen
class _Refusal:
    """Why this process cannot handle a delivery. ``elsewhere``: another one may be able to."""

    why: str
    elsewhere: bool


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
