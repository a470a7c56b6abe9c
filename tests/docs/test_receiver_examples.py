"""The examples, run as a user runs them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from basiq_async import BasiqClient, InMemoryTransport, RetryPolicy
from basiq_async.receiver import WebhookReceiver
from basiq_async.testing import FakeBasiq, serve
from examples.opentelemetry_hooks import Metrics
from tests.support.command_line import PROGRAM
from tests.support.deliveries import SECRET, payload, signed
from tests.support.environment import free_port
from tests.support.programs import Program, post, started
from tests.support.served import first_line
from tests.support.warm import CLIENT

ROOT = Path(__file__).parents[2]
KEY = "a2V5OnNlY3JldA=="


SETTINGS = {"BASIQ_WEBHOOK_ID": "wh_1", "BASIQ_API_KEY": KEY}


@asynccontextmanager
async def running(example: str, tmp_path: Path, **environment: str) -> AsyncGenerator[tuple[str, Program]]:
    port, file = free_port(), str(ROOT / "examples" / example)
    (tmp_path / "basiq.secret").write_text(SECRET)
    command = (*CLIENT, "tests.support.warm:run_file", file)
    async with started(*command, cwd=tmp_path, PORT=str(port), **SETTINGS, **environment) as program:
        yield f"http://127.0.0.1:{port}/basiq", program


FRAMEWORKS = ["aiohttp", "django", "fastapi", "litestar", "quart", "starlette"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_whole_service_handles_each_event_once_and_stops_cleanly(framework: str, tmp_path: Path) -> None:
    fake = FakeBasiq(api_keys=[KEY])
    emission = await fake.emit("consent.revoked", user_id="u-1")
    async with (
        serve(fake) as base_url,
        running(f"receive_{framework}.py", tmp_path, BASIQ_BASE_URL=base_url) as (url, example),
    ):
        links = {"event": f"https://au-api.basiq.io/events/{emission.event_id}"}
        body = payload("consent.revoked", emission.event_id, links=links)
        other = payload("account.updated", "e-other")
        assert await post(url, body, signed(body)) == 204
        await example.until("consent.revoked of user u-1")
        assert await post(url, body, signed(body)) == 200
        assert await post(url, other, signed(other)) == 204
        assert await post(url, body, signed(other)) == 401
        head = "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert b" 401 " in await first_line(url, head), "nothing of a body without a signature is read"
        await example.until("account.updated e-other")
        _, said = await example.stop()
        assert "Traceback" not in said, said
        async with running(f"receive_{framework}.py", tmp_path, BASIQ_BASE_URL=base_url) as (url, example):
            assert await post(url, body, signed(body)) == 200, "the second start knows what the first one handled"
            await example.stop()


async def test_a_deferred_handler_reads_one_connection_after_the_response_and_another_process_takes_over(
    tmp_path: Path,
) -> None:
    fake = FakeBasiq(api_keys=[KEY])
    made = [await fake.emit("transactions.updated", user_id="u-1", entity_id=f"c-{number}") for number in range(3)]
    bodies = [
        payload("transactions.updated", one.event_id, links={"event": f"https://au-api.basiq.io/events/{one.event_id}"})
        for one in made
    ]
    database = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    async with AsyncExitStack() as stack:
        basiq = await stack.enter_async_context(AsyncExitStack())
        base_url = await basiq.enter_async_context(serve(fake))
        example = running("receive_deferred.py", tmp_path, BASIQ_BASE_URL=base_url, DATABASE_URL=database)
        url, receiving = await stack.enter_async_context(example)
        assert await post(url, bodies[0], signed(bodies[0])) == 202
        await receiving.until("6 transactions")
        assert await post(url, bodies[0], signed(bodies[0])) == 200
        await basiq.aclose()  # Basiq is away: the service goes on to acknowledge, and the event waits
        assert await post(url, bodies[1], signed(bodies[1])) == 202
        async with aiohttp.ClientSession() as session, session.get(url.replace("basiq", "readyz")) as ready:
            assert (ready.status, await ready.text()) == (200, "")  # strangers do not see how much waits
        await receiving.stop()
        back = await stack.enter_async_context(serve(fake))
        command = (*PROGRAM, "work", "--receiver", "receive_deferred:receiver")
        settings = {**SETTINGS, "BASIQ_BASE_URL": back, "DATABASE_URL": database}
        shutil.copy(ROOT / "examples" / "receive_deferred.py", tmp_path)
        async with started(*command, cwd=tmp_path, **settings) as worker:
            await worker.until("6 transactions")
            await worker.stop()
            assert worker.process.returncode == 0


async def test_the_hooks_feed_opentelemetry() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    metrics = Metrics(provider.get_meter("test"))
    fake = FakeBasiq(api_keys=[KEY])
    fake.fail_next(1, status=503, path="/events/types")
    receiver = WebhookReceiver(SECRET, on_delivery=metrics.on_delivery)
    async with BasiqClient(
        KEY,
        transport=InMemoryTransport(fake),
        retry=RetryPolicy(base=0.001),
        on_request=metrics.on_request,
        on_retry=metrics.on_retry,
    ) as client:
        await client.event_types.list().collect()
    body = payload("user.created")
    await receiver.handle(signed(body), body)
    await receiver.handle({}, body)
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    provider.shutdown()
    assert sum(point.value for point in points["basiq.client.retries"]) == 1
    outcomes = sorted(point.attributes["outcome"] for point in points["basiq.client.request.duration"])
    assert outcomes[-1] == "503"
    results = {point.attributes["result"]: point for point in points["basiq.webhook.delivery.duration"]}
    assert set(results) == {"ignored", "rejected"}
    assert results["rejected"].attributes["reason"] == "missing-header"
    assert 0 < results["ignored"].sum < 5
