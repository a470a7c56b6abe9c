"""A transport that returns scripted responses, for tests of the layers above a transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from basiq_async import BasiqClient, InMemoryTransport, Request, Response, RetryPolicy
from basiq_async.testing import FakeBasiq
from tests.support.wire import error_body, page_body

Answer = Response | BaseException | Callable[[Request], "Response | Awaitable[Response]"]

API_KEY = "c2FuZGJveC1rZXk6b25seS1mb3ItdGVzdHM="
TOKEN = "token-that-must-not-show"


def answer(value: Any = None, status: int = 200, **headers: str) -> Response:
    body = b"" if value is None else json.dumps(value).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(status, {"content-type": "application/json", **named}, body)


def error(status: int, code: str = "some-code", **headers: str) -> Response:
    return answer(error_body(code), status, **headers)


def page(items: list[Any], next_link: Any = None) -> Response:
    return answer(page_body(items, next_link))


class Scripted:
    """A transport that returns the script's next response for each request, and repeats the last one.

    Token requests get a token, or responses from ``tokens``.
    """

    def __init__(self, *script: Answer, tokens: list[Answer] | None = None, delay: float = 0.0) -> None:
        self.script = list(script)
        self.tokens = tokens
        self.delay = delay
        self.requests: list[Request] = []
        self.token_requests: list[Request] = []
        self.closed = 0

    async def send(self, request: Request, /) -> Response:
        if request.url.endswith("/token"):
            self.token_requests.append(request)
            if self.tokens is None:
                return answer({"access_token": f"{TOKEN}-{len(self.token_requests)}", "expires_in": 3600})
            return await self._play(self.tokens, request)
        self.requests.append(request)
        if self.delay:
            await asyncio.sleep(self.delay)
        return await self._play(self.script, request)

    async def aclose(self) -> None:
        self.closed += 1

    async def _play(self, script: list[Answer], request: Request) -> Response:
        step = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Response):
            return step
        result = step(request)
        return result if isinstance(result, Response) else await result

    @property
    def urls(self) -> list[str]:
        return [request.url for request in self.requests]


class Changing(InMemoryTransport):
    """The transport to a fake whose responses are changed on the way. ``requests`` are those that were sent."""

    def __init__(self, fake: FakeBasiq, change: Callable[[Request, Response], Response]) -> None:
        super().__init__(fake)
        self.change = change
        self.requests: list[Request] = []

    async def send(self, request: Request, /) -> Response:
        self.requests.append(request)
        return self.change(request, await super().send(request))


def client(transport: Scripted, **options: Any) -> BasiqClient:
    options.setdefault("retry", RetryPolicy(max_retries=0))
    return BasiqClient(API_KEY, transport=transport, **options)
