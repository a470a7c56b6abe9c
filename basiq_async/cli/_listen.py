"""``basiq-async listen`` and ``basiq-async trigger``."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Annotated

import typer

from ..client import BasiqClient
from ..errors import ConfigurationError
from ..receiver import Delivery, DeliveryEvent, WebhookReceiver
from ._run import guarded, run
from ._signing import SecretOption


def listen(
    secret: SecretOption,
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8080,
    host: Annotated[str, typer.Option(help="0.0.0.0 to be reached from outside.")] = "127.0.0.1",
    path: Annotated[str, typer.Option(help="Where deliveries are posted to.")] = "/basiq",
    count: Annotated[int, typer.Option(help="End after so many deliveries; 0 goes on.")] = 0,
    body: Annotated[bool, typer.Option("--body", help="Show the bodies of genuine deliveries as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
) -> None:
    """Receive deliveries, verify them, and print each one, the refused ones too. Stops on SIGINT and SIGTERM."""

    async def main() -> None:
        if not path.startswith("/"):
            raise ConfigurationError(f"--path must begin with a /, not {path!r}")
        if not 0 <= port <= 65535:
            raise ConfigurationError(f"--port must be from 0 to 65535, not {port}")
        printer = _Printer(as_json=as_json, body=body, count=count)
        async with WebhookReceiver(secret, on_delivery=printer.told) as receiver:
            receiver.on("*")(printer.handle)
            await _serve(receiver, host, port, path, printer.done)

    guarded(main)


def trigger(
    event_type: Annotated[str, typer.Argument(help="Such as user.created.")],
    text: Annotated[str | None, typer.Option(help="A text to send along.", show_default=False)] = None,
    url: Annotated[str | None, typer.Option(help="Send it to this url alone.", show_default=False)] = None,
) -> None:
    """Ask Basiq to send a test message of an event type to your webhooks."""

    async def work(basiq: BasiqClient) -> None:
        if url is not None and text is not None:
            raise ConfigurationError("--text and --url cannot be given together: Basiq takes one or the other")
        if url is None:
            await basiq.messages.send_test(event_type, text=text)
        else:
            await basiq.messages.send_test_to(url, [event_type])

    run(work)
    typer.echo(f"asked for a test message {event_type}")


class _Printer:
    def __init__(self, *, as_json: bool, body: bool, count: int) -> None:
        self.done = asyncio.Event()
        self._as_json = as_json
        self._body = body
        self._left = count
        self._handled: Delivery | None = None

    async def handle(self, delivery: Delivery) -> None:
        self._handled = delivery

    def told(self, event: DeliveryEvent) -> None:
        delivery, self._handled = self._handled, None
        if self._as_json:
            line = {
                "result": event.result,
                "status": event.status,
                "reason": event.reason,
                "delivery_id": event.delivery_id,
                "event_type_id": event.event_type_id,
                "event_id": delivery.event_id if delivery else None,
                "timestamp": delivery.timestamp.isoformat() if delivery else None,
                "links": dict(delivery.links) if delivery else None,
            }
            if self._body:
                line["body"] = dict(delivery.raw) if delivery else None
            typer.echo(json.dumps(line))
        else:
            words = [f"{event.status} {event.result}", event.reason, event.event_type_id, event.delivery_id]
            typer.echo("  ".join(word for word in words if word))
            if self._body and delivery is not None:
                typer.echo(json.dumps(delivery.raw, indent=2))
        self._left -= 1
        if self._left == 0:
            self.done.set()


async def _serve(receiver: WebhookReceiver, host: str, port: int, path: str, done: asyncio.Event) -> None:
    from aiohttp import web

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    app = web.Application()
    app.router.add_post(path, receiver.aiohttp_handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as exc:
            raise ConfigurationError(f"cannot listen on {host} port {port}: {exc.strerror}") from exc
        real = runner.addresses[0][1]
        typer.echo(f"listening on http://{host}:{real}{path}", err=True)
        await done.wait()
    finally:
        await runner.cleanup()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
