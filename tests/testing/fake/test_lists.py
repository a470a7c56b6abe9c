"""Pages, cursors, limits and filters of the fake's lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basiq_async import F
from basiq_async.testing import FakeBasiq, Quirks
from basiq_async.testing.fake._lists import FilterError, attributes, compile_filter  # private: filters without lists

from ..conftest import Caller

WEBHOOKS = "/notifications/webhooks"


def messages_path(webhook_id: str) -> str:
    return f"{WEBHOOKS}/{webhook_id}/messages"


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 500])
def test_following_next_gives_every_message_once_and_in_order(caller: Caller, limit: int) -> None:
    webhook_id = caller.fake.seed_messages(10)
    found = caller.every(f"{messages_path(webhook_id)}?limit={limit}")
    assert len({message["id"] for message in found}) == 10
    times = [message["attempts"][0]["timestamp"] for message in found]
    assert times == sorted(times)
    assert found == caller.every(messages_path(webhook_id))


def test_event_types_are_a_list_of_pages_too(caller: Caller) -> None:
    found = caller.every("/events/types?limit=4")
    assert [each["id"] for each in found] == list(caller.fake.event_types)


def test_the_last_page_has_no_next_even_when_it_is_full(caller: Caller) -> None:
    webhook_id = caller.fake.seed_messages(10)
    page = caller.get(f"{messages_path(webhook_id)}?limit=5")
    assert len(page["data"]) == 5
    page = caller.get(page["links"]["next"])
    assert len(page["data"]) == 5
    assert "next" not in page["links"]


def test_the_size_of_a_page_is_at_most_that_of_the_fake() -> None:
    caller = Caller(FakeBasiq(page_size=2))
    webhook_id = caller.fake.seed_messages(5)
    assert len(caller.get(f"{messages_path(webhook_id)}?limit=500")["data"]) == 2
    assert len(caller.every(messages_path(webhook_id))) == 5
    assert len(caller.every("/events/types")) == 15
    assert len(caller.every("/events")) == 5
    for number in range(3):
        caller.create(f"https://example.com/{number}")
    assert len(caller.every(WEBHOOKS)) == 4


def test_a_cursor_goes_on_with_the_next_message_also_when_more_came_meanwhile(caller: Caller) -> None:
    webhook_id = caller.fake.seed_messages(4)
    first = caller.get(f"{messages_path(webhook_id)}?limit=3")
    caller.fake.emit("user.created")
    caller.fake.seed_messages(2, webhook_id)
    assert len(first["data"] + caller.every(first["links"]["next"])) == 7


def test_a_cursor_keeps_the_limit_and_the_filter(caller: Caller) -> None:
    webhook_id = caller.fake.seed_messages(100, failed=0.5)
    filtered = caller.get(f"{messages_path(webhook_id)}?limit=3&filter=status.eq('Failed')")
    again = caller.get(filtered["links"]["next"])
    assert len(again["data"]) == 3
    assert {message["attempts"][-1]["status"] for message in again["data"]} == {"Failed"}


def test_a_cursor_survives_the_deletion_of_what_came_before(caller: Caller) -> None:
    made = [caller.create(f"https://example.com/{number}") for number in range(4)]
    page = caller.get(f"{WEBHOOKS}?limit=2")
    caller.send("DELETE", made[0]["links"]["self"])
    assert [webhook["id"] for webhook in caller.get(page["links"]["next"])["data"]] == [made[2]["id"], made[3]["id"]]


def test_a_cursor_of_another_list_is_refused(caller: Caller) -> None:
    webhook_id = caller.fake.seed_messages(3)
    other = caller.create()["id"]
    link = caller.get(f"{messages_path(webhook_id)}?limit=1")["links"]["next"]
    error = caller.error("GET", link.replace(webhook_id, other), status=400)
    assert error["source"] == {"parameter": "next"}


# --- filters ---


@pytest.mark.parametrize(
    "text", [" " * 8_000, "'" + "a" * 8_000, "a.eq(" + " " * 8_000, "a.eq('" + "\\'" * 4_000, "a." * 4_000]
)
def test_no_filter_takes_long_to_refuse(text: str) -> None:
    """A regular expression that tries each way to split such a text takes half a second for one; here are a hundred."""
    for _ in range(100):
        with pytest.raises(FilterError):
            compile_filter(text, attributes({"a": "b"}))


def names(items: list[dict[str, Any]]) -> set[str]:
    return {item["id"] for item in items}


@pytest.mark.parametrize("prefix", ["", "message."])
def test_messages_are_filtered_by_each_documented_name(caller: Caller, prefix: str) -> None:
    webhook_id = caller.fake.seed_messages(60, failed=0.3, every=timedelta(hours=1))
    path = messages_path(webhook_id)
    every = caller.every(path)
    one = every[17]
    type_id, event_id = one["payload"]["eventTypeId"], one["payload"]["eventId"]
    failed = [message for message in every if message["attempts"][-1]["status"] == "Failed"]
    assert 0 < len(failed) < 60

    def filtered(expression: Any) -> set[str]:
        return names(caller.every(f"{path}?filter={expression}"))

    assert filtered(F(prefix + "status").eq("Failed")) == names(failed)
    assert filtered(F(prefix + "status").ne("Failed")) == names(every) - names(failed)
    assert filtered(F(prefix + "eventId").eq(event_id)) == {one["id"]}
    assert filtered(F(prefix + "webhookId").eq(webhook_id)) == names(every)
    assert filtered(F(prefix + "webhookId").ne(webhook_id)) == set()
    of_type = {message["id"] for message in every if message["payload"]["eventTypeId"] == type_id}
    assert filtered(F(prefix + "eventTypeId").eq(type_id)) == of_type
    assert filtered(F("eventType.id").eq(type_id)) == of_type
    both = F("status").eq("Failed") & F("eventTypeId").eq(type_id)
    assert filtered(both) == of_type & names(failed)
    moment = datetime(2026, 1, 3, tzinfo=UTC)
    at = [datetime.fromisoformat(message["attempts"][0]["timestamp"]) for message in every]
    for operator, holds in (
        ("gt", lambda when: when > moment),
        ("gteq", lambda when: when >= moment),
        ("lt", lambda when: when < moment),
        ("lteq", lambda when: when <= moment),
        ("eq", lambda when: when == moment),
        ("ne", lambda when: when != moment),
    ):
        wanted = {message["id"] for message, when in zip(every, at, strict=True) if holds(when)}
        assert filtered(getattr(F(prefix + "date"), operator)(moment)) == wanted, operator
    between = {
        message["id"] for message, when in zip(every, at, strict=True) if moment <= when <= moment + timedelta(hours=5)
    }
    assert len(between) == 6
    assert filtered(F(prefix + "date").bt(moment, moment + timedelta(hours=5))) == between
    assert filtered("date.gteq('2026-01-03'),date.lteq(2026-01-03T05:00:00Z)") == between


def test_events_are_filtered_by_entity_type_and_user(caller: Caller) -> None:
    fake = caller.fake
    revoked = fake.emit("consent.revoked", user_id="u-1").event_id
    created = fake.emit("consent.created", user_id="u-2").event_id
    user = fake.emit("user.created", user_id="u-1").event_id
    connection = fake.emit("connection.created", user_id="u-3", entity_id="k").event_id

    def filtered(expression: Any) -> list[str]:
        return [event["id"] for event in caller.every(f"/events?filter={expression}")]

    assert filtered(F("event.entity").eq("consent")) == [revoked, created]
    assert filtered(F("event.type").eq("created")) == [created, user, connection]
    assert filtered(F("event.type").eq("consent.revoked")) == [revoked]
    assert filtered(F("user.id").eq("u-1") & F("event.entity").eq("user")) == [user]
    assert filtered(F("connection.id").eq("k")) == [connection]
    assert filtered("user.id.eq(u-2) OR event.entity.eq(user),event.type.eq(created)") == [created, user]
    assert filtered(F("event.date").lt(fake.now())) == []


FIELDS = attributes({"x.y": "z"})


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"])), st.text())
def test_what_the_clients_builder_quotes_means_the_same_text_here(value: str, other: str) -> None:
    check = compile_filter(str(F("x.y").eq(value)), FIELDS)
    assert check(SimpleNamespace(z=value))
    assert check(SimpleNamespace(z=other)) == (other == value)


@given(st.text(st.sampled_from("x.yeq('\\), ORbt1")))
def test_no_filter_is_an_error_of_another_kind(text: str) -> None:
    try:
        check = compile_filter(text, FIELDS)
    except FilterError:
        return
    assert check(SimpleNamespace(z="x")) in (True, False)


BOTH_LISTS = pytest.mark.parametrize("kind", ["messages", "events"])


def newest_first(**quirks: Any) -> Caller:
    forms = {"message_order": "newest-first", "event_order": "newest-first", **quirks}
    return Caller(FakeBasiq(seed=0, quirks=Quirks(**forms), page_size=3))


def list_of(kind: str, webhook_id: str) -> str:
    return messages_path(webhook_id) if kind == "messages" else "/events"


def ids(items: list[Any]) -> list[str]:
    return [item["id"] for item in items]


@BOTH_LISTS
@pytest.mark.parametrize("paging", ["item", "offset"])
def test_a_list_that_begins_with_the_newest_is_the_other_one_turned_round(kind: str, paging: str) -> None:
    turned, plain = newest_first(paging=paging), Caller(FakeBasiq(seed=0, page_size=3))
    found = []
    for each in (turned, plain):
        webhook_id = each.fake.seed_messages(8)
        each.fake.emit("user.created")
        each.fake.seed_messages(2, webhook_id)
        found.append(ids(each.every(list_of(kind, webhook_id))))
    assert len(set(found[0])) == 11
    assert found[0] == found[1][::-1]


@BOTH_LISTS
def test_what_arrives_while_a_list_is_read_newest_first_appears_at_its_top_alone(kind: str) -> None:
    caller = newest_first()
    path = list_of(kind, caller.fake.seed_messages(8))
    before = ids(caller.every(path))
    first = caller.get(path)
    caller.fake.emit("user.created")
    assert ids(first["data"] + caller.every(first["links"]["next"])) == before
    assert ids(caller.every(path))[1:] == before


@BOTH_LISTS
def test_pages_by_offset_overlap_where_something_arrives_between_them(kind: str) -> None:
    caller = newest_first(paging="offset")
    path = list_of(kind, caller.fake.seed_messages(8))
    before = ids(caller.every(path))
    first = caller.get(path)
    caller.fake.emit("user.created")
    assert ids(first["data"] + caller.every(first["links"]["next"])) == [*before[:3], *before[2:]]


@BOTH_LISTS
def test_a_cursor_of_a_list_in_one_order_is_refused_by_the_same_list_in_the_other(kind: str) -> None:
    caller = newest_first()
    link = caller.get(list_of(kind, caller.fake.seed_messages(8)))["links"]["next"]
    caller.fake.quirks = Quirks()
    assert caller.send("GET", link).status == 400


def test_events_that_fall_out_of_the_seven_days_are_the_last_of_a_list_that_begins_with_the_newest() -> None:
    caller = newest_first()
    caller.fake.seed_messages(10, every=timedelta(days=1))
    found = caller.every("/events")
    assert len(found) == 7
    assert [event["createdDate"] for event in found] == sorted((event["createdDate"] for event in found), reverse=True)


def test_a_filter_goes_with_either_order_and_kind_of_paging() -> None:
    found = []
    for caller in (newest_first(), newest_first(paging="offset"), Caller(FakeBasiq(seed=0, page_size=3))):
        path = messages_path(caller.fake.seed_messages(40, failed=0.5))
        found.append(ids(caller.every(f"{path}?limit=2&filter=status.eq('Failed')")))
    assert 5 < len(found[0]) < 35
    assert found[0] == found[1] == found[2][::-1]
