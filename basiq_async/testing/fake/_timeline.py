"""The planned attempts to deliver messages, and the waits for them and for the clock.

A task that waits for the fake makes the due attempts, and moves the clock, one step at a time, until its wait is
over. If several tasks wait, one of them makes the steps for all.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

import attrs

from ..._work.limits import wait_for_event
from ..._work.tasks import wait_uncancelled
from ...errors import ConfigurationError
from ._items import FakeMessage, FakeWebhook
from ._store import Store

_LONGEST = 1e9
_CYCLES = 50
"""The number of event loop cycles in which other tasks can begin a wait, before time jumps."""
_GRACE = 1.0
"""How long an attempt may do something else than wait for the fake before the others go on, in real seconds.

It may be waiting for one of them, for example for the token that another handler's client is about to request again.
"""


MOST_CAUSED = 10_000


@attrs.define
class Cause:
    """The event that a test emitted, and the number of messages that handlers emitted because of it."""

    messages: int = 0

    def count(self, messages: int) -> None:
        """Count more messages. Raises ``ConfigurationError`` if handlers emit events without end."""
        self.messages += messages
        if self.messages > MOST_CAUSED:
            raise ConfigurationError(
                f"one event made its handlers emit more than {MOST_CAUSED:,} messages: a handler that emits an event "
                "on each delivery of that event never comes to an end"
            )


@attrs.define(eq=False)
class PlannedAttempt:
    """An attempt to deliver a message.

    once: whether no further attempt follows if this one fails.
    begun: the attempt's number in the order of beginning; 0 before it begins.
    state: ``over`` once it is recorded, or dropped by a reset.
    """

    due: datetime
    webhook: FakeWebhook
    message: FakeMessage
    number: int
    once: bool
    cause: Cause
    begun: int = 0
    state: Literal["due", "under way", "over"] = "due"

    def __attrs_post_init__(self) -> None:
        self.message.planned += 1

    def end(self) -> None:
        """Note that the attempt is recorded or dropped."""
        if self.state != "over":
            self.message.planned -= 1
        self.state = "over"

    def __str__(self) -> str:
        return f"attempt {self.number} of message {self.message.id}"


_current: ContextVar[PlannedAttempt | None] = ContextVar("the attempt whose handler the current code is part of")


@attrs.define(eq=False)
class Waiter:
    """A task that waits for the fake.

    until: the time that the clock has to reach; None if the wait does not depend on the clock.
    attempt: the attempt whose handler waits; None for other tasks.
    sleeps: whether a client waits on the clock, such as between two tries. Other tasks may depend on it.
    """

    what: str
    is_over: Callable[[], bool]
    until: datetime | None
    attempt: PlannedAttempt | None
    sleeps: bool

    def __str__(self) -> str:
        who = "the test" if self.attempt is None else f"the handler of {self.attempt}, {self.attempt.webhook.url},"
        return f"{who} waits for {self.what}"


class Timeline:
    """The planned attempts of a fake, and the waits for it: also the clock of a client, which takes no real time.

    store: has the clock, and the rules for the order of attempts, and for how many are under way at once.
    start: makes an attempt. It is called in a task of its own.
    wake: is called when the servers may make attempts again.
    """

    def __init__(
        self,
        store: Store,
        start: Callable[[PlannedAttempt], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = store.clock
        self._start = start
        self._wake = wake
        self._waiters: list[Waiter] = []
        self._stepping = False
        self._news = asyncio.Event()
        self._changes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []
        self._due: list[tuple[datetime, int, PlannedAttempt]] = []
        self._mixed: list[PlannedAttempt] = []
        """Attempts that are due, if they begin in a random order."""
        self._serial = 0
        self._begun = 0
        self.under_way: dict[int, PlannedAttempt] = {}

    # --- planned attempts ---

    def plan(self, attempt: PlannedAttempt) -> None:
        self._serial += 1
        heapq.heappush(self._due, (attempt.due, self._serial, attempt))
        self._notify()

    def take_due(self) -> PlannedAttempt | None:
        """Take the next attempt that is due; None if none is. Pass its number to ``end``, whatever becomes of it."""
        attempt = self._pop_due()
        if attempt is None:
            return None
        self._begun += 1
        attempt.begun, attempt.state = self._begun, "under way"
        self.under_way[attempt.begun] = attempt
        return attempt

    def _pop_due(self) -> PlannedAttempt | None:
        if not self._mixed and self._store.quirks.delivery_order == "emitted":
            return heapq.heappop(self._due)[2] if self.is_due() else None
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            self._mixed.append(heapq.heappop(self._due)[2])
        return self._mixed.pop(self._store.random.randrange(len(self._mixed))) if self._mixed else None

    def end(self, begun: int) -> None:
        """End the attempt that began with this number. It is given back unless it is over. May be called twice."""
        attempt = self.under_way.pop(begun, None)
        if attempt is None:
            return
        if attempt.state == "under way":
            attempt.state = "due"
            self.plan(attempt)
        self._notify()

    def forget(self) -> None:
        """Drop all planned attempts, and ignore the results of attempts that are under way."""
        for attempt in self.planned():
            attempt.end()
        self._due.clear()
        self._mixed.clear()
        self._notify()

    def drop(self, message: FakeMessage) -> None:
        """Drop the planned attempts of a message that have not begun."""
        for attempt in self.planned():
            if attempt.message is message and attempt.state == "due":
                attempt.end()
        self._due = [each for each in self._due if each[2].state != "over"]
        heapq.heapify(self._due)
        self._mixed = [each for each in self._mixed if each.state != "over"]
        self._notify()

    def is_due(self) -> bool:
        return bool(self._mixed) or (bool(self._due) and self._due[0][0] <= self._clock())

    def next_due(self) -> datetime | None:
        """Return the time of the next attempt; None if none is planned."""
        mixed = min((each.due for each in self._mixed), default=None)
        due = self._due[0][0] if self._due else None
        return due if mixed is None or (due is not None and due < mixed) else mixed

    def planned(self) -> Sequence[PlannedAttempt]:
        """Return the attempts that are due or under way, in the order of their due times."""
        waiting = (attempt for _, _, attempt in sorted(self._due))
        return sorted([*self.under_way.values(), *self._mixed, *waiting], key=lambda attempt: attempt.due)

    # --- the attempt that the current code is part of ---

    def enter(self, attempt: PlannedAttempt) -> None:
        """Make the current task part of an attempt."""
        _current.set(attempt)

    def current(self) -> PlannedAttempt | None:
        """Return the attempt whose handler the current code is part of, if it is under way."""
        attempt = _current.get(None)
        return attempt if attempt is not None and self.under_way.get(attempt.begun) is attempt else None

    # --- the clock of a client ---

    def time(self) -> float:
        """Return the time on the fake's clock, in seconds since 1970."""
        return self._clock().timestamp()

    def now(self) -> datetime:
        """Return the fake's time."""
        return self._clock()

    async def sleep(self, seconds: float) -> None:
        """Wait ``seconds`` on the fake's clock."""
        # Rounded up: a caller that waits until a moment must not find itself just before it.
        until = self._clock() + timedelta(microseconds=math.ceil(min(max(seconds, 0.0), _LONGEST) * 1e6))
        await asyncio.sleep(0)
        await self._wait(until.isoformat(), lambda: self._clock() >= until, until, sleeps=True)

    # --- waits for deliveries ---

    @property
    def is_moving(self) -> bool:
        """Whether a task waits that moves the clock: it makes the due attempts, in order, and the servers do not."""
        return any(waiter.until is not None for waiter in self._waiters)

    async def move_to(self, until: datetime) -> None:
        """Move the clock to ``until``, and make each attempt that is due on the way at its time."""
        settled = self._settled()
        await self._wait(
            f"its advance to {until.isoformat()}", lambda: self._clock() >= until and settled(), until, sleeps=False
        )

    async def settle(self) -> None:
        """Make every attempt that is due now, and wait for attempts that other tasks are making.

        Within an attempt, it waits only for attempts that began later than that one.
        """
        await self._wait("all deliveries that are due", self._settled())

    def _settled(self) -> Callable[[], bool]:
        current = self.current()
        mine = 0 if current is None else current.begun
        return lambda: not self.is_due() and not any(begun > mine for begun in self.under_way)

    async def complete(self, attempts: Sequence[PlannedAttempt]) -> None:
        """Make due attempts until all of these are over. Wait for those that other tasks are making."""

        def is_over() -> bool:
            # Those that are due later were given back on a clock that went back.
            now = self._clock()
            return all(each.state == "over" or (each.state == "due" and each.due > now) for each in attempts)

        await self._wait(", ".join(map(str, attempts)), is_over)

    # --- one wait, and one step ---

    async def _wait(
        self, what: str, is_over: Callable[[], bool], until: datetime | None = None, *, sleeps: bool = False
    ) -> None:
        if is_over():
            return
        waiter = Waiter(what, is_over, until, self.current(), sleeps)
        self._waiters.append(waiter)
        self._notify()
        try:
            while not is_over():
                if self._stepping:
                    await self._changed()
                else:
                    self._stepping = True
                    try:
                        await self._step()
                    finally:
                        self._stepping = False
                        self._notify()
                if self._failures and (waiter.attempt is None or all(each.attempt for each in self._waiters)):
                    raise self._failures.pop(0)
            left = None
        except BaseException as error:
            left = error
        self._waiters.remove(waiter)
        self._notify()
        if not self.is_moving:
            self._wake()
        if left is not None:
            if waiter.attempt is None and all(each.attempt for each in self._waiters):
                left = await self._abandon() or left
            raise left

    async def _step(self) -> None:
        """Make one attempt, or move the clock to the next moment at which something happens."""
        busy = self._count_busy()
        may_begin = busy < (self._store.quirks.concurrency or 1) and self.is_due()
        if busy and not may_begin and await self._changed(within=_GRACE):
            return
        planned = self.take_due()
        if planned is not None:
            task = asyncio.create_task(self._make(planned), name="basiq-async fake delivery")
            self._tasks.add(task)
            task.add_done_callback(partial(self._end, planned.begun))
            return
        others = [waiter for waiter in self._waiters if waiter.sleeps or waiter.attempt is not None]
        moment = self._next_moment()
        if self._count_busy() and (moment is None or not others):
            return  # the attempts that are under way depend on no caller here
        if (others or moment is None) and not await self._is_quiet():
            return
        if moment is None:
            waiters = "; ".join(map(str, self._waiters))
            raise ConfigurationError(f"deadlock in the test: every handler and the test wait for the fake: {waiters}")
        self._clock.move_to(moment)

    def _count_busy(self) -> int:
        """Return how many attempts are under way that do not wait for the fake."""
        waiting = {each.attempt.begun for each in self._waiters if each.attempt is not None and not each.is_over()}
        return len(self.under_way.keys() - waiting)

    def _next_moment(self) -> datetime | None:
        """Return the next moment at which a wait ends or an attempt is due; None if no wait depends on the clock."""
        now = self._clock()
        ends = [each.until for each in self._waiters if each.until is not None and each.until > now]
        due = self.next_due()
        return min([*ends, due] if due is not None else ends) if ends else None

    async def _is_quiet(self) -> bool:
        """Let other tasks run. Return False if one began or ended a wait or an attempt."""
        changes = self._changes
        for _ in range(_CYCLES):
            await asyncio.sleep(0)
            if self._changes != changes:
                return False
        return True

    # --- attempts ---

    async def _make(self, planned: PlannedAttempt) -> None:
        try:
            await self._start(planned)
        except Exception as error:
            self._failures.append(error)

    def _end(self, begun: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.end(begun)  # also if the task was cancelled before it began

    async def _abandon(self) -> asyncio.CancelledError | None:
        """Cancel the attempts that were begun here. They are given back. Return a cancellation that came meanwhile."""
        cancelled: asyncio.CancelledError | None = None
        for task in (tasks := tuple(self._tasks)):
            task.cancel()
        for task in tasks:
            cancelled = await wait_uncancelled(task) or cancelled
        self._failures.clear()
        return cancelled

    # --- signals ---

    def _notify(self) -> None:
        """Wake the waiting tasks, to look whether their wait is over."""
        self._changes += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _changed(self, *, within: float | None = None) -> bool:
        """Wait for a change. Return False if none comes ``within`` so many real seconds."""
        return await wait_for_event(self._news, within)
