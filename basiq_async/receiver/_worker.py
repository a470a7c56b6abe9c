"""Handle what waits in the inbox: claim what is due, hand it to its handler, and put it off if that fails."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import attrs

from .._redaction.tracebacks import hide_parameters
from .._work.calls import HOST
from .._work.failures import failure_text
from .._work.gate import Gate
from .._work.limits import wait_for_event
from .._work.owed import Owed
from .._work.protocol import ClaimedEntry, InboxEntry
from .._work.tasks import TaskOwner, wait_uncancelled
from ._backlog import Backlog
from ._breaker import Breaker
from ._delivery import Delivery, UnreadableBodyError, read_delivery
from ._lifecycle import Lifecycle
from ._outcome import Outcome, shorten
from ._results import Result
from ._trying import Rescheduled, after_another, after_no_end, jittered, without_handler

logger = logging.getLogger("basiq_async.receiver")

_LOOK_EVERY, _LOOK_ANYWAY = 1.0, 60.0
"""Seconds between two looks for what is due; and in a process that defers nothing, for what others have deferred."""
_LOOK_JITTER = 0.05
_COUNT_EVERY = 60.0
_LINGER = 0.005
"""Seconds for more handlers to end, so that one statement claims for all of them."""
_SHORTEST, _LONGEST = 1.0, 60.0
"""Seconds between two looks while the inbox is away: longer and longer."""


class DeferredWorker:
    """Handles the deferred deliveries of one receiver, in a task of its own.

    ``handle`` hands a delivery to its handler. ``accepts_type`` returns whether its type has one. ``most`` returns how
    many may be worked on at once. ``owed`` makes the calls again that the inbox could not take.
    """

    def __init__(
        self,
        backlog: Backlog,
        gate: Gate,
        lifecycle: Lifecycle,
        handle: Callable[[Delivery, ClaimedEntry], Awaitable[Outcome]],
        accepts_type: Callable[[str], bool],
        most: Callable[[], int],
        owed: Owed,
    ) -> None:
        self._backlog = backlog
        self._gate = gate
        self._lifecycle = lifecycle
        self._handle = handle
        self._accepts_type = accepts_type
        self._most = most
        self._owed = owed
        self._lease = backlog.settings.deferred_lease
        self._tasks = TaskOwner()
        self._loop: asyncio.Task[None] | None = None
        self._loops: set[asyncio.Task[None]] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._more = False
        """Whether more is due than there was room for."""
        self._has_ended = False
        """Whether an attempt has ended since ``work_once`` began."""
        self._breaker = Breaker()
        self._running_again = 0
        """How many of those that run have failed before."""
        self._running_alone = 0
        """How many of those that run, one at the most, had an attempt without an end."""
        self._doubtful: list[str] = []
        """The tokens of claims whose responses did not come: the inbox may have made them."""
        self._away = 0.0
        """Seconds until the next look, because the inbox is away."""
        self._without_handler: set[str] = set()
        """The event types, without a handler in this process, that were logged."""
        self._look_again_at: dict[str, float] = {}
        """The same, and until when nothing of them is claimed: it would be taken away from a process that has one."""
        self._places = Counter[str]()
        """How many places each event type holds."""
        self._types: set[str] = set()
        """The types that this process has begun to handle, two at most: one alone may hold all places."""

    def begin(self) -> None:
        """Begin to handle what waits, if the inbox can keep it, until ``stop``."""
        if self._backlog.calls.can_wait and (self._loop is None or self._loop.done()):
            self._loop = self._spawn_loop(until_empty=False)

    def _spawn_loop(self, *, until_empty: bool) -> asyncio.Task[None]:
        loop = self._tasks.spawn(self._run(until_empty=until_empty))
        self._loops.add(loop)
        loop.add_done_callback(self._loops.discard)
        return loop

    async def work(self, *, until_empty: bool) -> None:
        """Work until ``stop``. ``until_empty``: only until nothing is due; raises the error of an inbox that is away.

        A call that is cancelled leaves the end to ``stop``: a claim that is under way must not be lost.
        """
        self._backlog.used = True
        self._news.set()  # a loop that waits for a minute looks each second from now on
        if not until_empty:
            self.begin()
        if (loop := self._spawn_loop(until_empty=True) if until_empty else self._loop) is not None:
            await asyncio.wait((loop,))
            if not loop.cancelled():
                loop.result()

    def tell_stored(self) -> None:
        """Begin with a delivery that was stored."""
        self._news.set()

    async def stop(self, seconds: float) -> None:
        """Begin no more, because the receiver is closed. Wait so many seconds for what runs; then it is cancelled, and
        waits in the inbox.

        If this call is cancelled, what runs is cancelled at once.
        """
        self._news.set()
        try:
            for loop in [*self._loops]:
                if (cancelled := await wait_uncancelled(loop)) is not None:
                    raise cancelled
            await self._give_back_doubtful()
            if self._running:
                await asyncio.wait(self._running, timeout=seconds)
        finally:
            await self._tasks.aclose()

    async def work_once(self) -> bool:
        """Handle what is due now, without a pause, and what runs. Return whether an attempt ended. For a test."""
        self._has_ended = False
        most = self._most()
        await self._claim(most, most, every=True)
        await self._wait_for_running()
        return self._has_ended

    async def _wait_for_running(self) -> None:
        if self._running:
            await asyncio.wait(set(self._running))

    async def _run(self, *, until_empty: bool) -> None:
        while not self._lifecycle.closed:
            self._news.clear()
            self._more = self._more or until_empty
            await self._count()
            limit, retries = self._breaker.room(self._most(), len(self._running), self._running_again)
            found = await self._try_to_claim(limit, retries, fail=until_empty) if limit > 0 else 0
            self._more = until_empty or found >= limit
            if until_empty and retries and not found and not self._running:
                return
            if not (found and self._more and len(self._running) > found):
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
        # Two processes that looked in step would never share what only one of them has a handler for.
        look = max(jittered(_LOOK_EVERY, _LOOK_JITTER) if self._backlog.used else _LOOK_ANYWAY, self._away)
        if await wait_for_event(self._news, look) and not self._lifecycle.closed:
            await asyncio.sleep(_LINGER)

    async def _try_to_claim(self, limit: int, retries: int, *, fail: bool) -> int:
        try:
            found = await self._claim(limit, retries)
        except Exception as exc:
            if fail:
                raise
            self._backlog.outages.report("", "that wait could not be claimed", exc, {})
            self._away = jittered(min(max(2 * self._away, _SHORTEST), _LONGEST))
            return 0
        self._away = 0.0
        return found

    async def _claim(self, limit: int, retries: int, *, every: bool = False) -> int:
        """Claim what is due, and begin to handle it. Return how many were claimed.

        ``every``: of each type. Otherwise none of a type that has no handler here, and none of a type that holds more
        than half of the places: a partner that hangs must not stop the others.
        """
        await self._gate.ask()
        at_once = limit if every or not self._has_several else _most_of_one(self._most())
        found = await self._claim_doubtful()
        while found < limit:
            part = min(limit - found, at_once)
            without = () if every else self._left_out(at_once)
            claimed = await self._ask(_new_token(), limit=part, retries=retries, without=without)
            retries -= sum(each.entry.failures > 0 for each in claimed)
            found += len(claimed)
            if len(claimed) < part:
                break
        return found

    async def _claim_doubtful(self) -> int:
        """Claim again what the inbox may have claimed for this process, and no response has told it."""
        found = 0
        while self._doubtful:
            found += len(await self._ask(self._doubtful.pop(), limit=0))
        return found

    async def _give_back_doubtful(self) -> None:
        try:
            await self._claim_doubtful()  # it is put off at once, since this process stops
        except Exception as exc:
            logger.debug("what may be claimed could not be given back: %s", failure_text(exc))

    async def _ask(
        self, token: str, *, limit: int, retries: int = 0, without: Sequence[str] = ()
    ) -> Sequence[ClaimedEntry]:
        """Claim with a new token, or again with a doubtful one, and begin what was claimed."""
        try:
            claimed = await self._backlog.calls.claim_due(
                token, limit=limit, retries=retries, lease=self._lease, without=without, now=self._backlog.moment()
            )
        except BaseException:
            self._doubtful.append(token)
            raise
        self._backlog.used = self._backlog.used or bool(claimed)
        alone = [each for each in claimed if each.entry.unended and not each.unended]
        chosen = alone[:1] if not self._running_alone else []
        for each in alone[len(chosen) :]:  # before that one begins: it may be what kills the process
            await self._put_off(after_another(each), each.token)
        for each in claimed:
            if each not in alone or each in chosen:
                self._begin_one(each, alone=each in chosen)
        return claimed

    @property
    def _has_several(self) -> bool:
        return len(self._types) > 1

    def _begin_one(self, claimed: ClaimedEntry, *, alone: bool) -> None:
        again, type_id = claimed.entry.failures > 0, claimed.entry.event_type_id
        if again:
            self._breaker.begin_again()
        task = self._tasks.spawn(self._handle_one(claimed))
        self._running.add(task)
        self._running_again += again
        self._running_alone += alone
        self._places[type_id] += 1
        if not self._has_several and self._accepts_type(type_id):
            self._types.add(type_id)
        task.add_done_callback(partial(self._end_one, again=again, alone=alone, type_id=type_id))

    def _left_out(self, most: int) -> Sequence[str]:
        """Return the types of which nothing is claimed now."""
        now = asyncio.get_running_loop().time()
        self._look_again_at = {each: at for each, at in self._look_again_at.items() if at > now}
        crowded = [each for each, count in self._places.items() if count >= most] if self._has_several else []
        return [*self._look_again_at, *crowded]

    async def _put_off(self, then: Rescheduled, token: str) -> None:
        backlog, entry = self._backlog, then.entry
        if then.seconds is None:
            logger.error(
                "delivery %r was deferred and cannot be handled: %s; it is in the quarantine",
                shorten(entry.delivery_id),
                entry.error,
            )
            changed = attrs.evolve(entry, acknowledged=True, quarantined_at=backlog.now())
            ending = partial(backlog.calls.quarantine, entry.key, token, changed)
            await self._end_claim(entry, token, ending, "could not be put into the quarantine")
        else:
            put_off = partial(backlog.calls.put_off, entry, token, seconds=then.seconds, now=backlog.moment())
            await self._end_claim(entry, token, put_off, "stays claimed until its lease runs out")

    async def _end_claim(
        self, entry: InboxEntry, token: str, call: Callable[[], Awaitable[object]], otherwise: str
    ) -> None:
        """Make a call of the inbox that ends a claim. If it fails, log ``otherwise``, and make it again later."""
        try:
            await call()
        except Exception as exc:
            self._owed.add(entry.key, token, call)
            self._backlog.outages.report(shorten(entry.delivery_id), otherwise, exc, {})

    def _end_one(self, task: asyncio.Task[None], *, again: bool, alone: bool, type_id: str) -> None:
        self._running.discard(task)
        self._running_again -= again
        self._running_alone -= alone
        self._places[type_id] -= 1
        if self._more:
            self._news.set()

    async def _handle_one(self, claimed: ClaimedEntry) -> None:
        await asyncio.sleep(0)  # an eager task would run in the middle of ``_claim``
        try:
            await self._try_one(claimed)
        except Exception as exc:
            delivery_id = shorten(claimed.entry.delivery_id)
            text = "delivery %r stays claimed until its lease runs out"
            logger.error(text, delivery_id, exc_info=hide_parameters(exc))

    async def _try_one(self, claimed: ClaimedEntry) -> None:
        entry, token, keep_trying = claimed.entry, claimed.token, self._backlog.settings.keep_trying
        if claimed.unended:
            then = after_no_end(claimed, keep_trying=keep_trying)
            logger.warning("delivery %r: %s (%d times)", shorten(entry.delivery_id), then.entry.error, claimed.unended)
            await self._put_off(then, token)
        elif self._lifecycle.closed:  # nothing new begins
            await self._put_off(Rescheduled(entry, 0.0), token)
        elif isinstance(delivery := self._read(entry), UnreadableBodyError):
            await self._put_off(Rescheduled(attrs.evolve(entry, error=str(delivery)), None), token)
        elif not self._accepts_type(delivery.event_type_id):
            await self._put_off(self._leave(claimed, delivery.event_type_id), token)
            return
        else:
            done = await self._handle(delivery, claimed)
            if done.result is Result.HANDLED or done.result in _FAILURES:
                has_failed = done.result in _FAILURES
                self._breaker.count(entry.key, first=not entry.failures, failed=has_failed)
        self._has_ended = True

    def _read(self, entry: InboxEntry) -> Delivery | UnreadableBodyError:
        at = int(entry.signed_at.timestamp())
        try:
            return read_delivery(entry.delivery_id, at, entry.body)
        except UnreadableBodyError as exc:
            return exc

    def _leave(self, claimed: ClaimedEntry, event_type_id: str) -> Rescheduled:
        """Leave a delivery to other processes. Log that, once for each type."""
        if len(self._look_again_at) < _MOST_TYPES:
            seconds = jittered(_LOOK_ANYWAY, _LOOK_JITTER)
            self._look_again_at[claimed.entry.event_type_id] = asyncio.get_running_loop().time() + seconds
        event_type_id = shorten(event_type_id)
        why = f"no handler is registered for event type {event_type_id!r} in a process that handles what waits"
        if event_type_id not in self._without_handler and len(self._without_handler) < _MOST_TYPES:
            self._without_handler.add(event_type_id)
            logger.warning("deferred deliveries are left to other processes: %s", why)
        return without_handler(claimed, why, keep_trying=self._backlog.settings.keep_trying)


_MOST_TYPES = 256


def _new_token() -> str:
    return f"{HOST}/{os.getpid()}/{os.urandom(16).hex()}"


def _most_of_one(places: int) -> int:
    """Return how many places one type may hold beside others: more than half, and where there are two, not all."""
    return max(1, min(places // 2 + 1, places - 1))


_FAILURES = (Result.FAILED, Result.TIMED_OUT, Result.QUARANTINED, Result.UNAVAILABLE)
"""The results in which the breaker sees a failure. In one that is neither of these nor handled, it sees nothing."""
