"""``client.get`` and ``client.list``: any other resource, with the same token, limits, checks and cursors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from basiq_async import BasiqClient, ConfigurationError, NotFoundError, PaginationError, ResponseDecodeError
from tests.support.scripted import Scripted, answer, client, error, page

from .conftest import Basiq

USER = "5bd5d0b2-0b5c-4c8c-8a2e-2f3a0b1c9d7e"
ACCOUNTS = f"/users/{USER}/accounts"


def emit_accounts(basiq: Basiq, count: int) -> list[str]:
    return [
        basiq.fake.emit("account.updated", user_id=USER, data={"id": f"account-{number}", "balance": number}).event_id
        for number in range(count)
    ]


async def test_a_handler_reads_the_accounts_of_a_user_without_a_second_client(basiq: Basiq) -> None:
    emit_accounts(basiq, 7)
    accounts = [account["id"] async for account in basiq.client.list(ACCOUNTS, page_size=3)]
    assert accounts == [f"account-{number}" for number in range(7)]
    assert len([1 for record in basiq.fake.request_log if record.path.startswith("/users")]) == 3


async def test_a_cursor_resumes_with_the_very_next_item(basiq: Basiq) -> None:
    emit_accounts(basiq, 7)
    first = basiq.client.list(ACCOUNTS, page_size=3)
    async for account in first:
        if account["id"] == "account-3":
            break
    rest = await basiq.client.list(ACCOUNTS, page_size=3, cursor=first.cursor).collect()
    assert [account["balance"] for account in rest] == [4, 5, 6]


async def test_an_object_is_a_dict_whether_its_path_or_a_link_is_given(basiq: Basiq) -> None:
    (event_id,) = emit_accounts(basiq, 1)
    event = await basiq.client.events.get(event_id)
    assert event.data_ref is not None
    path = event.data_ref.partition("/users/")
    for given in (event.data_ref, "/users/" + path[2]):
        assert (await basiq.client.get(given))["balance"] == 0


async def test_what_does_not_exist_is_not_found(basiq: Basiq) -> None:
    with pytest.raises(NotFoundError):
        await basiq.client.get("/users/no-such-user/accounts/none")


@pytest.mark.parametrize(
    "path",
    [
        "https://example.com/users",
        "//example.com/users",
        "/users/../../token",
        "/users/%2e%2e/token",
        "/a b",
        "",
        None,
        7,
    ],
    ids=repr,
)
@pytest.mark.parametrize("call", [lambda basiq, path: basiq.get(path), lambda basiq, path: basiq.list(path).first()])
async def test_the_token_goes_to_no_other_place(path: Any, call: Callable[[BasiqClient, Any], Any]) -> None:
    transport = Scripted(answer({}))
    with pytest.raises(ConfigurationError):
        await call(client(transport), path)
    assert transport.requests == transport.token_requests == []


async def test_a_next_link_to_another_origin_is_not_followed() -> None:
    transport = Scripted(page([{"id": "a"}], "https://example.com/users?next=x"))
    with pytest.raises(PaginationError, match="leads to another origin"):
        await client(transport).list("/users").collect()
    assert len(transport.requests) == 1


@pytest.mark.parametrize("limit", [0, 501, 1.5, True, "3"], ids=repr)
def test_a_limit_that_cannot_be_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="page_size must be a whole number from 1 to 500"):
        client(Scripted()).list("/users", page_size=limit)


async def test_a_filter_and_a_limit_are_added_to_the_query_of_the_path() -> None:
    transport = Scripted(page([]))
    basiq = client(transport)
    await basiq.list("/users", filter="user.id.eq('x y')", page_size=10).collect()
    await basiq.list("/users?a=b", page_size=10).collect()
    assert [url.partition("/users")[2] for url in transport.urls] == [
        "?limit=10&filter=user.id.eq%28%27x%20y%27%29",
        "?a=b&limit=10",
    ]


@pytest.mark.parametrize("value", [[], "text", 7, None], ids=repr)
async def test_what_is_no_object_says_so_and_where(value: Any) -> None:
    with pytest.raises(ResponseDecodeError, match=r"\$: expected an object, got .* \(GET /users/1\)"):
        await client(Scripted(answer(value) if value is not None else answer("null"))).get("/users/1")
    with pytest.raises(ResponseDecodeError, match=r"\$.data\[1\]: expected an object"):
        await client(Scripted(page([{"id": "a"}, value]))).list("/users").collect()


async def test_it_is_retried_and_renews_its_token_as_every_call() -> None:
    transport = Scripted(error(401), answer({"id": "1"}))
    assert await client(transport).get("/users/1") == {"id": "1"}
    assert len(transport.token_requests) == 2


@pytest.mark.parametrize("call", [lambda basiq: basiq.webhooks.list(), lambda basiq: basiq.list("/users")])
async def test_a_list_that_is_awaited_says_how_it_is_read(call: Callable[[BasiqClient], Any]) -> None:
    with pytest.raises(ConfigurationError, match="use async for"):
        await call(client(Scripted()))
