"""An HTTP proxy for tests: it keeps what it is asked for, and leads every tunnel to one server of the test."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from tests.support.wire import listening, relay


@attrs.define
class Proxy:
    """What a proxy was asked for, and how it responds. ``login`` is the ``user:password`` that it wants."""

    url: str
    target: int
    """The port on this machine that every tunnel leads to."""
    login: str | None = None
    refuses: str | None = None
    """The status line of its refusal, such as ``403 Forbidden``."""
    asked: list[str] = attrs.field(factory=list[str])
    """The request lines."""

    def _status(self, head: list[str]) -> str:
        if self.refuses is not None:
            return self.refuses
        if self.login is not None:
            expected = f"proxy-authorization: basic {base64.b64encode(self.login.encode()).decode()}"
            if expected.lower() not in [line.lower() for line in head]:
                return "407 Proxy Authentication Required"
        return "200 Connection established"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.asked.append(head[0])
        status = self._status(head)
        if not status.startswith("200"):
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        elif head[0].startswith("CONNECT "):
            writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
            await relay(reader, writer, self.target)
        else:
            body = b'{"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@asynccontextmanager
async def a_proxy(target: int = 1, *, login: str | None = None, refuses: str | None = None) -> AsyncIterator[Proxy]:
    """Serve a proxy. At the end, the connections through it are closed."""
    proxy = Proxy("", target, login, refuses)
    async with listening(proxy.serve) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy
