"""The segments and the dead letters of a fleet's record in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from basiq_async.distributed._record_types import (  # private: what a record exchanges with its callers
    LeaseLostError,
    ListSpec,
    Saving,
    new_token,
)
from tests.support.records import Pair, make_dead_letter, make_page


async def test_a_segment_with_an_owner_cannot_be_claimed_by_another(pair: Pair) -> None:
    key = await pair.job()
    await pair.claim(key)
    assert (await pair.refusal(key)).reason == "held"
    await pair.claimed(await pair.job())


async def test_the_first_workers_selection_is_the_jobs_and_another_is_refused(pair: Pair) -> None:
    key = await pair.job()
    await pair.claimed(key, selection="a", lease=1.0)
    await pair.pass_seconds(2)
    refusal = await pair.refusal(key, selection="b")
    assert (refusal.reason, refusal.detail) == ("selection", "a")
    await pair.claimed(key, selection="a")


async def test_a_claim_that_is_sent_again_changes_nothing(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key)
    await pair.save(key, token, counts={"handled": 1}, ids=["a"])
    await pair.claim(key, token=token)
    status = await pair.status(key)
    assert (status.takeovers, status.interrupted, status.handled) == (0, 0, 1)


async def test_after_its_lease_a_segment_goes_to_another_worker_and_interrupted_messages_count(pair: Pair) -> None:
    key = await pair.job()
    await pair.claim(key, lease=1.0)
    await pair.pass_seconds(2)
    await pair.claim(key, record=pair.two)
    status = await pair.status(key)
    assert (status.takeovers, status.interrupted) == (1, 4)


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
    await pair.one.save(key, "0.0", token, Saving(counts={}, ids=["a"], before=0), lease=30.0)
    await pair.pass_seconds(11)
    assert (await pair.refusal(key)).reason == "held"


async def test_all_writes_of_a_former_owner_are_refused_and_change_nothing(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key, lease=1.0)
    await pair.pass_seconds(2)
    await pair.claim(key, record=pair.two)
    one, dead_letter = pair.one, make_dead_letter("a")
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "save": lambda: pair.save(key, token, counts={"handled": 5}, ids=["a"], dead_letters=[dead_letter]),
        "record_page": lambda: one.record_page(key, "0.0", token, make_page(["a"], "c"), lease=30.0, limit=None),
        "finish": lambda: one.finish(key, "0.0", token),
        "release": lambda: one.release(key, "0.0", token),
    }
    for name, call in calls.items():
        try:
            await call()
        except LeaseLostError:
            continue
        raise AssertionError(f"{name}() by a former owner raised nothing")
    status = await pair.status(key)
    assert (status.handled, status.read, status.dead, status.segments, status.held) == (0, 0, 0, 1, 1)


async def test_the_next_owner_gets_what_former_ones_recorded(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key)
    await pair.one.record_page(key, "0.0", token, make_page(["a", "b", "c"], None), lease=30.0, limit=None)
    await pair.one.save(key, "0.0", token, Saving(counts={"handled": 1}, ids=["a"], before=0), lease=30.0)
    await pair.one.save(key, "0.0", token, Saving(counts={"handled": 2}, ids=["b"], before=1), lease=1.0)
    await pair.pass_seconds(2)
    claim = await pair.claimed(key)
    found = (sorted(claim.done), claim.count, claim.last, claim.quota)
    assert found == (["a", "b"], 3, "c", 3)


async def test_a_repeated_save_counts_once_and_one_that_misses_earlier_ids_changes_nothing(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key)
    first: dict[str, Any] = {"counts": {"handled": 2, "skipped:x": 1}, "ids": ["a", "b", "c"]}
    assert await pair.save(key, token, before=0, **first) is not None
    assert await pair.save(key, token, before=0, **first) is None
    assert await pair.save(key, token, before=None, **first) is not None
    await pair.one.release(key, "0.0", token)
    token = await pair.claim(key)
    await pair.save(key, token, before=3, counts={"handled": 1, "failed": 1}, ids=["d", "e"])
    status = await pair.status(key)
    found = (status.handled, status.failed, dict(status.skipped))
    assert found == (3, 1, {"x": 1})


async def test_a_released_segment_is_free_at_once_and_nothing_counts_as_interrupted(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key)
    await pair.one.release(key, "0.0", token, problem="the vendor is away")
    await pair.claimed(key)
    status = await pair.status(key)
    found = (status.takeovers, status.interrupted, status.problem)
    assert found == (0, 0, "the vendor is away")


async def test_the_first_page_of_a_segment_is_kept_and_the_next_segment_created_once(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key)
    page = make_page(["a", "b"], "cursor-1", chosen=[True, False])
    first = await pair.one.record_page(key, "0.0", token, page, lease=30.0, limit=None)
    assert first == (1, "0.1")
    again = await pair.one.record_page(key, "0.0", token, make_page(["a"] * 5, "cursor-2"), lease=30.0, limit=None)
    assert again == (1, None)
    claim = await pair.claimed(key, "0.1")
    assert (claim.cursor, claim.before, claim.after) == ("cursor-1", None, ["a", "b"])
    status = await pair.status(key)
    assert (status.read, dict(status.skipped)) == (2, {"where": 1})


async def test_lists_share_the_limit_of_their_job_which_ends_them(pair: Pair) -> None:
    key = await pair.job(lists=(ListSpec("w1"), ListSpec("w2")))
    one, two = await pair.claim(key, "0.0"), await pair.claim(key, "1.0")
    ids = ["a", "b", "c", "d"]
    first = await pair.one.record_page(
        key, "0.0", one, make_page(ids, "c1", chosen=[True, False, True, True]), lease=30.0, limit=5
    )
    second = await pair.one.record_page(
        key, "1.0", two, make_page(ids, "c2", chosen=[False, True, True, True]), lease=30.0, limit=5
    )
    assert first == (3, "0.1")
    assert second == (2, None)
    status = await pair.status(key)
    assert status.cut
    assert dict(status.skipped) == {"where": 2}


async def test_dead_letters_come_back_unchanged_and_a_new_one_of_the_same_id_keeps_the_number(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key)
    await pair.save(
        key,
        token,
        ids=["a", "b", "c"],
        dead_letters=[make_dead_letter("b"), make_dead_letter("a"), make_dead_letter("c")],
    )
    await pair.save(key, token, before=3, dead_letters=[make_dead_letter("b", "again")])
    found = list(await pair.two.dead_letters(key))
    assert found == [make_dead_letter("b", "again"), make_dead_letter("a"), make_dead_letter("c")]
    rest = await pair.two.dead_letters(key, after=found[0].dead_letter.number, limit=1)
    assert [each.dead_letter.id for each in rest] == ["a"]
    assert await pair.one.drop_dead(key, ["a", "nobody"]) == 1
    await pair.save(key, token, before=3, revived=["c"])
    assert [each.dead_letter.id for each in await pair.two.dead_letters(key)] == ["b"]
    assert (await pair.status(key)).dead == 1


async def test_a_job_with_as_many_dead_letters_as_it_may_keep_is_paused(pair: Pair) -> None:
    key = await pair.job(most_dead=2)
    token = await pair.claim(key)
    await pair.save(key, token, ids=["a"], dead_letters=[make_dead_letter("a")])
    assert (await pair.status(key)).state == "running"
    heartbeat = await pair.save(key, token, before=1, ids=["b"], dead_letters=[make_dead_letter("b")])
    assert heartbeat is not None
    assert heartbeat.state == "paused"
    assert "dead letters" in (await pair.status(key)).reason


async def test_dead_letters_are_retried_by_a_segment_of_their_own_for_which_a_finished_job_runs_again(
    pair: Pair,
) -> None:
    key = await pair.job()
    assert await pair.one.revive(key, new_token()) is None
    await finish_with_dead_letters(pair, key, "a")
    revival = await pair.one.revive(key, new_token())
    assert revival is not None
    assert (await pair.status(key)).state == "running"
    assert key in await pair.two.keys(active=True)
    claim = await pair.claimed(key, revival)
    (stored,) = await pair.one.dead_letters(key)
    assert claim.upto == stored.dead_letter.number


async def test_dead_letters_that_a_segment_is_to_retry_already_stay_with_it(pair: Pair) -> None:
    key = await pair.job()
    await finish_with_dead_letters(pair, key, "a", "b")
    token = new_token()
    found = await asyncio.gather(*(record.revive(key, token) for record in pair.all))
    others = await asyncio.gather(*(record.revive(key, new_token()) for record in pair.all))
    assert len({*found, *others}) == 1
    assert found[0] is not None
    status = await pair.status(key)
    assert status.segments == 1
    again = new_token()
    last = await pair.one.revive(key, again)
    assert last is not None
    owner = await pair.claim(key, last)
    await pair.one.record_page(key, last, owner, make_page(["a", "b"], None), lease=30.0, limit=None)
    await pair.one.finish(key, last, owner)
    assert await pair.two.revive(key, again) == last


async def test_later_dead_letters_are_retried_by_another_segment(pair: Pair) -> None:
    key = await pair.job(lists=(ListSpec("w1"), ListSpec("w2")))
    token = await pair.claim(key)
    await pair.save(key, token, ids=["a"], dead_letters=[make_dead_letter("a")])
    first = await pair.one.revive(key, new_token())
    await pair.save(key, token, before=1, ids=["b"], dead_letters=[make_dead_letter("b")])
    second = await pair.one.revive(key, new_token())
    assert first is not None
    assert second is not None
    one, two = await pair.claimed(key, first), await pair.claimed(key, second)
    a, b = (each.dead_letter.number for each in await pair.one.dead_letters(key))
    assert (one.cursor, one.upto) == ("0", a)
    assert (two.cursor, two.upto) == (str(a), b)


async def test_each_page_of_dead_letters_but_the_last_is_full_though_some_are_dropped_meanwhile(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key)
    names = [f"m{number}" for number in range(60)]
    await pair.save(key, token, ids=names, dead_letters=[make_dead_letter(name) for name in names])
    dropped = set(names[1::2])

    async def drop() -> None:
        for name in dropped:
            await pair.two.drop_dead(key, [name])

    async def read() -> list[str]:
        seen: list[str] = []
        after = 0
        while page := await pair.one.dead_letters(key, after=after, limit=2):
            seen += [each.dead_letter.id for each in page]
            after = page[-1].dead_letter.number
            assert len(page) == 2 or seen[-1] in names[-2:]
        return seen

    _, *all_seen = await asyncio.gather(drop(), *(read() for _ in range(3)))
    for seen in all_seen:
        assert set(names) - dropped <= set(seen or ())


async def test_10000_dead_letters_can_be_saved_dropped_and_revived_in_one_call(pair: Pair) -> None:
    key = await pair.job()
    token = await pair.claim(key)
    names = [f"m{number}" for number in range(10_000)]
    await pair.save(key, token, ids=names, dead_letters=[make_dead_letter(name) for name in names])
    await pair.save(key, token, before=10_000, revived=names[:1])
    assert await pair.one.drop_dead(key, names) == 9_999
    await pair.save(key, token, before=10_000, dead_letters=[make_dead_letter(name) for name in names])
    await pair.save(key, token, before=10_000, revived=names)
    assert (await pair.status(key)).dead == 0


async def finish_with_dead_letters(pair: Pair, key: str, *ids: str) -> None:
    token = await pair.claim(key)
    await pair.one.record_page(key, "0.0", token, make_page(list(ids), None), lease=30.0, limit=None)
    await pair.save(key, token, ids=list(ids), dead_letters=[make_dead_letter(id) for id in ids])
    await pair.one.finish(key, "0.0", token)
