"""The compared ways to read a history: this package, hand-written loops, and other libraries."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx

from basiq_async import BasiqClient
from benchmarks._server import WEBHOOK

try:
    from orjson import dumps, loads
except ImportError:
    loads = json.loads

    def dumps(message: Any) -> bytes:
        return json.dumps(message).encode()


VENDOR = "https://au-api.basiq.io"
KEY = "YmVuY2htYXJrOm5vdC1hLWtleQ=="
Message = dict[str, Any]


def path(webhook_id: str = WEBHOOK) -> str:
    return f"/notifications/webhooks/{webhook_id}/messages?limit=500"


def client(base_url: str) -> BasiqClient:
    return BasiqClient(KEY, base_url=base_url)


async def by_aiohttp(session: aiohttp.ClientSession, base_url: str) -> AsyncIterator[Message]:
    """Read a history by hand, as dictionaries."""
    url: str | None = base_url + path()
    while url:
        async with session.get(url) as response:
            response.raise_for_status()
            answer = loads(await response.read())
        for message in answer["data"]:
            yield message
        following = answer["links"].get("next")
        url = following and following.replace(VENDOR, base_url)


async def by_httpx(http: httpx.AsyncClient, base_url: str) -> AsyncIterator[Message]:
    """Read a history by hand, with httpx."""
    url: str | None = base_url + path()
    while url:
        response = await http.get(url)
        answer = loads(response.raise_for_status().content)
        for message in answer["data"]:
            yield message
        following = answer["links"].get("next")
        url = following and following.replace(VENDOR, base_url)


async def ours(basiq: BasiqClient) -> int:
    seen = 0
    async for _ in basiq.messages.list(WEBHOOK):
        seen += 1
    return seen


async def ours_by_page(basiq: BasiqClient) -> int:
    seen = 0
    async for page in basiq.messages.list(WEBHOOK).pages():
        for _ in page.items:
            seen += 1
    return seen


async def count(messages: AsyncIterator[Message]) -> int:
    seen = 0
    async for _ in messages:
        seen += 1
    return seen


async def by_svix(svix: Any, pages: int) -> int:
    """List as many messages of an application with Svix's own SDK."""
    from svix.api import MessageListOptions

    seen = 0
    iterator: str | None = "0"
    while iterator is not None:
        page = await svix.message.list("app", MessageListOptions(iterator=iterator, limit=500))
        for _ in page.data:
            seen += 1
        iterator = None if page.done else page.iterator
    return seen
