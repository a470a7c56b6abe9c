"""The tests of a fleet's record fail for each script that is broken on purpose.

A row of the table is a script, a part of its text, and the wrong text that takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files

import pytest

from basiq_async.distributed import _connection  # private: its scripts are broken here on purpose
from tests.distributed import test_job_store, test_job_store_model
from tests.support.job_stores import Pair

BROKEN = {
    "in_any_order": [  # part of the name of the test that notices it
        ("claim", "tonumber(redis.call('HGET', s, 'until')) > now", "false"),
        ("save", "owner ~= token", "false"),
        ("save", "recorded ~= before", "false"),
        ("save", "return { 'recorded', recorded }", ""),
        ("save", "redis.call('HINCRBY', base, 'numbers', 1)", "1"),
        ("release", "not owns(id, token)", "false"),
        ("record_page", "redis.call('HEXISTS', s, 'read') == 1", "false"),
        ("retry_quarantined", "tonumber(last[2]) > from", "true"),
        ("retry_quarantined", "0, whole(from), now", "0, '0', now"),
        ("_prelude", "redis.call('SREM', active, name)", ""),
        ("_prelude", "redis.call('SADD', active, name)", ""),
        ("finish", "redis.call('ZCARD', due) == 1", "true"),
        ("finish", "counts and is_last", "counts"),
        ("finish", "not job('counting')", "false"),
        ("_prelude", "redis.call('HDEL', base, 'counting')", ""),
        ("reclaim_expired", "state ~= 'running'", "false"),
        ("finish", "not read", "false"),
        ("save", "there or not is_retry", "true"),
        ("claim", "redis.call('HINCRBY', base, 'takeovers', 1)", ""),
    ],
    "what_was_read_and_is_not_recorded": [("finish", "read - (done or 0)", "read")],
    "the_edge_of_a_segment": [("record_page", "known then", "false then")],
    "a_retry_that_is_asked_for_again": [("retry_quarantined", "job('retry') == ARGV[1]", "false")],
    "a_free_segment_is_returned_to_one": [("reclaim_expired", "now + tonumber(ARGV[2])", "now")],
    "an_unclaimed_segment_is_returned_more_rarely": [("reclaim_expired", "times % 8 == 0", "true")],
    "slots_of_all_callers": [("rate_slots", "math.max(micros, following)", "micros")],
    "a_rate_that_is_raised": [("rate_slots", "job('slot_rate') ~= job('rate')", "false")],
    "all_callers_find_a_submitted_job": [("create", "ARGV[i + 1] == job('id')", "false")],
    "a_call_for_a_job_that_was_forgotten": [("claim", "is_another()", "false"), ("set_state", "is_another()", "false")],
    "a_pause_holds_for_all_callers": [("pause", "ends > tonumber(job('paused_until') or 0)", "true")],
}
TESTS = {
    name: test
    for module in (test_job_store, test_job_store_model)
    for name, test in vars(module).items()
    if name.startswith("test_")
}


@pytest.mark.parametrize(
    ("noticed_by", "script", "sound", "broken"),
    [(noticed_by, *row) for noticed_by, rows in BROKEN.items() for row in rows],
)
async def test_a_broken_script_fails_a_test_of_the_record(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, noticed_by: str, script: str, sound: str, broken: str
) -> None:
    assert sound in (files("basiq_async.distributed") / "lua" / f"{script}.lua").read_text("utf-8")
    read = _connection._source

    def read_broken(name: str) -> str:
        return read(name).replace(sound, broken) if script in (name, "_prelude") else read(name)

    monkeypatch.setattr(_connection, "_source", read_broken)
    (test,) = [test for name, test in TESTS.items() if name.startswith(f"test_{noticed_by}")]
    assert await fails(test, redis_url)


async def fails(test: Callable[[Pair], Awaitable[None]], url: str) -> bool:
    """Whether a test fails: by an assertion, an error of the script, or because nothing comes."""
    pair = Pair(url)
    try:
        async with asyncio.timeout(20.0):
            await test(pair)
    except (Exception, pytest.fail.Exception):
        return True
    finally:
        await pair.aclose()
    return False
