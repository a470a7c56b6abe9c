"""Predicates: what they choose, how they combine, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from basiq_async import ConfigurationError, Message
from basiq_async.receiver import MemoryInbox, UnknownEventTypeWarning
from basiq_async.replay import event_types, failed_only, limit, message_time, since, until
from basiq_async.replay._sources import UnreadableMessage  # private: a reading makes it
from basiq_async.replay._where import SUBMITTED, as_where, choose  # private: a run asks it for each message
from tests.support import virtual
from tests.support.histories import Recorder, Table, history, listed

ERROR = ValueError("it cannot be read")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def message(*attempts: dict[str, Any], type_id: str = "user.created") -> Message:
    return Message("m1", {"id": "m1", "payload": {"eventTypeId": type_id, "eventId": "e1"}, "attempts": list(attempts)})


def at(moment: datetime, status: str = "Success") -> dict[str, Any]:
    return {"timestamp": moment.isoformat(), "status": status}


def test_the_time_of_a_message_is_that_of_its_first_attempt() -> None:
    later, sooner = at(NOON + timedelta(hours=2)), at(NOON)
    assert message_time(message(later, {"status": "Failed"}, sooner)) == NOON
    assert message_time(message()) is None


def fail(message: Message) -> bool:
    raise ERROR


def test_a_message_that_cannot_be_read_or_selected_is_passed_as_a_failure() -> None:
    unreadable = UnreadableMessage("m1", {}, ERROR)
    assert choose(as_where(lambda message: False), message()) == (False, None)
    assert choose(as_where(lambda message: True), message()) == (True, None)
    assert choose(as_where(fail), message()) == (True, ERROR)
    assert choose(as_where(lambda message: False), unreadable) == (True, ERROR)


def test_since_includes_its_moment_and_until_does_not() -> None:
    noon = message(at(NOON))
    assert since(NOON)(noon)
    assert not until(NOON)(noon)
    assert not since(NOON + timedelta(seconds=1))(noon)
    assert until(NOON + timedelta(seconds=1))(noon)
    there = timezone(timedelta(hours=11))
    assert since(NOON.astimezone(there))(noon)


def test_a_timedelta_is_that_long_before_now() -> None:
    recent = message(at(datetime.now(UTC) - timedelta(hours=1)))
    assert since(timedelta(hours=2))(recent)
    assert not since(timedelta(minutes=30))(recent)
    assert until(timedelta(minutes=30))(recent)


def test_in_a_shared_job_a_timedelta_is_that_long_before_the_moment_of_the_job() -> None:
    hour, noon = timedelta(hours=1), message(at(NOON))
    submitted = SUBMITTED.set(NOON + hour)
    try:
        assert since(hour)(noon)
        assert not until(hour)(noon)
        assert not since(timedelta(minutes=59))(noon)
        assert since(NOON)(noon)
    finally:
        SUBMITTED.reset(submitted)


def test_a_message_that_was_not_attempted_yet_is_kept() -> None:
    assert since(NOON)(message())
    assert until(NOON)(message())


UNTOLD = [Message("m1", {"id": "m1", **raw}) for raw in ({}, {"attempts": ["a1"]}, {"attempts": [{"id": "a1"}]})]


@pytest.mark.parametrize("untold", UNTOLD, ids=lambda each: str(each.raw))
def test_a_message_that_does_not_tell_its_attempts_is_neither_selected_nor_left_out(untold: Message) -> None:
    yes, no = as_where(lambda message: True), as_where(lambda message: False)
    for each in (since(NOON), until(NOON), failed_only()):
        for unknown in (each, ~each, each & yes, yes & each, each | no, no | each, each & failed_only()):
            assert unknown(untold) is None
            assert choose(unknown, untold) == (None, None)
        assert (each & no)(untold) is (no & each)(untold) is (~(each | yes))(untold) is False
        assert (each | yes)(untold) is (yes | each)(untold) is True


def test_failed_only_takes_what_no_attempt_delivered() -> None:
    assert failed_only()(message(at(NOON, "Failed"), at(NOON, "Failed")))
    assert failed_only()(message())
    assert not failed_only()(message(at(NOON, "Failed"), at(NOON)))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["user.created"], True),
        (["user.*"], True),
        (["*"], True),
        (["consent.*", "user.created"], True),
        (["user.deleted"], False),
        (["users.*"], False),
        (["consent.*"], False),
    ],
)
def test_event_types_are_exact_or_a_beginning(wanted: list[str], found: bool) -> None:
    assert event_types(*wanted)(message()) is found


def test_a_beginning_ends_at_its_dot() -> None:
    assert not event_types("user.*")(message(type_id="users.created"))
    assert not event_types("user.*")(message(type_id="user"))


def test_predicates_combine() -> None:
    noon = message(at(NOON))
    assert (since(NOON) & event_types("user.*"))(noon)
    assert not (since(NOON) & event_types("consent.*"))(noon)
    assert (until(NOON) | event_types("user.*"))(noon)
    assert not (~event_types("user.*"))(noon)
    assert (since(NOON) & (lambda m: m.id == "m1"))(noon)
    assert ((lambda m: m.id == "m1") & since(NOON))(noon)
    assert (until(NOON) | (lambda m: m.id == "m1"))(noon)
    assert ((lambda m: m.id == "m2") | since(NOON))(noon)


def test_limits_combine_to_the_smaller_and_go_with_and_alone() -> None:
    assert (limit(5) & failed_only() & limit(3)).limit == 3
    assert (failed_only() & limit(7)).limit == 7
    for wrong in (lambda: limit(1) | failed_only(), lambda: failed_only() | limit(1), lambda: ~limit(1)):
        with pytest.raises(ConfigurationError, match=r"limit\(\) can only be combined by &"):
            wrong()


async def _async_predicate(message: Message) -> bool:
    return True


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        (lambda: since(datetime(2026, 1, 5)), "time zone"),
        (lambda: until("yesterday"), "until must be a datetime"),
        (lambda: since(timedelta.max), "since is too long ago"),
        (lambda: limit(0), "limit must be"),
        (lambda: limit(True), "limit must be"),
        (lambda: event_types(), "event_types must name"),
        (lambda: event_types("user*"), "ends in"),
        (lambda: event_types("*.created"), "ends in"),
        (lambda: as_where(_async_predicate), "not an async one"),
        (lambda: as_where("all"), "where must be a function"),
        (lambda: as_where(failed_only), r"where must accept a Message; failed_only\(\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: Any, shown: str) -> None:
    with pytest.raises(ConfigurationError, match=shown):
        wrong()


def test_other_operands_are_a_type_error() -> None:
    with pytest.raises(TypeError):
        since(NOON) & 7
    with pytest.raises(TypeError):
        since(NOON) | 7


@pytest.mark.documented_world("it looks at the order and attempts of a list", "attempts", "message_order")
async def test_a_run_passes_what_is_chosen_and_counts_the_rest() -> None:
    async with history(1_000, failed=0.1) as h:
        messages = await h.messages()
        half = message_time(messages[500])
        assert half is not None
        where = failed_only() & since(half)
        wanted = {each.id for each in messages if each.delivered is False and messages.index(each) >= 500}
        target = Recorder()
        replay = h.replay(target, where=where)
        assert (await replay.plan()).total == len(wanted)
        report = await replay.run()
        assert set(target.ids) == wanted
        assert report.skipped == {"where": 1_000 - len(wanted)}
        assert report.read == 1_000


@pytest.mark.parametrize("kind", ["inbox", "table"])
async def test_a_limit_counts_messages_of_one_run_and_the_next_continues_after_them(kind: str) -> None:
    async with history(50, page_size=20) as h:
        target: Any = Table() if kind == "table" else Recorder()
        replay = h.replay(target, where=limit(20), concurrency=3)
        assert (await replay.plan()).total == 20
        reports = [await replay.run() for _ in range(3)]
        assert [report.handled for report in reports] == [20, 20, 10]
        assert [report.finished for report in reports] == [False, False, True]
        assert (target.rows if kind == "table" else target.ids) == await h.ids()


@pytest.mark.parametrize("order", [("m1", "m2"), ("m2", "m1")])
async def test_a_message_that_is_not_selected_hides_no_other_one_of_its_event(order: tuple[str, str]) -> None:
    payload = {"eventTypeId": "user.created", "eventId": "e1"}
    attempts = {"m1": [{"id": "a", "status": "Success"}], "m2": [{"id": "b", "status": "Failed"}]}
    target = Recorder()
    items = [{"id": each, "payload": payload, "attempts": attempts[each]} for each in order]
    async with listed(items, target, where=failed_only()) as replay:
        report = await replay.run()
    assert (target.ids, report.handled, report.finished) == (["m2"], 1, True)


async def test_a_predicate_is_asked_once_for_each_message() -> None:
    asked: list[str] = []

    def odd(message: Message) -> bool:
        asked.append(message.id)
        return False

    async with history(100, page_size=20) as h:
        report = await h.replay(Recorder(), where=odd).run()
        assert (report.skipped, asked) == ({"where": 100}, await h.ids())


@virtual.clocked
async def test_a_limit_holds_though_other_workers_hold_messages() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    async with history(6, page_size=3) as h:
        messages = await h.messages()
        await h.hold(inbox, messages[:2], lease=20)
        target = Recorder()
        for handled, finished in ((3, False), (3, True), (0, True)):
            report = await h.replay(target, inbox=inbox, where=limit(3), concurrency=1).run()
            assert (report.handled, report.finished) == (handled, finished)
        assert sorted(target.ids) == sorted(each.id for each in messages)


@pytest.mark.parametrize(("wrong", "nearest"), [("consent.revokd", "consent.revoked"), ("consents.*", "consent.*")])
def test_a_type_that_is_misspelt_warns_at_its_line_and_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.warns(UnknownEventTypeWarning) as caught:
        event_types("user.created", wrong)
    (warning,) = caught
    assert repr(wrong) in str(warning.message)
    assert f"did you mean {nearest!r}?" in str(warning.message)
    assert warning.filename == __file__
