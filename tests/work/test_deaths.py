"""A process of this machine that used an inbox and did not say that it ended was killed, for three days."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from basiq_async._work import deaths
from basiq_async._work.calls import HOST
from basiq_async._work.deaths import NOTE, Deaths
from basiq_async._work.inbox_calls import InboxCalls
from basiq_async.receiver import MemoryInbox
from tests.support.inboxes import fail_in

GONE = 2**22 + 1
"""No process has this id: it is beyond the highest."""


@pytest.fixture
def calls() -> InboxCalls:
    return InboxCalls(MemoryInbox(), 1.0)


async def note_of(calls: InboxCalls) -> dict[str, object]:
    found: dict[str, object] = json.loads(await calls.note(NOTE) or "{}")
    return found


async def begin_with(calls: InboxCalls, *open: str, died: datetime | None = None) -> bool:
    await calls.set_note(NOTE, json.dumps({"open": open, "died": None if died is None else died.isoformat()}))
    return await Deaths(calls).begin()


async def test_who_ends_in_order_or_still_runs_has_not_died(calls: InboxCalls) -> None:
    first, second = Deaths(calls), Deaths(calls)
    assert not await first.begin()
    assert not await second.begin(), "the same process, once more"
    await first.end()
    await second.end()
    assert await note_of(calls) == {"open": [], "died": None}
    await second.end()
    for alive in (f"{HOST}/{os.getppid()}/abc/0", f"another-machine/{GONE}/abc/0", "strange", f"{HOST}/x/y/z"):
        assert not await begin_with(calls, alive)


async def test_a_run_of_another_machine_that_has_not_ended_matters_to_runs_for_three_days(calls: InboxCalls) -> None:
    now = datetime.now(UTC)
    for age, matters in ((0, True), (2, True), (4, False), (-4, False)):
        run = f"another-machine/7/abc/0/{now - timedelta(days=age):%Y%m%dT%H%M%S}"
        await calls.set_note(NOTE, json.dumps({"open": [run], "died": None}))
        assert await Deaths(calls).begin(job=True) is matters
        assert not await Deaths(calls).begin(), "receivers of several machines are always there"
    await calls.set_note(NOTE, json.dumps({"open": ["another-machine/7/abc/0"], "died": None}))
    assert not await Deaths(calls).begin(job=True), "a receiver"
    one, two = Deaths(calls), Deaths(calls)
    assert (await one.begin(job=True), await two.begin(job=True)) == (False, False), "two runs of this machine"
    await one.end()
    await two.end()


async def test_uses_that_never_end_are_one_and_a_use_that_begins_again_is_the_same(calls: InboxCalls) -> None:
    for _ in range(3):
        assert not await Deaths(calls).begin(may_end=False)
    use = Deaths(calls)
    for _ in range(3):
        await use.begin()
    assert len((await note_of(calls))["open"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("pid", [GONE, None], ids=["another", "the same"])
async def test_a_process_of_this_machine_that_runs_no_more_has_died_and_that_is_known_for_three_days(
    calls: InboxCalls, pid: int | None
) -> None:
    """A container has the name of its machine and the same process id after each restart."""
    assert await begin_with(calls, f"{HOST}/{pid or os.getpid()}/of-before/0")
    assert await Deaths(calls).begin(), "it is known, though it is noted no more"
    now = datetime.now(UTC)
    for age, known in ((2, True), (4, False), (-4, False)):
        assert await begin_with(calls, died=now - timedelta(days=age)) is known


async def test_the_note_has_an_end_and_a_damaged_one_is_written_again(calls: InboxCalls) -> None:
    await begin_with(calls, *(f"machine-{number}/1/a/0" for number in range(1_000)))
    found = (await note_of(calls))["open"]
    assert isinstance(found, list)
    assert len(found) == deaths._MOST
    for damaged in ("", "[]", '{"open": 3}', '{"died": "x"}', '{"died": "2026-01-01"}', "{"):
        await calls.set_note(NOTE, damaged)
        assert not await Deaths(calls).begin()
        assert len((await note_of(calls))["open"]) == 1  # type: ignore[arg-type]


async def test_an_inbox_that_is_away_at_the_end_hides_no_error() -> None:
    inbox = MemoryInbox()
    found = Deaths(InboxCalls(inbox, 1.0))
    await found.begin()
    fail_in("set_note", error=OSError("away"), inbox=inbox)
    await found.end()


async def test_the_newest_two_hundred_are_noted(calls: InboxCalls) -> None:
    await begin_with(calls, *(f"another-machine/{number}/abc/0" for number in range(250)))
    noted = (await note_of(calls))["open"]
    assert isinstance(noted, list)
    assert (len(noted), noted[0]) == (200, "another-machine/51/abc/0")
    assert noted[-1].startswith(HOST)


@pytest.mark.parametrize("error", [None, PermissionError, OverflowError])
async def test_a_process_of_which_nothing_can_be_said_counts_as_running(
    calls: InboxCalls, error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, signal: int) -> None:
        assert error is not None, "on Windows it would end the process"
        raise error

    system = SimpleNamespace(name="nt" if error is None else "posix", getpid=os.getpid, kill=kill)
    monkeypatch.setattr(deaths, "os", system)
    assert not await begin_with(calls, f"{HOST}/{GONE}/abc/0")
