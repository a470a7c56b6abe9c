"""The segments and the quarantine of a fleet's record in Redis."""

from __future__ import annotations

from basiq_async.distributed._record_types import (  # private: what a record exchanges with its callers
    new_token,
)
from tests.support.records import Pair, make_entry, outcomes, set_aside


async def test_a_heartbeat_and_a_save_prolong_a_lease_and_a_heartbeat_names_lost_segments(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key, lease=10.0)
    held = {"0.0": token, "0.9": new_token()}
    for _ in range(2):
        await pair.pass_seconds(6)
        await pair.one.heartbeat(key, "w", held, lease=10.0)
    await pair.pass_seconds(6)
    heartbeat = await pair.one.heartbeat(key, "w", held, lease=10.0)
    assert (heartbeat.state, list(heartbeat.lost)) == ("running", ["0.9"])
    await pair.save(key, token, *outcomes("a"))
    await pair.pass_seconds(11)
    assert await pair.refusal(key) == "held"


async def test_a_repeated_save_counts_once_and_one_that_misses_earlier_ids_changes_nothing(pair: Pair) -> None:
    key, token = await pair.owned()
    first = [*outcomes("a", "b"), *outcomes("c", result="skipped:x")]
    assert (await pair.save(key, token, *first)).state == "running"
    assert await pair.save(key, token, *first) == 3
    assert await pair.save(key, token, *outcomes("z"), before=5) == 3
    await pair.one.release(key, "0.0", token)
    token = await pair.claim(key)
    await pair.save(key, token, *outcomes("d"), *set_aside("e"), before=3)
    status = await pair.status(key)
    assert (status.handled, status.failed, dict(status.skipped), status._given_up) == (3, 1, {"x": 1}, 0)
    await pair.save(key, token, *outcomes("f", result="failed"), before=5)
    assert ((await pair.status(key)).failed, (await pair.status(key))._given_up) == (2, 1)


async def test_a_released_segment_is_free_at_once_and_is_not_taken_over(pair: Pair) -> None:
    key, token = await pair.owned()
    await pair.one.release(key, "0.0", token, problem="the vendor is away")
    assert list(await pair.two.reclaim_expired(key, "w", grace=1.0)) == ["0.0"]
    await pair.claimed(key)
    status = await pair.status(key)
    assert (status.takeovers, status.problem) == (0, "the vendor is away")


async def test_the_edge_of_a_segment_is_kept_and_the_next_segment_created_once(pair: Pair) -> None:
    key, token = await pair.owned()
    assert await pair.page(key, token, ["a", "b"], "cursor-1") == "0.1"
    assert await pair.page(key, token, ["a", "b", "c"], "cursor-2") is None
    claim = await pair.claimed(key, "0.1")
    assert (claim.cursor, claim.before, claim.after) == ("cursor-1", None, ["a", "b"])
    assert (await pair.status(key)).read == 3, "what the last owner read of the page counts"


async def test_what_was_read_and_is_not_recorded_was_not_selected_whoever_came_to_it(pair: Pair) -> None:
    key, token = await pair.owned()
    await pair.page(key, token, ["a", "b", "c", "d"], None)
    await pair.save(key, token, *outcomes("a"), *set_aside("c"))
    await pair.one.finish(key, "0.0", token)
    status = await pair.status(key)
    assert (status.read, status.handled, status.failed, dict(status.skipped)) == (4, 1, 1, {"where": 2})


async def test_entries_of_the_quarantine_come_back_unchanged_and_a_new_one_of_the_same_id_keeps_the_number(
    pair: Pair,
) -> None:
    key, token = await pair.owned()
    await pair.save(key, token, *set_aside("b", "a", "c"))
    await pair.save(key, token, *set_aside("b", error="again"), before=3)
    found = list(await pair.two.quarantined(key))
    assert found == [make_entry("b", "again"), make_entry("a"), make_entry("c")]
    rest = await pair.two.quarantined(key, after=found[0].number, limit=1)
    assert [each.delivery_id for each in rest] == ["a"]
    assert await pair.one.drop_quarantined(key, ["a", "nobody"]) == 1
    assert [each.delivery_id for each in await pair.two.quarantined(key)] == ["b", "c"]
    assert (await pair.status(key)).quarantined == 2


async def test_a_job_with_as_large_a_quarantine_as_it_may_have_is_paused(pair: Pair) -> None:
    key, token = await pair.owned(most_quarantined=2)
    await pair.save(key, token, *set_aside("a"))
    assert (await pair.status(key)).state == "running"
    heartbeat = await pair.save(key, token, *set_aside("b"), before=1)
    assert heartbeat.state == "paused"
    assert "in the quarantine" in (await pair.status(key)).reason


async def test_a_retry_that_is_asked_for_again_after_its_end_is_the_same(pair: Pair) -> None:
    key, token = await pair.owned()
    await pair.save(key, token, *set_aside("a"))
    request = new_token()
    retry = await pair.one.retry_quarantined(key, request)
    assert retry
    await pair.page(key, owner := await pair.claim(key, retry), ["a"], None, retry)
    await pair.one.finish(key, retry, owner)
    assert await pair.two.retry_quarantined(key, request) == retry


async def test_10000_entries_can_be_set_aside_dropped_and_handled_in_one_call(pair: Pair) -> None:
    key, token = await pair.owned()
    names = [f"m{number}" for number in range(10_000)]
    await pair.save(key, token, *set_aside(*names))
    assert await pair.one.drop_quarantined(key, names) == 10_000
    await pair.save(key, token, *set_aside(*names), before=10_000)
    retry = await pair.one.retry_quarantined(key, new_token())
    assert retry is not None
    token = await pair.claim(key, retry)
    await pair.save(key, token, *outcomes(*names), segment=retry)
    assert (await pair.status(key)).quarantined == 0
