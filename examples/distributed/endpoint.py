"""A service with a webhook endpoint on port 8080, which counts the messages that it handles."""

from __future__ import annotations

import os

from aiohttp import web

from basiq_async.receiver import Delivery, WebhookReceiver

receiver = WebhookReceiver(os.environ["BASIQ_WEBHOOK_SECRET"])
handled: set[str] = set()


@receiver.on("*")
async def handle(delivery: Delivery) -> None:
    """Handle a delivery: put your own work here."""
    handled.add(delivery.id)


async def count(request: web.Request) -> web.Response:
    """Print the number of different messages so far."""
    return web.json_response({"handled": len(handled)})


app = web.Application()
app.router.add_post("/basiq", receiver.aiohttp_handler)
app.router.add_get("/count", count)

if __name__ == "__main__":
    web.run_app(app, port=int(os.environ.get("PORT", "8080")))
