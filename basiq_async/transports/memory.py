"""A transport to a Basiq in this process: no socket, and no import of aiohttp."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

from .._concurrency.clock import Clock, LoopClock
from ..errors import ConnectionFailedError, RequestTimeoutError
from .base import Request, Response

if TYPE_CHECKING:
    from ..testing import FakeBasiq

__all__ = ["InMemoryTransport"]


class _Exchange(Protocol):
    """What became of one request: after ``delay`` seconds a response, or a dropped connection where that is None."""

    @property
    def response(self) -> Response | None: ...

    @property
    def delay(self) -> float: ...


class _Basiq(Protocol):
    """The part of a Basiq in this process that the transport uses."""

    @property
    def waits(self) -> Clock | None: ...

    def exchange(self, request: Request, *, prefix: str = "") -> _Exchange: ...


class InMemoryTransport:
    """Sends requests to a ``FakeBasiq``, by default to a new one, which is ``.fake``.

    Where the fake's clock stands still until it is moved, the client waits on that clock: for retries, timeouts and
    ``wait_until_active``. Such a wait takes no real time, and moves the clock.

    ``timeout`` limits the seconds by which a fault may delay a response; an earlier ``deadline`` of the request is
    honoured. ``prefix`` is the path that the fake is mounted under, such as ``/basiq``, for a client
    whose ``base_url`` has one.
    """

    def __init__(self, fake: FakeBasiq | None = None, *, timeout: float = 30.0, prefix: str = "") -> None:
        if fake is None:
            # Found by its name: this module knows what it calls, and no fake.
            fake = cast("FakeBasiq", import_module("basiq_async.testing").FakeBasiq())
        self.fake = fake
        self._basiq: _Basiq = fake
        self._timeout = timeout
        self._prefix = prefix
        self._closed = False

    @property
    def waits(self) -> Clock | None:
        """The clock that its client waits by; None for the event loop's."""
        return self._basiq.waits

    def __repr__(self) -> str:
        return f"InMemoryTransport({self.fake!r})"

    async def send(self, request: Request, /) -> Response:
        """Return the fake's response, its faults acted out."""
        method, path = request.method, _path(request)
        if self._closed:
            raise ConnectionFailedError("the transport is closed", method=method, path=path, sent=False)
        allowed = self._timeout
        if request.deadline is not None:
            allowed = min(allowed, request.deadline - asyncio.get_running_loop().time())
            if allowed <= 0:
                raise RequestTimeoutError(
                    "its deadline had passed before it was sent", method=method, path=path, sent=False
                )
        # Even a response that is there at once lets other tasks run, as a real one would.
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
        """Refuse everything that is sent from now on."""
        self._closed = True


def _path(request: Request) -> str:
    return urlsplit(request.url).path
