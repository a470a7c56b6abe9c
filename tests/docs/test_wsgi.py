"""The page for WSGI: its server hands four deliveries to four threads, while slow senders hold two dozen sockets."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

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
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM kills there, and gunicorn needs fork")
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
async def serving(
    module: str, folder: Path, base_url: str, *, gunicorn: bool = False
) -> AsyncIterator[tuple[str, Program]]:
    for name, text in {**FILES, "project.py": DJANGO}.items():
        text = text.replace("from app import app", f"from {module} import app").replace(
            "threads=8", f"threads={AT_ONCE}"
        )
        (folder / name).write_text(text)
    (folder / "basiq.secret").write_text(SECRET)
    port = free_port()
    words = [sys.executable, "serve.py"]
    if gunicorn:
        words = [sys.executable, "-m", "gunicorn", f"{module}:app", "--workers", "1", "--threads", str(AT_ONCE)]
    async with started(
        *words,
        cwd=folder,
        PORT=str(port),
        BASIQ_API_KEY="a2V5OnNlY3JldA==",
        BASIQ_BASE_URL=base_url,
        BASIQ_WEBHOOK_ID="wh_1",
    ) as running:
        yield f"http://127.0.0.1:{port}/basiq", running


@asynccontextmanager
async def slow_senders(url: str) -> AsyncIterator[None]:
    """Two dozen connections that each have sent the first byte of a body, and no more until the end of the block."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 1000\r\n\r\n".encode()
    async with AsyncExitStack() as stack:
        for _ in range(24):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            stack.callback(writer.close)
            writer.write(head + b"{")
            await writer.drain()
        yield


@pytest.mark.parametrize("module", ["app", "project"])
async def test_four_threads_handle_four_deliveries_at_once_and_each_event_once(module: str, tmp_path: Path) -> None:
    bodies = [payload("consent.revoked", f"e-{number}") for number in range(AT_ONCE)]
    async with an_api() as base_url:
        async with serving(module, tmp_path, base_url) as (url, running):
            assert await post(url, bodies[0], {}) == 401
            async with slow_senders(url):
                for expected in (204, 200):
                    posts = [post(url, body, signed(body)) for body in bodies]
                    assert await asyncio.gather(*posts) == [expected] * AT_ONCE
                assert await post(url, bodies[0], signed(bodies[1])) == 401
            printed, said = await running.stop()
            assert (running.process.returncode, "Traceback" in said) == (0, False), said
        async with serving(module, tmp_path, base_url) as (url, _):
            assert await post(url, bodies[0], signed(bodies[0])) == 200, "the second start knows what was handled"
    assert sorted(printed.split("\n")) == ["", *(f"consent.revoked e-{number}" for number in range(AT_ONCE))]


async def test_slow_senders_hold_up_gunicorn_alone_as_the_page_says_and_it_ends_in_order(tmp_path: Path) -> None:
    body = payload("account.updated", "e-1")
    async with serving("app", tmp_path, "http://127.0.0.1:9", gunicorn=True) as (url, running):
        assert await post(url, body, {}) == 401
        async with slow_senders(url):
            delivery = asyncio.create_task(post(url, body, signed(body)))
            _, pending = await asyncio.wait({delivery}, timeout=0.5)
            assert pending, "it is held up: the proxy in front must buffer"
        assert await delivery == 204
        _, said = await running.stop()
    assert (running.process.returncode, "Traceback" in said) == (0, False), said
