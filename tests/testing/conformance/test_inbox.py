"""The suite for inboxes: it passes ours, and names every promise that another one breaks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from basiq_async.receiver import Inbox, MemoryInbox, SQLiteInbox
from basiq_async.testing import BrokenPromisesError, ManualClock, check_inbox
from basiq_async.testing.conformance import _inbox as suite  # private: to see that no promise is left out
from basiq_async.testing.conformance._inbox_model import WALKED, random_walks  # private: what a walk leaves out
from basiq_async.testing.conformance._inbox_workers import Workers, cancel_after  # private: single calls
from tests.support import inbox_stress
from tests.support.inboxes import Plain
from tests.support.real_time import PATIENCE

from .broken_inboxes import FAULTS, FOUND_BY, check, found_by, make_broken


async def test_the_suite_can_pass_the_time_on_the_inboxs_own_clock() -> None:
    clock = ManualClock()
    await check_inbox(lambda: MemoryInbox(clock=clock), clock=clock)


async def test_an_inbox_that_keeps_nothing_for_later_is_not_asked_about_that() -> None:
    class Keeping(Plain):
        async def release(self, key: str, token: str) -> None:
            pass

    clock = ManualClock()
    await check_inbox(lambda: Plain(clock=clock), clock=clock)
    with pytest.raises(BrokenPromisesError, match="A released key is free at once"):
        await check_inbox(lambda: Keeping(clock=clock), clock=clock)


def test_an_inbox_whose_claims_end_with_their_worker_is_told_of_all_but_leases() -> None:
    class WithoutLeases(MemoryInbox):
        def __init__(self) -> None:
            super().__init__(clock=clock)
            self._lease_clock = lambda: 0.0

    clock = ManualClock()
    asyncio.run(check_inbox(WithoutLeases, clock=clock, leases=False))
    with pytest.raises(BrokenPromisesError, match="After a lease has run out, another worker can claim the key"):
        asyncio.run(check_inbox(WithoutLeases, clock=clock))
    for fault in ("never releases", "stores twice"):
        assert check(fault, leases=False), fault


async def test_the_suite_takes_an_async_factory_and_closes_what_it_made() -> None:
    closed: list[bool] = []

    class Closing(MemoryInbox):
        async def aclose(self) -> None:
            closed.append(True)

    async def make() -> Inbox:
        return Closing()

    await check_inbox(make)
    assert len(closed) == len(suite.CHECKS) + 2  # two for known_since


async def test_a_claim_that_outlives_its_workers_inbox_is_told_where_claims_have_no_lease() -> None:
    storages: dict[str, MemoryInbox] = {}

    class OneWorkers(MemoryInbox):
        def __init__(self, name: str) -> None:
            self.__dict__ = storages.setdefault(name, MemoryInbox()).__dict__

        async def aclose(self) -> None:
            pass

    with pytest.raises(BrokenPromisesError) as caught:
        await check_inbox(OneWorkers, leases=False, shared=True)
    promise = "A claim lasts as long as its worker's inbox is open (across two workers)"
    assert caught.value.broken == {promise: "a claim after the first worker's inbox was closed was BUSY, not CLAIMED"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("forgets after a day", "a key was forgotten 24 hours after it was handled; Basiq may send again for 66 h"),
        ("forgets the oldest of a few", "a claim of a key after which 100 others were handled was CLAIMED, not DONE"),
        ("knows since it began though it forgets", "was forgotten, and known_since() was 20"),
        ("knows since now", "though the inbox remembers what was handled in between"),
        ("knows since ever", "known_since() was 1970-01-01 00:00:00+00:00, when no inbox can have existed"),
        ("knew before it began", "known_since() of an inbox that was made at 20"),
        ("claims what is left out", "were claimed"),
    ],
)
def test_an_inbox_is_told_what_it_did_in_place_of_what_it_promises(fault: str, said: str) -> None:
    found = check(fault)
    assert any(said in what for what in found.values()), found


def test_each_promise_finds_its_faults_and_each_promise_and_fault_has_the_other() -> None:
    broken = {fault: check(fault) for fault in FAULTS}
    promises = {check.__qualname__: promise for promise, (_, check) in suite.CHECKS.items()}
    promises["known_since_opened"] = str(suite.known_since_opened.__doc__)
    del promises["InboxPromises.commit_together"]  # broken in test_inbox_transactions.py
    assert set(FOUND_BY) == set(promises)
    pairs = [(promise, fault) for promise in FOUND_BY for fault in found_by(promise)]
    assert {fault for _, fault in pairs} == set(FAULTS)
    assert [(promise, fault) for promise, fault in pairs if promises[promise] not in broken[fault]] == []


def test_a_random_walk_makes_calls_of_all_kinds_but_those_that_end_by_themselves() -> None:
    made = {step.split()[0] for script in random_walks(WALKED) for step in script.split("; ")}
    assert made > {"claim", "complete", "quarantine", "known", "store", "claim_due"}
    assert not made & {"claim_shortly", "put_off_shortly"}


async def test_a_call_that_the_suite_cancels_has_ended_before_the_next_step() -> None:
    ended: list[str] = []

    async def call() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("it")

    for wait in (0, 2):
        await cancel_after(wait, call())
    assert ended == ["it", "it"]


async def test_where_a_claim_ends_with_its_worker_a_cancelled_call_may_hold_what_is_due_for_a_moment() -> None:
    class Late(MemoryInbox):
        asked = 0

        async def claim_due(self, *args: Any, **options: Any) -> Any:
            self.asked += 1
            return await super().claim_due(*args, **options) if self.asked % 2 == 0 else []

    inbox = Late()
    await Workers(inbox, inbox, leases=False).follow("cancelled store a; store a; claim_due b")
    with pytest.raises(AssertionError, match="claim_due b, after store a: it was "):
        await Workers(inbox, inbox, leases=False).follow("store a; claim_due b")


class KnowsSinceItWasOpened(SQLiteInbox):
    """It lies after a restart."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._opened = datetime.now(UTC)

    async def known_since(self) -> datetime:
        return self._opened


async def test_an_inbox_that_knows_only_since_a_restart_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="when the inbox was opened again, though the inbox remembers"):
        await suite.known_since_opened(partial(KnowsSinceItWasOpened, tmp_path / "inbox.db"), None)


class WritesWhenClosed(SQLiteInbox):
    """What was completed is not in the file yet."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder / f"{name}.db")
        self._later: list[tuple[str, str]] = []

    async def complete(self, key: str, token: str) -> bool:
        self._later.append((key, token))
        return True

    async def aclose(self) -> None:
        for key, token in self._later:
            await super().complete(key, token)
        await super().aclose()


async def test_an_inbox_that_loses_in_a_kill_what_it_recorded_is_told_so(tmp_path: Path) -> None:
    said = r"known b, after claim a; complete a: it was set\(\), not \{"
    with pytest.raises(AssertionError, match=said):
        await inbox_stress.killed(partial(WritesWhenClosed, tmp_path), PATIENCE)


def test_the_suite_names_every_promise_that_is_broken() -> None:
    clock = ManualClock()
    with pytest.raises(BrokenPromisesError) as caught:
        asyncio.run(check_inbox(lambda: make_broken("forgets", clock), clock=clock))
    assert str(caught.value).startswith(f"the inbox breaks {len(caught.value.broken)} of its promises:\n- ")
    assert len(caught.value.broken) > 1
    promise = "A completed key stays completed for all workers, and is recorded once"
    assert caught.value.broken[promise] == "claim b, after claim a; complete a: it was CLAIMED, not DONE"


async def test_the_suite_says_when_a_promise_fails_only_across_two_workers() -> None:
    with pytest.raises(BrokenPromisesError) as caught:
        await check_inbox(lambda _: MemoryInbox(), shared=True)
    assert caught.value.broken
    assert all(promise.endswith("(across two workers)") for promise in caught.value.broken)
