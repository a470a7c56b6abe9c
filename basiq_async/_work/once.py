"""Handle an event once: claim it, do the work and record it, as one unit that no cancellation divides."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar, TypeVarTuple, cast
from weakref import WeakKeyDictionary

from .._redaction.tracebacks import drop_tracebacks, hide_parameters
from .._work.failures import reason_text
from ..errors import InboxError
from .attempts import AttemptEnd, AttemptResult, KilledError, UnderWay
from .failures import leaves
from .limits import inbox_is_slow, inbox_limit, limit, wait_for_event
from .protocol import MOST_UNENDED, Claim, ClaimStatus, TransactionalInbox
from .steps import TaskSteps
from .tasks import wait_uncancelled

T = TypeVar("T")
V = TypeVar("V")
Arguments = TypeVarTuple("Arguments")

_GIVE_BACK_SOON = 1.0
"""How long to try to release a claim after a failed call, in seconds: it may have been stored."""
_MOST_STARTS = 3
"""A call of the inbox is made so often if the event loop shuts down, and cancels the task that makes it."""
_FIRST_WAIT = 0.02
_LONGEST_WAIT = 5.0
_TAKE_BACK = 5.0
"""Seconds for which other processes may still take back claims that they never got: longer than between their tries."""
_ALONE: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""Held by the one event of this process that is handled though an attempt before had no end.

Nothing tells which of the events that were under way has killed the process. One after the other shows it, and what
only ran beside it is not counted again.
"""


class Unit(ABC, Generic[T]):
    """One event to handle. A subclass does the work.

    A task of its own does it, in ``TaskSteps``. Waits, ``prepare`` and ``work`` are interruptible; calls of the inbox
    come to their end. Work, or a call of the inbox, whose time is over has failed. A call that the event loop cancels,
    because it shuts down, is made again.

    patience: for how many seconds to wait for another worker that holds the event.
    session: the inbox, if the work happens in a transaction of it, whose ``InboxError`` is a failure of the storage.
    quarantined: the event is in the quarantine, and is tried again.
    """

    has_prepare = False
    """Whether to await ``prepare`` before the claim of such a transaction, which holds no connection meanwhile."""
    already_claimed = False
    """Whether the event is claimed already, by a lease of this token."""
    can_be_alone = True
    """Whether to handle an event though an attempt before had no end; else the end is ``ALONE``."""

    def __init__(
        self,
        units: UnderWay,
        key: str,
        token: str,
        patience: float,
        *,
        session: TransactionalInbox | None = None,
        quarantined: bool = False,
    ) -> None:
        self.units = units
        self.key = key
        self.token = token
        self.patience = patience
        self.session = session
        self.quarantined = quarantined
        self.claimed = False
        self.timed_out = False
        self.unended = 0
        """How many attempts before this one had no end."""
        self._alone: asyncio.Lock | None = None
        self._loop = asyncio.get_running_loop()
        self._steps = TaskSteps(units.grace, self._answer_late)
        self._renewal_ended: asyncio.Event | None = None

    async def prepare(self) -> None:
        """Prepare the work."""

    @abstractmethod
    async def work(self) -> T:
        """Do the work. It runs in a task of its own, has one context, and is cancelled once at most."""

    async def record_failure(self, failure: Exception) -> None:
        """Record that the work failed, with ``call`` and ``release``."""
        await self.release()

    @abstractmethod
    def describe(self) -> str:
        """Return what the log calls the event."""

    def log_fields(self) -> dict[str, object]:
        """Return fields for the log."""
        return {}

    def report(self, what: str, failure: Exception) -> None:
        """Log what became of the event, because the inbox failed."""
        self._warn(f"%s {what}: %s", reason_text(failure))

    async def handle_once(self) -> AttemptEnd[T]:
        """Claim the event, do the work, and record it. ``units`` owns the task that does it.

        If the caller is cancelled, the work is cancelled once, and awaited for at most ``grace`` seconds. If the work
        does not end then, or within ``grace`` seconds after its time limit, the claim is kept until it ends.
        """
        self._answer: asyncio.Future[AttemptEnd[T]] = self._loop.create_future()
        task = self._steps.task = self._loop.create_task(self._run())
        self.units.tasks.add(task)
        task.add_done_callback(self._answer_caller)
        try:
            return await self._answer
        except asyncio.CancelledError:
            if self._renewal_ended is not None:  # from now on the lease runs out
                self._renewal_ended.set()
            self._steps.cancel()
            await wait_uncancelled(self._steps.task, self.units.grace)
            if not self._steps.task.done():
                self._warn_late()
            raise

    def _answer_caller(self, task: asyncio.Task[AttemptEnd[T]]) -> None:
        """Return the task's end to the caller, unless the caller was cancelled or already has ``LATE``."""
        self.units.tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if self._answer.done():
            if isinstance(fault, Exception):  # any other one has ended the event loop
                self.units.logger.error("%s ended with a fault", self.describe(), exc_info=hide_parameters(fault))
        elif task.cancelled():
            self._answer.cancel()
        elif fault is not None:
            self._answer.set_exception(fault)
        else:
            self._answer.set_result(task.result())

    def _answer_late(self) -> None:
        """Return ``LATE`` to a caller that still waits: the work was cancelled and has not ended."""
        if not self._answer.done():
            self._warn_late()
            self._answer.set_result(AttemptEnd(AttemptResult.LATE))

    def _warn_late(self) -> None:
        self._warn("the handler of %s was cancelled but still runs: it stays claimed until the handler ends")

    def _warn(self, text: str, *arguments: object) -> None:
        self.units.logger.warning(text, self.describe(), *arguments, extra=self.log_fields())

    # --- the task ---

    async def call(
        self, call: Callable[[*Arguments], Awaitable[V]], *arguments: *Arguments, seconds: float | None = None
    ) -> V:
        """Make a call of the inbox to its end, within a time limit. Raises its error; ``InboxError`` if it is slow."""
        seconds = self.units.call_timeout if seconds is None else seconds
        for _ in range(_MOST_STARTS):
            self._steps.begin(seconds)
            try:
                return await call(*arguments)
            except asyncio.CancelledError as exc:
                if self._steps.expired:
                    raise inbox_is_slow(seconds) from drop_tracebacks(exc)
                if not self._steps.task.cancelling():
                    raise InboxError("the inbox awaited something that was cancelled") from exc
            except TimeoutError as exc:
                if exc.args:
                    raise
                raise inbox_is_slow(seconds) from drop_tracebacks(exc)  # by a limit of the inbox's own
        raise InboxError("the event loop shuts down")

    async def release(self, seconds: float | None = None) -> None:
        """Release the claim. If that fails, it ends with its lease, or when the inbox answers again."""
        try:
            await self.call(self.units.inbox.release, self.key, self.token, seconds=seconds)
        except Exception as exc:
            self.units.owed.add(self.key, self.token, partial(self.units.inbox.release, self.key, self.token))
            if seconds is None:
                self.report("stays claimed until its lease runs out", exc)

    async def give_back(self, failure: Exception) -> None:
        """Release the claim, because the inbox failed."""
        await self.release(_GIVE_BACK_SOON)

    async def _run(self) -> AttemptEnd[T]:
        """Claim, work and record."""
        # An eager task runs before ``create_task`` returns it.
        task = self._steps.task = cast("asyncio.Task[AttemptEnd[T]]", asyncio.current_task())
        self.units.tasks.add(task)
        by_key = self.units.by_key
        try:
            if self.key in by_key:
                await self._interruptible(self._wait_for_turn, None)
            by_key[self.key] = self._steps.task
            if self.has_prepare:
                if (
                    not (self.quarantined or self.already_claimed)
                    and (ending := await self._end_if_handled_before()) is not None
                ):
                    return ending
                await self._interruptible(self.prepare, self.units.work_timeout)
            ending = None
            if self.units.leaves_trace and self.session is not None and not (self.already_claimed or self.quarantined):
                ending = await self._claim(by_lease=True)
                self.claimed = ending is None
            if ending is None and self.unended < MOST_UNENDED:
                ending = await self._claim()
            if ending is not None:
                return ending
            self.claimed = True
            if self.unended >= MOST_UNENDED:
                raise KilledError(self.unended)
            if self.units.renew and self.session is None:
                value = await self._work_and_renew()
            else:
                value = await self._interruptible(self.work, self.units.work_timeout)
            return await self._complete(value)
        except asyncio.CancelledError:
            if self.claimed or self.already_claimed:
                await self.release()
            return AttemptEnd(AttemptResult.CANCELLED)
        except Exception as exc:
            return await self._fail(exc)
        except BaseException:
            await self.release()
            raise
        finally:
            self._steps.close()
            if self._alone is not None:
                self._alone.release()
            if by_key.get(self.key) is self._steps.task:
                del by_key[self.key]

    async def _wait_for_turn(self) -> None:
        while (other := self.units.by_key.get(self.key)) is not None:
            if not (await asyncio.wait((other,), timeout=self.patience))[0]:
                return  # from here on the inbox decides: the other's lease may be longer

    async def _end_if_handled_before(self) -> AttemptEnd[T] | None:
        """Return the end of an attempt that has nothing to prepare, because the event was handled before; else None.

        ``known`` is also true for a quarantined event; only a claim tells the two apart.
        """
        if not await self.call(self.units.inbox.known, (self.key,)):
            return None
        ending = await self._claim()
        if ending is None:
            await self.release()
        return ending

    async def _claim(self, *, by_lease: bool = False) -> AttemptEnd[T] | None:
        """Claim the event. Return None if this worker has it now. ``by_lease``: though the work has a session."""
        in_transaction = self.session is not None and not by_lease
        if self.already_claimed and not in_transaction:
            return None
        lease = self.units.trace_lease if by_lease else self.units.lease
        ask = partial(self.units.inbox.claim, lease=lease, quarantined=self.quarantined, transaction=in_transaction)
        waited, wait = 0.0, _FIRST_WAIT
        while True:
            try:
                claim = await self.call(ask, self.key, self.token)
            except Exception as exc:
                await self.give_back(exc)  # the inbox may have made the claim
                return AttemptEnd(AttemptResult.UNAVAILABLE, error=exc)
            if claim.status is ClaimStatus.CLAIMED:
                if self.quarantined or self.already_claimed:
                    return None
                before, self.unended = self.unended, claim.unended
                is_over = claim.unended >= MOST_UNENDED
                if not claim.unended or (before >= MOST_UNENDED if is_over else self._alone is not None):
                    return None
                await self.release()  # what only waits must not be counted if the process is killed meanwhile
                if is_over:
                    await self._interruptible(partial(asyncio.sleep, _TAKE_BACK), None)
                    continue
                if not self.can_be_alone:
                    return AttemptEnd(AttemptResult.ALONE)
                if not await self._interruptible(self._wait_to_be_alone, None):
                    return AttemptEnd(AttemptResult.BUSY, claim=Claim(ClaimStatus.BUSY, self.units.lease))
                continue
            if claim.status is ClaimStatus.DONE:
                return AttemptEnd(AttemptResult.DONE)
            if waited >= self.patience or self.units.is_ending:
                if self.already_claimed or self.claimed:
                    await self.release()
                return AttemptEnd(AttemptResult.BUSY, claim=claim)
            pause = min(wait, self.patience - waited, max(claim.retry_after, _FIRST_WAIT))
            await self._interruptible(partial(asyncio.sleep, pause), None)
            waited, wait = waited + pause, min(_LONGEST_WAIT, 1.5 * wait)

    async def _wait_to_be_alone(self) -> bool:
        """Wait until no other event is handled of which an attempt had no end. Return whether it was soon enough."""
        lock = _ALONE.setdefault(self._loop, asyncio.Lock())
        try:
            async with limit(max(self.patience, _LONGEST_WAIT), TimeoutError()):
                await lock.acquire()
        except TimeoutError:
            return False
        self._alone = lock
        return True

    async def _work_and_renew(self) -> T:
        ended = self._renewal_ended = asyncio.Event()
        renewing: list[asyncio.Task[None]] = []  # none for work that ends soon, which most does
        begin = partial(self._begin_renewal, ended, renewing)
        timer = self._loop.call_later(self.units.lease / 3, begin)
        try:
            return await self._interruptible(self.work, self.units.work_timeout)
        finally:  # a call under way has a time limit; a claim must not be renewed after its end
            timer.cancel()
            ended.set()
            if renewing:
                await wait_uncancelled(renewing[0])

    def _begin_renewal(self, ended: asyncio.Event, renewing: list[asyncio.Task[None]]) -> None:
        if not ended.is_set():
            renewing.append(self._loop.create_task(self._renew(ended)))

    async def _renew(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            try:
                async with inbox_limit(self.units.call_timeout):
                    claim = self.units.inbox.claim
                    await claim(self.key, self.token, lease=self.units.lease, quarantined=self.quarantined)
            except Exception as exc:
                self._warn("the claim on %s could not be renewed: %s", reason_text(exc))
            await wait_for_event(ended, self.units.lease / 3)

    async def _interruptible(self, work: Callable[[], Awaitable[V]], seconds: float | None) -> V:
        """Await an interruptible step. Raises its error; ``CancelledError`` only if the unit was cancelled."""
        steps = self._steps
        steps.begin(seconds)
        if steps.cancelled:
            raise asyncio.CancelledError
        steps.interruptible = True
        try:
            return await work()
        except asyncio.CancelledError as exc:
            if steps.is_cancelled_by_others() or (steps.cancelled and not steps.expired):
                raise
            if not steps.expired:
                raise RuntimeError("the handler awaited something that was cancelled") from exc
            failure: BaseException = exc
        except Exception as exc:
            if not steps.expired:
                raise
            failure = exc
        finally:
            steps.end()
        self.timed_out = True
        raise TimeoutError(f"the handler was cancelled after {seconds:g} s") from drop_tracebacks(failure)

    async def _complete(self, value: T) -> AttemptEnd[T]:
        failure: Exception
        try:
            recorded = await self.call(self.units.inbox.complete, self.key, self.token)
        except Exception as exc:
            if self.session is None:
                # It was handled. A failure would certainly have it handled twice.
                self.report("was handled, but that could not be recorded", exc)
                self.units.owed.add(self.key, self.token, self._record)
                return AttemptEnd(AttemptResult.HANDLED, value, unrecorded=exc)
            if not isinstance(exc, (InboxError, TimeoutError, RuntimeError)):
                raise  # the storage refuses what the handler wrote
            failure = exc
        else:
            if recorded:
                return AttemptEnd(AttemptResult.HANDLED, value)
            if self.session is None:
                self._warn("%s was handled after its lease had run out: another worker may have handled it too")
                return AttemptEnd(AttemptResult.HANDLED, value)
            failure = InboxError("the claim ended before its transaction was committed")
        # Its commit may have succeeded all the same: when the event comes again, the inbox knows.
        await self.give_back(failure)
        return AttemptEnd(AttemptResult.UNAVAILABLE, error=failure)

    async def _record(self) -> None:
        """Record later that it was handled."""
        inbox = self.units.inbox
        if not await inbox.complete(self.key, self.token):
            await inbox.release(self.key, self.token)

    async def _fail(self, failure: Exception) -> AttemptEnd[T]:
        if self.session is not None and all(isinstance(each, InboxError) for each in leaves(failure)):
            await self.give_back(failure)
            return AttemptEnd(AttemptResult.UNAVAILABLE, error=failure)
        await self.record_failure(failure)
        return AttemptEnd(AttemptResult.FAILED, error=failure)
