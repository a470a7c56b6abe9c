"""The conformance suite for a ``Transport``."""

from __future__ import annotations

import asyncio
import gzip
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import attrs

from ...errors import ConnectionFailedError, RequestTimeoutError, TransportError
from ...transports.base import Request, Response, Transport
from ..fake._clock import SystemClock
from ..fake._deliveries import ORIGIN
from ..fake._fake import FakeBasiq
from ._runner import hold, keep

Promise = Callable[[], Awaitable[None]]
MakeTransport = Callable[..., Transport | Awaitable[Transport]]
STATUSES = (
    200,
    201,
    202,
    204,
    300,
    301,
    302,
    303,
    307,
    308,
    400,
    401,
    403,
    404,
    405,
    409,
    418,
    429,
    500,
    502,
    503,
    599,
)
EVERY_BYTE = bytes(range(256))
# Decoding and encoding would change each part of this URL.
URL = "/a%2Fb/%27c%27/%7Ed/e%20f;g=1?filter=user.id.eq(%27x%2Fy%27)&p=+%2B%20&q=%41&empty="
AT_ONCE = 20


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
    checks = _Checks(make_transport, make_impatient, in_process)
    shared: dict[str, Promise] = {
        "send and aclose are all it needs": checks.protocol,
        "every HTTP status is a Response": checks.statuses,
        "redirects are not followed": checks.redirects,
        "the URL is sent byte for byte": checks.url,
        "method, headers and body are sent unchanged": checks.request,
        "the response's headers and body are returned unchanged": checks.response,
        "no cookie is kept": checks.cookies,
        "concurrent sends each get the right response": checks.at_once,
        "a dropped connection is a ConnectionFailedError": checks.dropped,
        "a send can be cancelled, and the transport is usable after": checks.cancelled,
        "aclose may be called twice": checks.closed_twice,
        "a send after aclose is a ConnectionFailedError": checks.closed,
    }
    network: dict[str, Promise] = {
        "a refused connection is a ConnectionFailedError with sent=False": checks.refused,
        "a body that breaks off is a ConnectionFailedError": partial(checks.broken, HALF_A_BODY),
        "a response that is not HTTP is a TransportError": partial(checks.broken, b"these are not\r\nheaders\r\n\r\n"),
        "a compressed body is returned decompressed": checks.compressed,
        "the values of a repeated header are joined": checks.joined,
    }
    impatient: dict[str, Promise] = {"a missing response is a RequestTimeoutError": checks.impatient}
    await keep(
        getattr(make_transport, "__name__", "the transport"),
        {**shared, **({} if in_process else network), **(impatient if make_impatient else {})},
        seconds=seconds,
    )


HALF_A_BODY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf a body"
TWICE = b"HTTP/1.1 200 OK\r\nX-Twice: one\r\nX-Twice: two\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@attrs.frozen
class _Stage:
    """A transport, and the fake that receives its requests."""

    transport: Transport
    fake: FakeBasiq
    base: str

    async def get(self, path: str = "/anything") -> Response:
        return await self.transport.send(Request("GET", self.base + path))

    def seen(self) -> tuple[Request, ...]:
        return tuple(self.fake.requests)

    def last(self) -> Request:
        hold(bool(self.fake.requests), "no request arrived")
        return self.fake.requests[-1]

    async def until_seen(self, path: str) -> None:
        for _ in range(10_000):
            if any(request.url == self.base + path for request in self.seen()):
                return
            await asyncio.sleep(0.0005)
        raise AssertionError("the request was not sent")


@attrs.frozen
class _Checks:
    _make: MakeTransport
    _make_impatient: MakeTransport | None
    _in_process: bool

    @asynccontextmanager
    async def stage(self, make: MakeTransport | None = None) -> AsyncGenerator[_Stage]:
        fake = FakeBasiq(clock=SystemClock())  # its delays are real, so that a send can be cancelled in one
        async with self._reached(fake) as base:
            made = (make or self._make)(*((fake,) if self._in_process else ()))
            transport: Transport = await made if inspect.isawaitable(made) else made
            try:
                yield _Stage(transport, fake, base)
            finally:
                await transport.aclose()

    def _reached(self, fake: FakeBasiq) -> AbstractAsyncContextManager[str]:
        if self._in_process:
            return _at_vendor()
        from ..mock._server import serve

        return serve(fake)

    async def protocol(self) -> None:
        async with self.stage() as stage:
            hold(isinstance(stage.transport, Transport), f"{type(stage.transport).__name__} lacks send or aclose")
            hold(isinstance(await stage.get(), Response), "send returned something other than a Response")

    async def statuses(self) -> None:
        async with self.stage() as stage:
            for status in STATUSES:
                stage.fake.fail_next(status=status, body=b"", path="*")
                try:
                    response = await stage.get()
                except Exception as error:
                    raise AssertionError(f"{status} raised {type(error).__name__}") from error
                hold(response.status == status, f"{status} came back as {response.status}")

    async def redirects(self) -> None:
        async with self.stage() as stage:
            for status in (301, 302, 303, 307, 308):
                stage.fake.fail_next(status=status, headers={"location": f"{stage.base}/elsewhere"}, path="*")
                before = len(stage.seen())
                response = await stage.get()
                hold(len(stage.seen()) == before + 1, f"after a {status} another request was sent")
                hold(response.headers.get("location") == f"{stage.base}/elsewhere", "the location header is gone")

    async def url(self) -> None:
        async with self.stage() as stage:
            await stage.get(URL)
            sent = stage.last().url.removeprefix(stage.base)
            hold(sent == URL, f"{URL} was sent as {sent}")

    async def request(self) -> None:
        async with self.stage() as stage:
            headers = {"content-type": "application/octet-stream", "x-check": "A value, with: marks"}
            for method, body in (("POST", EVERY_BYTE), ("GET", None), ("DELETE", None), ("POST", b"")):
                await stage.transport.send(Request(method, stage.base + "/anything", headers, body))
                sent = stage.last()
                hold(sent.method == method, f"{method} was sent as {sent.method}")
                for name, value in headers.items():
                    got = sent.headers.get(name)
                    hold(got == value, f"the header {name}: {value} was sent as {got!r}")
                hold((sent.body or b"") == (body or b""), f"a body of {len(body or b'')} bytes was changed")

    async def response(self) -> None:
        async with self.stage() as stage:
            for body in (EVERY_BYTE, b"", b"\r\n\r\n"):
                stage.fake.fail_next(body=body, headers={"X-Check": "A value"}, path="*")
                response = await stage.get()
                hold(response.body == body, f"a body of {len(body)} bytes came back as {len(response.body)}")
                hold(response.headers.get("x-check") == "A value", "a header did not come back in lower case")

    async def cookies(self) -> None:
        async with self.stage() as stage:
            stage.fake.fail_next(status=200, headers={"set-cookie": "kept=yes; Path=/"}, path="*")
            await stage.get()
            await stage.get()
            hold("cookie" not in stage.last().headers, "a cookie of the first response was sent with the second")

    async def at_once(self) -> None:
        async with self.stage() as stage:
            for number in range(AT_ONCE):
                stage.fake.fail_next(body=str(number), delay=0.001 * (AT_ONCE - number), path=f"/{number}")
            responses = await asyncio.gather(*(stage.get(f"/{number}") for number in range(AT_ONCE)))
            mixed = [number for number, response in enumerate(responses) if response.body != str(number).encode()]
            hold(not mixed, f"{len(mixed)} of {AT_ONCE} got the response of another")

    async def dropped(self) -> None:
        async with self.stage() as stage:
            for drop in ("request", "response"):
                # Three times, because an HTTP client may repeat a request by itself on a kept connection.
                stage.fake.fail_next(3, drop=drop, path="/dropped", method="POST")
                error = await _failure(
                    stage.transport.send(Request("POST", stage.base + "/dropped", {}, b"x")), ConnectionFailedError
                )
                hold(getattr(error, "sent", True), "sent is False, although the request had been sent")
                stage.fake.reset_log()
            stage.fake.fail_next(body=b"usable", path="*")
            hold(
                (await stage.get()).body == b"usable",
                "the request after a dropped connection got a wrong response",
            )

    async def cancelled(self) -> None:
        async with self.stage() as stage:
            await stage.get()
            before = asyncio.all_tasks()
            stage.fake.fail_next(delay=60.0, status=200, path="/slow")
            task = asyncio.create_task(_send(stage, "/slow"))
            await stage.until_seen("/slow")
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=1.0)
            hold(bool(done), "a cancelled send did not end within 1 s")
            hold(task.cancelled(), "a cancelled send did not raise CancelledError")
            stage.fake.fail_next(body=b"usable", path="*")
            hold((await stage.get()).body == b"usable", "the request after a cancelled send got a wrong response")
            left = {task for task in asyncio.all_tasks() - before if _of_transport(task)}
            hold(not left, f"the transport left {len(left)} tasks running")

    async def closed_twice(self) -> None:
        async with self.stage() as stage:
            await stage.get()
            await stage.transport.aclose()
            await stage.transport.aclose()

    async def closed(self) -> None:
        async with self.stage() as stage:
            await stage.get()
            await stage.transport.aclose()
            before = len(stage.seen())
            await _failure(stage.get(), ConnectionFailedError)
            hold(len(stage.seen()) == before, "the request was sent after aclose()")

    async def refused(self) -> None:
        async with self.stage() as stage:
            server = await asyncio.start_server(_say(b""), "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            server.close()
            await server.wait_closed()
            error = await _failure(
                stage.transport.send(Request("POST", f"http://127.0.0.1:{port}/", {}, b"x")), ConnectionFailedError
            )
            hold(getattr(error, "sent", True) is False, "sent is not False, although nothing can have been sent")

    async def broken(self, response: bytes) -> None:
        kind = ConnectionFailedError if response is HALF_A_BODY else TransportError
        async with self.stage() as stage, _saying(response) as base:
            await _failure(stage.transport.send(Request("GET", base)), kind)

    async def compressed(self) -> None:
        async with self.stage() as stage:
            packed = gzip.compress(EVERY_BYTE)
            stage.fake.fail_next(body=packed, headers={"content-encoding": "gzip"}, path="*")
            hold((await stage.get()).body == EVERY_BYTE, "a gzip body did not come back as what was packed")

    async def joined(self) -> None:
        async with self.stage() as stage, _saying(TWICE) as base:
            got = (await stage.transport.send(Request("GET", base))).headers.get("x-twice")
            hold(got == "one, two", f"'one' and 'two' came back as {got!r}")

    async def impatient(self) -> None:
        async with self.stage(self._make_impatient) as stage:
            stage.fake.fail_next(3, delay=60.0, path="*")
            await _failure(stage.get(), RequestTimeoutError)


async def _failure(sending: Awaitable[Response], kind: type[TransportError]) -> TransportError:
    """Return the error of a send. Fails if it ends in another way."""
    try:
        response = await sending
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"it raised {type(error).__name__}, not {kind.__name__}: {error}") from error
    raise AssertionError(f"it returned a response of status {response.status}, not a {kind.__name__}")


async def _send(stage: _Stage, path: str) -> Response:
    return await stage.get(path)


def _of_transport(task: asyncio.Task[Any]) -> bool:
    """Return whether a task may belong to the transport, and not to the test server."""
    code = getattr(task.get_coro(), "__qualname__", "")
    return not code.startswith(("RequestHandler.", "_dispatch", "StreamReaderProtocol."))


@asynccontextmanager
async def _at_vendor() -> AsyncGenerator[str]:
    yield ORIGIN


def _say(response: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()

    return say


@asynccontextmanager
async def _saying(response: bytes) -> AsyncGenerator[str]:
    """Run a server that sends the same bytes on each connection, and closes it."""
    server = await asyncio.start_server(_say(response), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await server.wait_closed()
