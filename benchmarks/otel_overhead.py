"""What do the instruments of OpenTelemetry cost where no SDK is configured?"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from functools import partial

from basiq_async import BasiqClient
from basiq_async.otel import instrument
from basiq_async.receiver import Delivery, WebhookReceiver, sign
from benchmarks import _contestants as by
from benchmarks._harness import Figure, figure, ratios, rounds, server
from benchmarks._server import WEBHOOK

_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_BODY = json.dumps({"eventTypeId": "user.created", "eventId": "e", "links": {}}).encode()


async def _calls(basiq: BasiqClient, times: int) -> None:
    for _ in range(times):
        await basiq.webhooks.get(WEBHOOK)


class _Deliveries:
    """The same genuine delivery again and again, to a handler that does nothing."""

    def __init__(self, *, instrumented: bool) -> None:
        self.receiver = WebhookReceiver(_SECRET)
        if instrumented:
            instrument(self.receiver)

        @self.receiver.on("user.created")
        async def handler(delivery: Delivery) -> None: ...

    async def __call__(self) -> None:
        headers = sign(_SECRET, "m", datetime.now(UTC), _BODY)
        for _ in range(2_000):
            await self.receiver.handle(headers, _BODY)


async def measure(count: int = 15) -> list[Figure]:
    """The time with instruments, to that without; in a call over a socket, and in a delivery without one."""
    found = []
    with server() as url:
        async with by.client(url) as plain, by.client(url) as instrumented:
            instrument(instrumented)
            seconds = await rounds(
                {"plain": partial(_calls, plain, 300), "instrumented": partial(_calls, instrumented, 300)}, count
            )
            name = "otel: one call without an SDK, to one that is not instrumented"
            found.append(figure(name, ratios(seconds["instrumented"], seconds["plain"]), "<= 1.03"))
    pair = {"plain": _Deliveries(instrumented=False), "instrumented": _Deliveries(instrumented=True)}
    seconds = await rounds(pair, count)
    name = "otel: one delivery without an SDK, to one that is not instrumented"
    found.append(figure(name, ratios(seconds["instrumented"], seconds["plain"]), "<= 1.03"))
    return found


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
