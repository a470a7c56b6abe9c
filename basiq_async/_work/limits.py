"""Time limits whose end is a named error. Use ``asyncio.timeout`` itself where a ``TimeoutError`` says enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from .._redaction.tracebacks import drop_tracebacks
from ..errors import InboxError


@asynccontextmanager
async def limit(seconds: float | None, error: Exception) -> AsyncGenerator[None]:
    """Cancel the block after so many seconds, and raise ``error``: ``async with limit(5, InboxError("...")):``.

    None is for no limit. The time is the event loop's. A ``TimeoutError`` of the block itself, and a cancellation by
    others, pass unchanged. The error has no local variables of the block: they can hold a body or a key.
    """
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError as exc:
        if not timeout.expired():
            raise
        raise error from drop_tracebacks(exc)


def inbox_limit(seconds: float) -> AbstractAsyncContextManager[None]:
    """Limit a call of an inbox: ``InboxError`` says that it did not respond."""
    return limit(seconds, inbox_is_slow(seconds))


def inbox_is_slow(seconds: float) -> InboxError:
    """Return the error of an inbox that did not respond in so many seconds."""
    return InboxError(f"the inbox did not respond within {seconds:g} s")
