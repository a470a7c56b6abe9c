"""The token endpoint, what a token opens, and what counts as misuse."""

from __future__ import annotations

import base64
import json
from typing import Literal

import pytest

from basiq_async import AuthenticationError, BasiqClient, InMemoryTransport, Request
from basiq_async.testing import FakeBasiq, Quirks

from ..conftest import BASE, FORM, Caller, token_request

KEY = FakeBasiq.DEFAULT_API_KEY
WEBHOOKS = "/notifications/webhooks"
RIGHT = {"authorization": f"Basic {KEY}", "basiq-version": "3.0"}


def codes(fake: FakeBasiq) -> list[str]:
    return [misuse.code for misuse in fake.misuses]


def test_a_token_is_for_an_hour(fake: FakeBasiq) -> None:
    body = json.loads(fake.handle(token_request(KEY)).body)
    assert body["expires_in"] == 3600
    assert body["token_type"] == "Bearer"
    assert body["access_token"]


@pytest.mark.parametrize(
    ("request_", "parameter"),
    [
        (Request("POST", f"{BASE}/token", FORM, b"scope=SERVER_ACCESS"), "Authorization"),
        (token_request("dW5rbm93bg=="), "Authorization"),
        (Request("POST", f"{BASE}/token", {**FORM, "authorization": f"Bearer {KEY}"}, b""), "Authorization"),
        (token_request(KEY, version=None), "basiq-version"),
        (token_request(KEY, version="2.1"), "basiq-version"),
        (Request("POST", f"{BASE}/token", {**RIGHT, "content-type": "application/json"}, b"{}"), "Content-Type"),
        (token_request(KEY, body=b""), "scope"),
        (token_request(KEY, body=b"scope=EVERYTHING"), "scope"),
        (token_request(KEY, body=b"scope=CLIENT_ACCESS"), "userId"),
        (token_request(KEY, body=b"\xff"), "body"),
        (token_request(KEY, body=b"a=1&" * 100), "body"),
    ],
)
def test_a_token_call_that_is_wrong_is_a_400_that_says_where(
    fake: FakeBasiq, request_: Request, parameter: str
) -> None:
    answer = fake.handle(request_)
    assert answer.status == 400
    entry = json.loads(answer.body)["data"][0]
    assert (entry["code"], entry["source"]["parameter"]) == ("parameter-not-valid", parameter)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nonsense", "Basic bm9uc2Vuc2U=", "nonsense"])
def test_no_operation_is_open_without_a_token(fake: FakeBasiq, header: str) -> None:
    for method, path in (("GET", WEBHOOKS), ("POST", WEBHOOKS), ("GET", "/events"), ("DELETE", f"{WEBHOOKS}/x")):
        answer = fake.handle(Request(method, BASE + path, {"authorization": header}))
        assert answer.status == 401
        assert json.loads(answer.body)["data"][0]["code"] == "unauthorized-access"


async def test_a_token_expires_on_the_fakes_clock(caller: Caller) -> None:
    caller.get(WEBHOOKS)
    await caller.fake.advance(seconds=3599)
    caller.get(WEBHOOKS)
    await caller.fake.advance(seconds=1)
    assert caller.error("GET", WEBHOOKS, status=401)["code"] == "unauthorized-access"


def test_an_expired_response_is_a_403_of_any_request_where_a_quirk_says_so(caller: Caller) -> None:
    caller.fake.quirks = Quirks(expired_response="403")
    caller.authorize()
    caller.fake.expire_tokens()
    for method, path in (("GET", WEBHOOKS), ("POST", WEBHOOKS), ("GET", "/events/types"), ("GET", "/users/42")):
        found = caller.error(method, path, status=403)
        assert (found["code"], found["detail"]) == ("forbidden-access", "Token has expired")


async def test_a_token_is_told_to_have_expired_for_an_hour_though_others_were_issued_since(caller: Caller) -> None:
    caller.authorize()
    for hours, said in ((1, "has expired"), (0.99, "has expired"), (0.02, "is missing or is not valid")):
        await caller.fake.advance(hours=hours)
        Caller(caller.fake).authorize()
        assert said in caller.error("GET", WEBHOOKS, status=401)["detail"]


def test_an_unknown_key_is_a_404_where_a_quirk_says_so(fake: FakeBasiq) -> None:
    fake.quirks = Quirks(unknown_key_response="404")
    answer = fake.handle(token_request("dW5rbm93bg=="))
    assert answer.status == 404
    assert json.loads(answer.body)["data"][0]["detail"] == "Unable to authenticate. Please, check your API key"


@pytest.mark.parametrize("expired", ["401", "403"])
async def test_a_client_that_was_asleep_for_longer_than_its_token_lives_goes_on(expired: Literal["401", "403"]) -> None:
    fake = FakeBasiq(quirks=Quirks(expired_response=expired))
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        for _ in range(2):
            await basiq.webhooks.list().collect()
            fake.expire_tokens()  # the clock of the event loop stood still
    assert [request.url.rpartition("/")[2] for request in fake.requests] == [
        "token", "webhooks", "webhooks", "token", "webhooks",
    ]  # fmt: skip


@pytest.mark.parametrize("status", ["400", "404"])
async def test_a_client_with_an_unknown_key_is_told_that_it_is_the_key(status: Literal["400", "404"]) -> None:
    fake = FakeBasiq(quirks=Quirks(unknown_key_response=status))
    async with BasiqClient("dW5rbm93bg==", transport=InMemoryTransport(fake)) as basiq:
        with pytest.raises(AuthenticationError, match="the API key was not accepted"):
            await basiq.webhooks.list().collect()


def test_a_disabled_account_is_forbidden_everything(caller: Caller) -> None:
    caller.get(WEBHOOKS)
    caller.fake.disable_account()
    assert caller.error("GET", WEBHOOKS, status=403)["code"] == "forbidden-access"
    assert caller.fake.handle(token_request(KEY)).status == 403


def test_a_token_for_a_users_own_client_opens_nothing_here(fake: FakeBasiq) -> None:
    answer = fake.handle(token_request(KEY, body=b"scope=CLIENT_ACCESS&userId=u-1"))
    caller = Caller(fake, token=json.loads(answer.body)["access_token"])
    assert caller.error("GET", WEBHOOKS, status=403)["code"] == "forbidden-access"


def test_a_key_that_was_encoded_twice_is_reported(fake: FakeBasiq) -> None:
    for text in (KEY, KEY + ":"):
        assert fake.handle(token_request(base64.b64encode(text.encode()).decode())).status == 400
    assert codes(fake) == ["key-encoded-twice"] * 2
    fake.handle(token_request("!!!"))
    assert codes(fake) == ["key-encoded-twice"] * 2


def test_a_key_that_is_sent_to_an_operation_is_reported(fake: FakeBasiq) -> None:
    fake.handle(Request("GET", BASE + WEBHOOKS, {"authorization": f"Basic {KEY}"}))
    assert codes(fake) == ["key-on-operation"]


def test_a_token_for_each_request_is_reported(caller: Caller) -> None:
    for _ in range(3):
        caller.authorize()
        caller.get(WEBHOOKS)
    assert codes(caller.fake) == ["token-per-request"]


async def test_a_token_for_each_hour_is_not_reported(caller: Caller) -> None:
    for _ in range(5):
        caller.authorize()
        caller.get(WEBHOOKS)
        await caller.fake.advance(hours=3)
    assert codes(caller.fake) == []


async def test_two_clients_are_not_a_token_for_each_request(fake: FakeBasiq) -> None:
    for _ in range(3):
        for _ in range(2):
            Caller(fake).get(WEBHOOKS)
        await fake.advance(hours=1)
    assert codes(fake) == []


def test_more_than_1500_token_calls_in_5_minutes_are_too_many(fake: FakeBasiq) -> None:
    statuses = {fake.handle(token_request(KEY)).status for _ in range(1500)}
    assert statuses == {200}
    refused = fake.handle(token_request(KEY))
    assert refused.status == 429
    assert refused.headers["retry-after"] == "300"
    fake.reset_log()
    fake.handle(token_request(KEY))
    assert "token-rate" in codes(fake)


def test_a_missing_version_and_a_limit_above_500_are_reported(caller: Caller) -> None:
    caller.fake.handle(token_request(KEY, version=None))
    caller.get(f"{WEBHOOKS}?limit=500")
    for limit in ("501", "9" * 5_000, "nonsense"):
        caller.error("GET", f"{WEBHOOKS}?limit={limit}", status=400)
    assert codes(caller.fake) == ["basiq-version", "limit", "limit"]


def test_misuses_fail_with_all_that_is_known_and_can_be_forgotten(caller: Caller) -> None:
    caller.fake.handle(token_request(KEY, version=None))
    with pytest.raises(AssertionError, match="basiq-version: a token call needs"):
        caller.fake.assert_no_misuses()
    assert len(caller.fake.requests) == 1
    assert caller.fake.requests[0].url.endswith("/token")
    caller.fake.fail_next(status=500)
    caller.fake.reset_log()
    caller.fake.assert_no_misuses()
    assert not caller.fake.requests
    caller.get(WEBHOOKS)


def test_the_names_of_headers_are_read_in_any_case() -> None:
    caller = Caller(FakeBasiq())
    token = caller.authorize()
    for headers in ({"Authorization": f"Bearer {token}"}, {"AUTHORIZATION": f"Bearer {token}", "accept": "*/*"}):
        assert caller.fake.handle(Request("GET", BASE + WEBHOOKS, headers)).status == 200
