"""The server of ``basiq-async listen``, and the forwarding of deliveries to a service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs
import typer
from aiohttp import web

from .._redaction.tracebacks import hide_arguments
from .._web.serving import Address, listening
from .._wire.hosts import show_url
from .._wire.urls import read_endpoint
from ..errors import ConfigurationError
from ..receiver import Delivery, DeliveryEvent, MemoryInbox, Result, WebhookReceiver
from ..receiver.protocol import Claim, ClaimStatus
from ._output import OutputClosedError, OutputError, flush, is_terminal, live, note, session, write, write_lines
from ._results import ABSENT, Output
from ._run import stopping

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp

    from ._listen import ListenOptions

_FORWARD_TIMEOUT = 30.0


@attrs.frozen(kw_only=True)
class Received:
    """A delivery that ``listen`` received."""

    result: str
    status: int
    reason: str | None
    delivery_id: str | None
    event_type_id: str | None
    event_id: str | None
    timestamp: datetime | None
    links: Mapping[str, str] | None
    forwarded_status: Any = ABSENT
    forward_error: Any = ABSENT
    body: Any = ABSENT


class _Seen:
    """The request that is being handled, with its delivery and the service's response so far."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.event: DeliveryEvent | None = None
        self.delivery: Delivery | None = None
        self.forwarded: Forwarded | None = None


_seen: ContextVar[_Seen] = ContextVar("basiq_async_cli_seen")


class _NotAcceptedError(Exception):
    """The service did not accept a delivery, so the inbox must release its claim."""


class _PassEverything(MemoryInbox):
    """An inbox that refuses no claim, because the service itself knows which deliveries it has handled."""

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return Claim(ClaimStatus.CLAIMED)


class Listener:
    """Receives and prints deliveries, and forwards them if ``forward_to`` names a service.

    A delivery is acknowledged only after it was printed. After the output's reader closed it, Basiq gets a 503.
    """

    def __init__(self, output: Output, options: ListenOptions, secrets: Sequence[str]) -> None:
        forward_to = options.forward_to
        self._output = output
        self._body = options.body
        self._limit = options.limit
        self._shown = 0
        self._under_way = 0
        self._forwarder = None if forward_to is None else Forwarder(forward_to, timeout=_FORWARD_TIMEOUT)
        self._receiver = WebhookReceiver(
            secrets,
            inbox=None if forward_to is None else _PassEverything(),
            handler_timeout=10.0 if forward_to is None else _FORWARD_TIMEOUT + 5,
            on_delivery=self._remember,
        )
        self._receiver.on(*(options.event or ["*"]))(self._handle)
        self._done = asyncio.Event()
        self._failure: Exception | None = None
        self._counts = {"accepted": 0, "refused": 0}

    async def serve(self, host: str, port: int, path: str) -> None:
        """Serve until SIGINT or SIGTERM, until the limit is reached, or until the output's reader closes it.

        Deliveries under way are finished. A second signal ends the server at once.
        """
        if session().stdout_closed and self._forwarder is None:
            raise ConfigurationError("standard output is closed: nobody could see the deliveries")
        app = web.Application()
        try:
            app.router.add_post(path, self.handle)
        except ValueError as exc:
            raise ConfigurationError(f"--path cannot be {path!r}: {exc}") from None
        async with AsyncExitStack() as stack:
            if self._forwarder is not None:
                stack.push_async_callback(self._forwarder.aclose)
            try:
                # The receiver is closed first, and finishes its deliveries. Only idle connections are left then.
                address = await stack.enter_async_context(listening(app, host, port, shutdown_timeout=1.0))
            except OSError as exc:
                raise ConfigurationError(f"cannot listen on {host} port {port}: {exc.strerror}") from exc
            stack.callback(self._tell_counts)
            received = stack.enter_context(stopping(self._done.set, busy=lambda: self._under_way > 0))
            stack.enter_context(watching_reader(self._reader_left))
            url = f"{Address(host, address.port)}{path}"
            note(f"listening on {url}", url=url)
            self._show_live()
            try:
                await self._done.wait()
                await self._receiver.aclose()
            except asyncio.CancelledError:
                if len(received) < 2:
                    raise
                raise typer.Exit(128 + received[-1]) from None
        if self._failure is not None:
            raise self._failure

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Respond to one request."""
        if self._failure is not None or (self._limit and self._shown + self._under_way >= self._limit):
            return _unavailable()
        seen = _Seen(request)
        token = _seen.set(seen)
        self._under_way += 1
        try:
            response = await self._receiver.aiohttp_handler(request)
        finally:
            self._under_way -= 1
            _seen.reset(token)
        if seen.forwarded is not None:
            response = _respond(seen.forwarded)
        try:
            self._print(seen, response.status)
        except (OutputClosedError, OutputError) as exc:
            self._fail(exc)
            return _unavailable()
        return response

    async def _handle(self, delivery: Delivery) -> None:
        seen = _seen.get()
        seen.delivery = delivery
        if self._forwarder is not None:
            seen.forwarded = await self._forwarder.post(seen.request.headers, delivery.body)
            if not seen.forwarded.accepted:
                raise _NotAcceptedError

    def _remember(self, event: DeliveryEvent) -> None:
        seen = _seen.get(None)
        if seen is not None:
            seen.event = event

    def _print(self, seen: _Seen, status: int) -> None:
        event = seen.event
        if event is None:
            return
        self._counts["accepted" if 200 <= status <= 299 else "refused"] += 1
        result = "not-accepted" if seen.forwarded and not seen.forwarded.accepted else str(event.result)
        if self._output.as_json:
            self._output.one(_describe(seen, event, status, result, self._body))
        else:
            words = [f"{status} {result}", event.reason, event.event_type_id, event.delivery_id]
            if seen.forwarded is not None:
                words.append(f"-> {seen.forwarded.text}")
            write("  ".join(str(word) for word in words if word))
            if self._body and seen.delivery is not None:
                write_lines(json.dumps(seen.delivery.raw, indent=2).splitlines())
        flush()
        self._show_live()
        if event.result is not Result.REJECTED:  # a forged request must not end the program
            self._shown += 1
            if self._shown == self._limit:
                self._done.set()

    @property
    def _text(self) -> str:
        return f"{self._counts['accepted']:,} accepted, {self._counts['refused']:,} refused"

    def _show_live(self) -> None:
        live(f"{self._text}; Ctrl-C ends")

    def _tell_counts(self) -> None:
        live(None)
        if is_terminal(sys.stderr):
            note(self._text, **self._counts)

    def _reader_left(self) -> None:
        self._fail(OutputClosedError())

    def _fail(self, exc: Exception) -> None:
        if self._failure is None:
            self._failure = exc
        self._done.set()


def _describe(seen: _Seen, event: DeliveryEvent, status: int, result: str, with_body: bool) -> Received:
    delivery, forwarded = seen.delivery, seen.forwarded
    return Received(
        result=result,
        status=status,
        reason=event.reason,
        delivery_id=event.delivery_id,
        event_type_id=event.event_type_id,
        event_id=delivery.event_id if delivery else None,
        timestamp=delivery.timestamp if delivery else None,
        links=dict(delivery.links) if delivery else None,
        forwarded_status=ABSENT if forwarded is None else None if forwarded.error else forwarded.status,
        forward_error=ABSENT if forwarded is None else forwarded.error,
        body=ABSENT if not with_body else dict(delivery.raw) if delivery else None,
    )


@contextlib.contextmanager
def watching_reader(gone: Callable[[], None]) -> Iterator[None]:
    """Call ``gone`` as soon as the reader of standard output closes it, if standard output is a pipe."""
    loop = asyncio.get_running_loop()
    descriptor = _pipe_of_stdout()
    if descriptor is None:
        yield
        return

    def left() -> None:
        loop.remove_reader(descriptor)
        gone()

    try:
        # The writing end of a pipe becomes "readable" when its reading end is closed. asyncio relies on it too.
        loop.add_reader(descriptor, left)
    except (NotImplementedError, OSError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


def _pipe_of_stdout() -> int | None:
    try:
        descriptor = sys.stdout.fileno()
        return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None
    except (OSError, ValueError):
        return None


def _unavailable() -> web.Response:
    return web.Response(status=503, headers={"Retry-After": "5"})


def _respond(forwarded: Forwarded) -> web.Response:
    headers = {} if forwarded.retry_after is None else {"Retry-After": forwarded.retry_after}
    if forwarded.content_type is not None:
        headers["Content-Type"] = forwarded.content_type
    return web.Response(status=forwarded.status, body=forwarded.body or None, headers=headers)


_MOST_RETURNED = 65_536
_PASSED_ON = ("content-type", "user-agent")
_SIGNED = "webhook-"


@dataclass(frozen=True)
class Forwarded:
    """A service's response to a delivery, or the error if there is none."""

    status: int
    duration: float
    error: str | None = None
    body: bytes = b""
    content_type: str | None = None
    retry_after: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the response has a 2xx status."""
        return 200 <= self.status <= 299

    @property
    def text(self) -> str:
        """The status and the duration, or the error, as text for people."""
        return self.error or f"{self.status} in {self.duration * 1000:.0f} ms"


class Forwarder:
    """Posts bodies unchanged to one URL. It follows no redirects, keeps no cookies and uses no proxy."""

    @hide_arguments
    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self._url = read_endpoint(url)
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"Forwarder({show_url(self._url)!r})"

    async def post(self, headers: Mapping[str, str], body: bytes) -> Forwarded:
        """Post a body with the headers of a delivery. If there is no response, the result's status is 502 or 504."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                trust_env=False,
                auto_decompress=False,
            )
        passed_on = {
            name: value
            for name, value in headers.items()
            if name.lower() in _PASSED_ON or name.lower().startswith(_SIGNED)
        }
        began = time.perf_counter()
        try:
            async with self._session.post(self._url, data=body, headers=passed_on, allow_redirects=False) as response:
                content = await response.content.read(_MOST_RETURNED)
                return Forwarded(
                    response.status,
                    time.perf_counter() - began,
                    body=content,
                    content_type=response.headers.get("content-type"),
                    retry_after=response.headers.get("retry-after"),
                )
        except TimeoutError:
            return Forwarded(504, time.perf_counter() - began, f"no response within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return Forwarded(502, time.perf_counter() - began, f"no response: {type(exc).__name__}")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
