"""What do the OpenTelemetry instruments cost when no SDK is configured?"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from functools import partial

from multidict import CIMultiDict, CIMultiDictProxy

from basiq_async import BasiqClient
from basiq_async.otel import instrument
from basiq_async.receiver import Delivery, WebhookReceiver, sign
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios, server
from benchmarks._server import WEBHOOK

_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_DELIVERIES = 100


async def _calls(basiq: BasiqClient, times: int) -> None:
    for _ in range(times):
        await basiq.webhooks.get(WEBHOOK)


class _Deliveries:
    """New genuine deliveries to a handler that does nothing, without a socket: the instruments' share is largest."""

    def __init__(self, slices: int, *, instrumented: bool) -> None:
        self.receiver = WebhookReceiver(_SECRET)
        if instrumented:
            instrument(self.receiver)

        @self.receiver.on("user.created")
        async def handler(delivery: Delivery) -> None: ...

        self._slices = iter([[_delivery(f"{each}-{one}") for one in range(_DELIVERIES)] for each in range(slices)])

    async def __call__(self) -> None:
        for headers, body in next(self._slices):
            await self.receiver.handle(headers, body)


def _delivery(name: str) -> tuple[CIMultiDictProxy[str], bytes]:
    """Return a delivery as aiohttp's server passes it on, of about the size of Basiq's deliveries."""
    links = {"event": f"https://au-api.basiq.io/events/{name}"}
    body = json.dumps({"eventTypeId": "user.created", "eventId": name, "links": links}).encode().ljust(300)
    return CIMultiDictProxy(CIMultiDict(sign(_SECRET, f"msg_{name}", datetime.now(UTC), body))), body


async def measure(runs: int = 5, slices: int = 40) -> list[Figure]:
    """Measure the time with instruments, divided by that without: of a call over a socket, and of a delivery."""
    found = []
    with server() as url:
        async with by.client(url) as plain, by.client(url) as instrumented:
            instrument(instrumented)
            pair = {"plain": partial(_calls, plain, 50), "instrumented": partial(_calls, instrumented, 50)}
            seconds = await best_slices(pair, runs=runs, slices=slices)
            name = "otel: one call without an SDK, to one that is not instrumented"
            found.append(figure(name, ratios(seconds["instrumented"], seconds["plain"]), "<= 1.03"))
    made = partial(_Deliveries, runs * slices + 1)  # the first one warms up
    deliveries = {"plain": made(instrumented=False), "instrumented": made(instrumented=True)}
    seconds = await best_slices(deliveries, runs=runs, slices=slices)
    name = "otel: one delivery without an SDK, to one that is not instrumented"
    found.append(figure(name, ratios(seconds["instrumented"], seconds["plain"]), "<= 1.03"))
    return found


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
