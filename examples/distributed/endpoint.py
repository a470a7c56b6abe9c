"""The service that receives: any service with a webhook endpoint. Responds on port 8080, and counts."""

from __future__ import annotations

import os

from aiohttp import web

from basiq_async.receiver import Delivery, WebhookReceiver

receiver = WebhookReceiver(os.environ["BASIQ_WEBHOOK_SECRET"])
handled: set[str] = set()


@receiver.on("*")
async def handle(delivery: Delivery) -> None:
    """Where your own work would be."""
    handled.add(delivery.id)


async def count(request: web.Request) -> web.Response:
    """Say how many different messages were handled."""
    return web.json_response({"handled": len(handled)})


app = web.Application()
app.router.add_post("/basiq", receiver.aiohttp_handler)
app.router.add_get("/count", count)

if __name__ == "__main__":
    web.run_app(app, port=int(os.environ.get("PORT", "8080")))
