"""An inbox with the limit of its calls: what is in its quarantine, page by page, and how that ends."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import attrs
import pytest

from basiq_async import InboxError
from basiq_async._work.inbox_calls import ALL, InboxCalls
from basiq_async._work.keys import inbox_key, key_of_post, posting_job
from basiq_async.receiver import InboxEntry, MemoryInbox
from basiq_async.receiver.protocol import ClaimStatus
from tests.support import virtual
from tests.support.deliveries import NOW, quarantined_delivery
from tests.support.inboxes import fail_in

JOB = posting_job("https://service.example/basiq")


def delivery(number: int, job: str | None = None, *, minutes: int | None = None) -> InboxEntry:
    event_id = f"e-{number}"
    key = inbox_key(event_id, "msg_1")
    key = key if job is None else key_of_post(job, key)
    at = NOW + timedelta(minutes=number if minutes is None else minutes)
    return attrs.evolve(quarantined_delivery(key, at=at), event_id=event_id)


def pages(*of: list[InboxEntry]) -> Any:
    """An inbox whose quarantine a test writes."""
    inbox: Any = MemoryInbox()
    inbox.entries = AsyncMock(side_effect=[*of, [], []])
    return inbox


async def read(inbox: MemoryInbox, job: str | None = None) -> list[str]:
    return [each.event_id async for each in InboxCalls(inbox, 5).read_quarantine(job)]


async def test_each_delivery_of_the_service_comes_once_and_those_of_a_job_do_not() -> None:
    moved = delivery(1, minutes=9)  # it failed again meanwhile
    inbox = pages([delivery(1), delivery(2, JOB), delivery(3)], [delivery(4), moved])
    assert await read(inbox) == ["e-1", "e-3", "e-4"]
    asked = [call.kwargs["after"] for call in inbox.entries.await_args_list]
    assert [after and after.event_id for after in asked] == [None, "e-3", "e-1"]
    page = [delivery(1), delivery(2, JOB), delivery(3, posting_job("another"))]
    assert [await read(pages(page), each) for each in (JOB, ALL)] == [["e-2"], ["e-1", "e-2", "e-3"]]


async def test_pages_that_do_not_advance_are_an_error_and_no_loop() -> None:
    with pytest.raises(InboxError, match="cannot be read further"):
        await read(pages([delivery(5)], [delivery(4)]))
    with pytest.raises(InboxError, match="cannot be read further"):
        await read(pages([delivery(5)], [delivery(5)]))


@virtual.clocked
async def test_a_page_has_a_time_limit() -> None:
    began = virtual.now()
    with pytest.raises(InboxError, match="did not respond within 5 s"):
        await read(fail_in("entries"))
    assert virtual.now() - began == 5


# --- dropping ---


async def inbox_with(key: str) -> MemoryInbox:
    inbox = MemoryInbox(clock=virtual.clock)
    await inbox.quarantine(key, "a", quarantined_delivery(key))
    return inbox


@virtual.clocked
async def test_what_is_dropped_is_handled_and_what_was_not_there_is_not() -> None:
    inbox = await inbox_with("k")
    assert [await InboxCalls(inbox, 5).drop(key) for key in ("k", "k", "another")] == [True, False, False]
    assert await inbox.known(["k", "another"]) == {"k"}
    assert await inbox.entries() == []


@pytest.mark.parametrize("seconds", [0.02, 3.0])
@virtual.clocked
async def test_what_another_worker_has_is_dropped_when_that_has_ended(seconds: float) -> None:
    inbox = await inbox_with("k")
    await inbox.claim("k", "another", lease=seconds, quarantined=True)
    assert await InboxCalls(inbox, 5).try_to_drop("k") is ClaimStatus.BUSY
    assert await InboxCalls(inbox, 5).drop("k")
    assert await inbox.known(["k"])


@virtual.clocked
async def test_what_another_worker_keeps_stays_in_the_quarantine() -> None:
    inbox = await inbox_with("k")
    await inbox.claim("k", "another", lease=60, quarantined=True)
    began = virtual.now()
    with pytest.raises(InboxError, match="another worker is handling the delivery"):
        await InboxCalls(inbox, 5).drop("k")
    assert 3 < virtual.now() - began < 5
    assert await inbox.entries() == [quarantined_delivery("k")]
    assert await inbox.complete("k", "another"), "its claim stays"


@pytest.mark.parametrize("call", ["claim", "complete"])
@virtual.clocked
async def test_a_drop_that_the_inbox_does_not_answer_ends_and_keeps_the_key_for_a_moment_alone(call: str) -> None:
    inbox = fail_in(call, inbox=await inbox_with("k"))
    with pytest.raises(InboxError, match="did not respond within 5 s"):
        await InboxCalls(inbox, 5).drop("k")
    delattr(inbox, call)
    assert len(await inbox.entries()) == 1
    await asyncio.sleep(5)
    assert await InboxCalls(inbox, 5).drop("k")
