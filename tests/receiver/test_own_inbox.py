"""An inbox that belongs to its receiver is closed with it, after the last handler, by each front end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI

from basiq_async import ConfigurationError
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from tests.support.deliveries import SECRET, post


class Closing(MemoryInbox):
    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@asynccontextmanager
async def with_aiohttp(receiver: WebhookReceiver, *, own: bool) -> AsyncGenerator[None]:
    app = web.Application()
    receiver.setup(app, own_inbox=own)
    async with TestServer(app):
        yield


@asynccontextmanager
async def with_fastapi(receiver: WebhookReceiver, *, own: bool) -> AsyncGenerator[None]:
    app = FastAPI()
    app.include_router(receiver.fastapi_router(own_inbox=own))
    async with app.router.lifespan_context(app):
        yield


@asynccontextmanager
async def with_asgi(receiver: WebhookReceiver, *, own: bool) -> AsyncGenerator[None]:
    app = receiver.asgi.with_own_inbox() if own else receiver.asgi
    assert app is receiver.asgi
    events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    sent: asyncio.Queue[object] = asyncio.Queue()
    serving = asyncio.create_task(app({"type": "lifespan"}, events.get, sent.put))  # type: ignore[arg-type]
    events.put_nowait({"type": "lifespan.startup"})
    await sent.get()
    yield
    events.put_nowait({"type": "lifespan.shutdown"})
    await serving


@pytest.mark.parametrize("front", [with_aiohttp, with_fastapi, with_asgi])
@pytest.mark.parametrize("own", [True, False])
async def test_the_inbox_is_closed_after_the_last_handler_where_it_is_the_receivers_own(
    front: Callable[..., AsyncGenerator[None]], own: bool
) -> None:
    closed_meanwhile = []
    inbox = Closing()
    receiver = WebhookReceiver(SECRET, webhook_id="w", inbox=inbox)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        begun.set()
        await go_on.wait()
        closed_meanwhile.append(inbox.closed)

    async with front(receiver, own=own):  # type: ignore[attr-defined]
        delivering = asyncio.create_task(post(receiver))
        await begun.wait()
        asyncio.get_running_loop().call_later(0.01, go_on.set)
    assert (await delivering).status == 204
    assert (closed_meanwhile, inbox.closed) == ([0], int(own))


async def test_an_inbox_that_cannot_be_closed_is_refused_and_the_default_one_needs_no_closing() -> None:
    receiver = WebhookReceiver(SECRET, webhook_id="w", inbox=type("Unclosable", (MemoryInbox,), {})())
    with pytest.raises(ConfigurationError, match="own_inbox needs an inbox with aclose"):
        receiver.setup(web.Application(), own_inbox=True)
    WebhookReceiver(SECRET).setup(web.Application(), own_inbox=True)


@pytest.mark.parametrize("owner", ["the first that ends", "the last that ends", "both"])
async def test_of_receivers_that_share_an_inbox_the_last_one_that_is_open_closes_it(owner: str) -> None:
    inbox = Closing()
    first, last = (WebhookReceiver(SECRET, webhook_id="w", inbox=inbox) for _ in range(2))
    for receiver in (first, last):
        receiver.on("*")(_nothing)
        own = owner == "both" or (receiver is first) == (owner == "the first that ends")
        receiver.setup(web.Application(), own_inbox=own)
    async with last:
        async with first:
            pass
        assert inbox.closed == 0
        assert (await post(last)).status == 204
    assert inbox.closed == 1
    async with WebhookReceiver(SECRET, webhook_id="w", inbox=inbox):
        pass
    assert inbox.closed == 1, "one that owns nothing closes nothing"


async def _nothing(delivery: Delivery) -> None: ...
