"""Servers in the test's process: an endpoint for deliveries; in a thread, the fake and any other handler."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TypeVar

from aiohttp import web
from anyio.from_thread import start_blocking_portal
from yarl import URL

from basiq_async.testing import FakeBasiq, serve

from .real_time import PATIENCE

T = TypeVar("T")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Answer], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(
    handler: Answer, *, lingering_time: float = 0.05, middlewares: Sequence[Middleware] = ()
) -> AsyncIterator[str]:
    """Serve a handler for a POST to any path, and yield its URL.

    lingering_time: after an early response aiohttp goes on reading for a while, 10 s by default.
    """
    app = web.Application(middlewares=middlewares)
    app.router.add_post("/{path}", handler)
    runner = web.AppRunner(app, access_log=None, lingering_time=lingering_time)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


async def first_line(url: str, head: str | bytes) -> bytes:
    """Send bytes over a connection of its own, and return the first line of what comes back.

    In them, ``{host}`` and ``{path}`` are those of the URL.
    """
    where = URL(url)
    head = head if isinstance(head, bytes) else head.encode()
    reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        writer.write(head.replace(b"{host}", where.authority.encode()).replace(b"{path}", where.path.encode()))
        async with asyncio.timeout(PATIENCE):
            return await reader.readline()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class InThread:
    """A thread whose event loop is inside a context, whose ``value`` is there, until the end of the block."""

    def __init__(self, context: AbstractAsyncContextManager[Any]) -> None:
        self.value: Any = None
        self._context = context
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._portal = self._stack.enter_context(start_blocking_portal())
        self.value = self._stack.enter_context(self._portal.wrap_async_context_manager(self._context))
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something in the thread's loop."""
        return self._portal.start_task_soon(lambda: work)

    def run(self, work: Coroutine[Any, Any, T], *, seconds: float = PATIENCE) -> T:
        """The same, to its end."""
        return self.begin(work).result(seconds)


class Served(InThread):
    """A fake that a thread serves over HTTP. Use it as a context manager; ``options`` are those of ``serve``."""

    def __init__(self, fake: FakeBasiq | None = None, **options: Any) -> None:
        self.fake = fake or FakeBasiq()
        super().__init__(serve(self.fake, **options))

    @property
    def url(self) -> str:
        return str(self.value)

    @property
    def environment(self) -> dict[str, str]:
        """What leads a program here."""
        return {"BASIQ_API_KEY": self.fake.api_key, "BASIQ_BASE_URL": self.url}


@contextmanager
def served(fake: FakeBasiq, **options: Any) -> Iterator[str]:
    """Serve a fake over HTTP in a thread, and yield its URL."""
    with Served(fake, **options) as running:
        yield running.url


class Handler(BaseHTTPRequestHandler):
    """A handler of a server in a thread, which logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole response."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve a handler in a thread, and yield the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
