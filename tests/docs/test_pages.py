"""Every page of the documentation is true: its programs run, its commands work, what it shows is what they print."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
import tomllib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from taskiq import InMemoryBroker

import basiq_async
from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.receiver import MemoryInbox, SQLiteInbox, WebhookReceiver
from basiq_async.replay import Replay
from basiq_async.services.resources import RESOURCES
from basiq_async.testing import FakeBasiq
from tests.support import api
from tests.support.deliveries import SECRET
from tests.support.environment import ROOT, free_port, unmeasured
from tests.support.pages import PAGES, Page, has_blocks, has_docstring_blocks
from tests.support.served import served

DOCS = ROOT / "docs"


async def _accept(headers: object, body: bytes) -> int:
    return 204


@pytest.fixture
def fake() -> FakeBasiq:
    fake = FakeBasiq()
    fake.seed_messages(34, failed=0.5)  # where two workers share one SQLite file, they wait for each other
    fake.route("https://example.com/basiq", _accept)
    fake.emit("consent.revoked")
    return fake


@pytest.fixture
def page(fake: FakeBasiq, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A reader's surroundings: an empty folder, and in the place of the real API a fake with something in it."""
    monkeypatch.chdir(tmp_path)
    with served(fake) as base_url:
        settings = {
            "BASIQ_API_KEY": fake.api_key,
            "BASIQ_BASE_URL": base_url,
            "BASIQ_WEBHOOK_ID": "wh_1",
            "BASIQ_WEBHOOK_SECRET": "whsec_dGhlLXNlY3JldC1vZi15b3VyLXdlYmhvb2s=",
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        ports = {port: str(free_port()) for port in ("4010", "8080", "3000", "6379")}
        yield Page(tmp_path, {**unmeasured(), **settings}, ports=ports)


RUN = [path for path in PAGES if has_blocks(path)]
SLOW = "docs/tutorial.md"
_slow = pytest.mark.skipif(not os.environ.get("BASIQ_SLOW_PAGES"), reason="a minute of commands: `make pages` runs it")


ONCE = {
    "docs/mock.md": "each start of the mock has another secret, and a file with a secret is never overwritten",
    "docs/howto/wsgi.md": "its test begins in an empty folder",
}
"""Pages whose programs are not started a second time, and why."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=_slow if str(path.relative_to(ROOT)) == SLOW else ()) for path in RUN],
    ids=[str(path.relative_to(ROOT)) for path in RUN],
)
def test_every_block_of_a_page_does_what_the_page_says_and_misuses_nothing(
    path: Path, fake: FakeBasiq, page: Page
) -> None:
    """Each program is started a second time, against what the first time left at Basiq and in its files."""
    name = str(path.relative_to(ROOT))
    for program in ("curl", "redis-server"):
        if re.search(rf"^\$ .*\b{program}\b", path.read_text(), re.MULTILINE) and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed here")
    for page.again in (False,) if name in {*ONCE, SLOW} else (False, True):
        assert page.run_alone(path)
        assert list(fake.misuses) == []
        fake.reset_log()
        fake.expire_tokens()  # a program that ended has a token that is not used any more


MODULES = [path for path in sorted((ROOT / "basiq_async").rglob("*.py")) if has_docstring_blocks(path)]


async def _take(request: web.Request) -> web.Response:
    return web.Response(status=204)


async def _handler(message: Message) -> None:
    """What a docstring calls ``handler``."""


@asynccontextmanager
async def _known_to_readers(fake: FakeBasiq, folder: Path) -> AsyncIterator[Mapping[str, Any]]:
    """What the reader of a docstring has: every public name, and what belongs to a service."""
    endpoint = web.Application()
    endpoint.router.add_post("/basiq", _take)
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/inbox.db")
    async with (
        TestServer(endpoint) as server,
        BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq,
        SQLiteInbox(folder / "service.db") as inbox,
    ):
        webhook_id = fake.add_webhook("https://example.com/other")
        packages = [import_module(module) for module in api.MODULES]
        public = {name: getattr(package, name) for package in packages for name in package.__all__}
        yield public | {
            "AsyncGenerator": AsyncGenerator,
            "AsyncIterator": AsyncIterator,
            "AsyncSession": AsyncSession,
            "SECRET": SECRET,
            "URL": str(server.make_url("/basiq")),
            "app": web.Application(),
            "asynccontextmanager": asynccontextmanager,
            "basiq": basiq,
            "broker": InMemoryBroker(),
            "engine": engine,
            "fake": fake,
            "handle": _handler,
            "handler": _handler,
            "inbox": inbox,
            "receiver": WebhookReceiver(SECRET, webhook_id=webhook_id, inbox=inbox),
            "redis": redis,
            "replay": Replay(basiq, webhook_id, _handler, inbox=MemoryInbox()),
            "secret": SECRET,
            "webhook_id": webhook_id,
        }
    await engine.dispose()


@pytest.mark.parametrize("module", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_the_code_in_docstrings_runs(module: Path, fake: FakeBasiq, page: Page) -> None:
    assert page.run(module, _known_to_readers(fake, page.folder))


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_the_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(((?!https?:|mailto:)[^)#\s]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_public_name_is_in_the_reference() -> None:
    extension = runpy.run_path(str(DOCS / "_ext" / "docstrings.py"))  # it makes the names of each module
    pages = extension["with_names"]("\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md")))
    documented = set(re.findall(r"\.\. auto(?:class|function|exception|data):: (?:[\w.]*\.)?(\w+)", pages))
    missing = []
    for module in api.MODULES:
        missing += [f"{module}.{name}" for name in import_module(module).__all__ if name not in documented]
    missing += [f"services.{each.name}" for each in RESOURCES if f".services.{each.name}." not in pages]
    assert missing == ["basiq_async.__version__"]
    public = {name for module in api.MODULES for name in import_module(module).__all__}
    gone = [name for name in documented - public if not re.search(rf"\.services\.\w+\.{name}\b", pages)]
    assert gone == [], "the reference names what is not public"
    assert basiq_async.__version__


def test_the_site_is_built_with_each_extra() -> None:
    """The reference imports what the extras bring."""
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]) - {"dev"}
    (installed,) = [
        step["extra_requirements"]
        for step in yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())["python"]["install"]
        if "path" in step
    ]
    assert set(installed) == extras
