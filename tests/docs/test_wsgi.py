"""The page for WSGI: its programs run under gunicorn with four threads, which handle four deliveries at once."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientConnectorError, ClientSession, web
from aiohttp.test_utils import TestServer

from tests.support.deliveries import SECRET, payload, signed
from tests.support.environment import ROOT, free_port, unmeasured
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
async def gunicorn(module: str, folder: Path, base_url: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    for name, text in {**FILES, "project.py": DJANGO}.items():
        (folder / name).write_text(text)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gunicorn", f"{module}:app"),
        *("--workers", "1", "--threads", str(AT_ONCE), "--bind", f"127.0.0.1:{port}"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **unmeasured(),
            "BASIQ_API_KEY": "a2V5OnNlY3JldA==",
            "BASIQ_BASE_URL": base_url,
            "BASIQ_WEBHOOK_ID": "wh_1",
            "BASIQ_WEBHOOK_SECRET": SECRET,
        },
    )
    try:
        yield f"http://127.0.0.1:{port}/basiq", process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("module", ["app", "project"])
async def test_four_threads_of_gunicorn_handle_four_deliveries_at_once_and_each_event_once(
    module: str, tmp_path: Path
) -> None:
    async def post(session: ClientSession, body: bytes, headers: dict[str, str]) -> int:
        while True:
            try:
                async with session.post(url, data=body, headers=headers) as response:
                    return response.status
            except ClientConnectorError:  # it is still starting
                await asyncio.sleep(0.02)

    async with an_api() as base_url, gunicorn(module, tmp_path, base_url) as (url, process), asyncio.timeout(PATIENCE):
        async with ClientSession() as session:
            bodies = [payload("consent.revoked", f"e-{number}") for number in range(AT_ONCE)]
            assert await post(session, bodies[0], {}) == 401
            for expected in (204, 200):
                posts = [post(session, body, signed(body)) for body in bodies]
                assert await asyncio.gather(*posts) == [expected] * AT_ONCE
            assert await post(session, bodies[0], signed(bodies[1])) == 401
        process.send_signal(signal.SIGTERM)  # with its connections closed, which it would wait for
        printed, said = await process.communicate()
        async with gunicorn(module, tmp_path, base_url) as (url, _), ClientSession() as session:
            assert await post(session, bodies[0], signed(bodies[0])) == 200, "the second start knows what was handled"
    assert process.returncode == 0, said
    assert sorted(printed.decode().split("\n")) == ["", *(f"consent.revoked e-{number}" for number in range(AT_ONCE))]
    assert "Traceback" not in said.decode()
