"""Serve a fake over HTTP: the API, the control API, and deliveries when they are due."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import format_datetime
from functools import partial

import aiohttp
import attrs
from aiohttp import web

from ..._web.access import IN_PATH, ControlError, Guard
from ..._web.serving import listening, make_app, read_body
from ..._work.limits import wait_for_event
from ..._work.tasks import run_to_completion, wait_uncancelled
from ...errors import ConfigurationError
from ...transports.base import Request
from ..fake._clock import ManualClock, SystemClock
from ..fake._deliveries import Deliveries, Outlet
from ..fake._endpoints import Endpoint, over_http
from ..fake._fake import FakeBasiq
from ..fake._timeline import PlannedAttempt
from ._operation import Control
from ._routes import routes
from .control_api import ROOT

logger = logging.getLogger("basiq_async.testing")
_LOOK_EVERY = 0.05
"""Seconds between two looks at a clock of the user's."""
NO_PAGE = """The control API is described at /_fake/openapi.json.

To see the page of the mock here, install its libraries: pip install '/path/to/the/clone[ui]'
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
) -> AsyncGenerator[str]:
    """Serve a fake, and the states that are added to it, over HTTP. Yields the base URL.

    port: the port; 0 for any free one.
    prefix: the path under which the API is mounted, such as ``/basiq``.
    deliver_anywhere: deliver to endpoints on any machine. By default, only to endpoints on this machine.
    deliver_to: deliver only to these hosts, each ``host`` or ``host:port``.
    allowed_hosts: more names to accept in the Host header, in addition to ``host`` and the names of loopback.
    control_token: the token that pages, and callers on other machines, need for the control API below ``/_fake/``; by
        default a random one.

    While the server runs, it makes each delivery when it is due by the fake's clock. Links in deliveries lead to this
    server. Requests with an Origin of another site are refused.
    """
    guard = attrs.evolve(
        Guard.make(host, allowed_hosts, control_token), unguarded=(f"{ROOT}/health", f"{ROOT}/challenge")
    )
    if deliver_to is not None and deliver_anywhere:
        raise ConfigurationError("pass deliver_to or deliver_anywhere, not both")
    control = Control(fake, "", fake)

    async def respond(request: web.Request) -> web.StreamResponse:
        return await _handle(fake, request, prefix)

    app = make_app(guard, respond)
    app.add_routes(routes(control))
    _add_page(app, control)
    async with AsyncExitStack() as stack:
        options = {"handler_cancellation": True, "lingering_time": 1.0, "auto_decompress": False}
        address = await stack.enter_async_context(listening(app, host, port, **options))
        control.base_url = f"{address}{prefix}"
        session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None), trust_env=False
        )
        stack.push_async_callback(lambda: run_to_completion(session.close))
        endpoint = over_http(session, anywhere=deliver_anywhere, to=deliver_to)
        await stack.enter_async_context(dispatching(fake, endpoint, control.base_url))
        yield control.base_url


def _add_page(app: web.Application, control: Control) -> None:
    """Add the page if its libraries are installed, or else a text about how to install them."""
    try:
        from ._page import add_page
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("aiohttp_jinja2", "aiohttp_sse", "jinja2"):
            raise

        async def explain(request: web.Request) -> web.Response:
            return web.Response(text=NO_PAGE)

        app.add_routes([web.get(f"{ROOT}{IN_PATH}", explain), web.get(f"{ROOT}{IN_PATH}/", explain)])
    else:
        add_page(app, control)


async def _handle(fake: FakeBasiq, request: web.Request, prefix: str) -> web.StreamResponse:
    """Respond to a request for Basiq's API."""
    try:
        body = await read_body(request)
    except ControlError as error:
        if error.status != 413:
            raise
        body = b""  # the body is too large: pass an empty one, which the fake refuses
    path = request.raw_path
    if not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
    url = f"{request.scheme}://{request.headers['Host']}{path}"
    began = time.perf_counter()
    state = fake._find_state(headers.get("authorization", ""))
    exchange = state._exchange(Request(request.method, url, headers, body), prefix=prefix)
    if exchange.delay:
        await asyncio.sleep(exchange.delay)
    exchange.record.duration = time.perf_counter() - began
    if exchange.response is None:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError
    response = exchange.response
    # The date is that of the fake's clock, which may be ahead of the machine's: the client compares dates with it.
    dated = {"Date": format_datetime(state.now(), usegmt=True), **response.headers}
    return web.Response(status=response.status, headers=dated, body=response.body)


@asynccontextmanager
async def dispatching(fake: FakeBasiq, endpoint: Endpoint, base_url: str) -> AsyncGenerator[None]:
    """Make the deliveries of a fake and its states when they are due. Without a route, they go to ``endpoint``.

    Attempts that are under way at the end are given back: the next server, or ``advance``, makes them again. Raises
    the first ``ConfigurationError`` of a route to an invalid receiver.
    """
    news = asyncio.Event()
    outlet = Outlet(endpoint, base_url, news.set)
    wrong: list[ConfigurationError] = []
    fake._deliveries.open(outlet)
    task = asyncio.create_task(_dispatch(fake, outlet, news, wrong), name="basiq-async fake deliveries")
    try:
        yield
    finally:
        outlet.closed = True
        fake._deliveries.close(outlet)
        task.cancel()
        cancelled = await wait_uncancelled(task)
        if not task.cancelled():
            task.result()
        if cancelled is not None:
            raise cancelled
    if wrong:
        raise wrong[0]


async def _dispatch(fake: FakeBasiq, outlet: Outlet, news: asyncio.Event, wrong: list[ConfigurationError]) -> None:
    async def attempt(deliveries: Deliveries, planned: PlannedAttempt) -> None:
        try:
            await deliveries.attempt(planned, outlet)
        except ConfigurationError as error:
            logger.error("the receiver of %s is not valid: %s", planned.webhook.url, error)
            wrong.append(error)

    async with asyncio.TaskGroup() as group:
        while True:
            news.clear()
            served = (fake, *fake.states.values())
            for deliveries in [each._deliveries for each in served]:
                while _is_free(deliveries) and (planned := deliveries.timeline.take_due()) is not None:
                    task = group.create_task(attempt(deliveries, planned))
                    # Also if the task was cancelled before it began:
                    task.add_done_callback(partial(_end, deliveries, planned.begun))
            waits = [seconds for each in served if (seconds := _wait(each)) is not None]
            await wait_for_event(news, min(waits, default=None))


def _end(deliveries: Deliveries, begun: int, _: asyncio.Task[None]) -> None:
    deliveries.timeline.end(begun)


def _is_free(deliveries: Deliveries) -> bool:
    """Return whether the server may make one more attempt. While a task moves the clock, that task makes them."""
    return not deliveries.timeline.is_moving and len(deliveries.timeline.under_way) < deliveries.at_once


def _wait(fake: FakeBasiq) -> float | None:
    """Return the seconds until the next delivery is due; None if only a change can make one due."""
    due, clock = fake.next_due, fake.clock
    if due is None or not _is_free(fake._deliveries) or isinstance(clock, ManualClock):
        return None
    seconds = max((due - clock()).total_seconds(), 0.0)
    # A clock of the user's may run at any speed.
    return seconds / clock.speed if isinstance(clock, SystemClock) else min(seconds, _LOOK_EVERY)
