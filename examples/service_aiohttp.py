"""A service as it runs in production, with aiohttp: PostgreSQL, several workers, recovery in the background, probes.

    python service_aiohttp.py     # run it once for each worker: they share the port

service_parts.py has the parts of the service, and lists its environment variables.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator

from aiohttp import web
from service_parts import running

from basiq_async.receiver import WebhookReceiver

RECEIVER = web.AppKey("RECEIVER", WebhookReceiver)


async def resources(app: web.Application) -> AsyncGenerator[None]:
    async with running() as receiver:
        app[RECEIVER] = receiver
        yield


async def receive(request: web.Request) -> web.StreamResponse:
    return await request.app[RECEIVER].aiohttp_handler(request)


async def alive(request: web.Request) -> web.Response:
    return web.Response()


async def ready(request: web.Request) -> web.Response:
    return web.Response(status=200 if await request.app[RECEIVER].is_ready() else 503)


def make_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(resources)
    app.add_routes([web.post("/basiq", receive), web.get("/healthz", alive), web.get("/readyz", ready)])
    return app


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(process)d %(name)s: %(message)s")
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")), reuse_port=True)
