"""The fake over real HTTP, delivering over real HTTP, with a control API."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC
from email.utils import format_datetime

import aiohttp
import attrs
from aiohttp import web

from ..._concurrency.tasks import run_to_completion
from ..._web.bodies import BODIES, BodyError
from ..._web.guard import ControlError, Guard
from ..._web.responses import make_app
from ...errors import ConfigurationError
from ...transports.base import Request
from .._dispatch import dispatching
from ..fake._endpoints import over_http
from ..fake._fake import FakeBasiq
from ._control import routes
from ._openapi import ROOT
from ._operation import Control
from .state_file import keeping_state

NO_PAGE = """The control API is described at /_fake/openapi.json.

There is a page to look at, too: pip install 'basiq-async[ui]'
"""


@asynccontextmanager
async def serve(
    fake: FakeBasiq,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    prefix: str = "",
    deliver_anywhere: bool = False,
    deliver_to: Iterable[str] | None = None,
    allowed_hosts: Iterable[str] = (),
    control_token: str | None = None,
    state_file: str | os.PathLike[str] | None = None,
) -> AsyncGenerator[str]:
    """Serve a fake, and the states that are added to it, over HTTP. Yields its base URL.

    port: 0 means any free one.
    prefix: the path to mount the API under, such as ``/basiq``.
    deliver_anywhere: also deliver to endpoints outside this machine.
    deliver_to: deliver to these hosts alone, each ``host`` or ``host:port``; by default to this machine.
    allowed_hosts: further names that the Host header may have. Those of loopback and ``host`` are allowed.
    control_token: what pages, and callers that are not on this machine, need for the control API below
        ``/_fake/``; by default one that nobody can guess.
    state_file: restore the fake's state from this file where it exists, and keep it there.

    While it runs, deliveries are made as they fall due: on a ManualClock those that are due now, on a SystemClock
    as time goes by. Links in them lead to this server. Requests with an Origin of another site are refused.
    """
    guard = attrs.evolve(Guard.make(host, allowed_hosts, control_token), health=f"{ROOT}/health")
    if deliver_to is not None and deliver_anywhere:
        raise ConfigurationError("deliver_to and deliver_anywhere exclude each other")
    control = Control(fake, "")

    async def respond(request: web.Request) -> web.StreamResponse:
        return await _handle(fake, request, prefix)

    app = make_app(guard, respond)
    app.add_routes(routes(control))
    _add_page(app, control, guard)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5, lingering_time=1.0, auto_decompress=False
    )
    async with AsyncExitStack() as stack:
        if state_file is not None:
            await stack.enter_async_context(keeping_state(fake, state_file))
        stack.push_async_callback(lambda: run_to_completion(runner.cleanup))
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        control.base_url = f"http://{shown}:{address[1]}{prefix}"
        session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None), trust_env=False
        )
        stack.push_async_callback(lambda: run_to_completion(session.close))
        endpoint = over_http(session, anywhere=deliver_anywhere, to=deliver_to)
        await stack.enter_async_context(dispatching(fake, endpoint, control.base_url))
        yield control.base_url


def _add_page(app: web.Application, control: Control, guard: Guard) -> None:
    """Add the page where its libraries are installed, and otherwise a line that says how to get it."""
    try:
        from ._page import add_page
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("aiohttp_jinja2", "aiohttp_sse", "jinja2"):
            raise

        async def hint(request: web.Request) -> web.Response:
            return web.Response(text=NO_PAGE)

        app.add_routes([web.get(ROOT, hint), web.get(f"{ROOT}/", hint)])
    else:
        add_page(app, control, guard.token)


async def _handle(fake: FakeBasiq, request: web.Request, prefix: str) -> web.StreamResponse:
    """Respond as Basiq does."""
    try:
        body = await request.app[BODIES].read(request)
    except BodyError as error:
        if error.status != 413:
            raise ControlError(error.status, "body-not-read", str(error)) from error
        body = b""  # of one that is too large only so much that it is not the JSON that it was
    path = request.raw_path
    if not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    headers = {name: ", ".join(request.headers.getall(name)) for name in request.headers}
    url = f"{request.scheme}://{request.headers['Host']}{path}"
    began = time.perf_counter()
    state = fake.find_state(headers.get("Authorization", "")) or fake
    exchange = state.exchange(Request(request.method, url, headers, body), prefix=prefix)
    if exchange.delay:
        await asyncio.sleep(exchange.delay)
    exchange.record.duration = time.perf_counter() - began
    if exchange.response is None:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError
    response = exchange.response
    # By its own clock, which may be ahead of the machine's: a client counts days by it.
    dated = {"Date": format_datetime(state.clock().astimezone(UTC), usegmt=True), **response.headers}
    return web.Response(status=response.status, headers=dated, body=response.body)
