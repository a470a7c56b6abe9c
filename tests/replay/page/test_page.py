"""The page of a replay: its progress, its rate, and its dead letters, to be retried and dropped."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.errors import ConfigurationError
from basiq_async.replay import MemoryCheckpoint, Replay, SQLiteCheckpoint, serve_page
from basiq_async.replay.page._plot import draw
from basiq_async.testing import FakeBasiq

ATTACK = "<img src=x onerror='window.hacked=1'>"


class Target:
    """Takes messages, all but every tenth, until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.seen = 0

    async def __call__(self, message: Message) -> None:
        self.seen += 1
        if not self.mended and self.seen % 10 == 0:
            raise ValueError(ATTACK)


@asynccontextmanager
async def replaying(checkpoint: Any = None) -> AsyncIterator[tuple[Replay, Target]]:
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(50)
    target = Target()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        yield Replay(basiq, webhook_id, target, checkpoint=checkpoint or MemoryCheckpoint(), concurrency=1), target


async def get(session: aiohttp.ClientSession, url: str, path: str, *, expect: int = 200, **options: Any) -> Any:
    async with session.get(url + path, **options) as response:
        assert response.status == expect
        return await response.json()


async def post(session: aiohttp.ClientSession, url: str, path: str, body: Any, *, expect: int = 200) -> Any:
    async with session.post(url + path, json=body) as response:
        assert response.status == expect, await response.text()
        return await response.json()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_what_could_not_be_handled_is_shown_retried_and_dropped(kind: str, tmp_path: Path) -> None:
    checkpoint = SQLiteCheckpoint(tmp_path / "replay.db") if kind == "sqlite" else MemoryCheckpoint()
    async with (
        replaying(checkpoint) as (replay, target),
        serve_page(replay) as url,
        aiohttp.ClientSession() as session,
    ):
        assert (await get(session, url, "state"))["progress"] is None
        assert (await get(session, url, "dead-letters"))["items"] == []
        await replay.run()
        state = await get(session, url, "state")
        assert (state["running"], state["progress"]["handled"], state["progress"]["failed"]) == (False, 45, 5)
        letters = (await get(session, url, "dead-letters"))["items"]
        assert [letter["error"] for letter in letters] == [f"ValueError: {ATTACK}"] * 5
        whole = await get(session, url, f"dead-letters/{letters[0]['id']}")
        assert whole["message"]["id"] == letters[0]["id"]
        await post(session, url, "dead-letters/drop", {"ids": [letters[0]["id"]]})
        target.mended = True
        await post(session, url, "dead-letters/retry", {"ids": [letters[1]["id"]]})
        async with asyncio.timeout(5):
            while len((await get(session, url, "dead-letters"))["items"]) != 3:
                await asyncio.sleep(0)
        assert (await get(session, url, "state"))["error"] is None


async def test_looking_at_dead_letters_does_not_get_into_the_way_of_a_run(tmp_path: Path) -> None:
    async with (
        replaying(SQLiteCheckpoint(tmp_path / "replay.db")) as (replay, _),
        serve_page(replay) as url,
        aiohttp.ClientSession() as session,
    ):
        await replay.run()

        async def look() -> None:
            async with session.get(url + "dead-letters") as response:
                assert response.status in (200, 409)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(look())
            await replay.run()
            for _ in range(5):
                group.create_task(look())
            await replay.retry_dead()


async def test_while_it_runs_nothing_is_retried_or_dropped() -> None:
    async with replaying() as (replay, _), serve_page(replay) as url, aiohttp.ClientSession() as session:
        replay._running = True
        for path, body in (("dead-letters/retry", {}), ("dead-letters/drop", {"ids": ["a"]})):
            assert (await post(session, url, path, body, expect=409))["error"]["code"] == "running"
        replay._running = False
        assert (await post(session, url, "dead-letters/drop", {}, expect=400))["error"]["code"] == "not-valid"
        assert (await post(session, url, "dead-letters/drop", {"ids": "a"}, expect=400))["error"]["code"] == "not-valid"
        assert (await post(session, url, "stop", {})) == {"stopping": False}
        await get(session, url, "dead-letters/none", expect=404)


@pytest.mark.parametrize("headers", [{"Host": "attacker.example"}, {"Origin": "https://attacker.example"}], ids=str)
async def test_another_site_is_refused(headers: dict[str, str]) -> None:
    async with replaying() as (replay, _), serve_page(replay) as url, aiohttp.ClientSession() as session:
        await get(session, url, "state", expect=403, headers=headers)


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp_sse", None)
    monkeypatch.delitem(sys.modules, "basiq_async._ui._page", raising=False)
    async with replaying() as (replay, _):
        with pytest.raises(ConfigurationError, match=r"basiq-async\[ui\]"):
            async with serve_page(replay):
                pass


def test_a_rate_is_drawn_from_the_first_moment_to_the_last() -> None:
    assert draw([(0, 5)]) is None
    plot = draw([(10, 0), (15, 50), (20, 100)])
    assert plot is not None
    assert plot.points == "0.0,120.0 300.0,62.0 600.0,4.0"
    assert (plot.top, plot.seconds) == (100, 10)


@contextmanager
def in_a_thread() -> Iterator[tuple[str, Any]]:
    """The page of a replay that was run once, in a thread of its own; and what runs it again."""
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    made: list[Any] = []

    async def main() -> None:
        async with replaying() as (replay, target), serve_page(replay) as url:
            made.extend([url, replay, target])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait()
    try:
        yield made[0], lambda: asyncio.run_coroutine_threadsafe(made[1].run(), loop).result()
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_the_page_follows_a_run_and_its_dead_letters(browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with in_a_thread() as (url, run):
        context = browser.new_context()
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.goto(url)
        page.locator("#progress", has_text="No run has begun yet").wait_for()
        run()
        page.locator("#progress", has_text="not running").wait_for()
        page.wait_for_function("() => document.querySelectorAll('#letter-list > li').length === 5")
        page.locator("#letter-list .opens").first.click()
        page.locator("[aria-label='The message']").wait_for()
        assert ATTACK in page.inner_text("#letters")
        assert page.evaluate("window.hacked") is None
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        page.locator("#letter-list [data-post='/dead-letters/drop']").first.click()
        page.wait_for_function("() => document.querySelectorAll('#letter-list > li').length === 4")
        page.get_by_role("button", name="Retry all").click()
        page.locator("#no-letters").wait_for()
        context.close()
