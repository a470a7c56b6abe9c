"""The conformance suite for a ``Transport``."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cache, partial
from http import HTTPStatus
from typing import Any

import attrs

from ..._work.failures import failure_text
from ..._work.limits import limit
from ...errors import ConnectionFailedError, RequestTimeoutError, TransportError
from ...transports.base import Request, Response, Transport
from ..fake._clock import SystemClock
from ..fake._deliveries import ORIGIN
from ..fake._fake import FakeBasiq
from ._runner import Check, hold, keep, promises_of

MakeTransport = Callable[..., Transport | Awaitable[Transport]]
STATUSES = (*(each.value for each in HTTPStatus if each >= HTTPStatus.OK), 599)
EVERY_BYTE = bytes(range(256))
# Decoding and encoding would change each part of this URL.
URL = "/a%2Fb/%27c%27/%7Ed/e%20f;g=1?filter=user.id.eq(%27x%2Fy%27)&p=+%2B%20&q=%41&empty="
AT_ONCE = 20
SHORT = 0.2
"""Seconds until a deadline of these tests. A transport may need as long again to end."""
INFLATED = 256 * 2**20
"""The size of a body that is sent in a thousandth of it."""


async def check_transport(
    make_transport: MakeTransport,
    *,
    in_process: bool = False,
    make_impatient: MakeTransport | None = None,
    seconds: float = 10.0,
) -> None:
    """Check that a transport keeps the promises of ``Transport``.

    make_transport: a function without arguments that returns a new transport, or an awaitable of one. The transport
        is tested against servers on loopback, which ``check_transport`` starts.
    in_process: whether the transport needs no network. ``make_transport`` is then called with a ``FakeBasiq`` and
        returns a transport to it, and promises about the network are left out.
    make_impatient: like ``make_transport``, but for a transport with a timeout of at most a second. It is used to
        check that the timeout works.
    seconds: the time limit of each promise.

    Raises ``BrokenPromisesError``, an ``AssertionError`` that names each broken promise and what happened instead.
    """
    kinds: dict[type[TransportPromises], MakeTransport] = {TransportPromises: make_transport}
    if not in_process:
        kinds[NetworkPromises] = make_transport
    if make_impatient is not None:
        kinds[ImpatientPromises] = make_impatient
    checks = {
        promise: partial(_try, kind, check, make, in_process)
        for kind, make in kinds.items()
        for promise, check in promises_of(kind).items()
    }
    await keep(getattr(make_transport, "__name__", "the transport"), checks, seconds=seconds)


async def _try(kind: type[TransportPromises], check: Check, make: MakeTransport, in_process: bool) -> None:
    fake = FakeBasiq(clock=SystemClock())  # its delays are real, so that a send can be cancelled in one
    async with nullcontext(ORIGIN) if in_process else _serve(fake) as base:
        made = make(*((fake,) if in_process else ()))
        transport: Transport = await made if inspect.isawaitable(made) else made
        try:
            await check(kind(transport, fake, base))
        finally:
            await transport.aclose()


def _serve(fake: FakeBasiq) -> AbstractAsyncContextManager[str]:
    from ..mock._server import serve  # it needs aiohttp

    return serve(fake)


@attrs.frozen
class TransportPromises:
    """What a transport promises. Each public method checks the promise that its docstring is.

    ``fake`` receives the requests, below the URL ``base``.
    """

    transport: Transport
    fake: FakeBasiq
    base: str

    async def _get(self, path: str = "/anything") -> Response:
        return await self.transport.send(Request("GET", self.base + path))

    def _last(self) -> Request:
        hold(bool(self.fake.requests), "no request arrived")
        return self.fake.requests[-1]

    async def _until_seen(self, path: str) -> None:
        for _ in range(10_000):
            if any(request.url == self.base + path for request in self.fake.requests):
                return
            await asyncio.sleep(0.0005)
        raise AssertionError("the request was not sent")

    async def _check_usable(self, after: str) -> None:
        self.fake.fail_next(body=b"usable", path="*")
        hold((await self._get()).body == b"usable", f"the request after {after} got a wrong response")

    async def _failure(self, request: Request, kind: type[TransportError]) -> TransportError:
        """Return the error of a send. Fails if it ends in another way."""
        try:
            response = await self.transport.send(request)
        except kind as error:
            return error
        except Exception as error:
            raise AssertionError(f"not {kind.__name__} was raised, but {failure_text(error)}") from error
        size = len(response.body)
        raise AssertionError(
            f"it returned a response of status {response.status} with {size} bytes, not a {kind.__name__}"
        )

    async def _ends_at_its_deadline(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SHORT
        async with limit(SHORT + 2.0, AssertionError("the send went on for 2 s after its deadline")):
            await self._failure(Request("GET", url, deadline=deadline), RequestTimeoutError)

    async def fit_the_protocol(self) -> None:
        """send and aclose are all it needs"""
        hold(isinstance(self.transport, Transport), f"{type(self.transport).__name__} lacks send or aclose")
        hold(isinstance(await self._get(), Response), "send returned something other than a Response")

    async def return_every_status(self) -> None:
        """every HTTP status is a Response"""
        for status in STATUSES:
            self.fake.fail_next(status=status, body=b"", path="*")
            try:
                response = await self._get()
            except Exception as error:
                raise AssertionError(f"{status} raised {type(error).__name__}") from error
            hold(response.status == status, f"{status} came back as {response.status}")

    async def follow_no_redirect(self) -> None:
        """redirects are not followed"""
        for status in (301, 302, 303, 307, 308):
            for location in (f"{self.base}/elsewhere", "http://[not a url"):
                self.fake.fail_next(status=status, headers={"location": location}, path="*")
                before = len(self.fake.requests)
                response = await self._get()
                hold(len(self.fake.requests) == before + 1, f"after a {status} another request was sent")
                hold(response.headers.get("location") == location, "the location header is gone")

    async def send_the_url(self) -> None:
        """the URL is sent byte for byte"""
        await self._get(URL)
        sent = self._last().url.removeprefix(self.base)
        hold(sent == URL, f"{URL} was sent as {sent}")

    async def send_the_request(self) -> None:
        """method, headers and body are sent unchanged"""
        headers = {"content-type": "application/octet-stream", "x-check": "A value, with: marks"}
        for method, body in (("POST", EVERY_BYTE), ("GET", None), ("DELETE", None), ("POST", b"")):
            await self.transport.send(Request(method, self.base + "/anything", headers, body))
            sent = self._last()
            hold(sent.method == method, f"{method} was sent as {sent.method}")
            for name, value in headers.items():
                got = sent.headers.get(name)
                hold(got == value, f"the header {name}: {value} was sent as {got!r}")
            hold((sent.body or b"") == (body or b""), f"a body of {len(body or b'')} bytes was changed")

    async def return_the_response(self) -> None:
        """the response's headers and body are returned unchanged"""
        for body in (EVERY_BYTE, b"", b"\r\n\r\n"):
            self.fake.fail_next(body=body, headers={"X-Check": "A value"}, path="*")
            response = await self._get()
            hold(response.body == body, f"a body of {len(body)} bytes came back as {len(response.body)}")
            hold(response.headers.get("x-check") == "A value", "a header did not come back in lower case")

    async def keep_no_cookie(self) -> None:
        """no cookie is kept"""
        self.fake.fail_next(status=200, headers={"set-cookie": "kept=yes; Path=/"}, path="*")
        await self._get()
        await self._get()
        hold("cookie" not in self._last().headers, "a cookie of the first response was sent with the second")

    async def send_at_once(self) -> None:
        """concurrent sends each get the right response"""
        for number in range(AT_ONCE):
            self.fake.fail_next(body=str(number), delay=0.001 * (AT_ONCE - number), path=f"/{number}")
        responses = await asyncio.gather(*(self._get(f"/{number}") for number in range(AT_ONCE)))
        mixed = [number for number, response in enumerate(responses) if response.body != str(number).encode()]
        hold(not mixed, f"{len(mixed)} of {AT_ONCE} got the response of another")

    async def report_a_drop(self) -> None:
        """a dropped connection is a ConnectionFailedError"""
        for drop in ("request", "response"):
            # Three times, because an HTTP client may repeat a request by itself on a kept connection.
            self.fake.fail_next(3, drop=drop, path="/dropped", method="POST")
            error = await self._failure(Request("POST", self.base + "/dropped", {}, b"x"), ConnectionFailedError)
            hold(error.sent, "sent is False, although the request had been sent")
            self.fake.reset_log()
        await self._check_usable("a dropped connection")

    async def end_when_cancelled(self) -> None:
        """a send can be cancelled, and the transport is usable after"""
        await self._get()
        before = asyncio.all_tasks()
        self.fake.fail_next(delay=60.0, status=200, path="/slow")
        task = asyncio.ensure_future(self._get("/slow"))
        await self._until_seen("/slow")
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=1.0)
        hold(bool(done), "a cancelled send did not end within 1 s")
        hold(task.cancelled(), "a cancelled send did not raise CancelledError")
        await self._check_usable("a cancelled send")
        left = {task for task in asyncio.all_tasks() - before if _is_of_transport(task)}
        hold(not left, f"the transport left {len(left)} tasks running")

    async def end_at_the_deadline(self) -> None:
        """a send ends at its deadline, and none is sent after it"""
        self.fake.fail_next(3, delay=60.0, status=200, path="/slow")
        await self._ends_at_its_deadline(self.base + "/slow")
        await self._check_usable("a deadline")
        before = len(self.fake.requests)
        passed = Request("POST", self.base + "/late", {}, b"x", deadline=asyncio.get_running_loop().time() - 1)
        error = await self._failure(passed, RequestTimeoutError)
        hold(error.sent is False, "sent is not False, although the deadline had passed before")
        hold(len(self.fake.requests) == before, "a request was sent after its deadline")

    async def close_twice(self) -> None:
        """aclose may be called twice"""
        await self._get()
        await self.transport.aclose()
        await self.transport.aclose()

    async def refuse_when_closed(self) -> None:
        """a send after aclose is a ConnectionFailedError"""
        await self.close_twice()
        before = len(self.fake.requests)
        await self._failure(Request("GET", self.base + "/anything"), ConnectionFailedError)
        hold(len(self.fake.requests) == before, "the request was sent after aclose()")


class NetworkPromises(TransportPromises):
    """What a transport over a network promises too."""

    async def report_a_refusal(self) -> None:
        """a refused connection is a ConnectionFailedError with sent=False"""
        async with _saying(b"") as base:
            pass  # the port is free again
        error = await self._failure(Request("POST", base, {}, b"x"), ConnectionFailedError)
        hold(error.sent is False, "sent is not False, although nothing can have been sent")

    async def report_a_broken_body(self) -> None:
        """a body that breaks off is a ConnectionFailedError"""
        async with _saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf a body") as base:
            await self._failure(Request("GET", base), ConnectionFailedError)

    async def report_what_is_not_http(self) -> None:
        """a response that is not HTTP is a TransportError"""
        async with _saying(b"these are not\r\nheaders\r\n\r\n") as base:
            await self._failure(Request("GET", base), TransportError)

    async def end_a_drip(self) -> None:
        """a body that drips ends at the deadline"""
        async with _saying(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", drips=True) as base:
            await self._ends_at_its_deadline(base)

    async def decompress(self) -> None:
        """a compressed body is returned decompressed"""
        self.fake.fail_next(body=gzip.compress(EVERY_BYTE), headers={"content-encoding": "gzip"}, path="*")
        hold((await self._get()).body == EVERY_BYTE, "a gzip body did not come back as what was packed")

    async def limit_the_body(self) -> None:
        """a body that inflates beyond a limit is a TransportError"""
        async with _saying(_make_bomb()) as base:
            await self._failure(Request("GET", base), TransportError)

    async def join_headers(self) -> None:
        """the values of a repeated header are joined"""
        async with _saying(b"HTTP/1.1 200 OK\r\nX-Twice: one\r\nX-Twice: two\r\nContent-Length: 0\r\n\r\n") as base:
            got = (await self.transport.send(Request("GET", base))).headers.get("x-twice")
            hold(got == "one, two", f"'one' and 'two' came back as {got!r}")


class ImpatientPromises(TransportPromises):
    """What a transport with a short timeout promises too."""

    async def time_out(self) -> None:
        """a missing response is a RequestTimeoutError"""
        self.fake.fail_next(3, delay=60.0, path="*")
        await self._failure(Request("GET", self.base + "/anything"), RequestTimeoutError)


@cache
def _make_bomb() -> bytes:
    packing = zlib.compressobj(1, wbits=31)
    zeros = bytes(2**20)
    packed = b"".join([*(packing.compress(zeros) for _ in range(INFLATED // len(zeros))), packing.flush()])
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    return head.encode() + packed


def _is_of_transport(task: asyncio.Task[Any]) -> bool:
    """Return whether a task may belong to the transport, and not to the test server."""
    code = getattr(task.get_coro(), "__qualname__", "")
    return not code.startswith(("RequestHandler.", "_dispatch", "StreamReaderProtocol."))


@asynccontextmanager
async def _saying(response: bytes, *, drips: bool = False) -> AsyncGenerator[str]:
    """Run a server that sends the same bytes on each connection, and closes it, or lets further bytes drip."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
            while drips:
                await writer.drain()
                await asyncio.sleep(SHORT / 10)
                writer.write(b"x")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the transport has closed the connection
        finally:
            writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await server.wait_closed()
