"""A token endpoint in every mood, with one caller and with fifty at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from basiq_async import (
    APIError,
    AuthenticationError,
    ConnectionFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    ResponseDecodeError,
    RetryPolicy,
    ServerError,
    TransportError,
    Webhook,
)
from tests.support.outcomes import ONCE, QUICK, client_of, outcome
from tests.support.wire import (
    KEY,
    TOKEN,
    WEBHOOK,
    Conn,
    Step,
    Wire,
    closing,
    error,
    hanging,
    http,
    ok,
    page,
    token,
)


async def at_once(client: Any, count: int = 50) -> list[Any]:
    calls = (client.webhooks.get(f"w{index}") for index in range(count))
    return list(await outcome(asyncio.gather(*calls, return_exceptions=True), within=3.0))


def slowly(answer: bytes, seconds: float = 0.03) -> Step:
    async def step(conn: Conn) -> None:
        await asyncio.sleep(seconds)
        await conn.say(answer)

    return step


FAILING: dict[str, tuple[Step, type[Exception]]] = {
    "400": (error(400), AuthenticationError),
    "401": (error(401), AuthenticationError),
    "404": (error(404), AuthenticationError),
    "404 of a proxy": (http(404, "<html>"), NotFoundError),
    "403": (error(403), PermissionDeniedError),
    "429": (error(429), RateLimitError),
    "500": (error(500), ServerError),
    "302": (http(302), APIError),
    "101": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", APIError),
    "closes": (closing(), ConnectionFailedError),
    "breaks off": (closing(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), ConnectionFailedError),
    "never answers": (hanging(), RequestTimeoutError),
    "an empty body": (http(200), ResponseDecodeError),
    "no content": (http(204, length=False), ResponseDecodeError),
    "html": (http(200, "<html>"), ResponseDecodeError),
    "a list": (http(200, "[]"), ResponseDecodeError),
    "no token": (ok({"expires_in": 3600}), ResponseDecodeError),
    "a token of a number": (ok({"access_token": 5}), ResponseDecodeError),
    "an empty token": (token(""), ResponseDecodeError),
    "a token with a newline": (token(f"{TOKEN}\r\nX-Injected: 1"), ResponseDecodeError),
    "a token with a line feed at its end": (token(f"{TOKEN}\n"), ResponseDecodeError),
    "a token with an accent": (token(f"{TOKEN}é"), ResponseDecodeError),
    "a token of half a surrogate": (http(200, '{"access_token":"\\ud800"}'), ResponseDecodeError),
    "an enormous token": (token(TOKEN * 10_000), ResponseDecodeError),
    "nested 10,000 deep": (http(200, '{"access_token":' + "[" * 10_000), ResponseDecodeError),
    "not UTF-8": (http(200, b'{"access_token":"\xff"}'), ResponseDecodeError),
    "not gzip": (http(200, b"{}", "Content-Encoding: gzip"), ConnectionFailedError),
    "above the limit": (closing(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"), TransportError),
}


@pytest.mark.parametrize(("step", "expected"), FAILING.values(), ids=FAILING)
async def test_callers_at_once_share_one_failure_of_the_token_endpoint_and_the_next_call_works(
    step: Step, expected: Any
) -> None:
    async with Wire(tokens=[step, token()]) as wire, client_of(wire, timeout=0.1) as client:
        got = await at_once(client, 8)
        assert {(type(one), one.path) for one in got} == {(expected, "/token")}
        assert len({id(one) for one in got}) == 8, "each caller has an error of its own"
        assert (len(wire.token_requests), wire.requests) == (1, [])
        assert {type(one) for one in await at_once(client, 8)} == {Webhook}
        assert len(wire.token_requests) == 2


@pytest.mark.parametrize("step", [error(500), error(429), closing()], ids=["500", "429", "closes"])
async def test_a_failure_that_passes_is_not_noticed(step: Step) -> None:
    async with Wire(tokens=[step, step, token()]) as wire, client_of(wire, retry=QUICK) as client:
        assert {type(one) for one in await at_once(client)} == {Webhook}
        assert len(wire.token_requests) == 3


@pytest.mark.parametrize("count", [1, 50])
async def test_401_for_ever_is_bounded(count: int) -> None:
    async with Wire(error(401)) as wire, client_of(wire) as client:
        got = await at_once(client, count)
        assert {type(one) for one in got} == {AuthenticationError}
        assert got[0].path == "/notifications/webhooks/w0"
        assert (len(wire.requests), len(wire.token_requests)) == (2 * count, 2)


async def test_fifty_401s_make_one_renewal() -> None:
    async with Wire() as wire, client_of(wire) as client:
        await client.webhooks.get("w1")

        async def once(conn: Conn) -> None:
            fresh = wire.requests[-1].headers["authorization"].endswith("renewed")
            await conn.say(ok(WEBHOOK) if fresh else error(401))

        wire.script, wire.tokens = [once], [slowly(token(f"{TOKEN}renewed"))]
        assert {type(one) for one in await at_once(client)} == {Webhook}
        assert len(wire.token_requests) == 2


@pytest.mark.parametrize(("step", "expected"), [FAILING[each] for each in ("401", "closes", "never answers", "html")])
async def test_a_renewal_that_fails_in_the_middle_of_a_stream_comes_after_its_items(step: Step, expected: Any) -> None:
    script = [page([{"id": "m1"}], "/x?n=1"), error(401), page([{"id": "m2"}])]
    async with Wire(*script, tokens=[token(), step, token()]) as wire, client_of(wire, timeout=0.1) as client:
        items = aiter(client.messages.list("w1", prefetch=0))
        assert (await anext(items)).id == "m1"
        got = await outcome(anext(items))
        assert type(got) is expected, got
        assert (await anext(items)).id == "m2"
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_expiry_in_the_middle_of_a_stream_is_not_noticed() -> None:
    script: list[Step] = []
    for index in range(5):
        script += [error(401), page([{"id": f"m{index}"}], f"/x?n={index}" if index < 4 else None)]
    async with Wire(*script) as wire, client_of(wire) as client:
        messages = await outcome(client.messages.list("w1").collect())
        assert [message.id for message in messages] == [f"m{index}" for index in range(5)]
        assert len(wire.token_requests) == 6


async def test_token_and_call_and_renewal_together_keep_to_max_elapsed() -> None:
    policy = RetryPolicy(max_retries=100, base=0.01, max_wait=0.01, max_elapsed=0.12)
    slow = slowly(error(503), 0.01)
    for tokens, script in (
        ([slow], [ok(WEBHOOK)]),
        ([slowly(token(), 0.05)], [slow]),
        ([slowly(token(), 0.04), slow], [slowly(error(401), 0.04)]),
        ([slowly(token(), 0.04), hanging()], [slowly(error(401), 0.04)]),
    ):
        async with Wire(*script, tokens=tokens) as wire, client_of(wire, retry=policy, timeout=0.1) as client:
            got = await outcome(client.webhooks.get("w1"), within=0.32)
            assert type(got) in (ServerError, RequestTimeoutError)


async def test_the_key_is_sent_to_the_token_endpoint_alone_and_the_token_elsewhere_alone() -> None:
    async with Wire(page([{"id": "m1"}], "/x?n=1"), page([])) as wire, client_of(wire, retry=ONCE) as client:
        await client.messages.list("w1").collect()
        assert [request.headers["authorization"] for request in wire.token_requests] == [f"Basic {KEY}"]
        assert {request.headers["authorization"] for request in wire.requests} == {f"Bearer {TOKEN}"}
        assert all("basic" not in request.headers["authorization"].lower() for request in wire.requests)
