"""What recoveries keep of a history: when the webhook was not active, and what no list has any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from basiq_async import Message
from basiq_async._wire.order import raw_time
from basiq_async._work.inbox_calls import InboxCalls
from basiq_async.receiver import MemoryInbox
from basiq_async.services.coverage import (
    Activity,
    Coverage,
    Inactivity,
    LiveSince,
    coverage_note,
    describe_before_joining,
    is_passed_over,
    is_recent,
    note_coverage,
    read_coverage,
)

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def tried(*hours: float, status: str = "Failed") -> dict[str, Any]:
    return {"id": "m", "attempts": [{"timestamp": at(each).isoformat(), "status": status} for each in hours]}


def see(activity: Activity, items: list[Any]) -> None:
    activity.see(items, map(raw_time, items))


def test_coverage_is_read_as_it_was_written() -> None:
    found = Coverage(at(0), at(1), at(2))
    assert Coverage.read(found.write()) == found
    assert Coverage.read(Coverage().write()) == Coverage.read(None) == Coverage()


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", '{"inactive": 3}', '{"read_up_to": "2026-01-01"}', '{"read_up_to": 5}', "[" * 100_000]
)
def test_a_damaged_coverage_is_as_good_as_none(text: str) -> None:
    assert Coverage.read(text) == Coverage()


def test_periods_that_end_together_are_one_and_the_earliest_counts() -> None:
    activity = Activity()
    see(
        activity,
        [
            {"id": "m", "attempts": []},
            tried(0, status="Success"),
            tried(*range(8)),
            tried(*(each + 0.5 for each in range(8))),
        ],
    )
    see(activity, [tried(3, 4)])  # a retry of what was begun before is no sign of life
    assert activity.periods() == (Inactivity(at(7)),)
    assert str(activity.periods()[0]).startswith("the webhook was not active from 2026-01-05 19:00:00 UTC, and")
    see(activity, [tried(50, status="Success"), tried(40, status="Success")])
    assert activity.periods() == (Inactivity(at(7), at(40)),)
    see(activity, [tried(*range(60, 68))])
    assert len(activity.periods()) == 2
    assert activity.periods(at(45), None)[1] == Inactivity(at(45), at(50))


def poisoned(*, since: float = 0) -> dict[str, Any]:
    """A message that fails eight times, on Basiq's schedule."""
    return tried(*(since + each / 3600 for each in (0, 5, 305, 2105, 9305, 27305, 63305, 99305)))


def hourly(begin: int, end: int, status: str = "Success") -> list[dict[str, Any]]:
    return [tried(each, status=status) for each in range(begin, end)]


LAST = 99305 / 3600
"""When, in hours, a message fails for the eighth time."""


@pytest.mark.parametrize("status", ["Success", "Failed"])
def test_a_webhook_that_goes_on_as_before_was_active_when_a_message_came_to_its_end(status: str) -> None:
    activity = Activity()
    see(activity, [*hourly(0, 100, status), *(poisoned(since=each) for each in (0, 5.1, 9))])
    assert activity.periods() == ()
    alone = Activity()
    see(alone, [poisoned(), tried(2 * LAST - 0.1)])
    assert alone.periods() == (), "it was silent for as long before"


@pytest.mark.parametrize("until", [29.5, 40, 300])
def test_a_webhook_that_fell_silent_when_a_message_came_to_its_end_was_not_active(until: float) -> None:
    activity = Activity()
    see(activity, [*hourly(0, 28), poisoned(), tried(until, status="Success"), *hourly(301, 400)])
    assert activity.periods() == (Inactivity(at(LAST), at(until)),)
    retried = tried(20, 21, status="Failed")
    retried["attempts"].append(tried(29, status="Success")["attempts"][0])
    see(activity, [retried])
    assert activity.periods() == (Inactivity(at(LAST), at(29)),), "a success is a sign, whatever attempt it is"


def test_the_end_of_an_inactive_time_is_named_to_the_second() -> None:
    activity = Activity()
    see(activity, [tried(2.05, status="Success"), tried(2.2, status="Success"), tried(2.9, status="Success")])
    assert activity.periods(at(2.1)) == (Inactivity(at(2.1), at(2.2)),)
    assert activity.last_sign == at(2.9)
    assert Activity().last_sign is None


def test_a_message_that_was_delivered_at_last_ends_nothing() -> None:
    activity = Activity()
    see(activity, [{"id": "m", "attempts": [*tried(*range(8))["attempts"], *tried(8, status="Success")["attempts"]]}])
    see(activity, [{"id": "m", "attempts": [{"timestamp": "when?", "status": "Failed"}] * 8}, "no message", None])
    assert activity.periods() == ()


@pytest.mark.parametrize(
    ("period", "coverage", "lost"),
    [
        ((0, 5), Coverage(), (0, 5)),
        ((0, None), Coverage(), (0, 10)),
        ((12, 15), Coverage(), None),
        ((8, 15), Coverage(), (8, 10)),
        ((0, 5), Coverage(acknowledged=at(3)), (3, 5)),
        ((0, 5), Coverage(acknowledged=at(5)), None),
        ((0, 5), Coverage(read_up_to=at(3)), None),  # a recovery found the webhook active then
        ((0, 5), Coverage(read_up_to=at(3), seen_inactive=at(3)), (3, 5)),
        ((4, 6), Coverage(read_up_to=at(3)), (4, 6)),
        ((4, None), Coverage(read_up_to=at(3), acknowledged=at(9)), (9, 10)),
    ],
)
def test_unrecoverable_is_what_was_not_read_and_is_not_listed_any_more(
    period: tuple[float, float | None], coverage: Coverage, lost: tuple[float, float] | None
) -> None:
    since, until = period
    now = at(10) + timedelta(days=7)
    found = coverage.unrecoverable([Inactivity(at(since), None if until is None else at(until))], now)
    assert found == (() if lost is None else (Inactivity(at(lost[0]), at(lost[1])),))


@pytest.mark.parametrize(
    ("status", "since", "passed_over"),
    [
        ("Failed", None, False),
        ("Success", None, True),
        ("Success", at(0), True),  # within the tolerance of two clocks
        ("Success", at(-1), False),
        ("Success", at(1), True),
    ],
)
def test_what_basiq_delivered_is_passed_over_unless_the_inbox_would_know_it(
    status: str, since: datetime | None, passed_over: bool
) -> None:
    assert is_passed_over(Message("m", tried(0, status=status)), since) is passed_over


def test_only_what_was_read_of_each_type_is_covered_and_a_future_moment_shows_nothing() -> None:
    found = Coverage(at(0), types={"a": at(0), "b": at(0)})
    assert found.covered(["a"], at(1)) == found.covered(["b", "a"], at(0)) == at(0)
    assert found.covered(["a", "c"], at(1)) is None
    assert found.covered(["a"], at(-1)) is None
    assert Coverage(types={"a": at(0)}).covered(["a"], at(1)) is None


def test_a_new_webhook_was_not_active_since_one_of_its_service_that_is_gone_was_last_read() -> None:
    former = {
        "v": Coverage(at(0), acknowledged=at(-1), types={"a": at(0)}),
        "u": Coverage(at(-9), seen_inactive=at(-8)),
    }
    found = Coverage(acknowledged=at(-2)).inherit(former, ())
    assert found == Coverage(seen_inactive=at(0), acknowledged=at(-2))
    assert Coverage.read(found.write()) == found
    assert found.unrecoverable([Inactivity(at(0), at(9))], at(5) + timedelta(days=7)) == (Inactivity(at(0), at(5)),)
    for given, seen in (
        ([Coverage(at(0), seen_inactive=at(0), acknowledged=at(2))], at(2)),
        ([Coverage(at(5), seen_inactive=at(4)), Coverage(at(3))], at(4)),
        ([Coverage(at(3)), Coverage(acknowledged=at(9))], at(9)),
        ([Coverage(), Coverage()], None),
        ([], None),
    ):
        named = dict(zip("uv", given, strict=False))
        assert Coverage().inherit(named, ()).seen_inactive == seen
        for working in (named, None):  # all are active, or that cannot be known
            assert Coverage().inherit(named, working).seen_inactive is None
    for own in (Coverage(at(3)), Coverage(seen_inactive=at(3))):
        assert own.inherit(former, ()) == own, "a recovery has read it"


@pytest.mark.parametrize(("own", "others", "asked"), [(None, "v", 1), (None, "", 0), (Coverage(at(3)), "v", 0)])
async def test_which_webhooks_are_active_is_asked_where_a_new_one_inherits(
    own: Coverage | None, others: str, asked: int
) -> None:
    calls, times = InboxCalls(MemoryInbox(), 1.0), []
    await calls.set_note(coverage_note("v"), Coverage(at(0)).write())
    if own is not None:
        await calls.set_note(coverage_note("w"), own.write())

    async def find_working() -> tuple[str, ...]:
        times.append(1)
        return ()

    found = await read_coverage(calls, "w", ("w", *others), find_working, now=lambda: at(9))
    assert (found.seen_inactive, len(times)) == (at(0) if asked else None, asked)
    await note_coverage(calls, "w", Coverage(at(5)), "a job", lambda: at(9))
    for job, expected in (("a job", Coverage(at(5))), ("another", Coverage())):
        assert await read_coverage(calls, "w", (), find_working, job=job, now=lambda: at(9)) == expected


def test_recoveries_of_a_new_webhook_begin_where_those_of_the_others_do() -> None:
    others = {"v": Coverage(at(5), begins=at(1)), "u": Coverage(at(5), begins=at(2))}
    assert Coverage().inherit(others, ("v", "u")).begins == at(2)
    assert Coverage(begins=at(0)).inherit(others, ()).begins == at(0), "it has its own"
    assert Coverage(at(3)).inherit(others, ()).begins is None, "it was read from further back"


WEEK = timedelta(days=7)


@pytest.mark.parametrize("working", [(), ("v",), None], ids=["gone", "active", "unknown"])
def test_what_was_read_through_another_webhook_is_read_for_its_types_and_from_when_each_was(
    working: tuple[str, ...] | None,
) -> None:
    other = Coverage(at(10), begins=at(-9), types={"a": at(0), "b": at(5)})
    found, now = Coverage(at(1)).inherit({"v": other, "u": Coverage()}, working), at(20)
    times = (-1, 0, 4.9, 5, 9.9, 10)
    assert [found.is_unwanted("a", at(each), now) for each in times] == [False, True, True, True, True, False]
    assert [found.is_unwanted("b", at(each), now) for each in times] == [False, False, False, True, True, False]
    assert not any(found.is_unwanted(each, at(6), now) for each in ("c", ""))
    assert not found.is_unwanted("a", None, now)
    assert not found.is_unwanted("a", at(6), at(9)), "a moment in the future shows nothing"
    assert not Coverage(at(1)).inherit({"v": attrs.evolve(other, begins=at(9))}, working).is_unwanted("a", at(8), now)
    assert found.read_back_to(now) == Coverage(at(1)).read_back_to(now), "older messages of its own are read"
    assert Coverage.read(found.write()).others == ()


@pytest.mark.parametrize(
    ("types", "lost"),
    [
        ("a", [(-20, 0), (10, 15)]),
        ("ab", [(-20, 5), (10, 15)]),  # of one type, the rest is lost
        ("abc", [(-20, 15)]),
        ("", [(-20, 15)]),
    ],
)
def test_what_another_webhook_was_not_read_for_is_unrecoverable(types: str, lost: list[tuple[float, float]]) -> None:
    other = Coverage(at(10), types={"a": at(0), "b": at(5)})
    found = Coverage().inherit({"v": other}, ("v",))
    periods, now = [Inactivity(at(-20), at(15))], at(20) + WEEK
    assert found.unrecoverable(periods, now, tuple(types)) == tuple(Inactivity(at(a), at(b)) for a, b in lost)
    known = Coverage().inherit({"v": attrs.evolve(other, acknowledged=at(6))}, ("v",))
    left = ((10, 15),) if types in ("a", "ab") else lost
    assert known.unrecoverable(periods, now, tuple(types)) == tuple(Inactivity(at(a), at(b)) for a, b in left)


def test_a_person_who_knew_what_was_unknown_of_one_webhook_is_not_asked_for_another_of_the_service() -> None:
    activity, now = Activity(), at(9) + WEEK
    see(activity, [{"id": "m"}])
    for known in (Coverage(at(10), acknowledged=at(6)), Coverage(at(10), begins=at(5))):
        other = attrs.evolve(known, types={"a": at(5)})
        found = Coverage().inherit({"v": other}, ("v",))
        assert found.find_unknown_reach(activity, now, ("a",)) is None
        assert found.find_unknown_reach(activity, now, ("a", "b")) == at(9)
        assert found.find_unknown_reach(activity, at(10.1) + WEEK, ("a",)) == at(10.1)
    unread = Coverage().inherit({"v": Coverage(at(10), types={"a": at(5)})}, ("v",))
    assert unread.find_unknown_reach(activity, now, ("a",)) == at(9), "nothing tells of the time before"


def test_a_type_is_read_without_a_gap_while_each_recovery_reaches_the_one_before() -> None:
    first, minutes = Coverage().read_types(["a"], at(0)), timedelta(minutes=2)
    assert first == {"a": at(0) - WEEK + minutes}
    read = Coverage(at(0) - minutes, types=first)
    assert read.read_types(["a", "b"], at(5)) == {**first, "b": at(5) - WEEK + minutes}
    limit = at(0) + WEEK - 2 * minutes
    assert read.read_types(["a"], limit) == first
    assert read.read_types(["a"], limit + minutes / 100)["a"] > first["a"]


def test_what_happened_before_recoveries_begin_is_neither_read_nor_unrecoverable() -> None:
    coverage = Coverage(begins=at(-5))
    assert Coverage.read(coverage.write()) == coverage
    assert coverage.read_back_to(at(0)) == at(-5)
    assert coverage.unrecoverable([Inactivity(at(-9), at(-6))], at(0) + timedelta(days=7)) == ()


def test_what_is_lost_is_kept_until_it_is_acknowledged() -> None:
    lost = (Inactivity(at(-300), at(-200)), Inactivity(at(-190), at(-180)))
    coverage = Coverage(read_up_to=at(-1), lost=lost)
    assert Coverage.read(coverage.write()) == coverage
    assert coverage.unrecoverable([], at(0)) == lost
    known = attrs.evolve(coverage, acknowledged=at(-200))
    assert known.unrecoverable([], at(0)) == lost[1:]
    assert attrs.evolve(coverage, acknowledged=at(-180)).unrecoverable([], at(0)) == ()


# --- each rule, at its border ---

DAY = 24.0


@pytest.mark.parametrize(
    ("coverage", "back_to"),
    [
        (Coverage(), None),
        (Coverage(begins=at(-3)), at(-3)),
        (Coverage(read_up_to=at(-1)), at(-10 * DAY)),  # the events of 7 days, and their attempts
        (Coverage(read_up_to=at(-8 * DAY)), at(-11 * DAY)),  # the attempts that had not ended then
        (Coverage(read_up_to=at(-1), begins=at(-3)), at(-3)),
        (Coverage(read_up_to=at(-1), begins=at(-11 * DAY)), at(-10 * DAY)),
    ],
)
def test_messages_are_read_back_to_the_attempts_of_what_is_listed(coverage: Coverage, back_to: datetime | None) -> None:
    assert coverage.read_back_to(at(0)) == back_to


@pytest.mark.parametrize(
    ("period", "begins", "lost"), [((0, 5), at(2), (2, 5)), ((0, 5), at(5), None), ((6, 9), at(5), (6, 9))]
)
def test_what_happened_before_the_beginning_is_not_wanted_and_not_lost(
    period: tuple[float, float], begins: datetime, lost: tuple[float, float] | None
) -> None:
    found = Coverage(begins=begins).unrecoverable([Inactivity(*map(at, period))], at(0) + timedelta(days=8))
    assert found == (() if lost is None else (Inactivity(*map(at, lost)),))


def test_a_period_that_had_begun_when_a_recovery_found_the_webhook_active_had_ended() -> None:
    now = at(0) + timedelta(days=8)
    for since, is_lost in ((3.0, False), (3.01, True)):
        found = Coverage(read_up_to=at(3)).unrecoverable([Inactivity(at(since), at(5))], now)
        assert bool(found) is is_lost


def test_what_was_lost_stays_lost_until_a_later_moment_is_acknowledged() -> None:
    lost = (Inactivity(at(0), at(5)), Inactivity(at(6)))
    for acknowledged, left in ((None, lost), (at(4.9), lost), (at(5), lost[1:]), (at(9), lost[1:]), (at(10), ())):
        coverage = Coverage(lost=lost, acknowledged=acknowledged)
        assert coverage.unrecoverable([], at(10)) == left


@pytest.mark.parametrize("untold", [{"id": "m"}, {"id": "m", "attempts": ["a1"]}], ids=str)
def test_where_messages_do_not_show_their_attempts_only_what_a_recovery_saw_is_a_period(untold: dict[str, Any]) -> None:
    activity = Activity()
    see(activity, [tried(*range(8)), untold])
    assert activity.periods() == ()
    assert activity.periods(at(9)) == (Inactivity(at(9)),)
    week = timedelta(days=7)
    for known, is_known in ((Coverage(), False), (Coverage(read_up_to=at(0)), False), (Coverage(begins=at(2)), True)):
        assert (known.find_unknown_reach(activity, at(1) + week) is None) is is_known
    assert Coverage().find_unknown_reach(activity, at(1) + week) == at(1)
    assert Coverage().find_unknown_reach(Activity(), at(1) + week) is None


@pytest.mark.parametrize(("seconds", "recent"), [(119, True), (120, True), (121, False)])
def test_an_event_is_recent_for_two_minutes(seconds: float, recent: bool) -> None:
    assert is_recent(NOON - timedelta(seconds=seconds), NOON) is recent
    assert not is_recent(None, NOON)


@pytest.mark.parametrize(("minutes", "passed_over"), [(4.9, True), (5, False)])
def test_the_clocks_of_basiq_and_the_inbox_may_differ_by_five_minutes(minutes: float, passed_over: bool) -> None:
    delivered = Message("m", tried(0, status="Success"))
    assert is_passed_over(delivered, NOON - timedelta(minutes=minutes)) is passed_over
    undated = Message("m", {"id": "m", "attempts": [{"status": "Success"}]})
    assert is_passed_over(undated, NOON - timedelta(days=9)) is None, "it is unknown when it was delivered"
    assert is_passed_over(undated, None) is True


@pytest.mark.parametrize(
    ("minutes", "acknowledged", "named"),
    [
        *((4.9, None, False), (5, None, True), (124.9, None, True), (125, None, False)),
        *((59, at(1), False), (60, at(1), True), (5, at(0), True)),
    ],
)
def test_what_was_delivered_before_its_webhook_joined_is_named_if_its_service_was_live(
    minutes: float, acknowledged: datetime | None, named: bool
) -> None:
    since, delivered = LiveSince(webhook=at(2), service=at(0)), at(minutes / 60)
    message = Message("m", tried(-9, minutes / 60, status="Success"))
    assert since.delivered_before_joining(message, acknowledged) == (delivered if named else None)
    assert LiveSince(webhook=at(2)).delivered_before_joining(message, acknowledged) is None
    for other in (tried(1), {"id": "m", "attempts": [{"status": "Success"}]}):
        assert since.delivered_before_joining(Message("m", other), None) is None


def test_what_a_job_had_noted_and_lost_is_forgotten_unless_a_person_says_since_when_all_is_wanted() -> None:
    found = Coverage(gone_before=at(0))
    assert [found.is_forgotten(each) for each in (None, at(-1), at(0))] == [True, True, False]
    assert not attrs.evolve(found, begins=at(-9)).is_forgotten(at(-1))
    assert not Coverage().is_forgotten(None)
    told, untold, now = Activity(), Activity(), at(9) + timedelta(days=7)
    see(untold, [{"id": "m"}])
    assert [found.find_unknown_reach(each, now) for each in (told, untold)] == [at(0), at(9)]


def test_what_is_to_be_acknowledged_of_it_is_a_moment_after_the_last_delivery() -> None:
    assert "pass the time as acknowledged" in describe_before_joining(2, None)
    assert "pass a time after 2026-01-05 12:00:00 UTC as acknowledged" in describe_before_joining(2, at(0))


@pytest.mark.parametrize("count", [7, 8, 9])
def test_a_message_comes_to_its_end_with_its_eighth_attempt(count: int) -> None:
    activity = Activity()
    see(activity, [tried(*range(count))])
    assert activity.first_end(None) == (at(count - 1) if count >= 8 else None)
    assert activity.first_end(at(count - 1)) is None
    assert activity.first_end(at(count - 2)) == activity.first_end(None)


def test_a_silence_as_long_as_one_before_shows_nothing_and_a_longer_one_does() -> None:
    for until, named in ((2 * LAST - 1, False), (2 * LAST, False), (2 * LAST + 0.001, True)):
        activity = Activity()
        see(activity, [poisoned(), tried(until)])
        assert bool(activity.periods()) is named, until
    activity = Activity()
    see(activity, [tried(-60), *hourly(0, 28), poisoned(), tried(LAST + 1.5)])
    assert activity.periods(), "a silence from before the message counts for nothing"


def test_of_two_messages_that_came_to_their_ends_in_one_silence_the_first_counts() -> None:
    activity = Activity()
    see(activity, [*hourly(0, 28), poisoned(), poisoned(since=0.5), tried(90)])
    assert activity.periods() == (Inactivity(at(LAST), at(90)),)


def test_the_lost_are_written_without_those_that_have_no_end() -> None:
    written = Coverage(lost=(Inactivity(at(0)), Inactivity(at(1), at(2))), begins=at(0), types={"a": at(0)}).write()
    assert Coverage.read(written) == Coverage(lost=(Inactivity(at(1), at(2)),), begins=at(0), types={"a": at(0)})


def test_of_many_unrecoverable_periods_the_oldest_are_noted_as_one() -> None:
    for count in (200, 300):
        lost = tuple(Inactivity(at(number), at(number + 0.5)) for number in range(count))
        found = Coverage.read(Coverage(lost=lost).write()).lost
        assert found == (Inactivity(at(0), lost[count - 200].until), *lost[count - 199 :])
