"""A transport to a fake Basiq in the same process. It opens no socket and does not import aiohttp."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

from .._work.clock import Clock, LoopClock
from ..errors import ConnectionFailedError, RequestTimeoutError
from .base import Request, Response

if TYPE_CHECKING:
    from ..testing import FakeBasiq

__all__ = ["InMemoryTransport"]


class _Exchange(Protocol):
    """The fake's reaction to one request: a response after ``delay`` seconds, or, if None, a dropped connection."""

    @property
    def response(self) -> Response | None: ...

    @property
    def delay(self) -> float: ...


class _Basiq(Protocol):
    """The part of a ``FakeBasiq`` that the transport uses."""

    @property
    def waits(self) -> Clock | None: ...

    def exchange(self, request: Request, *, prefix: str = "") -> _Exchange: ...


class InMemoryTransport:
    """Sends requests to a ``FakeBasiq``. The attribute ``fake`` holds it. By default it is a new one.

    If the fake has a ``ManualClock``, the client waits on that clock, for retries, timeouts and ``wait_until_active``.
    Such a wait takes no real time, and moves the clock forward.

    ``timeout`` is how long a fault may delay a response, in seconds, before ``RequestTimeoutError`` is raised. A
    request's ``deadline`` counts if it is earlier. ``prefix`` is the path that the fake is mounted under, such as
    ``/basiq``, for a client whose ``base_url`` has the same path.
    """

    def __init__(self, fake: FakeBasiq | None = None, *, timeout: float = 30.0, prefix: str = "") -> None:
        if fake is None:
            # Imported by name, so that this module does not depend on the package of the fake.
            fake = cast("FakeBasiq", import_module("basiq_async.testing").FakeBasiq())
        self.fake = fake
        self._basiq: _Basiq = fake
        self._timeout = timeout
        self._prefix = prefix
        self._closed = False

    @property
    def waits(self) -> Clock | None:
        """The clock that the client waits on; None for the event loop's clock."""
        return self._basiq.waits

    def __repr__(self) -> str:
        return f"InMemoryTransport({self.fake!r})"

    async def send(self, request: Request, /) -> Response:
        """Return the fake's response, with the delays and dropped connections of its faults."""
        method, path = request.method, _path(request)
        if self._closed:
            raise ConnectionFailedError("the transport is closed", method=method, path=path, sent=False)
        allowed = self._timeout
        if request.deadline is not None:
            allowed = min(allowed, request.deadline - asyncio.get_running_loop().time())
            if allowed <= 0:
                raise RequestTimeoutError(
                    "the deadline passed before the request was sent", method=method, path=path, sent=False
                )
        # Other tasks get to run even before an immediate response, as with a real transport.
        await asyncio.sleep(0)
        exchange = self._basiq.exchange(request, prefix=self._prefix)
        if exchange.delay:
            waits = self.waits or LoopClock()
            try:
                await waits.sleep(min(exchange.delay, allowed))
            except TimeoutError:
                raise RequestTimeoutError("no response in time", method=method, path=path) from None
            if exchange.delay > allowed:
                raise RequestTimeoutError(f"no response within {allowed:g} s", method=method, path=path)
        if exchange.response is None:
            raise ConnectionFailedError("the connection was dropped", method=method, path=path)
        return exchange.response

    async def aclose(self) -> None:
        """Refuse all further requests."""
        self._closed = True


def _path(request: Request) -> str:
    return urlsplit(request.url).path
