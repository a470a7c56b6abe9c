"""SIGINT and SIGTERM in an event loop, on every platform.

``loop.add_signal_handler`` does not exist on Windows. ``signal.signal`` does, and asyncio wakes its loop for it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call ``handle`` with the number of each signal, in the running loop. Outside the main thread there are none."""
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def receive(number: int, _: object) -> None:
        loop.call_soon_threadsafe(handle, number)

    before = [(number, signal.signal(number, receive)) for number in _NUMBERS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def cancelling(task: asyncio.Task[object] | None) -> Iterator[list[int]]:
    """Cancel a task at a signal; the list holds the number that did."""
    received: list[int] = []

    def cancel(number: int) -> None:
        received.append(number)
        if task is not None:
            task.cancel()

    with on_signals(cancel):
        yield received


@contextmanager
def stopping(stop: Callable[[], None], *, busy: Callable[[], bool] = lambda: True) -> Iterator[list[int]]:
    """Call ``stop`` at the first signal, cancel this task at the second; the list holds the signals.

    Where the work is ``busy`` at the first, a note says what the second does.
    """
    import asyncio

    from ._output import note

    task = asyncio.current_task()
    received: list[int] = []

    def receive(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            stop()
            if busy():
                note("finishing what is under way; once more to stop at once")
        elif task is not None:
            task.cancel()

    with on_signals(receive):
        yield received
