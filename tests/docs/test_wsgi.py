"""The page for WSGI: its programs run under gunicorn with four threads, which handle four deliveries at once."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.deliveries import SECRET, payload, signed
from tests.support.environment import ROOT, free_port
from tests.support.programs import Program, post, started
from tests.support.real_time import PATIENCE

PAGE = (ROOT / "docs" / "howto" / "wsgi.md").read_text()
FILES = {name: text for text, name in re.findall(r"```python\n(# ([\w.]+\.py)\n.*?)```", PAGE, re.DOTALL)}
AT_ONCE = 4
DJANGO = """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application

settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__)
django.setup()

from django.urls import path
from views import basiq

urlpatterns = [path("basiq", basiq)]
app = get_wsgi_application()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")


@asynccontextmanager
async def an_api() -> AsyncIterator[str]:
    """An API that responds to requests for events only once it has four of them."""
    together = asyncio.Barrier(AT_ONCE)

    async def token(request: web.Request) -> web.Response:
        return web.json_response({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})

    async def event(request: web.Request) -> web.Response:
        async with asyncio.timeout(PATIENCE):
            await together.wait()
        event_id = request.match_info["id"]
        return web.json_response({"id": event_id, "entity": "consent", "eventType": "revoked", "userId": event_id})

    app = web.Application()
    app.router.add_post("/token", token)
    app.router.add_get("/events/{id}", event)
    async with TestServer(app) as server:
        yield str(server.make_url("/")).rstrip("/")


@asynccontextmanager
async def gunicorn(module: str, folder: Path, base_url: str) -> AsyncIterator[tuple[str, Program]]:
    for name, text in {**FILES, "project.py": DJANGO}.items():
        (folder / name).write_text(text)
    port = free_port()
    async with started(
        *(sys.executable, "-m", "gunicorn", f"{module}:app"),
        *("--workers", "1", "--threads", str(AT_ONCE), "--bind", f"127.0.0.1:{port}"),
        cwd=folder,
        BASIQ_API_KEY="a2V5OnNlY3JldA==",
        BASIQ_BASE_URL=base_url,
        BASIQ_WEBHOOK_ID="wh_1",
        BASIQ_WEBHOOK_SECRET=SECRET,
    ) as running:
        yield f"http://127.0.0.1:{port}/basiq", running


@pytest.mark.parametrize("module", ["app", "project"])
async def test_four_threads_of_gunicorn_handle_four_deliveries_at_once_and_each_event_once(
    module: str, tmp_path: Path
) -> None:
    bodies = [payload("consent.revoked", f"e-{number}") for number in range(AT_ONCE)]
    async with an_api() as base_url:
        async with gunicorn(module, tmp_path, base_url) as (url, running):
            assert await post(url, bodies[0], {}) == 401
            for expected in (204, 200):
                posts = [post(url, body, signed(body)) for body in bodies]
                assert await asyncio.gather(*posts) == [expected] * AT_ONCE
            assert await post(url, bodies[0], signed(bodies[1])) == 401
            printed, said = await running.stop()
            assert (running.process.returncode, "Traceback" in said) == (0, False), said
        async with gunicorn(module, tmp_path, base_url) as (url, _):
            assert await post(url, bodies[0], signed(bodies[0])) == 200, "the second start knows what was handled"
    assert sorted(printed.split("\n")) == ["", *(f"consent.revoked e-{number}" for number in range(AT_ONCE))]
