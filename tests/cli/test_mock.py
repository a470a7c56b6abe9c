"""``basiq-async mock``: the fake over HTTP, and the commands that drive it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest

from basiq_async import BasiqClient
from basiq_async.testing import FakeBasiq, serve


async def mock(*options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from basiq_async.cli import main; main()", "mock", *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_mock_says_how_to_call_it_serves_and_stops_at_a_signal(number: signal.Signals) -> None:
    process = await mock("--port", "0", "--seed-messages", "1000", "--speed", "60", "--json")
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        async with BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
            assert len(await basiq.messages.list(ready["webhook_id"]).collect()) == 1000
        process.send_signal(number)
        out, _ = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, out) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_mock_says_what_is_wrong_with_its_arguments() -> None:
    process = await mock("--speed", "0")
    _, err = await process.communicate()
    assert process.returncode == 2
    assert b"speed must be above 0" in err
    async with serve(FakeBasiq()) as base_url:
        process = await mock("--port", base_url.rpartition(":")[2])
        _, err = await process.communicate()
    assert process.returncode == 2
    assert b"cannot listen on 127.0.0.1" in err
