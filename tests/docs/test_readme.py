"""README's service is started as users start it: again, in an empty folder, and with another url."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from basiq_async import BasiqClient, ConfigurationError
from basiq_async.testing import FakeBasiq, serve
from tests.support.environment import ROOT

URL = "https://example.com/basiq"
_PROGRAM = re.compile(r"```python\n(from aiohttp import web\n.*?)```", re.DOTALL)
Start = Callable[..., Awaitable[web.Application]]


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeBasiq]:
    fake = FakeBasiq(cool_off=timedelta(0))
    async with serve(fake) as base_url:
        monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
        monkeypatch.setenv("BASIQ_BASE_URL", base_url)
        monkeypatch.setattr("basiq_async.services._secret_keeper._ANOTHER_MAY_STORE", 0.1)
        yield fake


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    found = _PROGRAM.search((ROOT / "README.md").read_text())
    assert found is not None

    async def make_app(folder: str = "first", url: str = URL) -> web.Application:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        names: dict[str, Callable[[], Awaitable[web.Application]]] = {}
        exec(found[1].replace(URL, url), names)
        return await names["make_app"]()

    return make_app


async def serve_and_emit(app: web.Application, fake: FakeBasiq, url: str = URL) -> int:
    """Serve an application at a url of the fake, emit an event, and return the status of its response."""
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0]

        async def forward(headers: Mapping[str, str], body: bytes) -> int:
            async with aiohttp.request("POST", f"http://{host}:{port}/basiq", headers=headers, data=body) as response:
                statuses.append(response.status)
                return response.status

        statuses: list[int] = []
        fake.route(url, forward)
        await fake.emit("consent.revoked")
        return statuses[0]
    finally:
        await runner.cleanup()


async def test_the_program_handles_an_event_at_its_first_start_and_at_its_second(
    fake: FakeBasiq, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert await serve_and_emit(await start(), fake) == 204
    assert capsys.readouterr().out.count("consent.revoked") == 2
    assert len(fake.webhooks()) == 1


async def test_a_webhook_that_basiq_removed_is_made_again_and_its_deliveries_are_handled(
    fake: FakeBasiq, start: Start
) -> None:
    assert await serve_and_emit(await start(), fake) == 204
    async with BasiqClient() as basiq:
        await basiq.webhooks.delete(fake.webhooks()[0].id)
    assert await serve_and_emit(await start(), fake) == 204


async def test_in_an_empty_folder_it_says_that_the_secret_is_missing_and_starts_nothing(
    fake: FakeBasiq, start: Start
) -> None:
    await start()
    with pytest.raises(ConfigurationError, match=r"secret"):
        await start("empty")
    assert len(fake.webhooks()) == 1


async def test_with_another_url_no_second_webhook_is_made_and_an_error_says_how_to_move(
    fake: FakeBasiq, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    await start()
    await start(url="https://new.example/basiq")
    (error,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "move_from" in error.getMessage()
    assert [each.url for each in fake.webhooks()] == [URL]
