"""Network faults for tests: a server that sends exactly the scripted bytes, and a relay."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs

KEY = "S3CRET-key-c2FuZGJveDpvbmx5LWZvci10ZXN0cw=="
TOKEN = "S3CRET-token-eyJhbGciOiJub25lIn0.e30"
SIGNING = "whsec_S3CRETsigningkeyMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MARK = "S3CRET"


@attrs.frozen
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Conn:
    """One connection, which a step of a script is called with."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.over = False

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def hang(self) -> None:
        """Send nothing more, and wait until the client closes the connection."""
        while await self.reader.read(65536):
            pass
        self.over = True

    async def close(self) -> None:
        self.over = True

    async def reset(self) -> None:
        """Close the connection with a RST instead of a FIN, when what was sent has arrived."""
        await asyncio.sleep(0.01)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        self.over = True


Step = bytes | Callable[[Conn], Awaitable[None]]


def http(
    status: int = 200, body: bytes | str = b"", *headers: str, reason: str = "Whatever", length: bool = True
) -> bytes:
    """Return the bytes of a whole response. ``length`` adds Content-Length."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} {reason}", *headers]
    if length and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def ok(value: Any, *headers: str, status: int = 200) -> bytes:
    return http(status, json.dumps(value), "Content-Type: application/json", *headers)


def token(text: str = TOKEN, expires_in: Any = 3600) -> bytes:
    return ok({"access_token": text, "expires_in": expires_in, "token_type": "Bearer"})


def page_body(items: Iterable[Any], next_link: Any = None) -> dict[str, Any]:
    data = list(items)
    links = {"self": "https://au-api.basiq.io/x", **({} if next_link is None else {"next": next_link})}
    return {"type": "list", "size": len(data), "count": len(data), "data": data, "links": links}


def page(items: Iterable[Any], next_link: Any = None) -> bytes:
    return ok(page_body(items, next_link))


def error_body(code: str = "some-code", detail: str = "A detail.") -> dict[str, Any]:
    entry = {"type": "error", "code": code, "title": "A title", "detail": detail}
    return {"type": "list", "correlationId": "corr-1", "data": [entry]}


def error(status: int, code: str = "some-code", *headers: str, detail: str = "A detail.") -> bytes:
    return ok(error_body(code, detail), *headers, status=status)


def _ending(end: Callable[[Conn], Awaitable[None]], *parts: bytes) -> Callable[[Conn], Awaitable[None]]:
    async def step(conn: Conn) -> None:
        await conn.say(*parts)
        await end(conn)

    return step


closing = partial(_ending, Conn.close)
"""Return a step that sends these bytes, and closes the connection."""
resetting = partial(_ending, Conn.reset)
"""Return a step that sends these bytes, and resets the connection."""
hanging = partial(_ending, Conn.hang)
"""Return a step that sends these bytes, and then waits until the client closes the connection."""


def trickling(data: bytes, endless: bytes = b"", every: float = 0.01) -> Callable[[Conn], Awaitable[None]]:
    """Return a step that sends ``data`` byte by byte, and then repeats ``endless`` for ever."""

    async def step(conn: Conn) -> None:
        for index in range(len(data)):
            await conn.say(data[index : index + 1])
            await asyncio.sleep(0)
        while endless and not conn.writer.is_closing():
            await conn.say(endless)
            await asyncio.sleep(every)

    return step


WEBHOOK = {"id": "w1", "url": "https://example.com/hook", "status": "active", "subscribedEvents": ["user.created"]}
MESSAGE = {
    "id": "m1",
    "payload": {"eventTypeId": "user.created", "eventId": "e1", "links": {"event": "/events/e1"}},
    "attempts": [{"id": "a1", "timestamp": "2024-05-01T12:00:00Z", "status": "Success", "responseStatusCode": "200"}],
    "links": {"self": "/x"},
}


class Wire:
    """A server that answers each request with the next step of ``script``, and repeats the last one.

    Requests for /token get the steps of ``tokens`` in the same way.
    """

    def __init__(self, *script: Step, tokens: Iterable[Step] = (), tls: ssl.SSLContext | None = None) -> None:
        self.script = list(script) or [ok(WEBHOOK)]
        self.tokens = list(tokens) or [token()]
        self.requests: list[Received] = []
        self.token_requests: list[Received] = []
        self.connections = 0
        self.open: set[Conn] = set()
        self._tls = tls
        self._stack = AsyncExitStack()
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Wire:
        self.port = await self._stack.enter_async_context(listening(self._accept, tls=self._tls))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def quiet(self, within: float = 1.0) -> None:
        """Wait until the client has closed every connection."""
        try:
            async with asyncio.timeout(within):
                while self.open:
                    await asyncio.sleep(0.001)
        except TimeoutError:
            raise AssertionError(f"{len(self.open)} connections are still open") from None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        conn = Conn(reader, writer)
        self.open.add(conn)
        try:
            while not conn.over:
                await self._serve(conn)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort() if self._tls else writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self.open.discard(conn)

    async def _serve(self, conn: Conn) -> None:
        head = (await conn.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.rstrip().split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in rest)}
        body = await conn.reader.readexactly(int(headers.get("content-length", "0")))
        received = Received(method, target, headers, body)
        if target.endswith("/token"):
            self.token_requests.append(received)
            script = self.tokens
        else:
            self.requests.append(received)
            script = self.script
        step = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(step, bytes):
            await conn.say(step)
        else:
            await step(conn)


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve connections, and yield the port. At the end they are closed."""
    tasks: set[asyncio.Task[object]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            pass  # at the end, where this task is awaited: asyncio would report a cancelled one
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Carry data between a connection and a server on this machine, until both are closed."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.gather(carry(reader, there_writer), carry(there_reader, writer))
    finally:
        there_writer.close()
