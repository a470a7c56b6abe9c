"""A real browser, one for the whole run, for the tests of pages.

A folder's conftest imports the fixture and the hook.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# Playwright has a loop running in its thread, in which no other test could run its own.
_thread = ThreadPoolExecutor(1, "browser")


class _Shared:
    """The browser that all folders share, and the number of fixtures that use it."""

    users = 0
    playwright: Any = None
    browser: Any = None


def in_browser_thread(work: Callable[[], T]) -> T:
    """Do ``work`` in the browser's thread, and return its result."""
    return _thread.submit(work).result()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that uses the ``browser`` fixture in the browser's thread."""
    if "browser" not in pyfuncitem.fixturenames:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    in_browser_thread(lambda: pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session")
def browser(pytestconfig: pytest.Config) -> Iterator[Any]:
    if pytestconfig.getoption("--loop") == "eager":
        pytest.skip("the browser's driver has a loop of its own, for which eager tasks are not made")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

    def start() -> None:
        _Shared.playwright = sync_api.sync_playwright().start()
        _Shared.browser = _Shared.playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)

    def stop() -> None:
        _Shared.browser.close()
        _Shared.playwright.stop()

    _Shared.users += 1
    if _Shared.users == 1:
        in_browser_thread(start)
    yield _Shared.browser
    _Shared.users -= 1
    if not _Shared.users:
        in_browser_thread(stop)
