"""The compared ways to stream a history: this package, hand-written loops, and other libraries."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import attrs
import cattrs
import httpx
import orjson
import pydantic

from basiq_async import BasiqClient
from basiq_async._wire import codec as _codec
from benchmarks._server import WEBHOOK

VENDOR = "https://au-api.basiq.io"
KEY = "YmVuY2htYXJrOm5vdC1hLWtleQ=="


def path(webhook_id: str = WEBHOOK) -> str:
    return f"/notifications/webhooks/{webhook_id}/messages?limit=500"


def client(base_url: str, *, with_orjson: bool = True) -> BasiqClient:
    """Stream with this package, with orjson or, as without the extra ``speed``, with json."""
    made = BasiqClient(KEY, base_url=base_url)
    if not with_orjson:
        made.messages._api.codec._loads = _codec._strict_loads
    return made


async def raw(session: aiohttp.ClientSession, base_url: str, loads: Callable[[bytes], Any] = json.loads) -> int:
    """Stream with a hand-written loop: aiohttp, and a JSON decoder that returns dictionaries."""

    async def messages() -> AsyncIterator[dict[str, Any]]:
        url: str | None = base_url + path()
        while url:
            async with session.get(url) as response:
                answer = loads(await response.read())
            for message in answer["data"]:
                yield message
            following = answer["links"].get("next")
            url = following and following.replace(VENDOR, base_url)

    seen = 0
    async for _ in messages():
        seen += 1
    return seen


async def only_bytes(session: aiohttp.ClientSession, base_url: str, pages: int) -> int:
    """Read the pages only as bytes: the upper limit of the speed."""
    for page in range(pages):
        async with session.get(f"{base_url}/x?next={page}") as response:
            await response.read()
    return pages * 500


async def ours(basiq: BasiqClient, prefetch: int = 1) -> int:
    seen = 0
    async for _ in basiq.messages.list(WEBHOOK, prefetch=prefetch):
        seen += 1
    return seen


class _PydanticAttempt(pydantic.BaseModel):
    id: str | None = None
    url: str | None = None
    response: str | None = None
    responseStatusCode: int | None = None
    timestamp: Any = None
    status: str | None = None


class _PydanticMessage(pydantic.BaseModel):
    id: str
    payload: dict[str, Any]
    attempts: list[_PydanticAttempt]
    links: dict[str, str]


class PydanticWebhook(pydantic.BaseModel):
    id: str
    url: str
    status: str
    name: str | None = None
    description: str | None = None
    subscribedEvents: list[str]
    links: dict[str, str]


class _PydanticPage(pydantic.BaseModel):
    data: list[_PydanticMessage]
    links: dict[str, str]


async def httpx_pydantic(http: httpx.AsyncClient, base_url: str) -> int:
    seen = 0
    url: str | None = base_url + path()
    while url:
        page = _PydanticPage.model_validate_json((await http.get(url)).content)
        for _ in page.data:
            seen += 1
        following = page.links.get("next")
        url = following and following.replace(VENDOR, base_url)
    return seen


@attrs.frozen
class _Attempt:
    id: str
    url: str
    response: str
    responseStatusCode: int
    timestamp: str
    status: str


@attrs.frozen
class _Message:
    id: str
    payload: dict[str, Any]
    attempts: list[_Attempt]
    links: dict[str, str]


async def plain_cattrs(session: aiohttp.ClientSession, base_url: str) -> int:
    """Stream with aiohttp, and structure each page with plain cattrs."""
    converter = cattrs.Converter()
    seen = 0
    url: str | None = base_url + path()
    while url:
        async with session.get(url) as response:
            answer = orjson.loads(await response.read())
        for _ in converter.structure(answer["data"], list[_Message]):
            seen += 1
        following = answer["links"].get("next")
        url = following and following.replace(VENDOR, base_url)
    return seen


async def svix_stream(svix: Any, pages: int) -> int:
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
