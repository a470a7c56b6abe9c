"""What does the fake cost: its deliveries, one call, and the conformance suites that run on it?"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time

import httpx

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.testing import FakeBasiq
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios
from benchmarks._server import WEBHOOK, webhook

URL = "https://my-service.example/basiq"
SUITES = ("tests/contract", "tests/services", "tests/testing/fake/test_faults.py")
CALLS = 50


async def two_days() -> float:
    """Return the CPU seconds for two virtual days with 100 events, of which each fails twice."""
    fake = FakeBasiq()
    fake.add_webhook(URL)
    attempts: dict[str, int] = {}

    async def endpoint(headers: dict[str, str], body: bytes) -> int:
        number = attempts[headers["webhook-id"]] = attempts.get(headers["webhook-id"], 0) + 1
        return 500 if number <= 2 else 204

    fake.route(URL, endpoint)
    began = process_time()
    for _ in range(100):
        await fake.emit("user.created")
        await fake.advance(minutes=28.8)
    took = process_time() - began
    assert len(fake.deliveries) == 300
    assert sum(attempt.ok for attempt in fake.deliveries) == 100
    return took


async def one_call(count: int) -> Figure:
    """Time ``webhooks.get`` with the fake, and with httpx's mock, a prepared response and pydantic."""
    fake = FakeBasiq()
    webhook_id = fake.add_webhook(URL)
    prepared = json.dumps(webhook()).encode()
    mock = httpx.MockTransport(lambda request: httpx.Response(200, content=prepared))
    async with (
        BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq,
        httpx.AsyncClient(transport=mock, base_url="https://au-api.basiq.io") as http,
    ):

        async def ours() -> None:
            for _ in range(CALLS):
                await basiq.webhooks.get(webhook_id)

        async def theirs() -> None:
            for _ in range(CALLS):
                answer = await http.get(f"/notifications/webhooks/{WEBHOOK}")
                by.PydanticWebhook.model_validate_json(answer.content)

        seconds = await best_slices({"ours": ours, "httpx": theirs}, runs=3, slices=count)
    name = "webhooks.get through the fake, to httpx.MockTransport + pydantic"
    return figure(name, ratios(seconds["ours"], seconds["httpx"]), "<= 0.6")


def suites() -> list[Figure]:
    """Time the suites that run on the fake, in this process and over HTTP: in seconds, and in CPU seconds."""
    root = Path(__file__).parents[1]
    began, used = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "pytest", "-q", *SUITES], cwd=root, check=True, stdout=subprocess.DEVNULL)
    took, after = perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return [
        figure("seconds: the contract suite, both transports", [took], "<= 60"),
        figure("CPU seconds: the contract suite, both transports", [cpu]),
    ]


async def measure(count: int = 9) -> list[Figure]:
    """Measure the figures that need only seconds."""
    cpu = [await two_days() for _ in range(count)]
    return [
        figure("CPU seconds: 100 events, 2 failures each, over 2 virtual days", cpu, "<= 0.3"),
        await one_call(count),
    ]


if __name__ == "__main__":
    for one in [*asyncio.run(measure()), *suites()]:
        print(one)
