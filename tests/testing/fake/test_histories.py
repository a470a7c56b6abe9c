"""Histories that are made on demand, and their identifiers."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basiq_async.testing import FakeBasiq, Quirks
from basiq_async.testing.fake._histories import UUID, SeededEvents, SeededIds  # private: an index that no list comes to

from ..conftest import ENDPOINT, Caller


def messages_path(webhook_id: str) -> str:
    return f"/notifications/webhooks/{webhook_id}/messages"


@given(st.integers(0, 2**60), st.text())
def test_a_seeded_id_leads_back_to_its_index(index: int, name: str) -> None:
    ids = SeededIds(name)
    assert UUID.fullmatch(ids.uuid(index))
    assert ids.index_of(ids.uuid(index)) == index
    assert ids.index_of(ids.uuid(index).upper()) == index
    assert ids.index_of(ids.hex(index)) == index


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1], lambda t: t + "0", lambda t: "0" * len(t), lambda t: t[:-1] + "g"]
)
def test_an_id_that_is_not_seeded_leads_nowhere(change: Any) -> None:
    ids = SeededIds("a")
    assert ids.index_of(change(ids.uuid(5))) is None
    assert ids.index_of(change(ids.hex(5))) is None
    assert ids.index_of(ids.hex(5)[:48] + "f" * 16) is None
    assert ids.index_of(SeededIds("b").hex(5)) is None


def test_a_seeded_history_ends_as_a_list_does() -> None:
    events = SeededEvents((), ("user.created",), datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=1), 3)
    assert [event.created.second for event in events] == [0, 1, 2]  # type: ignore[attr-defined]  # by its items alone
    with pytest.raises(IndexError):
        events[-1]


def test_a_million_messages_take_no_memory(fake: FakeBasiq) -> None:
    caller = Caller(fake)
    caller.authorize()
    tracemalloc.start()
    try:
        webhook_id = fake.seed_messages(1_000_000)
        page = caller.get(f"{messages_path(webhook_id)}?limit=2")
        caller.get(page["links"]["next"])
        caller.get(page["data"][0]["payload"]["links"]["event"])
        assert len(caller.get("/events")["data"]) == 500
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_history_ends_just_before_now_and_is_of_the_types_asked_for(fake: FakeBasiq) -> None:
    caller = Caller(fake)
    webhook_id = fake.seed_messages(50, every=60.0, event_types=["user.created", "user.deleted"])
    found = caller.every(messages_path(webhook_id))
    assert {message["payload"]["eventTypeId"] for message in found} == {"user.created", "user.deleted"}
    assert found[-1]["attempts"][0]["timestamp"] == "2026-01-04T23:59:00Z"
    assert found[0]["attempts"][0]["timestamp"] == "2026-01-04T23:10:00Z"


def test_by_default_a_message_was_made_each_second_until_the_last_one(fake: FakeBasiq) -> None:
    fake.seed_messages(3)
    assert [(fake.now() - each.created).total_seconds() for each in fake.messages()] == [1, 2, 3]


def test_a_second_history_comes_after_the_first(fake: FakeBasiq) -> None:
    caller = Caller(fake)
    webhook_id = fake.seed_messages(3, fake.add_webhook(ENDPOINT))
    assert fake.seed_messages(50) == webhook_id
    assert fake.seed_messages(0) == webhook_id
    found = caller.every(messages_path(webhook_id))
    assert len({message["id"] for message in found}) == 53
    times = [message["attempts"][0]["timestamp"] for message in found]
    assert times == sorted(times)


def test_seeded_items_outside_of_the_history_do_not_exist() -> None:
    longer, shorter = (Caller(FakeBasiq(seed=1)) for _ in range(2))
    webhook_id = longer.fake.seed_messages(4, event_types=["consent.revoked"])
    assert shorter.fake.seed_messages(3, event_types=["consent.revoked"]) == webhook_id
    # The same seed: the fourth message of one fake is what the other would have had next.
    *known, beyond = longer.every(messages_path(webhook_id))
    assert [message["id"] for message in shorter.every(messages_path(webhook_id))] == [each["id"] for each in known]
    path = f"{messages_path(webhook_id)}/{beyond['id']}"
    assert shorter.error("GET", path, status=404)["code"] == "resource-not-found"
    for link in beyond["payload"]["links"].values():
        longer.get(link)
        shorter.error("GET", link, status=404)


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
def test_a_second_history_leaves_the_events_of_the_first_where_they_were(order: Any) -> None:
    """The events of two webhooks are one list, by time, and no page of it loses or repeats one."""
    fake = FakeBasiq(quirks=Quirks(event_order=order))
    caller = Caller(fake)
    fake.seed_messages(50, fake.add_webhook(ENDPOINT), every=3600)
    live = fake.emit("consent.revoked").event_id
    before = caller.every("/events?limit=7")
    fake.seed_messages(30, fake.add_webhook("https://example.com/second"), every=86_400)
    found = caller.every("/events?limit=7")
    assert {event["id"] for event in before} <= {event["id"] for event in found}
    assert len(found) == len({event["id"] for event in found}) == 51 + 7
    times = [event["createdDate"] for event in found]
    assert times == sorted(times, reverse=order == "newest-first")
    assert live in {event["id"] for event in found}


def test_a_second_history_of_a_webhook_is_between_its_newest_message_and_now() -> None:
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(3, every=3600)
    fake.seed_messages(9, webhook_id, every=86_400)
    times = [event["createdDate"] for event in Caller(fake).every("/events?limit=7")]
    assert len(set(times)) == 12
    oldest, *_ = sorted(times)
    assert oldest >= (fake.now() - timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%S")


def test_a_user_of_a_seeded_history_can_be_read() -> None:
    caller = Caller(FakeBasiq())
    caller.fake.seed_messages(5, event_types=["user.created"])
    event, *_ = caller.every("/events")
    user_id = event["userId"]
    assert caller.get(f"/users/{user_id}")["id"] == user_id
    caller.get(f"/users/{user_id}x", status=404)
