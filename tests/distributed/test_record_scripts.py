"""The tests of a record notice scripts that are broken on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files

import pytest

from basiq_async.distributed import _connection  # private: its scripts are broken here on purpose
from tests.distributed import test_record as jobs
from tests.distributed import test_record_model as model
from tests.distributed import test_record_segments as segments
from tests.support.records import Pair

LIMIT = segments.test_lists_share_the_limit_of_their_job_which_ends_in_front_of_the_message_after_it

BROKEN: dict[str, tuple[str, str, Callable[[Pair], Awaitable[None]]]] = {
    "claim": (
        "tonumber(redis.call('HGET', s, 'until')) > now",
        "false",
        segments.test_a_segment_with_an_owner_cannot_be_claimed_by_another,
    ),
    "save": (
        "recorded ~= before",
        "false",
        segments.test_a_repeated_save_counts_once_and_one_that_misses_earlier_ids_changes_nothing,
    ),
    "finish": (
        "not read",
        "false",
        jobs.test_a_segment_finishes_after_its_page_was_recorded_and_a_job_with_its_last_segment,
    ),
    "record_page": (
        "known then",
        "false then",
        segments.test_the_edge_of_a_segment_is_kept_and_the_next_segment_created_once,
    ),
    "take": ("> 0 then\n  return { 'ok', 0 }", "> 99 then\n  return { 'ok', 0 }", LIMIT),
    "take, again": ("redis.call('SISMEMBER', tickets, message) == 1", "false", LIMIT),
    "take, before the end": ("redis.call('HGET', segment_key(each), 'done') or 0", "0", LIMIT),
    "save, a ticket back": (
        "give_back(in_parts('SREM', s .. ':t', from, to))",
        "in_parts('SREM', s .. ':t', from, to)",
        LIMIT,
    ),
    "save, a ticket spent": ("0 - in_parts", "0 * in_parts", LIMIT),
    "save, dropped": (
        "there or not is_retry",
        "true",
        segments.test_an_entry_that_is_dropped_while_it_is_tried_again_does_not_come_back,
    ),
    "finish, not selected": (
        "read - (done or 0)",
        "read",
        segments.test_what_was_read_and_is_not_recorded_was_not_selected_whoever_came_to_it,
    ),
    "reclaim_expired": (
        "now + tonumber(ARGV[2])",
        "now",
        jobs.test_a_free_segment_is_returned_to_one_caller_at_a_time_until_it_is_claimed,
    ),
    "reclaim_expired, rarely": (
        "times % 8 == 0",
        "true",
        jobs.test_an_unclaimed_segment_is_returned_more_rarely_then_so_that_notifications_do_not_pile_up,
    ),
    "rate_slots": (
        "math.max(micros, following)",
        "micros",
        jobs.test_slots_of_all_callers_are_spaced_by_the_rate_and_unused_time_gives_no_more,
    ),
    "rate_slots, raised": (
        "job('slot_rate') ~= job('rate')",
        "false",
        jobs.test_a_rate_that_is_raised_lowered_or_removed_takes_effect_at_once,
    ),
    "create": ("ARGV[i + 1] == job('id')", "false", jobs.test_a_submission_that_is_sent_again_creates_no_second_job),
    "claim, another": (
        "is_another()",
        "false",
        jobs.test_a_call_for_a_job_that_was_forgotten_changes_nothing_of_a_later_one_with_its_key,
    ),
    "set_state": (
        "is_another()",
        "false",
        jobs.test_a_call_for_a_job_that_was_forgotten_changes_nothing_of_a_later_one_with_its_key,
    ),
    "retry_quarantined": (
        "tonumber(last[2]) > from",
        "true",
        segments.test_entries_that_a_segment_is_to_retry_already_stay_with_it,
    ),
    "retry_quarantined, again": (
        "job('retry') == ARGV[1]",
        "false",
        segments.test_entries_that_a_segment_is_to_retry_already_stay_with_it,
    ),
    "retry_quarantined, later": (
        "0, whole(from), now",
        "0, '0', now",
        segments.test_later_entries_are_retried_by_another_segment,
    ),
    "pause": (
        "ends > tonumber(job('paused_until') or 0)",
        "true",
        jobs.test_a_pause_holds_for_all_callers_and_a_shorter_one_does_not_replace_it,
    ),
    "release": ("give_back_all(id)", "", LIMIT),
}


WRONG = {
    "a claim of what is owned": ("claim", "tonumber(redis.call('HGET', s, 'until')) > now", "false"),
    "a former owner saves": ("save", "owner ~= token", "false"),
    "a former owner releases": ("release", "not owns(id, token)", "false"),
    "a save is taken twice": ("save", "return { 'recorded', recorded }", ""),
    "a save keeps its entries in no order": ("save", "redis.call('HINCRBY', base, 'numbers', 1)", "1"),
    "entries are retried twice": ("retry_quarantined", "tonumber(last[2]) > from", "true"),
    "a page is recorded twice": ("record_page", "redis.call('HEXISTS', s, 'read') == 1", "false"),
    "a job that ended is left active": ("_prelude", "redis.call('SREM', active, name)", ""),
    "a job that continues is not active": ("_prelude", "redis.call('SADD', active, name)", ""),
    "a job ends too early": ("_prelude", "redis.call('ZCARD', due) == 0", "true"),
    "a paused job is woken": ("reclaim_expired", "state ~= 'running'", "false"),
}


async def breaks(test: Callable[[Pair], Awaitable[None]], url: str) -> bool:
    """Run a test, and return whether it fails: by an assertion, an error of the script, or because nothing comes."""
    pair = Pair(url)
    try:
        async with asyncio.timeout(20.0):
            await test(pair)
    except (Exception, pytest.fail.Exception):
        return True
    finally:
        await pair.aclose()
    return False


def break_script(script: str, sound: str, broken: str, patch: pytest.MonkeyPatch) -> None:
    assert sound in (files("basiq_async.distributed") / "lua" / f"{script}.lua").read_text("utf-8")
    read = _connection._source
    patch.setattr(
        _connection,
        "_source",
        lambda name: read(name).replace(sound, broken) if script in (name, "_prelude") else read(name),
    )


@pytest.mark.parametrize("script", BROKEN)
async def test_a_broken_script_fails_a_test_of_the_record(
    script: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, broken, test = BROKEN[script]
    break_script(script.partition(",")[0], sound, broken, monkeypatch)
    assert await breaks(test, redis_url)


@pytest.mark.parametrize("what", WRONG)
async def test_a_broken_script_differs_from_the_model(
    what: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_script(*WRONG[what], monkeypatch)
    assert await breaks(
        model.test_in_any_order_of_claims_saves_deaths_and_repeated_calls_the_record_is_as_its_model, redis_url
    )
