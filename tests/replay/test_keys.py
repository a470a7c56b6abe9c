"""The key of an item as Basiq sent it is the key of what is made of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from basiq_async import Event, Message
from basiq_async._wire.broken_items import BrokenItem
from basiq_async._wire.codec import Codec, Unreadable
from basiq_async._wire.paging import raw_id
from basiq_async.pagination import UnreadableItem
from basiq_async.receiver.protocol import inbox_key
from basiq_async.replay._sources import (  # private: what is made of an item is read by other rooms
    event_key,
    message_key,
    message_of,
    placeholder_for,
)

CODEC = Codec()
TEXTS = st.sampled_from(["a", "a.b", "e-1", "x" * 250, "ü", '"', "\n", ""]) | st.text(max_size=4)
ODD = TEXTS | st.sampled_from([None, 0, 1, 7.5, True, [], ["a"], {}, {"a": 1}])
PAYLOADS = st.fixed_dictionaries({}, optional={"eventTypeId": ODD, "eventId": ODD}) | st.sampled_from(
    [None, [], ["a"], 1]
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "id": ODD,
        "payload": PAYLOADS,
        "eventTypeId": ODD,
        "eventId": ODD,
        "attempts": st.sampled_from([[], None, [{"timestamp": "2026-01-05T12:00:00Z"}], [{"timestamp": "noon"}], "a"]),
    },
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "id": ODD,
        "type": ODD,
        "eventTypeId": ODD,
        "entity": ODD,
        "eventType": ODD,
        "createdDate": st.sampled_from([None, "2026-01-05T12:00:00Z", "noon"]),
    },
)


def key_of(message: Message) -> str:
    return inbox_key(message.event_id, message.id)


def read(kind: Any, raw: Any) -> Any:
    reader = CODEC.reader(kind)
    try:
        return reader.hook(raw, kind)
    except Unreadable as exc:
        return UnreadableItem(raw, reader.explain(exc), None)


@given(MESSAGES)
def test_the_key_of_a_message_is_that_of_its_model(raw: dict[str, Any]) -> None:
    found = read(Message, raw)
    if isinstance(found, UnreadableItem):
        found = placeholder_for(found)
        if not isinstance(raw.get("payload") or {}, dict):
            found = Message(found.id, {**raw, "payload": None})
    assert message_key(raw) == key_of(found)


@given(MESSAGES)
def test_a_message_that_cannot_be_read_has_the_key_that_it_would_have(raw: dict[str, Any]) -> None:
    mended = {**raw, "attempts": []}
    found = read(Message, mended)
    if isinstance(found, Message):
        assert message_key(raw) == key_of(found)


@given(EVENTS)
def test_the_key_of_an_event_is_that_of_the_message_that_is_made_of_it(raw: dict[str, Any]) -> None:
    found = read(Event, {**raw, "createdDate": None})
    if isinstance(found, Event):
        assert event_key(raw) == key_of(message_of(found, "w1"))
    else:
        assert "without-id-" in event_key(raw) or raw.get("id") is not None


@given(st.sampled_from([None, "m1", "x" * 300]), st.text(max_size=9))
def test_the_key_of_a_message_that_is_no_json_is_that_of_its_placeholder(found: str | None, text: str) -> None:
    item = BrokenItem(text, "cut", found)
    error = CODEC.reader(Message).explain(Unreadable("cut"))
    placeholder = placeholder_for(UnreadableItem(text, error, raw_id(item)))
    assert message_key(item) == key_of(placeholder)
