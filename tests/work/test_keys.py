from __future__ import annotations

import pytest

from basiq_async import ConfigurationError
from basiq_async._work.keys import key_of_post, posting_job, split_key
from basiq_async.receiver.protocol import inbox_key


def test_the_key_of_an_event_is_its_id() -> None:
    for event_id in ("e1", "6a2d51c4-4a4d-4bb3-9d9c-0d4c9b1f9d1e", "x" * 200):
        assert inbox_key(event_id, "msg_1") == inbox_key(event_id, None) == event_id


@pytest.mark.parametrize("event_id", ["", None])
def test_the_key_is_made_of_the_message_where_the_event_is_not_known(event_id: str | None) -> None:
    assert inbox_key(event_id, "msg_1") == 'message:"msg_1"' != inbox_key(event_id, "msg_2")


ODD = ("message:m", "post:0123456789abcdef:e1", "event:e", "sha256:0", "\ud800", "é", " ", 'e"', "x" * 1000, "x" * 1001)


def test_keys_that_look_alike_are_different_and_posts_have_keys_of_their_own() -> None:
    jobs = [posting_job(url) for url in ("https://a.example/?tenant=1", "https://a.example/?tenant=2")]
    events = ["e1", "m", *(inbox_key(each, "m") for each in ODD), *(inbox_key(None, each) for each in ("m", *ODD))]
    keys = [*events, *(key_of_post(job, each) for job in jobs for each in events)]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and len(key) <= 400 for key in keys)
    assert [split_key(key) for key in keys] == [(job, each) for job in (None, *jobs) for each in events]


def test_a_key_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="inbox key"):
        inbox_key(None, "")


@pytest.mark.parametrize(("size", "whole"), [(370, True), (371, False)])
def test_a_key_of_a_post_has_at_most_400_characters(size: int, whole: bool) -> None:
    message_id = "x" * (size - len('message:""'))
    key = key_of_post(posting_job("url"), inbox_key(None, message_id))
    assert (message_id in key, len(key) <= 400) == (whole, True)
