"""What a handler fetches: data of the user by default, and what the test set."""

from __future__ import annotations

from typing import Any

import pytest

from basiq_async import BadRequestError, BasiqClient, F, InMemoryTransport, NotFoundError, Request
from basiq_async.receiver import Delivery, WebhookReceiver
from basiq_async.testing import FakeBasiq

URL = "https://service.example/basiq"


async def test_the_documented_handler_of_transactions_updated_can_be_tested(
    fake_basiq: FakeBasiq, basiq_client: BasiqClient
) -> None:
    receiver = WebhookReceiver(fake_basiq.secret(fake_basiq.add_webhook(URL)))
    saved: list[list[dict[str, Any]]] = []

    @receiver.on("transactions.updated")
    async def save(delivery: Delivery) -> None:
        event = await delivery.event(basiq_client)
        assert isinstance(event.data, dict)
        of_one = F("connection.id").eq(event.data["connection"])
        saved.append(await basiq_client.list(f"/users/{event.user_id}/transactions", filter=of_one).collect())
        assert saved[-1] == await basiq_client.list(event.data["links"]["transactions"]).collect()
        assert len(saved[-1]) == event.data["count"] == 6

    fake_basiq.route(URL, receiver)
    await fake_basiq.emit("transactions.updated", user_id="u1")
    (first,) = await basiq_client.list("/users/u1/connections").collect()
    for connection in (first["id"], "c2", "c3", "c2"):
        await fake_basiq.emit("transactions.updated", user_id="u1", entity_id=connection)
    assert saved[0] == saved[1]
    assert saved[2] == saved[4]
    assert [{each["connection"] for each in found} for found in saved[1:4]] == [{first["id"]}, {"c2"}, {"c3"}]
    connections = await basiq_client.list("/users/u1/connections").collect()
    assert [each["id"] for each in connections] == [first["id"], "c2", "c3"]
    accounts = await basiq_client.list("/users/u1/accounts").collect()
    assert {each["account"] for found in saved for each in found} == {each["id"] for each in accounts}
    assert len(accounts) == 6
    assert len(await basiq_client.events.list(filter=F("connection.id").eq("c2")).collect()) == 2


async def test_a_user_of_an_event_has_an_account_a_connection_and_transactions_each_with_its_link(
    fake_basiq: FakeBasiq, basiq_client: BasiqClient
) -> None:
    fake_basiq.emit("user.created", user_id="u1")
    assert (await basiq_client.get("/users/u1"))["email"] == "u1@example.com"
    for collection in ("connections", "accounts", "transactions"):
        items = await basiq_client.list(f"/users/u1/{collection}").collect()
        assert items
        for item in items:
            assert await basiq_client.get(item["links"]["self"]) == item
    again = await basiq_client.list("/users/u1/transactions").collect()
    assert again == items, "the data stay the same"
    days = [each["postDate"][:10] for each in items]
    assert days == [*["2026-01-04"] * 2, *["2026-01-03"] * 2, *["2026-01-02"] * 2], "before the first event"


async def test_what_events_were_about_takes_the_place_of_the_default_data(
    fake_basiq: FakeBasiq, basiq_client: BasiqClient
) -> None:
    fake_basiq.emit("connection.created", user_id="u1", entity_id="c1")
    event = fake_basiq.emit("account.updated", user_id="u1", entity_id="a1")
    fake_basiq.emit("account.updated", user_id="u1", entity_id="a2", data={"id": "a2", "balance": "7"})
    first, second = await basiq_client.list("/users/u1/accounts").collect()
    assert (first["id"], first["connection"], second) == ("a1", "c1", {"id": "a2", "balance": "7"})
    assert await basiq_client.events.fetch_entity(await basiq_client.events.get(event.event_id)) == first


async def test_a_user_without_an_event_is_not_found(basiq_client: BasiqClient) -> None:
    for path in ("/users/u1", "/users/u1/accounts", "/users/u1/accounts/a1", "/users/u1/income"):
        with pytest.raises(NotFoundError):
            await basiq_client.get(path)


async def test_a_user_of_a_seeded_history_has_data(fake_basiq: FakeBasiq, basiq_client: BasiqClient) -> None:
    fake_basiq.seed_messages(30, event_types=["transactions.updated"])
    for event in await basiq_client.events.list().collect():
        assert isinstance(event.data, dict)
        assert len(await basiq_client.list(event.data["links"]["transactions"]).collect()) == 6


async def test_a_webhooks_statistics_are_not_found_because_their_form_is_unknown(
    fake_basiq: FakeBasiq, basiq_client: BasiqClient
) -> None:
    with pytest.raises(NotFoundError):
        await basiq_client.get(f"/notifications/webhooks/{fake_basiq.add_webhook()}/stats")


async def test_a_list_that_was_set_is_paged_and_its_items_are_fetched_by_their_ids(
    basiq_client: BasiqClient, fake_basiq: FakeBasiq
) -> None:
    accounts = [{"id": f"a{number}", "balance": str(number)} for number in range(5)]
    fake_basiq.set("/users/u1/accounts", accounts)
    accounts[0]["balance"] = "changed later"
    pages = [page.items async for page in basiq_client.list("/users/u1/accounts", page_size=2).pages()]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert await basiq_client.get("/users/u1/accounts/a3") == {"id": "a3", "balance": "3"}
    assert (await basiq_client.get("/users/u1/accounts/a0"))["balance"] == "0"
    with pytest.raises(NotFoundError):
        await basiq_client.get("/users/u1/accounts/a9")
    assert len(await basiq_client.list("/users/u1/transactions").collect()) == 15, "three of each account"


TRANSACTIONS = [
    {"id": "t1", "account": "a1", "connection": {"id": "c1"}, "status": "posted", "postDate": "2026-01-01T00:00:00Z"},
    {"id": "t2", "account": "a2", "connection": {"id": "c1"}, "status": "posted", "postDate": "2026-01-03T00:00:00Z"},
    {"id": "t3", "account": "a2", "connection": {"id": "c2"}, "status": "pending", "postDate": None},
]


@pytest.mark.parametrize(
    ("filter", "ids"),
    [
        (F("account.id").eq("a2"), ["t2", "t3"]),
        (F("connection.id").eq("c1") & F("transaction.status").eq("posted"), ["t1", "t2"]),
        ("status.ne('posted')", ["t3"]),
        ("transaction.id.eq('t2')", ["t2"]),
        ("transaction.postDate.gteq('2026-01-02')", ["t2"]),
        ("transaction.postDate.bt('2026-01-01','2026-01-02')", ["t1"]),
    ],
)
async def test_a_list_that_was_set_is_filtered(
    fake_basiq: FakeBasiq, basiq_client: BasiqClient, filter: Any, ids: list[str]
) -> None:
    fake_basiq.set("/users/u1/transactions", TRANSACTIONS)
    found = await basiq_client.list("/users/u1/transactions", filter=filter, page_size=1).collect()
    assert [each["id"] for each in found] == ids


async def test_a_filter_by_a_property_that_no_item_has_is_refused(
    fake_basiq: FakeBasiq, basiq_client: BasiqClient
) -> None:
    fake_basiq.set("/users/u1/transactions", TRANSACTIONS)
    with pytest.raises(BadRequestError, match=r"there is no field 'acount\.id'"):
        await basiq_client.list("/users/u1/transactions", filter="acount.id.eq('a1')").collect()


async def test_any_path_can_be_set_and_none_is_a_404(fake_basiq: FakeBasiq, basiq_client: BasiqClient) -> None:
    fake_basiq.set("/institutions/AU00000", {"id": "AU00000", "name": "Hooli"})
    assert (await basiq_client.get("/institutions/AU00000"))["name"] == "Hooli"
    fake_basiq.emit("user.deleted", user_id="u1")
    fake_basiq.set("/users/u1", None)
    with pytest.raises(NotFoundError):
        await basiq_client.get("/users/u1")


async def test_what_was_set_needs_a_token_and_belongs_to_one_application() -> None:
    fake = FakeBasiq(api_keys=["a2V5LW9uZTp4eHh4", "a2V5LXR3bzp4eHh4"])
    fake.set("/users/u1", {"id": "u1"})
    async with BasiqClient("a2V5LXR3bzp4eHh4", transport=InMemoryTransport(fake)) as other:
        with pytest.raises(NotFoundError):
            await other.get("/users/u1")
    assert fake.handle(Request("GET", "https://au-api.basiq.io/users/u1")).status == 401


async def test_what_was_set_is_gone_after_a_reset() -> None:
    fake = FakeBasiq()
    fake.set("/users/u1/accounts", [{"id": "a1"}])
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        assert len(await basiq.list("/users/u1/accounts").collect()) == 1
        fake.reset()
        with pytest.raises(NotFoundError):
            await basiq.list("/users/u1/accounts").collect()
