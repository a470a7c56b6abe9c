"""The fake over real HTTP: it responds, it delivers as deliveries fall due, and a control API drives it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC
from email.utils import format_datetime
from functools import partial

import aiohttp
import attrs
from aiohttp import web

from ..._concurrency.tasks import run_to_completion, wait_uncancelled
from ..._web.guard import ControlError, Guard
from ..._web.serving import listening, make_app, read_body
from ...errors import ConfigurationError
from ...transports.base import Request
from ..fake._clock import ManualClock, SystemClock
from ..fake._deliveries import Deliveries, Outlet, PlannedAttempt
from ..fake._endpoints import Endpoint, over_http
from ..fake._fake import FakeBasiq
from ._control import ROOT, routes
from ._operation import Control
from .state_file import keeping_state

logger = logging.getLogger("basiq_async.testing")
AT_ONCE = 32
POLL = 1.0
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
    async with AsyncExitStack() as stack:
        if state_file is not None:
            await stack.enter_async_context(keeping_state(fake, state_file))
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
        body = await read_body(request)
    except ControlError as error:
        if error.status != 413:
            raise
        body = b""  # it is too large: the fake gets one that is not JSON
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


@asynccontextmanager
async def dispatching(fake: FakeBasiq, endpoint: Endpoint, base_url: str) -> AsyncGenerator[None]:
    """Make the deliveries of a fake and its states as they fall due, those without a route through ``endpoint``.

    Attempts that are under way at the end are given back: the next server, or ``advance``, makes them again. Raises
    the first ConfigurationError of a route that leads to no valid receiver.
    """
    dispatchers = _Dispatchers(endpoint, base_url)
    for each in (fake, *fake.states.values()):
        dispatchers.start(each)
    stop = fake.watch_states(dispatchers.start, dispatchers.stop)
    try:
        yield
    finally:
        stop()
        await dispatchers.aclose()
    if dispatchers.wrong:
        raise dispatchers.wrong[0]


class _Dispatchers:
    """The tasks that deliver, one for each state."""

    def __init__(self, endpoint: Endpoint, base_url: str) -> None:
        self._endpoint = endpoint
        self._base_url = base_url
        self._running: dict[FakeBasiq, tuple[Outlet, asyncio.Task[None]]] = {}
        self._ending: list[asyncio.Task[None]] = []
        self.wrong: list[ConfigurationError] = []

    def start(self, fake: FakeBasiq) -> None:
        news = asyncio.Event()
        outlet = Outlet(self._endpoint, self._base_url, news.set)
        fake._deliveries.open(outlet)
        work = _dispatch(fake, outlet, news, self.wrong)
        self._running[fake] = (outlet, asyncio.create_task(work, name="basiq-async fake deliveries"))

    def stop(self, fake: FakeBasiq) -> None:
        outlet, task = self._running.pop(fake)
        fake._deliveries.close(outlet)
        task.cancel()
        self._ending = [each for each in self._ending if not (each.done() and each.cancelled())] + [task]

    async def aclose(self) -> None:
        """Cancel the tasks and wait for their end, however often this is cancelled meanwhile."""
        for fake in tuple(self._running):
            self.stop(fake)
        cancelled: asyncio.CancelledError | None = None
        failures: list[BaseException] = []
        for task in self._ending:
            cancelled = await wait_uncancelled(task) or cancelled
            if not task.cancelled() and (failure := task.exception()) is not None:
                failures.append(failure)
        if cancelled is not None:
            raise cancelled
        if failures:
            raise failures[0]


async def _dispatch(fake: FakeBasiq, outlet: Outlet, news: asyncio.Event, wrong: list[ConfigurationError]) -> None:
    deliveries = fake._deliveries
    free = asyncio.Semaphore(AT_ONCE)

    async def attempt(planned: PlannedAttempt) -> None:
        try:
            await deliveries.attempt(planned, outlet)
        except ConfigurationError as error:
            logger.error("the receiver of %s is not valid: %s", planned.webhook.url, error)
            wrong.append(error)

    def end(planned: PlannedAttempt, _: asyncio.Task[None]) -> None:
        free.release()
        deliveries.end(planned)  # also of a task that was cancelled before it began

    async with asyncio.TaskGroup() as group:
        while True:
            news.clear()
            while deliveries.is_due():
                await free.acquire()
                # Another may have taken it while this waited.
                planned = deliveries.take_due() if deliveries.is_due() else None
                if planned is None:
                    free.release()
                    break
                group.create_task(attempt(planned)).add_done_callback(partial(end, planned))
            try:
                async with asyncio.timeout(_wait(deliveries, fake)):
                    await news.wait()
            except TimeoutError:
                pass


def _wait(deliveries: Deliveries, fake: FakeBasiq) -> float | None:
    """Seconds until the next delivery is due; None if only a change can make one due."""
    due, clock = deliveries.next_due(), fake.clock
    if due is None or deliveries.is_advancing or isinstance(clock, ManualClock):
        return None
    if isinstance(clock, SystemClock):
        return max((due - clock()).total_seconds() / clock.speed, 0.0)
    return POLL  # a clock of the caller's, which may go at any pace
