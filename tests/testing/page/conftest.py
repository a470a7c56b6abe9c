"""A real browser, one for the whole run, and a page of a served fake in it."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

from basiq_async.testing import FakeBasiq
from tests.support.served import served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
ENDPOINT = "https://shop.example/basiq"


# Playwright has a loop running in its thread, in which no other test could run its own.
_thread = ThreadPoolExecutor(1, "browser")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the tests that look at a page in the browser's thread."""
    if "looking" not in pyfuncitem.fixturenames:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    _thread.submit(pyfuncitem.obj, **arguments).result()
    return True


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    playwright = _thread.submit(lambda: sync_api.sync_playwright().start()).result()
    launch = playwright.chromium.launch
    started = _thread.submit(lambda: launch(executable_path=CHROMIUM, args=OPTIONS)).result()
    yield started
    _thread.submit(started.close).result()
    _thread.submit(playwright.stop).result()


@attrs.define
class Looking:
    """A page of a fake in the browser. What went wrong in it is an error at the end of the test."""

    fake: FakeBasiq
    base_url: str
    browser: Any
    statuses: list[int] = attrs.field(factory=lambda: [200])
    """What the endpoint responds with, the last one for ever."""
    wrong: list[str] = attrs.field(factory=list[str])
    loaded: list[str] = attrs.field(factory=list[str])

    def open(self, *, width: int = 1280, height: int = 900, scheme: Any = "light", path: str = "/_fake/") -> Any:
        context = self.browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda message: self._note(message))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.loaded.append(request.url))
        page.goto(self.base_url + path)
        page.wait_for_function("() => document.getElementById('now') && performance.now() > 0")
        return page

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.type}: {message.text}")

    def post(self, path: str, /, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.base_url}/_fake{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.base_url}/_fake{path}") as response:
            return json.load(response)


@pytest.fixture
def looking(browser: Any) -> Iterator[Looking]:
    fake = FakeBasiq()
    statuses = [200]

    async def receive(headers: dict[str, str], body: bytes) -> int:
        return statuses.pop(0) if len(statuses) > 1 else statuses[0]

    fake.route(ENDPOINT, receive)
    with served(fake) as base_url:
        look = Looking(fake, base_url, browser, statuses)
        yield look
        _thread.submit(lambda: [context.close() for context in browser.contexts]).result()
    assert look.wrong == []
    assert [url for url in look.loaded if not url.startswith(base_url + "/_fake/")] == []
