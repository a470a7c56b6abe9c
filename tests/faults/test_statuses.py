"""Every HTTP status, with every kind of method and body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from basiq_async import (
    APIError,
    AuthenticationError,
    BadRequestError,
    BasiqClient,
    ConflictError,
    ConnectionFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    ResponseDecodeError,
    ServerError,
    Webhook,
)
from tests.support.outcomes import QUICK, client_of, outcome
from tests.support.wire import WEBHOOK, Wire, closing, error, http, ok, trickling

CLASSES = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}
CALLS = {
    "GET": lambda client: client.webhooks.get("w1"),
    "POST": lambda client: client.webhooks.create(url="https://example.com/h", subscribed_events=["user.created"]),
    "DELETE": lambda client: client.webhooks.delete("w1"),
}


async def call(client: BasiqClient, method: str) -> Any:
    return await outcome(CALLS[method](client))


async def test_each_status_that_is_no_success_is_its_class_whatever_the_method() -> None:
    async with Wire() as wire, client_of(wire) as client:
        for status in (300, 304, 399, *CLASSES, 402, 499, 500, 599, 600, 999):
            wire.script = [error(status) if status != 304 else http(304)]
            for method in CALLS:
                got = await call(client, method)
                assert type(got) is (ServerError if 500 <= status <= 599 else CLASSES.get(status, APIError)), got
                assert (got.status, got.correlation_id) == (status, None if status == 304 else "corr-1")
        wire.script = [ok(WEBHOOK)]
        assert isinstance(await call(client, "GET"), Webhook)


@pytest.mark.parametrize("line", ["HTTP/1.1 000 x", "HTTP/1.1 1000 x", "HTTP/1.1 abc x"])
async def test_a_status_that_is_none_is_a_broken_answer(line: str) -> None:
    async with Wire(closing(f"{line}\r\nContent-Length: 2\r\n\r\n{{}}".encode())) as wire, client_of(wire) as client:
        got = await call(client, "GET")
        assert isinstance(got, (ConnectionFailedError, APIError)), got
        assert type(got) in (ConnectionFailedError, APIError)


async def test_every_success_with_an_object_is_that_object() -> None:
    async with Wire() as wire, client_of(wire) as client:
        for status in (200, 201, 202, 203, 206, 299):
            wire.script = [ok(WEBHOOK, status=status)]
            assert (await call(client, "GET")).id == "w1"
            assert (await call(client, "POST")).id == "w1"
            assert await call(client, "DELETE") is None


@pytest.mark.parametrize("status", [200, 204, 205])
async def test_a_success_without_a_body_suits_a_delete_and_nothing_else(status: int) -> None:
    answer = http(status) if status != 204 else http(204, length=False)
    async with Wire(answer) as wire, client_of(wire) as client:
        assert await call(client, "DELETE") is None
        for method in ("GET", "POST"):
            got = await call(client, method)
            assert type(got) is ResponseDecodeError
            assert "empty" in str(got)


async def test_a_204_with_a_body_does_not_disturb_the_next_call() -> None:
    body = json.dumps(WEBHOOK).encode()
    wire = Wire(http(204, body), ok({**WEBHOOK, "id": "w2"}))
    async with wire, client_of(wire, retry=QUICK) as client:
        assert await call(client, "DELETE") is None
        assert (await call(client, "GET")).id == "w2"


@pytest.mark.parametrize("status", [100, 199])
async def test_an_interim_answer_is_passed_over(status: int) -> None:
    answer = f"HTTP/1.1 {status} Wait\r\nLink: </x>\r\n\r\n".encode() * 3 + ok(WEBHOOK)
    async with Wire(answer) as wire, client_of(wire) as client:
        for method in ("GET", "POST"):
            assert (await call(client, method)).id == "w1"


async def test_interim_answers_without_end_run_into_the_timeout() -> None:
    async with (
        Wire(trickling(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", every=0.001)) as wire,
        client_of(wire) as client,
    ):
        assert type(await call(client, "GET")) is RequestTimeoutError


async def test_an_answer_of_http_1_0_is_read_to_its_end() -> None:
    body = json.dumps(WEBHOOK).encode()
    head = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"
    async with Wire(closing(head + body)) as wire, client_of(wire) as client:
        for _ in range(2):
            assert (await call(client, "GET")).id == "w1"
