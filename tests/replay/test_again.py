"""Handling again on purpose: whatever the inbox knows, once for each name, and nothing that has attempts of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from basiq_async import ConfigurationError, Message
from basiq_async.receiver import SQLiteInbox
from basiq_async.replay import HttpTarget, JSONLinesTarget, Replay, event_types
from tests.support.deliveries import SECRET
from tests.support.worlds import URL, World, a_world

LIVE, LATER = "consent.revoked", "user.created"
ALL: Any = {"where": lambda message: True}


def again(world: World, name: str | None = "bug-1234", **more: Any) -> Replay:
    return world.replay(world.serving, again=name, **{**ALL, **more})


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[World]:
    """A service with three handled events, two that wait, two in the quarantine, and two that it missed."""
    async with (
        a_world(types=(LIVE, LATER)) as made,
        SQLiteInbox(tmp_path / "inbox.db", clock=made.fake.clock) as made.inbox,
    ):
        made.serving = made.receiver(LIVE, quarantine_after=1, clock=made.fake.clock)
        made.serving.on(LATER, deferred=True)(made.handle)
        await made.emit(3, of=LIVE)
        await made.emit(2, of=LATER)
        made.fails = True
        await made.emit(2, of=LIVE)
        made.fails = False
        made.fake.endpoint_down(URL)
        await made.emit(2, of=LIVE)
        made.fake.endpoint_up(URL)
        made.got.clear()
        made.given.clear()
        yield made


async def test_what_was_handled_is_handled_again_once_for_each_name(service: World) -> None:
    s = service
    for name, times in (("bug-1234", 1), ("bug-1234", 1), ("bug-1235", 2)):
        report = await again(s, name).run()
        assert report.again == name
        handled = [count for _, count in Counter(s.got).most_common()][:3]
        assert handled == [times] * 3
    assert {each.again for each in s.given} == {"bug-1234", "bug-1235"}
    keys = {each.key for each in s.given}
    assert len(keys) == len(s.got), "a partner's idempotency would swallow the repeat"
    assert all(each.key.startswith(f"again:{each.again}:") for each in s.given)


async def test_what_waits_or_is_in_the_quarantine_is_left_there_and_counted(service: World) -> None:
    s = service
    report = await again(s).run()
    assert (report.skipped, report.waiting, report.finished) == ({"waiting": 2, "quarantined": 2}, 2, False)
    assert report.handled == 5, "three that were handled, and two that were missed"
    assert (len(await s.serving.quarantined()), (await s.serving.waiting()).count) == (2, 2)
    await s.serving.retry_quarantined()
    assert (await again(s).run()).handled == 2, "they were handled in their own name, and now in this one"
    await s.serving.work(until_empty=True)
    assert len(s.got) == 11


async def test_what_was_missed_is_handled_once_and_no_recovery_brings_it_again(service: World) -> None:
    s = service
    await again(s).run()
    found = await s.recover(s.serving)
    assert (found.handled, Counter(s.got).most_common(1)[0][1]) == (0, 1)


async def test_a_run_that_ends_early_is_continued(service: World) -> None:
    """With a function, and the inbox of the service."""
    s, got = service, list[str]()

    async def take(message: Message) -> None:
        got.append(message.id)
        job.stop()

    handled = 0
    while handled < 5:
        job = s.replay(take, again="bug-1", concurrency=1, **ALL)
        report = await job.run()
        assert report.handled > 0
        handled += report.handled
    assert len(set(got)) == len(got) == 5


async def test_what_fails_is_quarantined_under_the_name_and_the_receiver_tries_it_again(service: World) -> None:
    s = service
    s.fails = True
    report = await again(s, where=event_types(LIVE)).run()
    assert report.skipped == {"quarantined": 7, "where": 2}
    s.fails = False
    await s.serving.retry_quarantined()
    assert len(s.got) == 7
    assert Counter(each.again for each in s.given) == {"bug-1234": 5, None: 2}


async def test_pages_of_a_repeat_are_worked_on_by_any_process(service: World) -> None:
    s = service
    pages = [page async for page in again(s).pages()]
    for page in pages * 2:
        await again(s).work(page)
    assert Counter(s.got).most_common(1)[0][1] == 1
    assert len(s.got) == 5
    with pytest.raises(ConfigurationError):
        await again(s, "another").work(pages[0])


async def test_an_endpoint_and_a_file_are_refused_with_the_line_of_the_receiver(service: World, tmp_path: Path) -> None:
    s = service
    async with HttpTarget(URL, SECRET) as target:
        with pytest.raises(ConfigurationError, match=r"200 \(duplicate\).* --receiver MODULE:RECEIVER --again bug-1"):
            s.replay(target, again="bug-1", **ALL)
    with pytest.raises(ConfigurationError, match="needs an inbox"):
        s.replay(JSONLinesTarget(tmp_path / "x.jsonl"), inbox=None, again="bug-1", **ALL)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 65, 5])
async def test_a_name_is_short_and_plain(service: World, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="again must be a short name"):
        again(service, name)


async def test_without_a_selection_nothing_is_handled_again(service: World) -> None:
    with pytest.raises(ConfigurationError, match="where=lambda message: True"):
        again(service, where=None)
