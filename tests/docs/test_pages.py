"""Every page of the documentation is true: its programs run, its commands work, what it shows is what they print."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, chdir
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import pytest
import redis.asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import basiq_async
from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.replay import MemoryCheckpoint, Replay
from basiq_async.testing import FakeBasiq
from tests.support import api
from tests.support.deliveries import SECRET
from tests.support.pages import Page, docstring_blocks, run_text
from tests.support.places import ROOT
from tests.support.ports import free_port
from tests.support.served import served
from tests.test_public import modules

DOCS = ROOT / "docs"
TO_COME = {"cli.md", "frameworks.md", "distributed.md", "tutorial.md"}
PAGES = sorted(path for path in [ROOT / "README.md", *DOCS.rglob("*.md")] if "_build" not in path.parts)


async def _accept(headers: object, body: bytes) -> int:
    return 204


@pytest.fixture
def fake() -> FakeBasiq:
    fake = FakeBasiq()
    fake.seed_messages(1_234, failed=0.5)
    fake.route("https://example.com/basiq", _accept)
    fake.emit("consent.revoked")
    return fake


@pytest.fixture
def page(fake: FakeBasiq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A reader's surroundings: an empty folder, and in the place of the real API a fake with something in it."""
    monkeypatch.chdir(tmp_path)
    with served(fake) as base_url:
        settings = {
            "BASIQ_API_KEY": fake.api_key,
            "BASIQ_BASE_URL": base_url,
            "BASIQ_WEBHOOK_SECRET": "whsec_dGhlLXNlY3JldC1vZi15b3VyLXdlYmhvb2s=",
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        yield Page(
            tmp_path, {**os.environ}, ports={port: str(free_port()) for port in ("4010", "8080", "3000", "6379")}
        )


SLOW = ("docs/index.md", "docs/tutorial.md")
_slow = pytest.mark.skipif(not os.environ.get("BASIQ_SLOW_PAGES"), reason="a minute of commands: `make pages` runs it")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=_slow if str(path.relative_to(ROOT)) in SLOW else ()) for path in PAGES],
    ids=[str(path.relative_to(ROOT)) for path in PAGES],
)
def test_every_block_of_a_page_does_what_the_page_says(path: Path, page: Page) -> None:
    page.run(path)


def test_what_pages_do_misuses_nothing(fake: FakeBasiq, page: Page) -> None:
    page.run(ROOT / "README.md")
    assert list(fake.violations) == []


@attrs.frozen
class Block:
    module: str
    name: str
    text: str


def _docstrings() -> Iterator[Block]:
    for module in modules():
        for name, value in [("", import_module(module)), *vars(import_module(module)).items()]:
            if isinstance(text := getattr(value, "__doc__", None), str) and (
                not name or getattr(value, "__module__", "") == module
            ):
                yield from (Block(module, name, block) for block in docstring_blocks(text))


DOCSTRINGS = list(_docstrings())


async def _take(request: web.Request) -> web.Response:
    return web.Response(status=204)


async def _handler(message: Message) -> None:
    """What a docstring calls ``handler``."""


@pytest.mark.parametrize("block", DOCSTRINGS, ids=[f"{block.module}.{block.name}" for block in DOCSTRINGS])
async def test_the_code_in_a_docstring_runs(block: Block, fake: FakeBasiq, tmp_path: Path) -> None:
    names: dict[str, Any] = {"AsyncIterator": AsyncIterator}
    for module in (*api.MODULES, block.module):
        names |= vars(import_module(module))
    endpoint = web.Application()
    endpoint.router.add_post("/basiq", _take)
    async with (
        TestServer(endpoint) as server,
        BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq,
    ):
        webhook_id = fake.add_webhook("https://example.com/other")
        names |= {
            "BasiqClient": BasiqClient,
            "SECRET": SECRET,
            "URL": str(server.make_url("/basiq")),
            "app": web.Application(),
            "asynccontextmanager": asynccontextmanager,
            "basiq": basiq,
            "engine": create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/inbox.db"),
            "AsyncSession": AsyncSession,
            "handler": _handler,
            "redis": redis,
            "replay": Replay(basiq, webhook_id, _handler, checkpoint=MemoryCheckpoint()),
            "secret": SECRET,
            "webhook_id": webhook_id,
        }
        with chdir(tmp_path):
            async with asyncio.timeout(30):
                await run_text(block.text, f"{block.module}.{block.name}", names)
        await names["engine"].dispose()


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_the_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(((?!https?:|mailto:)[^)#\s]+)", path.read_text()):
        assert (path.parent / target).exists() or Path(target).name in TO_COME, target


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    documented = set(re.findall(r"\.\. auto(?:class|function|exception|data):: (?:[\w.]*\.)?(\w+)", pages))
    missing = []
    for name in (
        "basiq_async",
        "basiq_async.receiver",
        "basiq_async.replay",
        "basiq_async.distributed",
        "basiq_async.testing",
    ):
        missing += [f"{name}.{one}" for one in import_module(name).__all__ if one not in documented]
    assert missing == ["basiq_async.__version__"]
    assert basiq_async.__version__
