"""Notice a coroutine that keeps the event loop busy: a call in it blocks, or computes for long."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST_STEP = 1.0
"""Seconds for which a coroutine may run without an await that gives way."""


@types.coroutine
def watch(work: Awaitable[T], blocked: Callable[[float], None]) -> Generator[Any, Any, T]:
    """Await ``work``, as ``await work`` does. Call ``blocked`` with the seconds of each step that took too long.

    A step is what runs between two moments at which the event loop can run others. It costs two looks at the clock.
    Only a coroutine has steps.
    """
    if not isinstance(work, types.CoroutineType):
        return (yield from work.__await__())
    run: Callable[[Any], Any] = work.send
    argument: Any = None
    while True:
        began = monotonic()
        try:
            awaited = run(argument)
        except StopIteration as ended:
            result: T = ended.value
            return result
        finally:
            took = monotonic() - began
            if took > LONGEST_STEP:
                blocked(took)
            argument = None  # an error that holds this frame must not be held by it
        try:
            argument, run = (yield awaited), work.send
        except GeneratorExit:
            work.close()
            raise
        except BaseException as exc:
            argument, run = exc, work.throw
