"""The page of a replay: its progress, its rate, and its quarantine, to be retried and dropped."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.errors import ConfigurationError
from basiq_async.receiver import Inbox, InboxEntry, MemoryInbox, SQLiteInbox
from basiq_async.replay import Replay, serve_page
from basiq_async.replay._page import ReplayFeed  # private: what open pages get
from basiq_async.testing import FakeBasiq
from tests.support.real_time import PATIENCE
from tests.support.served import InThread

ATTACK = "<img src=x onerror='window.hacked=1'>"


def entry_of(id: str) -> InboxEntry:
    """A message in the quarantine whose id, type and error are made to do harm."""
    now, body = datetime.now(UTC), json.dumps({"id": id, "payload": {"eventTypeId": id}}).encode()
    return InboxEntry(id, id, id, id, body, now, ATTACK, 1, now, kind="message", acknowledged=False)


class Target:
    """Takes messages, all but every tenth, until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.seen = 0
        self.hold_at: int | None = None
        self.released = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        self.seen += 1
        if self.seen == self.hold_at:
            await self.released.wait()
        if not self.mended and self.seen % 10 == 0:
            raise ValueError(ATTACK)


@asynccontextmanager
async def replaying(inbox: Inbox | None = None, kind: type[Replay] = Replay) -> AsyncIterator[tuple[Replay, Target]]:
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(50)
    target = Target()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        yield kind(basiq, webhook_id, target, inbox=inbox or MemoryInbox(), concurrency=1), target


async def get(
    session: aiohttp.ClientSession, url: str, path: str, *, expect: int = 200, headers: Any = None, **options: Any
) -> Any:
    async with session.get(url + path, headers=headers, **options) as response:
        assert response.status == expect
        return await response.json()


async def post(session: aiohttp.ClientSession, url: str, path: str, body: Any, *, expect: int = 200) -> Any:
    async with session.post(url + path, json=body) as response:
        assert response.status == expect, await response.text()
        return await response.json()


async def test_what_could_not_be_handled_is_shown_retried_and_dropped(tmp_path: Path) -> None:
    async with (
        SQLiteInbox(tmp_path / "inbox.db") as inbox,
        replaying(inbox) as (replay, target),
        serve_page(replay) as url,
        aiohttp.ClientSession() as session,
    ):

        async def look(texts: str, count: int) -> None:
            found = await get(session, url, "ui/sections")
            assert texts in found["sections"]["progress"]
            assert found["counts"] == {"quarantine": count}

        await look("No run has begun yet", 0)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(replay.run())
            while not running.done():  # looking at entries does not get into the way of a run
                await get(session, url, "ui/sections")
        await look("ended, with messages in the quarantine", 5)
        entries = await replay.quarantined()
        assert [entry.error for entry in entries] == [f"ValueError: {ATTACK}"] * 5
        whole = await get(session, url, f"quarantine-entry?id={entries[0].delivery_id}")
        assert whole["body"]["id"] == entries[0].delivery_id
        await post(session, url, "quarantine/drop", {"ids": [entries[0].delivery_id]})
        target.mended = True
        await post(session, url, "quarantine/retry", {"ids": [entries[1].delivery_id]})
        async with asyncio.timeout(PATIENCE):
            while replay.running or len(await replay.quarantined()) != 3:
                await asyncio.sleep(0)
        await look("ended", 3)


async def test_what_a_retry_on_the_page_has_begun_is_recorded_when_the_page_is_gone() -> None:
    async with replaying() as (replay, target):
        async with serve_page(replay) as url, aiohttp.ClientSession() as session:
            await replay.run()
            target.mended, target.hold_at = True, target.seen + 1
            await post(session, url, "quarantine/retry", {})
            async with asyncio.timeout(PATIENCE):
                while target.seen != target.hold_at:
                    await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.02, target.released.set)
        assert len(await replay.quarantined()) == 4  # the one under way was handled, and no other was begun


async def test_while_it_runs_nothing_is_retried_or_dropped() -> None:
    async with replaying() as (replay, _), serve_page(replay) as url, aiohttp.ClientSession() as session:
        replay._job.running = True
        for path, body in (("quarantine/retry", {}), ("quarantine/drop", {"ids": ["a"]})):
            assert (await post(session, url, path, body, expect=409))["error"]["code"] == "running"
        replay._job.running = False
        assert (await post(session, url, "quarantine/drop", {}, expect=400))["error"]["code"] == "not-valid"
        assert (await post(session, url, "quarantine/drop", {"ids": "a"}, expect=400))["error"]["code"] == "not-valid"
        assert (await post(session, url, "stop", {})) == {"stopping": False}
        await get(session, url, "quarantine-entry?id=none", expect=404)


async def test_each_change_calls_who_watches_until_they_stop() -> None:
    async with replaying() as (replay, target):
        feed, seen = ReplayFeed(replay), list[int]()
        stop_watching = feed.watch(lambda: seen.append(feed.revision))
        replay._job.listen(feed.hear)
        await replay.run()
        assert len(seen) == feed.revision > 0, "the progress of a run is shown"
        dead = await feed.quarantine()
        before = len(seen)
        assert await feed.drop([dead[0].delivery_id]) == 1
        assert len(seen) == before + 1, "what was dropped leaves every open page"
        target.mended = True
        feed.retry([dead[1].delivery_id])
        before = len(seen)
        async with asyncio.timeout(PATIENCE):
            while feed._tasks:
                await asyncio.sleep(0)
        assert len(seen) > before, "the result of a retry is shown"
        assert feed.wrong is None
        stop_watching()
        stop_watching()
        before = len(seen)
        feed.count_change()
        assert len(seen) == before, "who stopped watching is not called any more"


@pytest.mark.parametrize(
    ("path", "method"),
    [("", "GET"), ("quarantine-entry?id=x", "GET"), ("ui/sections", "GET"),
     ("ui/stream", "GET"), ("ui/token", "GET"), ("ui/entry?id=x", "GET"), ("quarantine/drop", "POST"),
     ("quarantine/retry", "POST"), ("stop", "POST"), ("?token=wrong", "GET"), ("nothing", "GET"),
     ("~wrong/", "GET"), ("~/ui/sections", "GET"), ("~wrong/stop", "POST")],
)  # fmt: skip
async def test_who_does_not_have_the_token_sees_and_does_nothing_on_this_machine_too(path: str, method: str) -> None:
    async with replaying() as (replay, _), serve_page(replay) as url, aiohttp.ClientSession() as session:
        place = url.partition("~")[0] + path
        for headers in ({}, {"X-Fake-Page": "1"}, {"X-Fake-Token": "wrong"}, {"Cookie": "fake_token=wrong"}):
            body = {"json": {}} if method == "POST" else {}
            async with session.request(method, place, headers=headers, **body) as response:
                assert response.status == 403
                assert "error" in await response.json()


async def test_the_address_lets_a_browser_in_and_no_cookie_goes_to_the_other_ports_of_this_machine() -> None:
    async with (
        replaying() as (replay, _),
        serve_page(replay) as url,
        serve_page(replay) as other,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
    ):
        async with session.get(url) as response:
            assert (response.status, response.headers.get("Set-Cookie")) == (200, None)
            page = await response.text()
        for link in re.findall(r'(?:href|src|data-root)="([^"]+)"', page):
            assert link.startswith(url.partition("/replay")[1] + url.partition("/replay")[2].rstrip("/"))
        async with session.get(other.partition("~")[0] + "~" + url.partition("~")[2]) as response:
            assert response.status == 403  # each server has a token of its own
        place, _, token = url.partition("~")
        headers = {"X-Fake-Token": token.rstrip("/")}
        async with session.get(f"{place}ui/sections", headers=headers) as response:
            assert response.status == 200


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp_sse", None)
    monkeypatch.delitem(sys.modules, "basiq_async._web.page", raising=False)
    async with replaying() as (replay, _):
        with pytest.raises(ConfigurationError, match=r"needs the extra .ui."):
            async with serve_page(replay):
                pass


async def test_it_shows_the_first_entries_where_there_are_many() -> None:
    class Failing(Replay):
        async def quarantined(self, *, after: InboxEntry | None = None, limit: int = 100) -> Sequence[InboxEntry]:
            return [entry_of(f"m{n}") for n in range(1, 1 + limit)]

    async with (
        replaying(kind=Failing) as (replay, _),
        serve_page(replay) as url,
        aiohttp.ClientSession() as session,
    ):
        assert (await get(session, url, "ui/sections"))["counts"] == {"quarantine": 200}, "the page has a largest size"
        assert "among the first 200" in str(await get(session, url, "quarantine-entry?id=m201", expect=404))


@asynccontextmanager
async def shown(kind: type[Replay]) -> AsyncIterator[tuple[Replay, Target, str]]:
    async with replaying(kind=kind) as (replay, target), serve_page(replay) as url:
        yield replay, target, url


@contextmanager
def opened(browser: Any, kind: type[Replay] = Replay) -> Iterator[tuple[Any, str, Any]]:
    """The page in a browser, its url, and what runs the replay or calls a function with its target. No script fails."""
    with InThread(shown(kind)) as thread:
        replay, target, url = thread.value

        def do(what: Callable[[Target], object] | None = None, *, wait: bool = True) -> Any:
            async def call() -> Any:
                return await replay.run() if what is None else what(target)

            return thread.run(call()) if wait else thread.begin(call())

        page = browser.new_context().new_page()
        page.set_default_timeout(1000 * PATIENCE)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        yield page, url, do
        assert wrong == []
        assert page.evaluate("window.hacked") is None
        page.context.close()


def tiles(page: Any) -> dict[str, str]:
    """What the page says of the run, by its words."""
    names, values = (page.locator(f"#progress .tiles {each}").all_inner_texts() for each in ("dt", "dd"))
    return dict(zip((name.lower() for name in names), values, strict=True))


def test_a_person_sees_how_a_run_goes_how_it_ended_and_what_a_retry_did(browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser) as (page, _, do):
        page.locator("#progress", has_text="No run has begun yet").wait_for()
        do(lambda target: setattr(target, "hold_at", 26))
        running = do(wait=False)

        page.locator("#progress .pill", has_text="running").wait_for()
        page.locator("#progress .tiles dd", has_text=re.compile("^23$")).wait_for()
        seen = tiles(page)
        assert (seen["handled"], seen["failed"], seen["in flight"], seen["quarantined"]) == ("23", "2", "1", "2")
        assert page.locator("#quarantine-count").inner_text() == "2"
        page.get_by_role("button", name="Retry all").click()
        page.locator("#said", has_text="the replay is running").wait_for()

        page.get_by_role("button", name="Stop").click()
        page.locator("#said", has_text="The run stops").wait_for()
        do(lambda target: target.released.set())
        running.result(PATIENCE)
        page.locator("#progress .pill.lost", has_text="ended before its end").wait_for()
        assert page.locator("#progress .pill.ok").count() == 0

        do()  # the rest
        page.locator("#progress .pill.failed", has_text="ended, with messages in the quarantine").wait_for()
        page.wait_for_function("() => document.querySelectorAll('#quarantine-list > li').length === 5")
        seen = tiles(page)
        assert (seen["handled"], seen["failed"], seen["skipped"], seen["in flight"]) == ("21", "3", "26", "0")
        assert page.locator("#progress .pill.ok").count() == 0

        page.locator("#quarantine-list .opens").first.click()
        page.locator("[aria-label='The message']").wait_for()
        assert ATTACK in page.inner_text("#quarantine")
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        for answer, left in (("dismiss", 5), ("accept", 4)):
            page.once("dialog", lambda dialog, answer=answer: getattr(dialog, answer)())
            page.locator("#quarantine-list [data-post='/quarantine/drop']").first.click()
            page.wait_for_function(f"() => document.querySelectorAll('#quarantine-list > li').length === {left}")

        do(lambda target: setattr(target, "mended", True))
        page.get_by_role("button", name="Retry all").click()
        page.locator("#nothing-quarantined").wait_for()
        page.locator("#progress .pill.ok", has_text="ended").wait_for()
        seen = tiles(page)
        assert (seen["handled"], seen["failed"], seen["quarantined"]) == ("4", "0", "0")
        assert page.locator("#quarantine-count").inner_text() == "0"
        assert "does not respond" not in page.inner_text("body")


HOSTILE = [
    "../../quarantine", "..", ".", "/replay/state", "//attacker.example/", "a/b", "a?id=b", "a#b", "a&b=c", "%2e%2e",
    "%", "+", " ", "a b", ATTACK, '"><script>window.hacked=1</script>', "\u202e", "\\", "javascript:alert(1)",
]  # fmt: skip


class WithHostileIds(Replay):
    """A replay whose entries have ids that are made to lead somewhere else."""

    async def quarantined(self, *, after: InboxEntry | None = None, limit: int = 100) -> Sequence[InboxEntry]:
        return [entry_of(id) for id in HOSTILE]


def test_an_id_leads_to_its_own_entry_and_to_nothing_else(browser: Any) -> None:
    with opened(browser, WithHostileIds) as (page, url, _):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_function(f"() => document.querySelectorAll('#quarantine-list > li').length === {len(HOSTILE)}")
        asked.clear()
        for number, id in enumerate(HOSTILE):
            row = page.locator("#quarantine-list > li").nth(number)
            row.locator(".opens").click()
            row.locator("[aria-label='The message']").wait_for()
            assert row.locator(".about code").text_content() == id
            link = row.locator("a").evaluate("link => link.href")
            assert link.partition("?")[0] == url + "quarantine-entry"
            assert page.request.get(link).json()["body"]["id"] == id
        assert {each.partition("?")[0].removeprefix(url) for each in asked} <= {"ui/entry", "ui/sections"}


def fulfill(route: Any, **answer: Any) -> None:
    route.fulfill(**answer)


def test_what_is_no_fragment_is_not_inserted(browser: Any) -> None:
    with opened(browser, WithHostileIds) as (page, _, _):
        opener = page.locator("#quarantine-list .opens").first
        for answer in (
            {"content_type": "application/json", "body": "<b>json</b>"},
            {"content_type": "text/plain", "body": "<b>text</b>"},
            {"status": 404, "content_type": "text/html", "body": "<b>an error</b>"},
            {"status": 302, "headers": {"Location": "/replay/state"}},
        ):
            page.route("**/ui/entry*", functools.partial(fulfill, **answer))
            opener.click()
            page.wait_for_function("() => document.querySelector('#quarantine-list .opens').ariaExpanded === 'true'")
            assert page.locator("#quarantine-list .about").first.inner_html().strip() == ""
            opener.click()
            page.unroute("**/ui/entry*")
