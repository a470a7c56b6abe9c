"""Several lists in one process: read at once, one checkpoint, none lost and none twice."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from basiq_async import BasiqClient, CheckpointError, Message, Request, Response
from basiq_async.replay import MemoryCheckpoint, Replay, limit
from tests.support import virtual
from tests.support.cancelling import at_every_turn, cancel_after
from tests.support.histories import Recorder
from tests.support.scripted import answer, error, page

PAGE = 10


NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class ManyLists:
    """A transport with a list of messages for each filter; pages take ``latency`` seconds."""

    def __init__(self, *sizes: int, latency: float = 0.0, size: int = PAGE) -> None:
        self.lists = {f"list-{i}": [f"{i}-{n}" for n in range(count)] for i, count in enumerate(sizes)}
        self._latency = latency
        self._size = size
        self.expired: set[str] = set()
        self.requests = 0

    @property
    def ids(self) -> list[str]:
        return sorted(each for ids in self.lists.values() for each in ids)

    async def send(self, request: Request, /) -> Response:
        if request.url.endswith("/token"):
            return answer({"access_token": "t", "expires_in": 3600})
        self.requests += 1
        if self._latency:
            await asyncio.sleep(self._latency)
        query = parse_qs(urlsplit(request.url).query)
        name, start = query["filter"][0], int(query.get("next", ["0"])[0])
        if request.url in self.expired:
            return error(410)
        if not start:
            self.expired.clear()
        ids = self.lists[name]
        items = [
            {"id": each, "attempts": [{"timestamp": (NOON + timedelta(minutes=number)).isoformat()}]}
            for number, each in enumerate(ids[start : start + self._size], start)
        ]
        behind = start + self._size
        link = f"{request.url.partition('?')[0]}?filter={name}&next={behind}" if behind < len(ids) else None
        return page(items, link)

    async def aclose(self) -> None:
        pass


def a_replay(client: BasiqClient, transport: ManyLists, target: Any, checkpoint: Any, **options: Any) -> Replay:
    return Replay(client, "w1", target, checkpoint=checkpoint, filters=list(transport.lists), **options)


@pytest.mark.parametrize("sizes", [(35, 0, 7, 20), (10,), (0, 0), (3, 3, 3)])
async def test_all_lists_are_handled_once(sizes: tuple[int, ...]) -> None:
    transport, target, checkpoint = ManyLists(*sizes), Recorder(), MemoryCheckpoint()
    async with BasiqClient("a2V5", transport=transport) as client:
        replay = a_replay(client, transport, target, checkpoint)
        assert (await replay.plan()).total == sum(sizes)
        report = await replay.run()
        assert (report.handled, report.finished, report.position) == (sum(sizes), True, sum(sizes))
        assert sorted(target.ids) == transport.ids
        for ids in transport.lists.values():
            ids.append("new-" + str(len(ids)) + ids[0] if ids else "new-" + str(id(ids)))
        assert (await replay.run()).handled == len(sizes)
        assert sorted(target.ids) == transport.ids


@pytest.mark.parametrize("step", [1, 4, 13])
async def test_a_job_of_several_lists_continues_where_it_was(step: int) -> None:
    transport, target, checkpoint = ManyLists(35, 22, 10, 20), Recorder(), MemoryCheckpoint()
    async with BasiqClient("a2V5", transport=transport) as client:
        for _ in range(200):
            replay = a_replay(client, transport, target, checkpoint, where=limit(step), concurrency=3)
            if (await replay.run()).finished:
                break
        assert sorted(target.ids) == transport.ids


@pytest.mark.parametrize("how", ["once", "anyio", "everything"])
async def test_a_job_of_several_lists_survives_a_cancellation_at_any_await(how: Any) -> None:
    transport = ManyLists(12, 25, 3)
    async with BasiqClient("a2V5", transport=transport) as client:

        async def attempt(turn: int) -> bool:
            target, checkpoint = Recorder(), MemoryCheckpoint()
            replay = a_replay(client, transport, target, checkpoint, concurrency=2)
            hit = await cancel_after(turn, replay.run(), how)
            assert (await replay.run()).finished
            assert sorted(set(target.ids)) == transport.ids
            assert how == "everything" or len(target.ids) == len(transport.ids)
            return hit

        await at_every_turn(attempt, step=2, enough=10)


async def test_a_link_of_one_list_that_expires_is_found_again() -> None:
    transport, checkpoint = ManyLists(60, 60), MemoryCheckpoint()
    target = Recorder()

    async def behave(message: Message) -> None:
        if len(target.ids) == 15:
            base = "https://au-api.basiq.io/notifications/webhooks/w1/messages?filter=list-1&next="
            transport.expired = {base + str(n) for n in range(0, 60, PAGE)}

    target._behave = behave
    async with BasiqClient("a2V5", transport=transport) as client:
        report = await a_replay(client, transport, target, checkpoint, concurrency=1).run()
        assert (report.handled, report.finished) == (120, True)
    assert sorted(target.ids) == transport.ids


async def test_a_list_that_no_longer_shows_anything_known_is_read_whole_and_the_report_says_so() -> None:
    transport, checkpoint, target = ManyLists(15, 15), MemoryCheckpoint(), Recorder()
    async with BasiqClient("a2V5", transport=transport) as client:
        report = await a_replay(client, transport, target, checkpoint, where=limit(4), concurrency=1).run()
        assert not report.may_repeat
        transport.lists["list-0"] = [f"other-{n}" for n in range(15)]
        report = await a_replay(client, transport, target, checkpoint).run()
        assert (report.finished, report.may_repeat) == (True, True)
        assert set(transport.ids) <= set(target.ids)
        assert len(target.ids) == len(set(target.ids))


async def test_a_job_of_other_lists_is_another_job() -> None:
    transport, checkpoint = ManyLists(5, 5), MemoryCheckpoint()
    async with BasiqClient("a2V5", transport=transport) as client:
        replay = a_replay(client, transport, Recorder(), checkpoint)
        assert json.loads(replay.job.filter) == ["list-0", "list-1"]
        await replay.run()
        with pytest.raises(CheckpointError, match="belongs to the replay of"):
            await Replay(client, "w1", Recorder(), checkpoint=checkpoint, filters=["list-0"]).run()


@virtual.clocked
async def test_eight_lists_are_read_at_once() -> None:
    durations: list[float] = []
    for lists in (1, 8):
        transport = ManyLists(*[800 // lists] * lists, latency=0.05, size=PAGE)
        async with BasiqClient("a2V5", transport=transport) as client:
            report = await a_replay(client, transport, Recorder(), MemoryCheckpoint()).run()
            assert report.handled == 800
            durations.append(report.duration)
    # On this clock computing takes no time: 80 pages one after another, and 10 of each of 8 lists. Then each list's
    # first page is looked at once more.
    assert durations[0] >= 7 * durations[1]


async def test_a_plan_that_is_cancelled_leaves_no_request_behind() -> None:
    transport = ManyLists(30, 30, 30, latency=0.001)
    async with BasiqClient("a2V5", transport=transport) as client:
        replay = a_replay(client, transport, Recorder(), MemoryCheckpoint())
        for count in (3, 10, 20, 40):
            await cancel_after(count, replay.plan(), "repeatedly")
