from __future__ import annotations

import pytest

from basiq_async import ConfigurationError
from basiq_async.receiver.protocol import inbox_key


def test_the_key_is_made_of_the_event_and_not_of_the_delivery() -> None:
    assert inbox_key("user.created", "e1", "msg_1") == inbox_key("user.created", "e1", "msg_2")
    assert inbox_key("user.created", "e1", None) == inbox_key("user.created", "e1", "msg_2")


@pytest.mark.parametrize(("event_type", "event"), [("", "e1"), ("user.created", ""), (None, None)])
def test_the_key_is_made_of_the_message_where_the_event_is_not_known(event_type: str | None, event: str | None) -> None:
    assert inbox_key(event_type, event, "msg_1") != inbox_key(event_type, event, "msg_2")


def test_keys_that_look_alike_are_different() -> None:
    keys = [
        inbox_key("a", "b.c", "m"),
        inbox_key("a.b", "c", "m"),
        inbox_key('a","b', "c", "m"),
        inbox_key("a", 'b","c', "m"),
        inbox_key(None, None, '["a","b.c"]'),
        inbox_key("a", "x" * 1000, "m"),
        inbox_key("a", "x" * 1001, "m"),
        inbox_key("a", "\ud800", "m"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and len(key) <= 400 for key in keys)


def test_a_key_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="inbox key"):
        inbox_key("user.created", None, "")


def test_a_key_belongs_to_the_webhook_where_that_is_known() -> None:
    keys = [
        inbox_key("user.created", "e1", "m"),
        inbox_key("user.created", "e1", "m", "webhook-1"),
        inbox_key("user.created", "e1", "m", "webhook-2"),
        inbox_key(None, None, "m", "webhook-1"),
        inbox_key("user.created", "x" * 1000, "m", "webhook-1"),
        inbox_key("user.created", "x" * 1000, "m", "webhook-2"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and len(key) <= 400 for key in keys)
    assert inbox_key("user.created", "e1", "m1", "webhook-1") == inbox_key("user.created", "e1", "m2", "webhook-1")


@pytest.mark.parametrize(("size", "whole"), [(400, True), (401, False)])
def test_a_key_has_at_most_400_characters(size: int, whole: bool) -> None:
    message_id = "x" * (size - len('message:"x"') + 1)
    key = inbox_key(None, None, message_id)
    assert (message_id in key, len(key) <= 400) == (whole, True)
