"""One token for everyone, renewed in time, and never given to anyone else."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from basiq_async import (
    AuthenticationError,
    BasiqError,
    ConfigurationError,
    NotFoundError,
    RateLimitError,
    Request,
    RequestTimeoutError,
    Response,
)
from basiq_async._wire.urls import BaseURL
from basiq_async.transports.auth import ApiKey, Authenticated
from tests.support import virtual
from tests.support.scripted import API_KEY, TOKEN, Scripted, answer, client, error
from tests.support.wire import error_body

BASE = BaseURL.parse("https://au-api.basiq.io")
WEBHOOK = answer({"id": "w", "url": "https://example.com"})
EXPIRED = answer(error_body("forbidden-access", "Token has expired"), 403)


def token(text: str = TOKEN, expires_in: Any = 3600) -> Response:
    return answer({"access_token": text, "expires_in": expires_in, "token_type": "Bearer"})


def slow(response: Response, seconds: float = 1.0) -> Any:
    async def give(request: Request) -> Response:
        await asyncio.sleep(seconds)
        return response

    return give


@virtual.clocked
async def test_the_key_goes_verbatim_and_the_token_request_is_as_documented() -> None:
    transport = Scripted(WEBHOOK)
    await client(transport).webhooks.get("w")
    (request,) = transport.token_requests
    assert (request.method, request.url) == ("POST", "https://au-api.basiq.io/token")
    assert request.headers["authorization"] == f"Basic {API_KEY}"
    assert request.headers["basiq-version"] == "3.0"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.body == b"scope=SERVER_ACCESS"
    assert transport.requests[0].headers["authorization"] == f"Bearer {TOKEN}-1"
    assert "basiq-version" not in transport.requests[0].headers


@virtual.clocked
async def test_a_caller_that_is_cancelled_while_it_waits_disturbs_no_other() -> None:
    transport = Scripted(WEBHOOK, tokens=[slow(token())])
    basiq = client(transport)
    tasks = [asyncio.create_task(basiq.webhooks.get("w")) for _ in range(5)]
    await asyncio.sleep(0.5)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["Webhook"] * 3 + ["CancelledError", "Webhook"]
    assert len(transport.token_requests) == 1


@virtual.clocked
async def test_when_the_one_who_fetches_is_cancelled_another_takes_over() -> None:
    transport = Scripted(WEBHOOK, tokens=[slow(token())])
    basiq = client(transport)
    tasks = [asyncio.create_task(basiq.webhooks.get("w")) for _ in range(5)]
    await asyncio.sleep(0.5)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["CancelledError"] + ["Webhook"] * 4
    assert len(transport.token_requests) == 2


@virtual.clocked
async def test_the_token_is_renewed_a_margin_before_it_expires() -> None:
    transport = Scripted(WEBHOOK, tokens=[token(expires_in=1000)])
    basiq = client(transport)
    await basiq.webhooks.get("w")
    await asyncio.sleep(939)
    await basiq.webhooks.get("w")
    assert len(transport.token_requests) == 1
    await asyncio.sleep(2)
    await basiq.webhooks.get("w")
    assert len(transport.token_requests) == 2


LIFETIMES = [0, -1, 1e18, 1e308, 10**400, "3600", "soon", "", None, True, [], {}, "1e999", "nan", "-inf", "9" * 5000]


@pytest.mark.parametrize("expires_in", LIFETIMES, ids=lambda value: repr(value)[:20])
@virtual.clocked
async def test_an_absurd_lifetime_is_taken_for_the_documented_hour(expires_in: Any) -> None:
    transport = Scripted(WEBHOOK, tokens=[token(expires_in=expires_in)])
    basiq = client(transport)
    for _ in range(3):
        await basiq.webhooks.get("w")
        await asyncio.sleep(1_179)
    assert len(transport.token_requests) == 1
    await asyncio.sleep(10)
    await basiq.webhooks.get("w")
    assert len(transport.token_requests) == 2


@pytest.mark.parametrize("status", [400, 401])
@virtual.clocked
async def test_a_key_that_is_refused_says_so(status: int) -> None:
    transport = Scripted(WEBHOOK, tokens=[error(status, "parameter-not-valid")])
    with pytest.raises(AuthenticationError, match="the API key was not accepted") as caught:
        await client(transport).webhooks.get("w")
    found = caught.value
    assert (found.status, found.code, found.path) == (status, "parameter-not-valid", "/token")
    assert found.correlation_id == "corr-1"
    assert "A detail." in str(found)


@virtual.clocked
async def test_a_token_request_that_is_limited_says_for_how_long() -> None:
    with pytest.raises(RateLimitError) as caught:
        await client(Scripted(WEBHOOK, tokens=[error(429, retry_after="60")])).webhooks.get("w")
    assert caught.value.retry_after == 60


@virtual.clocked
async def test_a_404_from_the_token_endpoint_says_that_there_is_no_basiq_at_this_url() -> None:
    transport = Scripted(WEBHOOK, tokens=[Response(404, {}, b"<html>nginx</html>")])
    with pytest.raises(NotFoundError, match="there is no Basiq API at this URL; check base_url") as caught:
        await client(transport).webhooks.get("w")
    assert "key" not in str(caught.value)
    assert caught.value.path == "/token"


@virtual.clocked
async def test_a_404_from_basiqs_token_endpoint_is_about_the_key_and_has_its_words() -> None:
    said = error_body("resource-not-found", "Unable to authenticate. Please, check your API key")
    with pytest.raises(AuthenticationError, match="the API key was not accepted") as caught:
        await client(Scripted(WEBHOOK, tokens=[answer(said, 404)])).webhooks.get("w")
    found = caught.value
    assert (found.status, found.code, found.path) == (404, "resource-not-found", "/token")
    assert "Unable to authenticate. Please, check your API key" in str(found)
    assert "deleted or of another environment" in str(found)


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [{"type": "error"}]}, {"message": "no Route matched"}])
@virtual.clocked
async def test_a_404_without_an_error_of_basiqs_says_that_there_is_no_basiq_at_this_url(body: Any) -> None:
    with pytest.raises(NotFoundError, match="there is no Basiq API at this URL"):
        await client(Scripted(WEBHOOK, tokens=[answer(body, 404)])).webhooks.get("w")


@virtual.clocked
async def test_the_token_goes_to_no_other_place_than_the_base_url() -> None:
    inner = Scripted(WEBHOOK)
    transport = Authenticated(inner, ApiKey("key"), BaseURL.parse("https://proxy.example/basiq"))
    for url in (
        "https://evil.example/basiq/events",
        "http://proxy.example/basiq/events",
        "https://proxy.example:444/basiq/events",
        "https://proxy.example/basiqs/events",
        "https://proxy.example.evil/basiq/events",
        "https://proxy.example/other",
    ):
        with pytest.raises(ConfigurationError, match="outside of base_url"):
            await transport.send(Request("GET", url))
    assert inner.requests == inner.token_requests == []
    await transport.send(Request("GET", "https://proxy.example/basiq/events"))
    await transport.aclose()
    assert inner.closed == 0


@pytest.mark.parametrize("status", [199, 300, 304])
@virtual.clocked
async def test_a_token_response_of_another_status_than_2xx_is_no_token(status: int) -> None:
    transport = Scripted(WEBHOOK, tokens=[answer({"access_token": TOKEN, "expires_in": 3600}, status)])
    with pytest.raises(BasiqError):
        await client(transport).webhooks.get("w")
    assert transport.requests == []


@pytest.mark.parametrize("size", [2**20, 2**20 + 1])
@virtual.clocked
async def test_a_token_response_has_at_most_one_mib(size: int) -> None:
    found = token()
    transport = Scripted(WEBHOOK, tokens=[Response(200, found.headers, found.body.ljust(size))])
    if size > 2**20:
        with pytest.raises(BasiqError, match="expected a token"):
            await client(transport).webhooks.get("w")
    else:
        await client(transport).webhooks.get("w")


@virtual.clocked
async def test_those_who_wait_for_a_token_share_the_failure_of_the_one_who_fetches() -> None:
    transport = Scripted(WEBHOOK, tokens=[slow(error(401)), token()])
    basiq = client(transport)
    done = await asyncio.gather(*(basiq.webhooks.get("w") for _ in range(5)), return_exceptions=True)
    assert {type(each) for each in done} == {AuthenticationError}
    assert len(transport.token_requests) == 1
    assert (await basiq.webhooks.get("w")).id == "w"


@pytest.mark.parametrize(
    ("script", "sent", "tokens"),
    [
        ([error(401), WEBHOOK], 2, 2),
        ([error(401), error(401), WEBHOOK], 2, 2),
        ([EXPIRED, WEBHOOK], 2, 2),
        ([EXPIRED, EXPIRED, WEBHOOK], 2, 2),
        ([error(403), WEBHOOK], 1, 1),
        ([answer(error_body("x", "Token has expired"), 400), WEBHOOK], 1, 1),
        ([Response(403, {}, b"Token has expired"), WEBHOOK], 1, 1),
        ([error(402), WEBHOOK], 1, 1),
        ([error(400), WEBHOOK], 1, 1),
    ],
    ids=["once", "twice", "expired", "expired twice", "another 403", "a 400 that says so", "no error", "402", "400"],
)
@virtual.clocked
async def test_after_a_refused_token_the_token_is_renewed_and_the_request_sent_again_both_once(
    script: Any, sent: int, tokens: int
) -> None:
    transport = Scripted(*script)
    last = script[sent - 1]
    response = await Authenticated(transport, ApiKey("key"), BASE).send(Request("GET", BASE.url("/things")))
    assert (response.status, response.attempts) == (last.status, sent), "the attempts are those of both requests"
    assert [each.headers["authorization"] for each in transport.requests] == [
        f"Bearer {TOKEN}-{number + 1}" for number in range(tokens)
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["the refused one", "the last one"])
@virtual.clocked
async def test_a_request_that_was_sent_again_after_a_401_may_have_been_carried_out_if_either_may(which: int) -> None:
    script = [error(401), WEBHOOK]
    script[which] = attrs.evolve(script[which], repeated=True)
    transport = Authenticated(Scripted(*script), ApiKey("key"), BASE)
    assert (await transport.send(Request("GET", BASE.url("/things")))).repeated


@pytest.mark.parametrize(("expires_in", "renewed_after"), [(1, 0.9), (100, 90), (600, 540), (3600, 3540)])
@virtual.clocked
async def test_a_token_is_renewed_after_nine_tenths_of_a_short_life_and_a_minute_before_the_end_of_a_long_one(
    expires_in: int, renewed_after: float
) -> None:
    transport = Scripted(WEBHOOK, tokens=[token(expires_in=expires_in)])
    basiq = client(transport)
    await basiq.webhooks.get("w")
    for passed, requests in ((renewed_after - 0.5, 1), (0.5, 2)):
        await asyncio.sleep(passed)
        await basiq.webhooks.get("w")
        assert len(transport.token_requests) == requests


@virtual.clocked
async def test_a_token_is_waited_for_until_the_deadline_of_the_request_or_max_elapsed() -> None:
    transport = Authenticated(Scripted(WEBHOOK, tokens=[slow(token(), 3600.0)]), ApiKey("key"), BASE, max_elapsed=20.0)
    first = asyncio.create_task(transport.send(Request("GET", BASE.url("/things"))))
    await asyncio.sleep(1.0)
    began = virtual.now()
    for seconds, deadline in ((5.0, began + 5.0), (20.0, None)):
        began = virtual.now()
        with pytest.raises(RequestTimeoutError, match="no token was received within max_elapsed"):
            await transport.send(Request("GET", BASE.url("/things"), deadline=deadline))
        assert virtual.now() - began == seconds
    first.cancel()
    await asyncio.wait((first,))


@pytest.mark.parametrize("prefix", ["", "Basic "])
def test_a_key_that_no_dashboard_shows_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="exactly the text that Basiq's dashboard shows"):
        ApiKey(prefix)


@pytest.mark.parametrize("key", ['"a2V5OnNlY3JldA=="', "'a2V5OnNlY3JldA=='"])
def test_a_key_in_quotes_has_an_error_of_its_own(key: str) -> None:
    with pytest.raises(ConfigurationError, match="in quotes") as caught:
        ApiKey(key)
    assert "a2V5" not in str(caught.value)


def test_the_key_is_the_one_that_is_passed_or_else_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_API_KEY", "of-the-environment")
    assert (ApiKey("passed").reveal(), ApiKey(None).reveal()) == ("passed", "of-the-environment")
    monkeypatch.delenv("BASIQ_API_KEY")
    assert ApiKey("passed").header() == "Basic passed"
    with pytest.raises(ConfigurationError, match="pass api_key, or set the environment variable BASIQ_API_KEY"):
        ApiKey(None)
