"""A cheap server in a separate process: it sends prepared responses over HTTP/1.1.

Run as a program, it prints its base url, and ends at the end of its standard input.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import uuid
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from random import Random
from typing import Any

PAGE = 500
WEBHOOK = "3f0c9d1e-8f4b-4c1d-9a55-0d6b0f6f7a10"
_ORIGIN = "https://au-api.basiq.io"
_BEGAN = datetime(2024, 4, 17, tzinfo=UTC)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_FIRST = "5eed0000"
"""The prefix of the ids on the first page."""


def message(number: int) -> dict[str, Any]:
    """Return a message of the first page, with one attempt, in the form of Basiq's reference."""
    event = _FIRST + uuid.UUID(int=number).hex[8:]
    identity = _FIRST + str(uuid.UUID(int=0xA000 + number))[8:]
    own = f"{_ORIGIN}/notifications/webhooks/{WEBHOOK}"
    return {
        "id": identity,
        "payload": {
            "eventTypeId": "consent.revoked",
            "eventId": event,
            "links": {"event": f"{_ORIGIN}/events/{event}", "eventEntity": f"{_ORIGIN}/users/{identity}"},
        },
        "attempts": [
            {
                "id": f"a{number}",
                "url": "https://example.com/basiq",
                "response": "OK",
                "responseStatusCode": 200,
                "timestamp": _BEGAN.strftime(_TIME),
                "status": "Success",
            }
        ],
        "links": {"self": f"{own}/messages/{identity}", "webhook": own},
    }


def webhook() -> dict[str, Any]:
    """Return the response of ``GET /notifications/webhooks/{webhookId}``."""
    return {
        "id": WEBHOOK,
        "type": "webhook",
        "name": "bench",
        "description": "a webhook",
        "url": "https://example.com/basiq",
        "status": "active",
        "subscribedEvents": ["consent.revoked", "account.updated"],
        "links": {"self": f"{_ORIGIN}/notifications/webhooks/{WEBHOOK}"},
    }


def svix_message(number: int) -> dict[str, Any]:
    """Return the closest object of Svix's API: a message of an application."""
    return {
        "id": f"msg_{number:027d}",
        "eventType": "consent.revoked",
        "eventId": f"e{number}",
        "channels": ["one"],
        "payload": message(number)["payload"],
        "timestamp": "2024-04-17T23:57:17Z",
        "tags": ["a"],
    }


def page_body(number: int, pages: int, size: int = PAGE) -> bytes:
    """Return one page of a history with so many pages and messages a page."""
    own = f"{_ORIGIN}/notifications/webhooks/{WEBHOOK}/messages"
    following = f',"next":"{own}?next={number + 1}"' if number + 1 < pages else ""
    return _page(number, size) + f',"links":{{"self":"{own}"{following}}}}}'.encode()


def _svix_body(number: int, pages: int) -> bytes:
    done = "true" if number + 1 >= pages else "false"
    return _SVIX_DATA + f',"done":{done},"iterator":"{number + 1}"}}'.encode()


def _list_head(items: list[dict[str, Any]]) -> bytes:
    return b'{"type":"list","size":%d,"count":%d,"data":%s' % (len(items), len(items), _compact(items))


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@lru_cache(256)
def _page(number: int, size: int) -> bytes:
    """Return the first page with other ids, and times a minute later, exchanged in the bytes."""
    time = (_BEGAN + timedelta(minutes=number)).strftime(_TIME)
    page = _data(size).replace(_FIRST.encode(), b"%08x" % (0x5EED0000 + number))
    return page.replace(_BEGAN.strftime(_TIME).encode(), time.encode())


@cache
def _data(size: int) -> bytes:
    return _list_head([message(number) for number in range(size)])


_SVIX_DATA = b'{"data":' + _compact([svix_message(number) for number in range(PAGE)])
_JWT = ".".join(base64.urlsafe_b64encode(Random(size).randbytes(size)).decode().rstrip("=") for size in (27, 300, 64))
_TOKEN = _compact({"access_token": _JWT, "expires_in": 3600, "token_type": "Bearer"})
_WEBHOOK_BODY = _compact(webhook())


class _Connection(asyncio.Protocol):
    """One kept-alive connection. It implements only the HTTP that the measured clients use."""

    def __init__(self, pages: int, delay: float, size: int) -> None:
        self._pages = pages
        self._size = size
        self._delay = delay
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, rest = self._buffer[:end], self._buffer[end + 4 :]
            length = 0
            for line in head.split(b"\r\n")[1:]:
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(head.split(b" ", 2)[1].decode())

    def _answer(self, target: str) -> None:
        path, _, query = target.partition("?")
        if path.endswith("/token"):
            body = _TOKEN
        elif "/api/v1/app/" in path:
            body = _svix_body(_number(query, "iterator="), self._pages)
        elif "none" in query:  # a list with one message
            body = page_body(0, 1, 1)
        elif path.endswith("/messages") or path == "/x":
            size = min(_number(query, "limit=") or self._size, self._size)
            body = page_body(_number(query, "next="), self._pages, size)
        else:
            body = _WEBHOOK_BODY
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        if self._delay and body is not _TOKEN:
            asyncio.get_running_loop().call_later(self._delay, self._write, head + body)
        else:
            self._write(head + body)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


def _number(query: str, name: str) -> int:
    return int(query.partition(name)[2].partition("&")[0] or 0)


async def _serve(pages: int, delay: float, size: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(pages, delay, size), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
