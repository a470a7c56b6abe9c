"""What does the fake cost: two virtual days of deliveries that fail, and one call to it?

python -m benchmarks.fake_figures
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Mapping
from functools import partial
from time import process_time

import httpx

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.testing import FakeBasiq
from benchmarks import _contestants as by
from benchmarks._harness import Figure, figure, ratios, rounds

_URL = "https://example.com/hook"
_EVENTS = 100


async def _two_days() -> float:
    """Seconds of CPU for 100 events whose first two deliveries fail, over two virtual days."""
    began = process_time()
    fake = FakeBasiq()
    seen: Counter[str] = Counter()

    async def endpoint(headers: Mapping[str, str], body: bytes) -> int:
        seen[headers["webhook-id"]] += 1
        return 200 if seen[headers["webhook-id"]] > 2 else 503

    fake.route(_URL, endpoint)
    fake.add_webhook(_URL)
    for _ in range(_EVENTS):
        fake.emit("consent.revoked")
        await fake.advance(minutes=48 * 60 / _EVENTS)
    await fake.advance(hours=1)
    took = process_time() - began
    assert len(fake.deliveries) == 3 * _EVENTS
    assert sum(attempt.ok for attempt in fake.deliveries) == _EVENTS
    return took


async def _ours(basiq: BasiqClient, webhook_id: str, times: int) -> None:
    for _ in range(times):
        await basiq.webhooks.get(webhook_id)


async def _peer(http: httpx.AsyncClient, url: str, times: int) -> None:
    for _ in range(times):
        by.PydanticWebhook.model_validate_json((await http.get(url)).content)


async def measure(count: int = 15) -> list[Figure]:
    cpu = [await _two_days() for _ in range(count)]
    name = "fake: seconds of CPU for 100 events with two failures each"
    found = [Figure(name, statistics.median(cpu), min(cpu), max(cpu), "<= 0.3")]
    fake = FakeBasiq()
    webhook_id = fake.add_webhook(_URL)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.webhooks.get(webhook_id)
        answer = fake.handle(fake.requests[-1])
        mock = httpx.MockTransport(lambda request: httpx.Response(200, content=answer.body))
        async with httpx.AsyncClient(transport=mock) as http:
            pair = {
                "ours": partial(_ours, basiq, webhook_id, 300),
                "peer": partial(_peer, http, fake.requests[-1].url, 300),
            }
            seconds = await rounds(pair, count)
    name = "fake: webhooks.get in memory, to httpx.MockTransport with pydantic"
    found.append(figure(name, ratios(seconds["ours"], seconds["peer"]), "<= 0.6"))
    return found


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
