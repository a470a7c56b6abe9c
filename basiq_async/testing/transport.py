"""A transport to a fake Basiq in the same process. It opens no socket and does not import aiohttp."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from .._arguments import Duration, check_seconds
from .._work.clock import Clock, LoopClock
from ..errors import ConnectionFailedError, RequestTimeoutError
from ..transports.base import Request, Response, Transport
from .fake._fake import FakeBasiq


class InMemoryTransport(Transport):
    """Sends requests to a ``FakeBasiq``. The attribute ``fake`` holds it. By default it is a new one.

    If the fake has a ``ManualClock``, the client waits on that clock, for retries, timeouts and ``wait_until_active``.
    Such a wait takes no real time, and moves the clock forward.

    ``timeout`` is how long a fault may delay a response, in seconds, before ``RequestTimeoutError`` is raised. A
    request's ``deadline`` counts if it is earlier. ``prefix`` is the path that the fake is mounted under, such as
    ``/basiq``, for a client whose ``base_url`` has the same path.
    """

    def __init__(self, fake: FakeBasiq | None = None, *, timeout: Duration = 30.0, prefix: str = "") -> None:
        self.fake = FakeBasiq() if fake is None else fake
        self._timeout = check_seconds("timeout", timeout, from_zero=True)
        self._prefix = prefix
        self._closed = False

    @property
    def waits(self) -> Clock | None:
        """The clock that the client waits on; None for the event loop's clock."""
        return self.fake._waits

    def __repr__(self) -> str:
        return f"InMemoryTransport({self.fake!r})"

    async def send(self, request: Request, /) -> Response:
        """Return the fake's response, with the delays and dropped connections of its faults."""
        method, path = request.method, urlsplit(request.url).path
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
        exchange = self.fake._exchange(request, prefix=self._prefix)
        if exchange.delay:
            await (self.waits or LoopClock()).sleep(min(exchange.delay, allowed))
            if exchange.delay > allowed:
                raise RequestTimeoutError(f"no response within {allowed:g} s", method=method, path=path)
        if exchange.response is None:
            raise ConnectionFailedError("the connection was dropped", method=method, path=path)
        return exchange.response

    async def aclose(self) -> None:
        """Refuse all further requests."""
        self._closed = True
