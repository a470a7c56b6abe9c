"""Handle an event once: claim it, do the work and record it, as one unit that no cancellation divides."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar, TypeVarTuple

import attrs

from .._redaction.tracebacks import drop_tracebacks
from ..errors import InboxError
from .limits import inbox_is_slow
from .protocol import Claim, ClaimStatus, Inbox, TransactionalInbox
from .tasks import wait_uncancelled

_logger = logging.getLogger("basiq_async.receiver")

T = TypeVar("T")
V = TypeVar("V")
Arguments = TypeVarTuple("Arguments")

_GIVE_BACK_SOON = 1.0
"""Seconds for releasing a claim after the inbox failed: the claim may exist, and the inbox is likely to fail again."""
_MOST_STARTS = 3
"""A call of the inbox is made so often if the event loop shuts down, and cancels the task that makes it."""
_FIRST_WAIT = 0.02
_LONGEST_WAIT = 5.0


class Ended(enum.Enum):
    """How the attempt to handle an event ended."""

    HANDLED = "handled"
    """The work is done. With an ``error``, the inbox could not record that."""
    DONE = "done"
    """It was handled before, or is in the quarantine."""
    BUSY = "busy"
    """Another worker holds it."""
    FAILED = "failed"
    """The work failed."""
    UNAVAILABLE = "unavailable"
    """The inbox failed. Nothing was recorded, and the event is free to be handled again."""
    LATE = "late"
    """The work was cancelled, because its time is over, and still runs. The claim is kept until it ends."""
    CANCELLED = "cancelled"


@attrs.frozen
class Ending(Generic[T]):
    """How an attempt ended, with the ``value`` of the work, its ``error``, or the ``claim`` of another worker."""

    how: Ended
    value: T | None = None
    error: Exception | None = None
    claim: Claim | None = None


class Units:
    """The units under way in this process. Wait for them before the inbox is closed."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.by_key: dict[str, asyncio.Task[Any]] = {}
        """For each key, the task whose turn it is: the others wait for it."""
        self.hasty = False
        """Whether no unit waits for another worker any more, because all of them are to end."""

    def __len__(self) -> int:
        return len(self.tasks)

    async def wait(self, seconds: float) -> int:
        """Wait until the units have ended, for at most so many seconds. Return the number of those that still run."""
        return len((await asyncio.wait(self.tasks, timeout=seconds))[1]) if self.tasks else 0


async def handle_once(unit: Unit[T], units: Units) -> Ending[T]:
    """Claim the unit's event, do the work, and record it. ``units`` owns its task.

    If the caller is cancelled, the work is cancelled once, and awaited for at most ``grace`` seconds. If the work does
    not end then, or within ``grace`` seconds after its time limit, the claim is kept until it ends.
    """
    loop = asyncio.get_running_loop()
    unit.answer = loop.create_future()
    unit.task = loop.create_task(unit.run(units))
    units.tasks.add(unit.task)
    unit.task.add_done_callback(units.tasks.discard)
    unit.task.add_done_callback(unit.tell)
    try:
        return await unit.answer
    except asyncio.CancelledError:
        unit.cancel()
        await wait_uncancelled(unit.task, unit.grace)
        if not unit.task.done():
            unit.tell_late()
        raise


@attrs.define(eq=False)
class Unit(Generic[T]):
    """One event to handle. Times are in seconds.

    name: returns what the log calls it.
    work: does the work. It runs in a task of its own, has one context from begin to end, and is cancelled once at most.
    lease: for how long the claim keeps other workers away. ``renew``: whether it is renewed as long as the work lasts.
    call_timeout: the limit for each call of the inbox.
    work_timeout: after this, the work is cancelled. None is for no limit.
    grace: for how long a caller waits for work that was cancelled.
    patience: for how long to wait for another worker that holds the event.
    session: the inbox, if the work happens in a transaction of it, whose ``InboxError`` is a failure of the storage.
    prepare: awaited before the claim of such a transaction, which therefore holds no connection meanwhile.
    quarantined: the event is in the quarantine, and is tried again.
    on_failure: records that the work failed, with ``call`` and ``release``. By default the claim is released.
    """

    inbox: Inbox
    key: str
    token: str
    name: Callable[[], str]
    work: Callable[[], Awaitable[T]]
    lease: float
    call_timeout: float
    grace: float
    patience: float
    work_timeout: float | None = None
    prepare: Callable[[], Awaitable[object]] | None = None
    on_failure: Callable[[Exception], Awaitable[None]] | None = None
    session: TransactionalInbox | None = None
    quarantined: bool = False
    renew: bool = False
    fields: Callable[[], dict[str, object]] = dict
    """Returns fields for the log."""
    logger: logging.Logger = _logger
    claimed: bool = attrs.field(default=False, init=False)
    timed_out: bool = attrs.field(default=False, init=False)
    task: asyncio.Task[Ending[T]] = attrs.field(init=False)
    answer: asyncio.Future[Ending[T]] = attrs.field(init=False)
    """The caller awaits it: the result of the task, or ``LATE``."""
    _cancelled: bool = attrs.field(default=False, init=False)
    _open: bool = attrs.field(default=False, init=False)
    """Whether a cancellation may reach what runs now: the work, but no call of the inbox."""
    _limit: asyncio.Timeout | None = attrs.field(default=None, init=False)
    _ended: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    """Whether the lease is no longer renewed."""

    def tell(self, task: asyncio.Task[Ending[T]]) -> None:
        """Return the task's end to the caller, unless the caller was cancelled or already has ``LATE``."""
        if self.answer.done():
            return
        if task.cancelled():
            self.answer.cancel()
        elif (fault := task.exception()) is not None:
            self.answer.set_exception(fault)
        else:
            self.answer.set_result(task.result())

    def cancel(self) -> None:
        """Cancel the work, once. A call of the inbox that is under way comes to its end."""
        self._cancelled = True
        self._ended.set()  # from now on the lease runs out
        limit = self._limit
        if self._open and limit is not None and not limit.expired() and not self.task.cancelling():
            limit.reschedule(None)
            self.task.cancel()

    def tell_late(self) -> None:
        """Log that the work was cancelled and has not ended. A caller that still waits gets ``LATE``."""
        text = "the handler of %s was cancelled but still runs: it stays claimed until the handler ends"
        self.logger.warning(text, self.name(), extra=self.fields())
        if not self.answer.done():
            self.answer.set_result(Ending(Ended.LATE))

    async def call(
        self, call: Callable[[*Arguments], Awaitable[V]], *arguments: *Arguments, seconds: float | None = None
    ) -> V:
        """Make a call of the inbox to its end, within a time limit. Raises its error; ``InboxError`` if it is slow."""
        task, seconds = asyncio.current_task(), self.call_timeout if seconds is None else seconds
        for _ in range(_MOST_STARTS):
            timeout = asyncio.timeout(seconds)
            try:
                async with timeout:
                    return await call(*arguments)
            except TimeoutError as exc:
                if not timeout.expired():
                    raise
                raise inbox_is_slow(seconds) from drop_tracebacks(exc)
            except asyncio.CancelledError as exc:
                if task is None or not task.cancelling():
                    raise InboxError("the inbox awaited something that was cancelled") from exc
                self._cancelled = True  # the event loop shuts down
                while task.cancelling():
                    task.uncancel()
        raise InboxError("the event loop shuts down")

    async def release(self, seconds: float | None = None) -> None:
        """Release the claim. If that fails, it ends with its lease."""
        try:
            await self.call(self.inbox.release, self.key, self.token, seconds=seconds)
        except Exception as exc:
            text = "%s stays claimed until its lease runs out: %s"
            self.logger.log(
                logging.WARNING if seconds is None else logging.DEBUG, text, self.name(), exc, extra=self.fields()
            )

    async def run(self, units: Units) -> Ending[T]:
        """Claim, work and record."""
        try:
            if self.key in units.by_key:
                await self._interruptible(lambda: self._wait_for_turn(units), None)
            units.by_key[self.key] = self.task
            if self.prepare is not None:
                if not self.quarantined and await self.call(self.inbox.seen, self.key):
                    return Ending(Ended.DONE)
                await self._interruptible(self.prepare, self.work_timeout)
            ending = await self._claim(units)
            if ending is not None:
                return ending
            self.claimed = True
            value = await self._work()
        except asyncio.CancelledError:
            if self.claimed:
                await self.release()
            return Ending(Ended.CANCELLED)
        except Exception as exc:
            return await self._fail(exc)
        except BaseException:
            await self.release()
            raise
        else:
            return await self._complete(value)
        finally:
            if units.by_key.get(self.key) is self.task:
                del units.by_key[self.key]

    async def _wait_for_turn(self, units: Units) -> None:
        while (other := units.by_key.get(self.key)) is not None:
            if not (await asyncio.wait((other,), timeout=self.patience))[0]:
                return  # from here on the inbox decides: the other's lease may be longer

    async def _claim(self, units: Units) -> Ending[T] | None:
        """Claim the event. Return None if this worker has it now."""
        waited, wait = 0.0, _FIRST_WAIT
        while True:
            try:
                claim = await self.call(self._ask_for_claim)
            except Exception as exc:
                await self.release(_GIVE_BACK_SOON)  # the inbox may have made the claim
                return Ending(Ended.UNAVAILABLE, error=exc)
            if claim.status is ClaimStatus.CLAIMED:
                return None
            if claim.status is ClaimStatus.DONE:
                return Ending(Ended.DONE)
            if waited >= self.patience or units.hasty:
                return Ending(Ended.BUSY, claim=claim)
            pause = min(wait, self.patience - waited, max(claim.retry_after, _FIRST_WAIT))
            await self._interruptible(partial(asyncio.sleep, pause), None)
            waited, wait = waited + pause, min(_LONGEST_WAIT, 1.5 * wait)

    def _ask_for_claim(self) -> Awaitable[Claim]:
        if self.session is not None:
            return self.session.claim_transaction(self.key, self.token, lease=self.lease, quarantined=self.quarantined)
        claim = self.inbox.claim_quarantined if self.quarantined else self.inbox.claim
        return claim(self.key, self.token, lease=self.lease)

    async def _work(self) -> T:
        renewing = asyncio.create_task(self._renew()) if self.renew and self.session is None else None
        try:
            return await self._interruptible(self.work, self.work_timeout)
        finally:
            if renewing is not None:  # a call under way has a time limit; a claim must not be renewed after its end
                self._ended.set()
                await wait_uncancelled(renewing)

    async def _interruptible(self, work: Callable[[], Awaitable[V]], seconds: float | None) -> V:
        """Await ``work``, which a cancellation or its time limit may interrupt. Raises its error.

        Raises ``CancelledError`` only if this unit was cancelled.
        """
        if self._cancelled:
            raise asyncio.CancelledError
        task = self.task
        self._open, self._limit = True, asyncio.timeout(seconds)
        late = None if seconds is None else task.get_loop().call_later(seconds + self.grace, self._check_late)
        try:
            async with self._limit:
                return await work()
        except asyncio.CancelledError as exc:
            if self._cancelled or task.cancelling():
                self._cancelled = True
                raise
            raise RuntimeError("the handler awaited something that was cancelled") from exc
        except Exception as exc:
            if not self._limit.expired():
                raise
            self.timed_out = True
            text = f"the handler was cancelled after {seconds:g} s"
            raise TimeoutError(text) from drop_tracebacks(exc)
        finally:
            self._open = False
            if late is not None:
                late.cancel()
            while task.cancelling():  # the cancellation has had its effect
                task.uncancel()

    def _check_late(self) -> None:
        if not self.answer.done():
            self.tell_late()

    async def _renew(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.lease / 3):
                    await self._ended.wait()
                return
            except TimeoutError:
                pass
            try:
                await self.call(self._ask_for_claim)
            except Exception as exc:
                self.logger.warning("the claim on %s could not be renewed: %s", self.name(), exc, extra=self.fields())

    async def _complete(self, value: T) -> Ending[T]:
        failure: Exception
        try:
            recorded = await self.call(self.inbox.complete, self.key, self.token)
        except Exception as exc:
            if self.session is None:
                # It was handled. Reporting a failure would certainly have it handled twice.
                return Ending(Ended.HANDLED, value, exc)
            if not isinstance(exc, (InboxError, TimeoutError, RuntimeError)):
                return await self._fail(exc)  # the storage refuses what the handler wrote
            failure = exc
        else:
            if recorded:
                return Ending(Ended.HANDLED, value)
            if self.session is None:
                self.logger.warning(
                    "%s was handled after its lease had run out: another worker may have handled it too",
                    self.name(),
                    extra=self.fields(),
                )
                return Ending(Ended.HANDLED, value)
            failure = InboxError("the claim ended before its transaction was committed")
        # Its commit may have succeeded all the same: when the event comes again, the inbox knows.
        await self.release(_GIVE_BACK_SOON)
        return Ending(Ended.UNAVAILABLE, error=failure)

    async def _fail(self, failure: Exception) -> Ending[T]:
        if self.session is not None and isinstance(failure, InboxError):
            await self.release(_GIVE_BACK_SOON)
            return Ending(Ended.UNAVAILABLE, error=failure)
        await (self.release() if self.on_failure is None else self.on_failure(failure))
        return Ending(Ended.FAILED, error=failure)
