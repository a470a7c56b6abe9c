"""A server process for the benchmarks of receivers. It prints its port, which is a free one."""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import logging
import signal
import sys
import time

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from basiq_async.receiver import Delivery, DeliveryEvent, MemoryInbox, SQLiteInbox, WebhookReceiver

WORK = 0.002
BUSY = "--busy" in sys.argv
verifier: Webhook


async def work(what: object) -> None:
    """Handle a delivery, in all servers alike: wait 2 ms, as for a database, or compute for 2 ms with ``--busy``."""
    if not BUSY:
        await asyncio.sleep(WORK)
        return
    until = time.thread_time() + WORK
    while time.thread_time() < until:
        pass


async def bare(request: web.Request) -> web.Response:
    await work(json.loads(await request.read()))
    return web.Response(status=204)


async def verifying(request: web.Request) -> web.Response:
    """Receive by hand: check the signature, and remember no deliveries."""
    body = await request.read()
    try:
        verifier.verify(body, dict(request.headers), json_parse=False)
    except WebhookVerificationError:
        return web.Response(status=401)
    await work(json.loads(body))
    return web.Response(status=204)


def receiving(app: web.Application, secret: str) -> None:
    receiver = WebhookReceiver(secret)
    receiver.on("*")(work)
    app.router.add_post("/basiq", receiver.aiohttp_handler)


def counting(app: web.Application, secret: str, inbox: str | None, entries: int) -> None:
    counts: collections.Counter[str] = collections.Counter()

    def told(event: DeliveryEvent) -> None:
        counts[event.result] += 1

    remembered = MemoryInbox(max_entries=entries) if inbox is None else SQLiteInbox(inbox)
    receiver = WebhookReceiver(secret, webhook_id="w-1", inbox=remembered, on_delivery=told)

    @receiver.on("user.broken")
    async def broken(delivery: Delivery) -> None:
        await work(delivery)
        raise RuntimeError("as asked")

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        await work(delivery)
        counts["handler ran"] += 1

    async def count(request: web.Request) -> web.Response:
        return web.json_response(counts)

    app.router.add_post("/basiq", receiver.aiohttp_handler)
    app.router.add_get("/counts", count)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["bare", "verifying", "receiver", "counting"])
    parser.add_argument("--secret", default="")
    parser.add_argument("--inbox")
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # refused and failed deliveries would log thousands of lines
    app = web.Application()
    if options.kind == "bare":
        app.router.add_post("/basiq", bare)
    elif options.kind == "verifying":
        global verifier
        verifier = Webhook(options.secret)
        app.router.add_post("/basiq", verifying)
    elif options.kind == "receiver":
        receiving(app, options.secret)
    else:
        counting(app, options.secret, options.inbox, options.entries)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


asyncio.run(main())
