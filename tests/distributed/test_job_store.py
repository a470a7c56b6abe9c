"""A fleet's record in Redis: its jobs with their segments and quarantines, and its settings."""

from __future__ import annotations

import asyncio
import signal
import uuid
from itertools import pairwise

import attrs
import pytest
from redis.asyncio import Redis

from basiq_async import ConfigurationError
from basiq_async.distributed._job_store import JobStore  # private: a fleet's own is as patient as all are
from basiq_async.distributed._record_types import ListSpec, StateChange, new_token  # private: a record's callers
from basiq_async.errors import ReplayError
from tests.support.cancelling import HOWS, cancel_after
from tests.support.environment import free_port
from tests.support.job_stores import ODD, Pair, make_entry, make_spec, outcomes, set_aside
from tests.support.servers import RedisServer


async def test_all_callers_find_a_submitted_job_and_one_that_is_sent_again_is_no_second_one(pair: Pair) -> None:
    spec = make_spec(uuid.uuid4().hex, rate=2.5, total=7, lists=(ListSpec("w1"), ListSpec("w2", "f")))
    for record in pair.all:
        assert await record.create(spec) == ("running", ["0.0", "1.0"])
    assert await pair.two.spec(spec.key) == spec
    assert spec.key in await pair.two.keys()
    assert spec.key in await pair.two.keys(active=True)
    status = await pair.status(spec.key)
    assert (status.state, status.segments, status.handled, status.quarantined) == ("waiting", 2, 0, 0)
    claim = await pair.claimed(spec.key, "1.0")
    assert (claim.cursor, claim.edge, claim.done) == (None, [], [])
    unknown = uuid.uuid4().hex
    assert await pair.two.spec(unknown) is await pair.two.progress(unknown) is None
    assert await pair.refusal(unknown) == "gone"


async def test_a_call_for_a_job_that_was_forgotten_changes_nothing_of_a_later_one_with_its_key(pair: Pair) -> None:
    old, new = (make_spec(uuid.uuid4().hex) for _ in range(2))
    new = attrs.evolve(new, key=old.key)
    await pair.one.create(old)
    with pytest.raises(ReplayError, match="cancel it before it is forgotten"):
        await pair.one.forget(old.key)
    await pair.one.set_state(old.key, "cancel")
    await pair.one.forget(old.key)
    assert await pair.two.progress(old.key) is None
    assert old.key not in await pair.two.keys()
    assert await pair.two.create(new) == ("running", ["0.0"])
    assert await pair.refusal(old.key, job=old.id) == "another"
    await pair.one.set_state(old.key, "fail", "of the old one", job=old.id)
    await pair.one.pause(old.key, 60.0, job=old.id)
    heartbeat = await pair.one.heartbeat(old.key, "w", {}, lease=30.0, job=old.id)
    assert heartbeat.state == "gone"
    assert (await pair.claimed(new.key, job=new.id)).paused == 0
    assert (await pair.status(new.key)).state == "running"


async def test_a_known_key_gets_the_new_rate_and_no_other_name_source_or_list(pair: Pair) -> None:
    spec = make_spec(uuid.uuid4().hex)
    await pair.one.create(spec)
    again = await pair.two.create(attrs.evolve(spec, rate=9.0, id=new_token()))
    assert again == ("running", [])
    found = await pair.two.spec(spec.key)
    assert found is not None
    assert (found.rate, found.id) == (9.0, spec.id)
    for other in (
        attrs.evolve(spec, lists=(ListSpec("w2"),)),
        attrs.evolve(spec, name="other"),
        attrs.evolve(spec, source="events"),
    ):
        with pytest.raises(ReplayError, match="submit it under another key"):
            await pair.two.create(other)


async def test_a_job_waits_until_a_worker_looks_at_it_and_names_its_workers(pair: Pair) -> None:
    key = await pair.job()
    progress = await pair.status(key)
    assert (progress.state, progress.workers, list(progress.worker_names)) == ("waiting", 0, [])
    await pair.one.reclaim_expired(key, "host:1", grace=1.0)
    await pair.one.heartbeat(key, "host:2", {}, lease=30.0)
    progress = await pair.status(key)
    assert (progress.state, progress.workers, sorted(progress.worker_names)) == ("running", 2, ["host:1", "host:2"])


async def test_a_rate_is_that_of_the_last_ten_seconds_and_zero_while_nothing_finishes(pair: Pair) -> None:
    key, token = await pair.owned(total=100)
    assert ((await pair.status(key)).rate, (await pair.status(key)).eta) == (0.0, None)
    ids = [f"m{number}" for number in range(105)]
    skipped = outcomes(*ids[40:45], result="skipped:x")
    await pair.save(key, token, *outcomes(*ids[:30]), *outcomes(*ids[30:40], result="failed"), *skipped)
    await pair.pass_seconds(5)
    assert ((await pair.status(key)).rate, (await pair.status(key)).elapsed) == (8.0, 5.0)
    await pair.save(key, token, *outcomes(*ids[45:65]), before=45)
    progress = await pair.status(key)
    assert (progress.rate, progress.remaining, progress.eta) == (12.0, 40, 40 / 12.0)
    await pair.pass_seconds(7)
    assert (await pair.status(key)).rate == 2.0
    await pair.pass_seconds(4)
    progress = await pair.status(key)
    assert (progress.rate, progress.remaining, progress.eta) == (0.0, 40, None)


async def test_a_free_segment_is_returned_to_one_caller_at_a_time_until_it_is_claimed(pair: Pair) -> None:
    key = await pair.job(lease=10.0)
    assert not await pair.one.reclaim_expired(key, "w", grace=5.0)
    await pair.pass_seconds(11)
    returned = await asyncio.gather(*(record.reclaim_expired(key, "w", grace=5.0) for record in pair.all))
    assert sorted(map(list, returned)) == [[], [], [], ["0.0"]]
    await pair.pass_seconds(6)
    assert list(await pair.two.reclaim_expired(key, "w", grace=5.0)) == ["0.0"]
    await pair.claim(key, lease=10.0)
    await pair.pass_seconds(9)
    assert not await pair.two.reclaim_expired(key, "w", grace=5.0)
    await pair.pass_seconds(2)
    assert list(await pair.two.reclaim_expired(key, "w", grace=5.0)) == ["0.0"]


async def test_an_unclaimed_segment_is_returned_more_rarely_then_so_that_notifications_do_not_pile_up(
    pair: Pair,
) -> None:
    key = await pair.job(lease=1.0)
    returned = []
    for number in range(1, 31):
        await pair.pass_seconds(2)
        if await pair.one.reclaim_expired(key, "w", grace=1.0):
            returned.append(number)
    assert returned == [1, 2, 4, 8, 16, 24]
    token = await pair.claim(key)
    await pair.one.release(key, "0.0", token)
    await pair.pass_seconds(2)
    assert list(await pair.two.reclaim_expired(key, "w", grace=1.0)) == ["0.0"]


async def test_a_job_with_9000_lists_can_be_paused_and_resumed(pair: Pair) -> None:
    key = await pair.job(lists=tuple(ListSpec(f"w{number}") for number in range(9_000)))
    await pair.one.set_state(key, "pause")
    state, segments = await pair.one.set_state(key, "resume")
    assert (state, len(segments)) == ("running", 9_000)
    await pair.one.set_state(key, "cancel")
    await pair.one.forget(key)


async def test_a_paused_failed_or_cancelled_job_cannot_be_claimed_until_it_is_resumed(pair: Pair) -> None:
    key = await pair.job()
    for action, state in (("pause", "paused"), ("fail", "failed"), ("cancel", "cancelled")):
        found, _ = await pair.one.set_state(key, action, "because")  # type: ignore[arg-type]  # a loop over literals
        assert found == state
        assert (await pair.status(key)).reason == "because"
        assert await pair.refusal(key) == "stopped"
        found, segments = await pair.one.set_state(key, "resume")
        assert (found, list(segments)) == ("running", ["0.0"])
    token = await pair.claim(key)
    await pair.page(key, token, [], None)
    await pair.one.set_state(key, "pause")
    await pair.one.finish(key, "0.0", token)
    found, _ = await pair.one.set_state(key, "cancel")
    assert found == "finished"


async def test_failures_in_a_row_are_counted_over_all_segments_and_a_success_restarts_the_count(pair: Pair) -> None:
    key = await pair.job(lists=(ListSpec("w1"), ListSpec("w2")))
    one, two = await pair.claim(key, "0.0"), await pair.claim(key, "1.0")
    await pair.save(key, one, *set_aside("a", "b"), max_failures=4)
    await pair.save(key, two, *outcomes("c"), *set_aside("d"), segment="1.0", max_failures=4)
    await pair.save(key, one, *set_aside("e", "f"), before=2, max_failures=4)
    assert (await pair.status(key)).state == "running"
    heartbeat = await pair.save(key, two, *set_aside("g", "h"), segment="1.0", before=2, max_failures=4)
    assert heartbeat.state == "failed"


async def test_after_20_claims_without_a_saved_message_the_job_fails_and_names_the_segment(pair: Pair) -> None:
    key = await pair.job()
    for _ in range(20):
        await pair.claim(key, lease=1.0)
        await pair.pass_seconds(2)
    await pair.refusal(key)
    status = await pair.status(key)
    assert status.state == "failed"
    assert "0.0" in status.reason


async def test_a_pause_holds_for_all_callers_whatever_happens_to_the_job_and_a_shorter_one_does_not_replace_it(
    pair: Pair,
) -> None:
    changes: list[StateChange | None] = [None, "pause", "cancel", "fail"]
    for change in changes:
        key, token = await pair.owned()
        await pair.one.pause(key, 60.0)
        await pair.two.pause(key, 5.0)
        assert (await pair.save(key, token, *outcomes("a"))).paused == (await pair.status(key)).paused == 60.0
        await pair.one.release(key, "0.0", token)
        if change is not None:
            await pair.one.set_state(key, change)
            await pair.one.set_state(key, "resume")
        heartbeat = await pair.two.heartbeat(key, "w", {}, lease=30.0)
        assert (heartbeat.state, heartbeat.paused) == ("running", 60.0), "a worker that missed the change waits alone"
        await pair.pass_seconds(10)
        assert (await pair.claimed(key)).paused == 50.0, "a segment that is claimed afterwards ignores the target"


async def test_slots_of_all_callers_are_spaced_by_the_rate_and_unused_time_gives_no_more(pair: Pair) -> None:
    for rate in (1_000.0, 0.01):
        key = await pair.job(rate=rate)
        found = await asyncio.gather(*(record.rate_slots(key, 3) for record in pair.all))
        moments = sorted(each.first + each.interval * i for each in found if each is not None for i in range(3))
        assert [later - earlier for earlier, later in pairwise(moments)] == pytest.approx([1 / rate] * 11, abs=2e-6)
        await pair.pass_seconds(20 / rate)
        assert await pair.ahead(key) == 0.0
    assert await pair.one.rate_slots(await pair.job(), 1) is None


async def test_a_rate_that_is_raised_lowered_or_removed_takes_effect_at_once(pair: Pair) -> None:
    spec = make_spec(uuid.uuid4().hex)
    for rate, least, most in ((0.001, 4_000.0, 4_001.0), (100.0, 0.0, 1.0), (0.001, 900.0, 4_001.0)):
        await pair.one.create(attrs.evolve(spec, rate=rate, id=new_token()))
        await pair.one.rate_slots(spec.key, 4)
        assert least <= await pair.ahead(spec.key) <= most
    await pair.one.create(attrs.evolve(spec, id=new_token()))
    assert await pair.two.rate_slots(spec.key, 1) is None


async def test_ids_errors_reasons_cursors_and_keys_may_hold_any_text(pair: Pair) -> None:
    key = await pair.job(name=ODD, lists=(ListSpec(ODD, ODD),))
    spec = await pair.two.spec(key)
    assert spec is not None
    assert (spec.name, spec.lists) == (ODD, (ListSpec(ODD, ODD),))
    token = await pair.claim(key)
    await pair.page(key, token, [ODD], "c'ü\n")
    (failed,) = set_aside(ODD, error=ODD, webhook_id=ODD)
    await pair.save(key, token, failed, *outcomes("other", result=f"skipped:{ODD}"))
    await pair.one.release(key, "0.0", token, problem=ODD + "\ud800")
    claim = await pair.claimed(key)
    assert (list(claim.done), list(claim.edge)) == ([ODD, "other"], [ODD])
    (found,) = await pair.two.quarantined(key)
    assert (found, found.webhook_id, found.seal) == (failed.entry, ODD, failed.entry and failed.entry.seal)
    status = await pair.status(key)
    assert (status.problem, dict(status.skipped)) == (ODD + "\\ud800", {ODD: 1}), "half of a pair is not escaped"


async def test_a_server_that_may_drop_keys_is_refused_and_one_that_may_lose_them_is_warned_of(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = JobStore(redis_url)
    async with Redis.from_url(redis_url) as redis:
        try:
            await redis.config_set("maxmemory-policy", "allkeys-lru")
            with pytest.raises(ConfigurationError, match="set maxmemory-policy noeviction"):
                await record.connection.check()
            await redis.config_set("maxmemory-policy", "noeviction")
            await record.connection.check()
            assert caplog.text == ""
            await redis.config_set("appendonly", "no")
            await record.connection.check()
            assert "Set appendonly yes" in caplog.text
        finally:
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("appendonly", "yes")
            await record.connection.aclose()


async def test_a_cancellation_is_never_lost_though_redis_is_silent_or_away(shared_server: RedisServer) -> None:
    for record, silent in (
        (JobStore(shared_server.url), True),
        (JobStore(f"redis://127.0.0.1:{free_port()}/0"), False),
    ):
        if silent:
            await record.keys()
            shared_server.send(signal.SIGSTOP)
        try:
            for how in HOWS:
                for count in range(1, 40):
                    async with asyncio.timeout(4):  # the client alone would wait 5 s for a server that is silent
                        assert await cancel_after(count, record.keys(), how)
        finally:
            if silent:
                shared_server.send(signal.SIGCONT)
        await record.connection.aclose()


@pytest.mark.parametrize(("hours", "ahead"), [(-1, 30.0), (1, 0.0)])
async def test_slots_stay_as_far_apart_when_the_clock_of_redis_is_set(hours: int, ahead: float, pair: Pair) -> None:
    """Set back: three slots are ahead as before. Set forward: time has passed, and unused slots are lost."""
    key = await pair.job(rate=0.1)
    await pair.one.rate_slots(key, 3)
    await pair.pass_seconds(3_600 * hours)
    assert await pair.ahead(key) == pytest.approx(ahead, abs=1e-5)


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


async def test_what_was_read_and_is_not_recorded_was_not_selected_by_any_worker(pair: Pair) -> None:
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
    assert await pair.one.drop_quarantined(key, ["a", "no-such-id"]) == 1
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
