"""Machines in virtual time: each runs its own tasks, has its own clock, and can be killed or frozen at any await.

A killed machine runs nothing more, not even a ``finally``. All randomness comes from the seed of the world.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import heapq
import logging
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self
from unittest.mock import patch

from basiq_async import client
from basiq_async._wire import order
from basiq_async._wire.codec import Codec
from basiq_async._work import deaths, once
from basiq_async.receiver import _worker  # private: how often a worker looks
from basiq_async.replay import _recovery, _tally  # private: how often a run tells of itself
from tests.support.virtual import VirtualLoop

BEGINNING = datetime(2026, 3, 2, tzinfo=UTC)
MACHINE = contextvars.ContextVar["Machine | None"]("the machine that runs this", default=None)
SKEW = contextvars.ContextVar[Callable[[], float] | None]("by how much its wall clock is wrong", default=None)


class Machine:
    """Runs coroutines until it is killed."""

    def __init__(self, name: str, skew: float = 0.0) -> None:
        self.name = name
        self.is_dead = self.is_frozen = False
        self.skew = skew
        """Seconds by which its wall clock is ahead."""
        self.fuse: int | None = None
        """It is killed before the step of this number."""
        self.has_waiting: Callable[[], bool] = lambda: True
        """Whether something may wait in its store."""
        self.due_at = 0.0
        """When it may try again, in seconds of the loop, what it put off because its attempt had no end."""
        self.on_death: list[Callable[[], None]] = []
        self.died = asyncio.Event()
        self._parked: list[asyncio.Handle] = []
        self._context = contextvars.copy_context()
        self._context.run(MACHINE.set, self)
        self._context.run(SKEW.set, lambda: self.skew)
        self._loop = asyncio.get_running_loop()
        self.number = self._loop.add_machine(self)  # type: ignore[attr-defined]
        """The id of its process."""

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self._loop.create_task(work, context=self._context.copy())

    async def end_of(self, work: Coroutine[Any, Any, Any], within: float | None = None) -> Any:
        """Run something on it. Return its result; None if the machine was killed meanwhile.

        within: it is cancelled after so many seconds, and the result is None.
        """
        task, died = self.start(work), asyncio.ensure_future(self.died.wait())
        try:
            done, _ = await asyncio.wait((task, died), timeout=within, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                task.cancel()
                await asyncio.wait((task, died), return_when=asyncio.FIRST_COMPLETED)
                return None
        finally:
            died.cancel()
        return task.result() if task.done() else None

    def kill(self) -> None:
        """Run nothing of it any more: what it awaits never comes."""
        if self.is_dead:
            return
        self.is_dead = True
        for handle in self._take():
            handle.cancel()
        for each in self.on_death:
            each()
        self.died.set()

    def freeze(self) -> None:
        self.is_frozen = True
        self._parked += self._take()

    def thaw(self) -> None:
        """Go on: the timers that passed meanwhile are due now."""
        self.is_frozen = False
        parked, self._parked = self._parked, []
        for handle in parked:
            if handle.cancelled():
                continue
            if isinstance(handle, asyncio.TimerHandle):
                heapq.heappush(self._loop._scheduled, handle)  # type: ignore[attr-defined]
                handle._scheduled = True  # type: ignore[attr-defined]
            else:
                self._loop._ready.append(handle)  # type: ignore[attr-defined]

    def admit(self, handle: asyncio.Handle) -> bool:
        """Return whether one more step may be run now."""
        if self.fuse is not None and not self.is_dead:
            self.fuse -= 1
            if self.fuse <= 0:
                self.kill()
        if self.is_dead:
            handle.cancel()
        elif self.is_frozen:
            self._parked.append(handle)
        return not (self.is_dead or self.is_frozen)

    def _take(self) -> list[asyncio.Handle]:
        """Take what it would run out of the loop."""
        loop: Any = self._loop
        ready = []
        for place, each in enumerate(loop._ready):
            if each._context.get(MACHINE) is self:
                ready.append(each)
                loop._ready[place] = nothing = asyncio.Handle(int, (), loop)  # the loop has counted them
                nothing.cancel()
        timers = [each for each in loop._scheduled if each._context.get(MACHINE) is self]
        if timers:
            loop._scheduled = [each for each in loop._scheduled if each._context.get(MACHINE) is not self]
            heapq.heapify(loop._scheduled)
            for each in timers:
                each._scheduled = False
        return ready + timers


class WorldLoop(VirtualLoop):
    """Runs the steps of all machines, in one order for one seed. Nothing outside of it wakes it: it asks no socket."""

    def __init__(self) -> None:
        super().__init__()
        self._jumping.select = self._jump  # type: ignore[method-assign]
        self.abandoned: set[asyncio.Task[Any]] = set()
        """Tasks of machines that have not ended: those of a killed one never do."""
        self.machines: list[Machine] = []

    def add_machine(self, machine: Machine) -> int:
        self.machines.append(machine)
        return len(self.machines) + 1

    def _jump(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left that could wake a task: it would wait for ever")
        self._jumping.now += max(timeout, 0.0)
        return []

    def time(self) -> float:
        return self._jumping.now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        machine = handle._context.get(MACHINE)  # type: ignore[attr-defined]
        if machine is None or machine.admit(handle):
            self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = super().create_task(coro, **options)
        if (options.get("context") or contextvars.copy_context()).get(MACHINE) is not None:
            self.abandoned.add(task)
            task.add_done_callback(self.abandoned.discard, context=contextvars.Context())
        return task


def run_world(main: Callable[[], Coroutine[Any, Any, None]], seed: str) -> None:
    """Run a world to its end. What its killed machines left is thrown away before the next one begins."""
    gc.freeze()  # what the world does not make need not be looked through at its end
    loop = WorldLoop()
    with _everything_from(seed, loop):
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(main())
        finally:
            asyncio.set_event_loop(None)
            left = asyncio.all_tasks(loop) | loop.abandoned
            loop._ready.clear()  # type: ignore[attr-defined]
            loop._scheduled.clear()  # type: ignore[attr-defined]
            with patch.object(sys, "unraisablehook", lambda _: None), warnings.catch_warnings(action="ignore"):
                logging.disable()  # a pool tells of each connection that is not closed
                while left:
                    _throw_away(left.pop())
                loop.abandoned.clear()
                loop.close()
                gc.collect()
                logging.disable(logging.NOTSET)


def _throw_away(task: asyncio.Task[Any]) -> None:
    """End a task that never ends: its ``finally`` must not run in the middle of the next world."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    for _ in range(20):
        with suppress(BaseException):
            task.get_coro().close()
            return


_CODEC = Codec()


def _codec(*, clean: Callable[[bytes], bytes]) -> Codec:
    """Make a codec without a converter of its own: a world has a client for each job, and makes many."""
    made = copy.copy(_CODEC)
    made._clean = clean
    return made


_wait_usually = _worker.DeferredWorker._wait


async def _wait_longer(worker: _worker.DeferredWorker) -> None:
    """Let a worker wait ten minutes, and six hours where nothing waits in the store, but not while its inbox is away or
    it is at work, or soon will be: each second would be a million looks.
    """
    machine = MACHINE.get()
    for _ in range(36):
        soon = 0.0 if machine is None else machine.due_at - asyncio.get_running_loop().time()
        often = 2.0 if worker._running else soon + 1.0 if soon > 0 else 600.0
        _worker._LOOK_EVERY = _worker._LOOK_ANYWAY = worker._away or often
        await _wait_usually(worker)
        if worker._news.is_set() or worker._away or worker._running or machine is None or machine.has_waiting():
            return


class _Processes:
    """What the package asks the system of processes, of which each machine is one."""

    name = "posix"

    def __init__(self, loop: WorldLoop) -> None:
        self._loop = loop

    def getpid(self) -> int:
        machine = MACHINE.get()
        return 1 if machine is None else machine.number

    def kill(self, pid: int, signal: int) -> None:
        if self._loop.machines[pid - 2].is_dead:
            raise ProcessLookupError


class _PerMachine:
    """What a process has for its one loop: here the machines share a loop, and each has its own."""

    def __init__(self) -> None:
        self._kept: dict[Machine | None, Any] = {}

    def setdefault(self, loop: object, value: Any) -> Any:
        return self._kept.setdefault(MACHINE.get(), value)


@contextmanager
def _everything_from(seed: str, loop: WorldLoop) -> Iterator[None]:
    """Let time and chance be the world's: nothing in a run depends on the machine that runs it."""
    chance = random.Random(seed)
    state = random.getstate()
    random.seed(f"jitter of {seed}")

    def wall() -> float:
        skew = SKEW.get()
        return BEGINNING.timestamp() + loop.time() - 1000.0 + (0.0 if skew is None else skew())

    class _Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class WorldDatetime(datetime, metaclass=_Kind):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return datetime.fromtimestamp(wall(), tz)  # type: ignore[return-value]

        def __new__(cls, *args: Any, **options: Any) -> Any:
            return datetime(*args, **options)

    with ExitStack() as stack:
        for target, name, value in [
            (time, "time", wall),
            (time, "monotonic", loop.time),
            (time, "perf_counter", loop.time),
            (os, "urandom", chance.randbytes),
            (os, "getpid", lambda: 1),
            (deaths, "os", _Processes(loop)),
            (random, "_urandom", chance.randbytes),
            (once, "_ALONE", _PerMachine()),
            (_worker.DeferredWorker, "_wait", _wait_longer),
            (_tally, "REPORT_EVERY", 5.0),  # a run that waits for hours would tell of it four times a second
            (_recovery, "REPORT_EVERY", 5.0),
            (_tally, "_NOTE_EVERY", 0.3),  # a run of a world takes seconds, and those of users hours
            (order, "_SURE", 10),  # in a history of many messages, a reading stops before its end
            (_worker, "_LOOK_EVERY", 600.0),
            (_worker, "_LOOK_ANYWAY", 600.0),
            (client, "Codec", _codec),
        ]:
            stack.enter_context(patch.object(target, name, value))
        for name, module in list(sys.modules.items()):
            if name.startswith("basiq_async") and getattr(module, "datetime", None) is datetime:
                stack.enter_context(patch.object(module, "datetime", WorldDatetime))
        stack.callback(random.setstate, state)
        yield


def elapsed(loop_time: float) -> timedelta:
    """The time since the beginning of the world."""
    return timedelta(seconds=loop_time - 1000.0)


class Listening(logging.Handler):
    """Hands each line that the package logs to a function."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "".join(traceback.format_exception(record.exc_info[1]))
        self._hear(text)
