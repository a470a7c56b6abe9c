"""A server process of aiohttp for the benchmarks of receivers. It prints its port, which is a free one."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable

from aiohttp import web
from orjson import loads
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
        await wait(loads(body))
        return web.Response(status=204)

    return handle


def by_careful_hand(secret: str) -> Handler:
    """Handle each event once, at most 1,000 at a time, each for at most 30 s; refuse one that is being handled."""
    verifier = Webhook(secret)
    handled: dict[str, None] = {}
    under_way: set[str] = set()

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            verifier.verify(body, dict(request.headers), json_parse=False)
        except WebhookVerificationError:
            return web.Response(status=401)
        event = loads(body)
        key = f"{event['eventTypeId']} {event['eventId']}"
        if key in handled:
            return web.Response(status=200)
        if key in under_way or len(under_way) >= 1_000:
            return web.Response(status=503, headers={"Retry-After": "1"})
        under_way.add(key)
        try:
            async with asyncio.timeout(30):
                await wait(event)
        except TimeoutError:
            return web.Response(status=503, headers={"Retry-After": "1"})
        except Exception:
            logging.exception("%s failed", key)
            return web.Response(status=500)
        finally:
            under_way.discard(key)
        handled[key] = None
        if len(handled) > 100_000:
            del handled[next(iter(handled))]
        return web.Response(status=204)

    return handle


def with_receiver(secret: str) -> Handler:
    receiver = WebhookReceiver(secret)
    receiver.on("*")(wait)
    return receiver.aiohttp_handler


KINDS = {"verifying": by_hand, "careful": by_careful_hand, "receiver": with_receiver}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--secret", default="")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # refused deliveries would log thousands of lines
    app = web.Application()
    app.router.add_post("/basiq", KINDS[options.kind](options.secret))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


asyncio.run(main())
