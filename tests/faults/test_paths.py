"""An id or a link cannot lead to another path, even if a reverse proxy decodes paths before the API sees them."""

from __future__ import annotations

import posixpath
import re
import urllib.parse
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from basiq_async import (
    BasiqClient,
    ConfigurationError,
    InMemoryTransport,
    PaginationError,
    Request,
    Response,
    ResponseDecodeError,
    Secret,
    Webhook,
)
from basiq_async.testing import FakeBasiq
from tests.support.scripted import Scripted, answer, client, page
from tests.support.wire import page_body

KEY = "a2V5LW9mLXRoaXMtdGVzdA=="
API = "https://au-api.basiq.io"
WEBHOOKS = f"{API}/notifications/webhooks"


class DecodingProxy(InMemoryTransport):
    """A fake API behind a proxy that decodes a path three times, drops its parameters, and resolves its dots."""

    def __init__(self, fake: FakeBasiq) -> None:
        super().__init__(fake)
        self.paths: list[str] = []

    async def send(self, request: Request, /) -> Response:
        url = urllib.parse.urlsplit(request.url)
        path = url.path
        for _ in range(3):
            path = urllib.parse.unquote(path)
        path = re.sub(r";[^/]*", "", path.replace("\\", "/")).partition("?")[0].partition("#")[0]
        path = posixpath.normpath(path)
        self.paths.append(path)
        return await super().send(attrs.evolve(request, url=url._replace(path=path).geturl()))


IDS = ("mine/../{}", "mine%2f..%2f{}", "mine%252f..%252f{}", "mine\\..\\{}", "{}?", "{}#", "{}%3f", "./{}", ".;x/{}")
BY_ID: dict[str, Callable[[BasiqClient, str], Awaitable[Any]]] = {
    "delete": lambda c, v: c.webhooks.delete(v),
    "update": lambda c, v: c.webhooks.update(v, url="https://example.com/new"),
    "reactivate": lambda c, v: c.webhooks.reactivate(v),
    "diagnose": lambda c, v: c.webhooks.diagnose(v),
    "messages": lambda c, v: c.messages.list(v).collect(),
    "message": lambda c, v: c.messages.get(v, "m"),
    "event": lambda c, v: c.events.get(f"../notifications/webhooks/{v}"),
    "event type": lambda c, v: c.event_types.get(f"../../notifications/webhooks/{v}"),
    "get": lambda c, v: c.get(f"/notifications/webhooks/mine/../{v}"),
    "get without a slash": lambda c, v: c.get(f"notifications/webhooks/mine/../{v}"),
    "list": lambda c, v: c.list(f"notifications/webhooks/mine/../{v}/messages").collect(),
}


@pytest.mark.parametrize("call", BY_ID.values(), ids=BY_ID)
async def test_no_id_reaches_another_object(call: Callable[[BasiqClient, str], Awaitable[Any]]) -> None:
    proxy = DecodingProxy(FakeBasiq(api_keys=[KEY]))
    async with BasiqClient(KEY, transport=proxy) as basiq:
        other = await basiq.webhooks.create(url="https://example.com/other", subscribed_events=["user.created"])
        before = len(proxy.paths)
        for hostile in IDS:
            with pytest.raises(ConfigurationError):
                await call(basiq, hostile.format(other.id))
        assert len(proxy.paths) == before
        assert (await basiq.webhooks.get(other.id)).url == other.url


async def test_the_proxy_of_these_tests_would_have_deleted_the_other_one() -> None:
    fake = FakeBasiq(api_keys=[KEY])
    proxy = DecodingProxy(fake)
    async with BasiqClient(KEY, transport=proxy) as basiq:
        for hostile in IDS:
            other = await basiq.webhooks.create(url="https://example.com/other", subscribed_events=["user.created"])
            url = f"{WEBHOOKS}/{urllib.parse.quote(hostile.format(other.id), safe='')}"
            token = fake.requests[-1].headers["authorization"]
            assert (await proxy.send(Request("DELETE", url, {"authorization": token}))).status == 204
            assert await basiq.webhooks.list().collect() == []


# tests/wire/test_urls.py has every form of a link.
@pytest.mark.parametrize(
    "link", ["https://evil.example/e", "../notifications/webhooks", "/events/..%2fx", "javascript:x"]
)
async def test_no_link_of_a_response_reaches_another_path(link: str) -> None:
    transport = Scripted(page([{"id": "a"}], link))
    with pytest.raises(PaginationError, match="not followed"):
        await client(transport).events.list().collect()
    assert len(transport.requests) == 1
    transport = Scripted(page([]))
    source = SimpleNamespace(event_id=None, links=dict.fromkeys(("event", "eventEntity"), link))
    for fetch in (client(transport).events.fetch, client(transport).events.fetch_entity):
        with pytest.raises(ConfigurationError, match="not followed"):
            await fetch(source)
    assert transport.requests == transport.token_requests == []


NO_IDS = ("../../etc/cron.d/x", "..", "/etc/passwd", "a\\b", "%2e%2e%2fx", "", "a\nb", "x" * 3_000)


@pytest.mark.parametrize("call", ["create", "ensure", "ensure one that is there", "update", "reactivate"])
async def test_a_server_cannot_choose_where_a_program_writes_by_a_webhooks_id(call: str) -> None:
    """Programs name files by the id, and write the secret into them, which the server chose as well."""
    url, stored = "https://service.example/basiq", []
    webhook = {"url": url, "status": "active", "subscribedEvents": ["user.created"], "secret": "YQ=="}

    async def store(secret: Secret) -> None:
        stored.append(secret)

    def respond(request: Request) -> Response:
        listed = [] if call == "ensure" else [webhook]
        is_list = request.method == "GET" and request.url.endswith("/webhooks")
        return answer(page_body(listed)) if is_list else answer(webhook)

    async with client(Scripted(respond)) as basiq:
        calls: dict[str, Callable[[], Awaitable[Webhook]]] = {
            "create": lambda: basiq.webhooks.create(url=url, subscribed_events=["user.created"]),
            "update": lambda: basiq.webhooks.update("wh-1", url=url),
            "reactivate": lambda: basiq.webhooks.reactivate("wh-1"),
        }
        usual = lambda: basiq.webhooks.ensure(url=url, subscribed_events=["user.created"], secret=store)  # noqa: E731
        for webhook["id"] in NO_IDS:
            with pytest.raises(ResponseDecodeError, match="id"):
                await calls.get(call, usual)()
            assert stored == []
        webhook["id"] = "wh-1"
        assert (await calls.get(call, usual)()).id == "wh-1"
