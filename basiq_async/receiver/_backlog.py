"""Deferred deliveries: store them, so that Basiq gets its response, and work them off afterwards."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import attrs

from .._signing.seal import Seal
from .._work.calls import HOST
from .._work.failures import failure_text
from .._work.limits import inbox_limit, wait_for_event
from .._work.protocol import Inbox, QuarantinedDelivery, Waiting, WaitingInbox
from .._work.tasks import TaskOwner, wait_uncancelled
from ..errors import ConfigurationError
from ._delivery import Delivery, UnreadableBodyError, read_delivery
from ._outcome import RETRY_SOON, Outages, Outcome, log_fields, shorten
from ._results import Result

logger = logging.getLogger("basiq_async.receiver")

_WAITS = (5.0, 30.0, 300.0, 1_800.0, 7_200.0)
"""Seconds after the first failure, the second, and so on; the last one for all others."""
_JITTER = 0.1
_LOOK_EVERY = 1.0
"""Seconds between two looks for what is due, and between two counts of what waits."""
_MEASURE_EVERY = 60.0
_LINGER = 0.005
"""Seconds for more handlers to end, so that one statement claims for all of them."""
_RETRY_FULL = 60.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_MOST_EXCUSES = 3
"""An event that met so many outages, while others were handled, fails itself."""
_NOTE = "deferred"
"""The note of an inbox that a receiver with deferred handlers has used: what it stored must be worked off."""


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
        wait = _WAITS[min(failures, len(_WAITS)) - 1]
        return wait * random.uniform(1 - _JITTER, 1 + _JITTER)


@attrs.frozen(kw_only=True)
class Limits:
    """The settings of deferred work: see ``WebhookReceiver``."""

    attempts: int
    concurrency: int
    max_waiting: int
    max_waiting_bytes: int


class Backlog:
    """The deferred deliveries of one receiver.

    ``handle`` hands a delivery to its handler. ``handles`` returns whether its type has one. ``lease`` and
    ``inbox_timeout`` are in seconds, and ``clock`` returns the seconds since 1970.
    """

    def __init__(
        self,
        inbox: Inbox,
        seal: Seal,
        handle: Callable[[Delivery, Ticket], Awaitable[Outcome]],
        handles: Callable[[str], bool],
        limits: Limits,
        *,
        webhook_id: str | None,
        lease: float,
        inbox_timeout: float,
        clock: Callable[[], float],
        outages: Outages,
    ) -> None:
        self._inbox = inbox if isinstance(inbox, WaitingInbox) else None
        self._seal = seal
        self._handle = handle
        self._handles = handles
        self._limits = limits
        self._webhook_id = webhook_id
        self._lease = lease
        self._timeout = inbox_timeout
        self._clock = clock
        self._outages = outages
        self.used = False
        """Whether a handler is deferred."""
        self.on_count: Callable[[Waiting], None] | None = None
        """Called each time that is counted what waits: as deliveries come, and each minute."""
        self._counted = Waiting()
        self._count_at = self._measure_at = -math.inf
        self._tasks = TaskOwner()
        self._worker: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._stopping = False
        self._more = False
        self._entered = False
        self._told = self._noted = False
        self._handled = self._ended = 0
        """How many were handled, and how many attempts ended otherwise than by an outage."""
        self._excuses: dict[str, tuple[int, int]] = {}
        """For each event, how many outages it met, and how many others had been handled at the first."""
        self._pause_until = -math.inf
        self._pause = 0.0
        self._probing = False
        """Whether the last attempt met an outage: then one delivery is tried alone."""

    # --- what comes ---

    async def store(self, delivery: Delivery) -> Outcome:
        """Store a delivery to be handled later. Return the response: 202, or 503 if that is not certain."""
        inbox = self._open()
        try:
            async with inbox_limit(self._timeout):
                if await self._is_full(inbox):
                    return Outcome(Result.FULL, delivery, retry_after=_RETRY_FULL)
                await self._note(inbox)
                stored = await inbox.store(self._seal_again(self._entry_of(delivery)), webhook_id=self._webhook_id)
        except Exception as exc:
            self._outages.report(
                shorten(delivery.id),
                "could not be stored, and the response asks Basiq to send it again",
                exc,
                log_fields(delivery, error=exc),
            )
            return Outcome(Result.UNAVAILABLE, delivery, error=exc, retry_after=RETRY_SOON)
        if not stored:
            return Outcome(Result.DUPLICATE, delivery)
        if self._entered:
            self._start(inbox)  # its first deferred handler may be younger than its start
        elif not self._told:
            self._told = True
            logger.warning(
                "a delivery was deferred, and this process does not work it off: enter the receiver (`async with "
                "receiver`, setup, a lifespan), unless another process calls receiver.work()"
            )
        self._news.set()
        return Outcome(Result.DEFERRED, delivery)

    async def waiting(self) -> Waiting:
        """Return what waits now."""
        async with inbox_limit(self._timeout):
            return await self._open().waiting(self._webhook_id)

    def can_wait(self) -> bool:
        """Return whether the inbox has the methods for deliveries that wait."""
        return self._inbox is not None

    def _open(self) -> WaitingInbox:
        if self._inbox is None:
            raise ConfigurationError("this inbox keeps no deliveries that wait: see WaitingInbox")
        return self._inbox

    async def _is_full(self, inbox: WaitingInbox) -> bool:
        now = asyncio.get_running_loop().time()
        if now >= self._count_at:
            self._count_at = now + _LOOK_EVERY  # before the call: others that come meanwhile use the count before
            await self._count(inbox)
        limits = self._limits
        return self._counted.fresh >= limits.max_waiting or self._counted.size >= limits.max_waiting_bytes

    async def _count(self, inbox: WaitingInbox) -> None:
        self._counted = await inbox.waiting(self._webhook_id)
        if self.on_count is not None:
            self.on_count(self._counted)

    def _entry_of(self, delivery: Delivery) -> QuarantinedDelivery:
        return QuarantinedDelivery(
            key=delivery.key,
            delivery_id=delivery.id,
            event_type_id=delivery.event_type_id,
            event_id=delivery.event_id,
            body=delivery.body,
            signed_at=delivery.timestamp,
            error="",
            failures=0,
            quarantined_at=self._now(),
        )

    def _seal_again(self, entry: QuarantinedDelivery) -> QuarantinedDelivery:
        return attrs.evolve(entry, seal=self._seal.seal(*entry.sealed_parts()))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    # --- the work ---

    async def begin(self, *, certainly: bool = False) -> None:
        """Begin to work off what waits, if a handler is deferred, was deferred, or ``certainly``."""
        self._entered = True
        if self._inbox is None or self._worker is not None:
            return
        if not (certainly or self.used):
            deferred = await self._has_deferred(self._inbox)
            if deferred is not True:
                if deferred is None:
                    self._worker = self._tasks.spawn(self._ask_until_known(self._inbox))
                return
        self._start(self._inbox)

    def _start(self, inbox: WaitingInbox) -> None:
        if self._worker is None and not self._stopping:
            self._worker = self._tasks.spawn(self._work(inbox))

    async def _has_deferred(self, inbox: WaitingInbox) -> bool | None:
        """Return whether deliveries were deferred in this inbox before; None if it is away."""
        try:
            async with inbox_limit(self._timeout):
                return await inbox.note(self._note_name) is not None
        except Exception as exc:
            logger.debug("the inbox does not say whether deliveries were deferred: %s", failure_text(exc))
            return None

    async def _ask_until_known(self, inbox: WaitingInbox) -> None:
        """Work, once the inbox has said that deliveries were deferred, or one is."""
        deferred = None
        while deferred is None and not self._stopping:
            if await wait_for_event(self._news, _LONGEST_PAUSE):
                deferred = True
            else:
                deferred = await self._has_deferred(inbox)
        if deferred:
            await self._work(inbox)
        self._worker = None

    async def _note(self, inbox: WaitingInbox) -> None:
        """Note, once, that this inbox has deferred deliveries: a receiver that defers nothing works them off too."""
        if not self._noted:
            await inbox.set_note(self._note_name, "1")
            self._noted = True

    @property
    def _note_name(self) -> str:
        return f"{_NOTE} {self._webhook_id or ''}"

    async def join(self) -> None:
        """Wait until the work has ended, by ``stop``."""
        if self._worker is not None:
            await asyncio.wait((self._worker,))

    async def stop(self, seconds: float) -> None:
        """Begin no more. Wait so many seconds for what runs; then it is cancelled, and waits in the inbox.

        If this call is cancelled, what runs is cancelled at once.
        """
        self._stopping = True
        self._news.set()
        try:
            if self._worker is not None and (cancelled := await wait_uncancelled(self._worker)) is not None:
                raise cancelled
            if self._running:
                await asyncio.wait(self._running, timeout=seconds)
        finally:
            await self._tasks.aclose()

    async def work_once(self) -> bool:
        """Handle what is due now, without a pause, and what runs. Return whether an attempt ended. For a test."""
        ended = self._ended
        await self._claim(self._open(), self._limits.concurrency)
        if self._running:
            await asyncio.wait(set(self._running))
        return self._ended > ended

    async def _work(self, inbox: WaitingInbox) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        if self.used:
            try:
                async with inbox_limit(self._timeout):
                    await self._note(inbox)
            except Exception as exc:  # each delivery that is stored tries it again
                logger.debug("the inbox could not note that deliveries are deferred: %s", failure_text(exc))
        while not self._stopping:
            self._news.clear()
            if self.on_count is not None and loop.time() >= self._measure_at:
                await self._measure(inbox)
            room = (1 if self._probing else self._limits.concurrency) - len(self._running)
            found = 0
            if room > 0 and loop.time() >= self._pause_until:
                found = await self._claim(inbox, room)
            self._more = found >= room
            if not (found and self._more and room < self._limits.concurrency):
                await self._wait()

    async def _measure(self, inbox: WaitingInbox) -> None:
        self._measure_at = asyncio.get_running_loop().time() + _MEASURE_EVERY
        try:
            async with inbox_limit(self._timeout):
                await self._count(inbox)
        except Exception as exc:
            logger.debug("what waits could not be counted: %s", failure_text(exc))

    async def _wait(self) -> None:
        """Wait for a new delivery, for room if more is due, or for a second."""
        try:
            async with asyncio.timeout(_LOOK_EVERY):
                await self._news.wait()
        except TimeoutError:
            return
        if not self._stopping:
            await asyncio.sleep(_LINGER)

    async def _claim(self, inbox: WaitingInbox, room: int) -> int:
        # One token for all: together with the key it names one claim.
        token = f"{HOST}/{os.getpid()}/{os.urandom(16).hex()}"
        try:
            async with inbox_limit(self._timeout):
                entries = await inbox.claim_due(self._webhook_id, token, limit=room, lease=self._lease)
        except Exception as exc:
            self._outages.report("", "that wait could not be claimed", exc, {})
            self._take_a_pause(None)
            return 0
        if self._stopping:  # nothing new begins
            await asyncio.gather(*(self._give_back(inbox, entry, token) for entry in entries))
            return 0
        for entry in entries:
            task = self._tasks.spawn(self._handle_one(inbox, entry, token))
            self._running.add(task)
            task.add_done_callback(self._end_one)
        return len(entries)

    async def _give_back(self, inbox: WaitingInbox, entry: QuarantinedDelivery, token: str) -> None:
        try:
            async with inbox_limit(self._timeout):
                await inbox.put_off(entry.key, token, seconds=0.0)
        except Exception as exc:
            self._outages.report(shorten(entry.delivery_id), "stays claimed until its lease runs out", exc, {})

    def _end_one(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._more:
            self._news.set()

    async def _handle_one(self, inbox: WaitingInbox, entry: QuarantinedDelivery, token: str) -> None:
        await asyncio.sleep(0)  # an eager task would run in the middle of ``_claim``

        def put_off(seconds: float, changed: QuarantinedDelivery | None) -> Awaitable[bool]:
            sealed = None if changed is None else self._seal_again(changed)
            return inbox.put_off(entry.key, token, seconds=seconds, delivery=sealed)

        delivery = self._read(entry)
        if isinstance(delivery, str):
            await self._set_aside(inbox, entry, token, delivery)
            self._ended += 1
            return
        ticket = Ticket(entry, token, self._limits.attempts, put_off, lambda: self._excuse(entry.key))
        done = await self._handle(delivery, ticket)
        if done.result is Result.UNAVAILABLE:
            self._take_a_pause(done.retry_after)
            return
        self._pause, self._probing = 0.0, False
        self._excuses.pop(entry.key, None)
        self._handled += done.result is Result.HANDLED
        self._ended += 1

    def _excuse(self, key: str) -> bool:
        met, handled = self._excuses.get(key, (0, self._handled))
        if len(self._excuses) < self._limits.concurrency * 16:
            self._excuses[key] = met + 1, handled
        return met + 1 < _MOST_EXCUSES or handled == self._handled

    def _read(self, entry: QuarantinedDelivery) -> Delivery | str:
        """Return an entry as a delivery, or why it cannot be handled."""
        fault = None if entry.seal is None else self._seal.find_fault(entry.seal, *entry.sealed_parts())
        if fault is not None:
            return f"what was stored {fault}: another program wrote it, or the secret was replaced meanwhile"
        try:
            delivery = read_delivery(entry.delivery_id, int(entry.signed_at.timestamp()), entry.body, self._webhook_id)
        except UnreadableBodyError as exc:
            return str(exc)
        if not self._handles(delivery.event_type_id):
            return f"no handler is registered for event type {shorten(delivery.event_type_id)!r} any more"
        return delivery

    async def _set_aside(self, inbox: WaitingInbox, entry: QuarantinedDelivery, token: str, why: str) -> None:
        """Move a delivery that cannot be handled to the quarantine. Its seal stays, for a receiver that knows it."""
        logger.error(
            "delivery %r was deferred and cannot be handled: %s; it is in the quarantine",
            shorten(entry.delivery_id),
            why,
        )
        changed = attrs.evolve(entry, error=why, acknowledged=True, quarantined_at=self._now())
        try:
            async with inbox_limit(self._timeout):
                await inbox.quarantine(entry.key, token, changed)
        except Exception as exc:
            self._outages.report(shorten(entry.delivery_id), "could not be put into the quarantine", exc, {})

    def _take_a_pause(self, seconds: float | None) -> None:
        """Claim nothing for so many seconds; without a number, for twice the time of the last pause. Then try one."""
        now = asyncio.get_running_loop().time()
        self._probing = True
        if seconds is None:
            if now < self._pause_until:  # others that were under way met the same outage
                return
            self._pause = min(max(2 * self._pause, _SHORTEST_PAUSE), _LONGEST_PAUSE)
            seconds = self._pause * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._pause_until = max(self._pause_until, now + seconds)


def check_deferrable(inbox: Inbox, *, accept_loss: bool) -> None:
    """Raise ``ConfigurationError`` for an inbox that cannot keep what was acknowledged."""
    may_lose: str | None = getattr(inbox, "may_lose", None)
    name = type(inbox).__name__
    if not isinstance(inbox, WaitingInbox):
        raise ConfigurationError(
            "deferred handlers need an inbox with the methods of WaitingInbox, such as SQLiteInbox or SQLInbox; "
            f"{name} has not"
        )
    if may_lose is not None and not accept_loss:
        raise ConfigurationError(
            f"deferred handlers with a {name} would lose deliveries that Basiq believes to be handled: {may_lose}. Use "
            "SQLInbox or SQLiteInbox, or pass accept_loss=True, as in a test"
        )
