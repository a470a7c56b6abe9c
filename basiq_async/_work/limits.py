"""Time limits: a block that ends in time or raises a named error, and a wait that ends either way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

import attrs

from .._redaction.tracebacks import drop_tracebacks, hide_parameters
from ..errors import InboxError


@attrs.define(eq=False, repr=False)
class limit:
    """Cancel the block after so many seconds, and raise ``error``: ``async with limit(5, InboxError("...")):``.

    ``error`` is an exception, or a function that makes one; by default it is a ``TimeoutError``. None for the seconds
    is for no limit. The time is the event loop's. A ``TimeoutError`` of the block itself, and a cancellation by others,
    pass unchanged, but show no parameters of SQLAlchemy's statements from then on. ``error`` has no local variables of
    the block: they can hold a body or a key.
    """

    _timeout: asyncio.Timeout = attrs.field(converter=asyncio.timeout, alias="seconds")
    _error: Exception | Callable[[], Exception] = attrs.field(default=TimeoutError, alias="error")

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            hide_parameters(exc)
        try:
            await self._timeout.__aexit__(kind, exc, traceback)
        except TimeoutError as over:
            error = self._error if isinstance(self._error, Exception) else self._error()
            raise error from drop_tracebacks(over)


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until the event is set, for at most so many seconds; None is for no limit. Return whether it is set."""
    try:
        async with limit(seconds):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()


def inbox_limit(seconds: float) -> limit:
    """Limit a call of an inbox: ``InboxError`` says that it did not respond."""
    return limit(seconds, lambda: inbox_is_slow(seconds))


def inbox_is_slow(seconds: float) -> InboxError:
    """Return the error of an inbox that did not respond in so many seconds."""
    return InboxError(f"the inbox did not respond within {seconds:g} s")
