"""One item that cannot be read ends no verdict and no run: it is quarantined, and no handler gets it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import attrs
import pytest

from basiq_async import Request, Response
from basiq_async.receiver import MemoryInbox, Result
from basiq_async.replay import Replay, share
from tests.support.scripted import Changing
from tests.support.worlds import World, a_world


def change(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda item: item.update({field: value})


MALFORMED: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a bad date": ("/messages", change("attempts", [{"id": "a", "timestamp": "noon", "statusCode": 500}])),
    "attempts of another form": ("/messages", change("attempts", {"a": 1})),
    "a payload of another form": ("/messages", change("payload", ["a"])),
    "a message without an id": ("/messages", lambda item: item.pop("id")),
    "an event's bad date": ("/events", change("createdDate", "noon")),
    "an event without an id": ("/events", lambda item: item.pop("id")),
}


def malform(name: str, request: Request, response: Response) -> Response:
    """Change the first item of one of the lists."""
    path, change = MALFORMED[name]
    if not request.url.partition("?")[0].endswith(path) or response.status != 200:
        return response
    body = json.loads(response.body)
    for item in body.get("data", ())[:1]:
        change(item)
    return attrs.evolve(response, body=json.dumps(body).encode())


class Shared(MemoryInbox):
    """An inbox that stands for one that several processes reach."""


@pytest.fixture
async def missing(name: str) -> AsyncIterator[World]:
    """A service that missed three events, one of which is malformed in a list."""
    async with a_world(transport=lambda fake: Changing(fake, partial(malform, name))) as world:
        await world.miss(3)
        world.inbox, world.options = Shared(clock=world.fake.clock), {"clock": world.fake.clock}
        yield world


def replay_of(world: World, name: str) -> Replay:
    """A replay of the list in which there is a malformed item."""
    return world.replay(source="events" if MALFORMED[name][0] == "/events" else "messages")


def assert_handled_once(world: World) -> None:
    assert all(each.event_type_id and each.event_id for each in world.given)
    assert 2 <= len(set(world.got)) == len(world.got) <= 3


@pytest.mark.parametrize("name", MALFORMED)
async def test_each_kind_of_malformed_item_ends_nothing_and_is_handed_to_no_handler(missing: World) -> None:
    m, receiver = missing, missing.receiver()
    await m.basiq.webhooks.diagnose(m.webhook_id, receiver=receiver)
    await m.recovery(receiver).plan()
    await m.recover(receiver)
    await m.replay(receiver).plan()
    await m.replay(receiver).run()
    for outcome in await receiver.retry_quarantined():
        assert outcome.result in (Result.UNREADABLE, Result.HANDLED, Result.DUPLICATE)
    assert_handled_once(m)


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("lost", [False, True], ids=["worked on", "lost"])
async def test_a_malformed_item_of_a_shared_page_is_quarantined_once_by_the_last_run(
    name: str, missing: World, lost: bool
) -> None:
    m, worker, pages = missing, replay_of(missing, name), list[str]()

    async def send(page: str) -> None:
        pages.append(page)
        for _ in range(2 * (not lost)):  # doubled
            await worker.work(page)

    report = await share(replay_of(m, name), send)
    assert (len(pages), report.handled, report.failed, report.quarantined, report.finished) == (1, 2, 1, 1, True)
    for page in pages:
        await worker.work(page)  # as a queue that had lost it
    entries = await replay_of(m, name).quarantined()
    assert len(entries) == 1
    assert (await share(replay_of(m, name), send)).handled == 0
    retried = await replay_of(m, name).retry_quarantined()
    assert (retried.handled, retried.failed) == (0, 1)
    for outcome in await m.receiver().retry_quarantined():
        assert outcome.result is Result.UNREADABLE
    assert_handled_once(m)
