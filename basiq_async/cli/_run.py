"""Functions for all commands: run an event loop that ends cleanly, and make a client from the settings."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import typer

from .._version import __version__
from ..errors import ConfigurationError
from ._output import DEBUG, PrintableLog, is_terminal, live, note, prompt, session

if TYPE_CHECKING:
    import asyncio

    from ..client import BasiqClient
    from ..errors import BasiqError
    from ..hooks import OnRetry, RetryEvent
    from ..transports.retry import RetryPolicy


T = TypeVar("T")


def run(work: Callable[[BasiqClient], Awaitable[T]]) -> T:
    """Run ``work`` with a client for the API key of the environment or profile. Return its result."""

    async def main() -> T:
        async with make_client() as client:
            return await work(client)

    return run_until_signal(main)


def make_client() -> AbstractAsyncContextManager[BasiqClient]:
    """Return a client for the API key and base URL of the environment or profile; it reports each retry."""
    from ._profiles import settings

    found = settings()
    return open_client(found.api_key, found.base_url, on_retry=_report_retry)


@asynccontextmanager
async def open_client(
    api_key: str | None, base_url: str, *, retry: RetryPolicy | None = None, on_retry: OnRetry | None = None
) -> AsyncGenerator[BasiqClient]:
    """Open a client with the User-Agent of the command line.

    Each command requests its own token. For this User-Agent, the mock does not count that as misuse.
    """
    from ..client import BasiqClient
    from ..transports.aiohttp import AiohttpTransport
    from ..transports.retry import RetryPolicy

    limit = session().timeout
    if limit is not None and retry is None:
        retry = RetryPolicy(max_elapsed=limit)
    timeout = limit or 30.0
    transport = AiohttpTransport(user_agent=f"basiq-async/{__version__} (command line)", timeout=timeout)
    try:
        async with BasiqClient(
            api_key, base_url=base_url, transport=transport, retry=retry, timeout=timeout, on_retry=on_retry
        ) as client:
            yield client
    finally:
        await transport.aclose()


def run_until_signal(main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main`` in an event loop. SIGINT and SIGTERM cancel it and end the process with 130 and 143."""
    import asyncio

    async def begin() -> T:
        with cancelling(asyncio.current_task()) as received:
            try:
                return await main()
            except asyncio.CancelledError:
                if not received:
                    raise
        raise typer.Exit(128 + received[0])

    _quiet_logs()
    try:
        return asyncio.run(begin())
    finally:
        live(None)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before an action that cannot be undone. Any reply but yes ends the command with 1.

    Raises ``ConfigurationError`` without a terminal, where nobody can reply.
    """
    if yes:
        return
    if sys.stdin is None or not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
        raise ConfigurationError("this cannot be undone, and without a terminal nobody can be asked: pass --yes")
    try:
        prompt(f"{question} [y/N] ")
        reply = sys.stdin.readline()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if reply.strip().lower() not in ("y", "yes"):
        note("cancelled: nothing was changed")
        raise typer.Exit(1)


def wait_patiently(exc: BasiqError, wait: float, most: float) -> float:
    """Write a note about a failed request, and return the seconds to wait before the next one.

    That is twice ``wait`` (at most ``most``), or the wait that a 429 asks for if it is longer. Raises ``exc`` if
    waiting does not help.
    """
    from ..errors import RateLimitError, ServerError, TransportError

    if isinstance(exc, RateLimitError):
        wait = max(exc.retry_after or 0.0, min(most, wait * 2))
        note(f"Basiq asks for fewer requests; next request in {wait:.0f} s")
    elif isinstance(exc, (TransportError, ServerError)):
        wait = min(most, wait * 2)
        note(f"{type(exc).__name__}: {exc}; next request in {wait:.0f} s")
    else:
        raise exc
    return wait


def _quiet_logs() -> None:
    """Keep log records of this package and of aiohttp's server off the screen, unless ``BASIQ_DEBUG`` is set.

    The commands report these events themselves. aiohttp's server logs a traceback for each request that is not HTTP.
    """
    if os.environ.get(DEBUG):
        logging.basicConfig(level=logging.DEBUG, handlers=[PrintableLog("%(levelname)s %(name)s: %(message)s")])
        return
    for name in ("basiq_async", "aiohttp.server"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def _report_retry(event: RetryEvent) -> None:
    why = f"status {event.status}" if event.status is not None else event.error
    note(
        f"{event.method} {event.path}: {why}, next attempt in {event.wait:.1f} s",
        attempt=event.attempt,
        status=event.status,
        wait=round(event.wait, 3),
    )


_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call ``handle`` in the running loop for each SIGINT and SIGTERM. Outside the main thread, do nothing."""
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
    """Cancel a task at a signal. The list that is yielded holds the numbers of the signals."""
    received: list[int] = []

    def cancel(number: int) -> None:
        received.append(number)
        if task is not None:
            task.cancel()

    with on_signals(cancel):
        yield received


@contextmanager
def stopping(stop: Callable[[], None], *, busy: Callable[[], bool] = lambda: True) -> Iterator[list[int]]:
    """Call ``stop`` at the first signal, and cancel this task at the second one.

    The list that is yielded holds the numbers of the signals. If ``busy`` returns True at the first signal, a note says
    that a second one stops at once.
    """
    import asyncio

    task = asyncio.current_task()
    received: list[int] = []

    def receive(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            stop()
            if busy():
                note("finishing the work under way; a second signal stops at once")
        elif task is not None:
            task.cancel()

    with on_signals(receive):
        yield received
