"""A real browser, one for the whole run, and a page of a served fake in it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from basiq_async.testing import FakeBasiq
from tests.support.browser import browser, in_browser_thread, pytest_pyfunc_call
from tests.support.real_time import PATIENCE
from tests.support.served import served
from tests.testing.conftest import Endpoint

__all__ = ["browser", "pytest_pyfunc_call"]

ENDPOINT = "https://shop.example/basiq"


PAGE = "/_fake/~opened/"


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

    def open(self, *, width: int = 1280, height: int = 900, scheme: Any = "light", path: str = PAGE) -> Any:
        context = self.browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
        context.set_default_timeout(1000 * PATIENCE)
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
            f"{self.base_url}/_fake{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Basic {self.fake.api_key}"},
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.base_url}/_fake{path}") as response:
            return json.load(response)


@pytest.fixture
def looking(browser: Any) -> Iterator[Looking]:
    fake = FakeBasiq()
    endpoint = Endpoint(200)
    fake.route(ENDPOINT, endpoint)
    with served(fake, control_token="opened") as base_url:
        look = Looking(fake, base_url, browser, endpoint.statuses)
        yield look
        in_browser_thread(lambda: [context.close() for context in browser.contexts])
    assert look.wrong == []
    assert [url for url in look.loaded if not url.startswith(base_url + "/_fake/")] == []
