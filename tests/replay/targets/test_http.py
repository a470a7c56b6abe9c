"""The HTTP target, over real sockets: signed as Basiq signs, patient, and leaking nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from basiq_async import ConfigurationError, Message, ReplayError, RetryPolicy, TargetError, TransportError
from basiq_async.cli._listen import Forwarder  # private: what the frames of a traceback hold
from basiq_async.receiver import verify
from basiq_async.replay import HttpTarget
from tests.support import virtual
from tests.support.frames import leaks
from tests.support.histories import history
from tests.support.real_time import PATIENCE
from tests.support.wire import Conn, Step, Wire, closing, hanging, http, resetting, trickling

SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1yZXBsYXk="
QUICK = RetryPolicy(max_retries=2, base=0.0)
MESSAGE = Message(
    "m1", {"id": "m1", "payload": {"eventTypeId": "user.created", "eventId": "e1", "links": {"event": "ü"}}}
)


@asynccontextmanager
async def posting(*script: Step, **options: Any) -> AsyncIterator[tuple[HttpTarget, Wire]]:
    """A target, and the endpoint to which it posts, which responds with the steps of the script."""
    async with Wire(*script) as wire, HttpTarget(f"{wire.url}/basiq", SECRET, **{"retry": QUICK, **options}) as target:
        yield target, wire


async def test_a_message_is_posted_and_signed_as_basiq_does() -> None:
    times = iter([datetime.now(UTC), datetime(2026, 1, 6, tzinfo=UTC)])
    async with posting(http(204), clock=lambda: next(times)) as (target, wire):
        await target.deliver(MESSAGE)
        await target.deliver(MESSAGE)
    posted, again = wire.requests
    headers, body = posted.headers, posted.body
    assert again.headers["webhook-timestamp"] == "1767657600", "each posting has a timestamp of its own"
    assert (posted.method, posted.target) == ("POST", "/basiq")
    assert json.loads(body) == MESSAGE.payload
    assert b" " not in body
    verify(SECRET, headers=headers, body=body)
    assert headers["webhook-id"] == again.headers["webhook-id"] == "m1"
    assert headers["content-type"] == "application/json"
    assert "authorization" not in headers
    assert "basiq-version" not in headers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_a_success(status: int) -> None:
    async with posting(http(status)) as (target, _):
        await target.deliver(MESSAGE)


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410, 413])
async def test_other_statuses_are_told_at_once(status: int) -> None:
    async with posting(http(status, "", "Location: /elsewhere", "Set-Cookie: a=b")) as (target, wire):
        with pytest.raises(TargetError, match=rf"responded with {status}$") as caught:
            await target.deliver(MESSAGE)
    assert (caught.value.status, caught.value.retry_after, len(wire.requests)) == (status, None, 1)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_failures_that_may_pass_are_tried_again_by_the_targets_own_policy(status: int) -> None:
    async with posting(http(status), http(status), http(204), http(status)) as (target, wire):
        await target.deliver(MESSAGE)
        with pytest.raises(TargetError, match=rf"responded with {status} after 3 attempts"):
            await target.deliver(MESSAGE)
    assert len(wire.requests) == 6


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wait", ["17", "Mon, 05 Jan 2026 12:00:17 GMT\r\nDate: Mon, 05 Jan 2026 12:00:00 GMT"])
async def test_retry_after_is_left_to_the_whole_job(status: int, wait: str) -> None:
    async with posting(http(status, "", f"Retry-After: {wait}")) as (target, wire):
        with pytest.raises(TargetError) as caught:
            await target.deliver(MESSAGE)
    assert (caught.value.status, caught.value.retry_after, len(wire.requests)) == (status, 17.0, 1)


async def test_no_listener_is_a_transport_error_and_the_job_ends_in_front_of_the_message() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        async with history(3) as h, HttpTarget(url, SECRET, retry=RetryPolicy(max_retries=0)) as target:
            with pytest.raises(TransportError, match="no connection"):
                await target.deliver(MESSAGE)
            replay = h.replay(target, max_pause=0.01)
            with pytest.raises(ReplayError, match=r"the target has been down .* before message .* run the same"):
                await replay.run()
            assert await replay.quarantined() == []


@pytest.mark.parametrize(("options", "seconds"), [({}, 30.0), ({"timeout": 7}, 7.0)])
@virtual.clocked
async def test_an_attempt_ends_after_its_timeout_which_is_thirty_seconds_by_default(
    options: dict[str, Any], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(aiohttp.ClientSession, "_request", hang)
    began = virtual.now()
    async with HttpTarget("http://127.0.0.1:9/", SECRET, retry=RetryPolicy(max_retries=0), **options) as target:
        with pytest.raises(TransportError, match="no complete response"):
            await target.deliver(MESSAGE)
    assert virtual.now() - began == seconds, f"an endpoint has {seconds:g} s for each attempt"


async def test_a_session_of_yours_is_used_and_left_open() -> None:
    async with aiohttp.ClientSession(headers={"X-Mine": "yes"}) as session:
        async with posting(http(204), session=session) as (target, wire):
            await target.deliver(MESSAGE)
        assert not session.closed
    assert wire.requests[0].headers["x-mine"] == "yes"


async def test_a_target_that_is_closed_ends_the_job() -> None:
    async with history(3) as h:
        async with HttpTarget("http://127.0.0.1:9/", SECRET) as target:
            pass
        with pytest.raises(ReplayError, match="the HttpTarget is closed"):
            await h.replay(target).run()


async def test_an_id_that_no_delivery_can_have_is_a_failed_message() -> None:
    async with HttpTarget("http://127.0.0.1:9/", SECRET) as target:
        with pytest.raises(ConfigurationError, match="message_id"):
            await target.deliver(Message("with space", {"id": "with space"}))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"url": "/relative"}, "url"),
        ({"url": "https://user:password@example.com/"}, "user or password"),
        ({"secret": ""}, "secret"),
        ({"connections": 0}, "connections"),
        ({"connections": True}, "connections"),
    ],
)
def test_arguments_that_cannot_be_are_refused_without_showing_them(arguments: dict[str, Any], shown: str) -> None:
    with pytest.raises(ConfigurationError, match=shown) as caught:
        HttpTarget(**{"url": "https://example.com/", "secret": SECRET, **arguments})
    assert "password@" not in str(caught.value)


def test_the_secret_is_shown_nowhere() -> None:
    assert repr(HttpTarget("https://example.com/basiq", SECRET)) == "HttpTarget('https://example.com/basiq')"
    assert repr(HttpTarget("https://example.com/b?code=K#x", SECRET)) == "HttpTarget('https://example.com/b?…')"


@pytest.mark.parametrize("own_session", [False, True], ids=["its session", "our session"])
@pytest.mark.parametrize(
    "responds",
    [
        http(500),
        http(302, "", "Location: /x"),
        http(429, "", "Retry-After: 5"),
        b"garbage\r\n\r\n",
        closing(),
        hanging(),
    ],
    ids=["500", "302", "429", "no HTTP", "closes", "never"],
)
async def test_the_key_in_the_query_of_an_endpoint_does_not_show_in_its_error(
    responds: Step, own_session: bool, caplog: pytest.LogCaptureFixture
) -> None:
    key = "S3CRETQUERY"
    caplog.set_level("DEBUG")
    async with Wire() as wire, AsyncExitStack() as stack:
        wire.script = [responds]
        session = await stack.enter_async_context(aiohttp.ClientSession()) if own_session else None
        target = HttpTarget(
            f"{wire.url}/hook?code={key}", SECRET, retry=RetryPolicy(max_retries=0), timeout=0.05, session=session
        )
        async with target:
            with pytest.raises((TargetError, TransportError)) as caught:
                await target.deliver(Message("m", {"id": "m"}))
        assert wire.requests[0].target == f"/hook?code={key}"
    assert leaks(caught.value, [key]) == []
    assert key not in "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + caplog.text


@pytest.mark.parametrize("make", [HttpTarget, lambda url, secret: Forwarder(url)], ids=["HttpTarget", "Forwarder"])
@pytest.mark.parametrize("url", ["https://user:S3CRETQUERY@x/", "https://x:0/?code=S3CRETQUERY", "x?code=S3CRETQUERY"])
def test_the_key_of_an_endpoint_that_is_refused_does_not_show(make: Callable[[str, str], object], url: str) -> None:
    for secret in (SECRET, "not base64"):
        with pytest.raises(ConfigurationError) as caught:
            make(url, secret)
        assert leaks(caught.value, ["S3CRETQUERY"]) == []
        assert "S3CRETQUERY" not in str(caught.value)
    assert "S3CRET" not in repr(Forwarder("https://x/?code=S3CRET"))


async def test_what_comes_unasked_on_a_resting_connection_is_no_acknowledgement() -> None:
    async def twice(conn: Conn) -> None:
        await conn.say(http(204))
        await asyncio.sleep(0.01)
        await conn.say(http(204))

    async with posting(twice, http(400)) as (target, wire):
        await target.deliver(MESSAGE)
        await asyncio.sleep(0.03)
        with pytest.raises(TargetError, match="responded with 400"):
            await target.deliver(MESSAGE)
    assert len(wire.requests) == 2


@pytest.mark.parametrize(
    "responds",
    [
        hanging(http(200, "x", "Content-Length: 10")),
        resetting(http(200, "x", "Content-Length: 1000")),
        trickling(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["does not come", "breaks off", "never ends"],
)
async def test_a_success_is_one_as_soon_as_its_head_is_there_and_is_posted_once(responds: Step) -> None:
    async with posting(responds) as (target, wire), asyncio.timeout(PATIENCE):
        await asyncio.gather(*(target.deliver(MESSAGE) for _ in range(3)))
        assert len(wire.requests) == 3
