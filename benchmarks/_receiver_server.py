"""A server process of aiohttp for the benchmarks of receivers. It prints its port, which is a free one."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
from collections.abc import Awaitable, Callable

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from basiq_async.receiver import WebhookReceiver

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def wait(what: object) -> None:
    """Wait 2 ms, as for a database: the handler of both servers."""
    await asyncio.sleep(0.002)


def by_hand(secret: str) -> Handler:
    """Check the signature, and remember no deliveries."""
    verifier = Webhook(secret)

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            verifier.verify(body, dict(request.headers), json_parse=False)
        except WebhookVerificationError:
            return web.Response(status=401)
        await wait(json.loads(body))
        return web.Response(status=204)

    return handle


def with_receiver(secret: str) -> Handler:
    receiver = WebhookReceiver(secret)
    receiver.on("*")(wait)
    return receiver.aiohttp_handler


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["verifying", "receiver"])
    parser.add_argument("--secret", default="")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # refused deliveries would log thousands of lines
    app = web.Application()
    app.router.add_post("/basiq", (by_hand if options.kind == "verifying" else with_receiver)(options.secret))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


asyncio.run(main())
