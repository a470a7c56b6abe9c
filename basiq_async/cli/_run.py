"""Functions for all commands: make a client, run an event loop that ends cleanly, signals and exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from .. import __version__, errors
from ..errors import ConfigurationError
from ._output import DEBUG, is_terminal, live, prompt, say, session, show_logs
from ._settings import Settings, find_settings

if TYPE_CHECKING:
    import asyncio

    from ..client import BasiqClient
    from ..hooks import RequestEvent


T = TypeVar("T")


@asynccontextmanager
async def make_client(settings: Settings | None = None) -> AsyncGenerator[BasiqClient]:
    """Open a client for the API key of the environment or profile, with the User-Agent of the command line.

    It reports each retry. Each command requests its own token. For this User-Agent, the mock does not count that as
    misuse.
    """
    from ..client import BasiqClient
    from ..transports.aiohttp import AiohttpTransport
    from ..transports.retry import RetryPolicy

    found = find_settings() if settings is None else settings
    if settings is None:
        session().key = "BASIQ_API_KEY" if found.profile is None else f"the profile {found.profile!r}"
    limit = session().timeout
    timeout = limit or 30.0
    agent = f"basiq-async/{__version__} (command line)"
    transport = AiohttpTransport(user_agent=agent, timeout=timeout, proxy="environment")
    try:
        async with BasiqClient(
            found.api_key,
            base_url=found.base_url,
            transport=transport,
            retry=None if limit is None else RetryPolicy(max_elapsed=limit),
            timeout=timeout,
            on_retry=_report_retry,
        ) as client:
            yield client
    finally:
        await transport.aclose()


def run_until_signal(work: Coroutine[Any, Any, T]) -> T:
    """Run what a command does in an event loop. A signal cancels it, and ends the process with 128 and its number."""
    import asyncio

    async def main() -> T:
        with stopping():
            return await work

    _quiet_logs()
    try:
        return asyncio.run(main())
    finally:
        live(None)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before an action that cannot be undone. Any reply but yes ends the command with 1.

    Raises ``ConfigurationError`` without a terminal, where no reply can come.
    """
    if yes:
        return
    if sys.stdin is None or not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
        raise ConfigurationError("this cannot be undone, and without a terminal you cannot be asked: pass --yes")
    try:
        prompt(f"{question} [y/N] ")
        reply = sys.stdin.readline()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if reply.strip().lower() not in ("y", "yes"):
        say("cancelled: nothing was changed")
        raise typer.Exit(1)


_FIRST_WAIT, _LONGEST_WAIT = 2.0, 30.0
_GROWTH = 1.5


async def follow_up(
    poll: Callable[[], Awaitable[int]],
    *,
    first: float | None = None,
    longest: float = _LONGEST_WAIT,
    stop: asyncio.Event | None = None,
) -> None:
    """Call ``poll``, which returns how many messages were new, until ``stop`` is set.

    While none are new, and while Basiq cannot be asked, the pauses between the calls grow from ``first`` to
    ``longest`` seconds. A line says why Basiq cannot be asked. Raises other errors of Basiq: waiting does not help.
    """
    import asyncio
    import random

    from .._work.limits import wait_for_event
    from ..errors import RateLimitError, ServerError, TransportError

    first, stop = first or _FIRST_WAIT, stop or asyncio.Event()
    wait = first
    while not stop.is_set():
        try:
            wait = first if await poll() else min(longest, wait * _GROWTH)
        except RateLimitError as exc:
            wait = max(exc.retry_after or 0.0, min(longest, wait * 2))
            say(f"Basiq asks for fewer requests; next request in {wait:.0f} s")
        except (TransportError, ServerError) as exc:
            wait = min(longest, wait * 2)
            say(f"{type(exc).__name__}: {exc}; next request in {wait:.0f} s")
        await wait_for_event(stop, wait * random.uniform(0.9, 1.0))


def _quiet_logs() -> None:
    """Keep log records of this package and of aiohttp's server off the screen, unless ``BASIQ_DEBUG`` is set.

    The commands report these events themselves. aiohttp's server logs a traceback for each request that is not HTTP.
    """
    if os.environ.get(DEBUG):
        show_logs("DEBUG", "%(levelname)s %(name)s: %(message)s", others="WARNING")
        return
    for name in ("basiq_async", "aiohttp.server"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def _report_retry(event: RequestEvent) -> None:
    why, wait = f"status {event.status}" if event.status is not None else event.error, event.wait or 0.0
    say(
        f"{event.method} {event.path}: {why}, next attempt in {wait:.1f} s",
        attempt=event.attempt,
        status=event.status,
        wait=round(wait, 3),
    )


# --- signals ---

_HANG_UP = getattr(signal, "SIGHUP", None)


@contextmanager
def on_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call ``handle`` in the running loop for each SIGINT, SIGTERM and SIGHUP, unless ``nohup`` ignores the last.

    Outside the main thread, do nothing.
    """
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def receive(number: int, _: object = None) -> None:
        session().hung_up |= number == _HANG_UP
        loop.call_soon_threadsafe(handle, number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if _HANG_UP is not None and signal.getsignal(_HANG_UP) is not signal.SIG_IGN:
        numbers.append(_HANG_UP)
    before = [(number, signal.getsignal(number)) for number in numbers]
    try:
        for number in numbers:
            try:  # it wakes a loop that has nothing to do, also where the signal comes just before it waits
                loop.add_signal_handler(number, receive, number)
            except NotImplementedError:  # Windows, whose loop wakes for each signal
                signal.signal(number, receive)
        yield
    finally:
        for number, handler in before:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def stopping(
    stop: Callable[[], bool] = lambda: False, *, busy: Callable[[], bool] = lambda: True
) -> Iterator[list[int]]:
    """Call ``stop`` at the first signal. If it returns False, and at the second signal, this task is cancelled.

    The task then ends the process with 129, 130 or 143. The list that is yielded holds the numbers of the signals. If
    ``busy`` returns True at the first signal, a line says that a second one stops at once.
    """
    import asyncio

    task = asyncio.current_task()
    received: list[int] = []
    cancelled = False

    def receive(number: int) -> None:
        nonlocal cancelled
        received.append(number)
        if len(received) == 1 and stop():
            if busy():
                say("finishing the work under way; a second signal stops at once")
        elif task is not None:
            cancelled = True
            task.cancel()

    with on_signals(receive):
        try:
            yield received
        except asyncio.CancelledError:
            if not cancelled:
                raise
            raise typer.Exit(128 + received[-1]) from None


# --- exit codes ---

DONE: Final = 0
WRONG: Final = 1
USAGE: Final = 2
NO_ANSWER: Final = 3
IN_USE: Final = 4

MEANINGS: Mapping[int, str] = {
    DONE: "success",
    WRONG: "something failed, is wrong, or is left to do",
    USAGE: "wrong usage, or wrong settings",
    NO_ANSWER: "not known: Basiq, an inbox, Redis or a proxy gave no usable response, or --limit left something unread",
    IN_USE: "another run writes to this file",
    129: "ended by SIGHUP (the terminal is gone)",
    130: "ended by SIGINT (Ctrl-C)",
    143: "ended by SIGTERM",
}

_CODES: Mapping[type[BaseException], int] = {
    errors.BasiqError: WRONG,
    errors.ConfigurationError: USAGE,
    errors.TransportError: NO_ANSWER,
    errors.APIError: NO_ANSWER,  # such as 302 or 408: a proxy's, or none that the API documents
    errors.BadRequestError: WRONG,
    errors.NotFoundError: WRONG,
    errors.ConflictError: WRONG,
    errors.ResponseDecodeError: NO_ANSWER,
    errors.PaginationError: NO_ANSWER,
    errors.SignatureVerificationError: WRONG,
    errors.InboxError: NO_ANSWER,
    errors.ReplayError: WRONG,
    errors.RecordError: NO_ANSWER,
    errors.JobInUseError: IN_USE,
    TimeoutError: NO_ANSWER,
}


_LISTS = ("/events", "/events/types", "/notifications/webhooks")
"""The paths that Basiq always has: nothing in them was named by a user."""


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error.

    An error status is no answer if its body has no error in it, as of a proxy; and so is any status of the login.
    """
    if isinstance(error, errors.RequestTimeoutError) and error.method is None:  # what was waited for did not come
        return WRONG
    if isinstance(error, errors.APIError):
        path = error.path or ""
        is_missing_list = isinstance(error, errors.NotFoundError) and path.endswith(_LISTS)
        if not error.errors or is_missing_list or path.endswith("/token"):
            return NO_ANSWER
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), WRONG)
