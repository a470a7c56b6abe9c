"""What a worker claims: what this process can handle, and of no type so much that another one waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.receiver._worker import _most_of_one  # private: a number that only a worker uses
from tests.support import virtual
from tests.support.deferring import TYPE, all_handled, deferring, post_event
from tests.support.deliveries import SECRET, payload, quarantined_delivery


def waiting(key: str) -> Any:
    return attrs.evolve(quarantined_delivery(key), event_type_id=TYPE, failures=0, body=payload(TYPE, key))


@virtual.clocked
async def test_a_partner_that_hangs_stops_no_other_type() -> None:
    """A type that hangs is always due first. The others, one a second, are handled as they come."""
    inbox, handled = MemoryInbox(clock=virtual.clock), Counter[str]()
    receiver = WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox, deferred=True, clock=virtual.clock)

    @receiver.on("user.created")
    async def quick(delivery: Delivery) -> None:
        handled[delivery.event_type_id] += 1

    @receiver.on("consent.*")
    async def hangs(delivery: Delivery) -> None:
        handled[delivery.event_type_id] += 1
        await asyncio.Event().wait()

    async with receiver:
        await post_event(receiver, "first", "user.created", at=virtual.clock())
        for number in range(100):
            await post_event(receiver, f"h-{number}", "consent.revoked", at=virtual.clock())
        await asyncio.sleep(90)  # one type alone may have held all places, for one timeout
        before = handled["user.created"]
        for number in range(600):
            await post_event(receiver, f"q-{number}", "user.created", at=virtual.clock())
            await asyncio.sleep(1)
        await asyncio.sleep(70)  # after five failures in a row one is tried alone: it may be one that hangs
        assert handled["user.created"] - before == 600
        assert handled["consent.revoked"] > 5 * 5, "and those that hang have their turn"


@virtual.clocked
async def test_a_process_without_the_handler_takes_the_backlog_away_from_none() -> None:
    inbox, handled = MemoryInbox(clock=virtual.clock), list[str]()

    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)
        await asyncio.sleep(0.05)

    with_it = deferring(inbox, handle, times={"clock": virtual.clock})
    without = deferring(inbox, handle, "user.created", times={"clock": virtual.clock})
    for number in range(1_000):
        assert await inbox.store(waiting(f"k-{number}"))
    async with with_it, without:
        began = virtual.now()
        await all_handled(with_it)
        assert virtual.now() - began < 20, "1,000 of 50 ms, 8 at once, take 6 s"
    assert len(handled) == len(set(handled)) == 1_000


@virtual.clocked
async def test_what_has_no_handler_here_is_looked_at_once_a_minute_and_not_lost() -> None:
    claims: list[Sequence[str]] = []

    class Watched(MemoryInbox):
        async def claim_due(self, *args: Any, **options: Any) -> Any:
            found = await super().claim_due(*args, **options)
            claims.append([each.entry.event_type_id for each in found])
            return found

    async def handle(delivery: Delivery) -> None: ...

    inbox = Watched(clock=virtual.clock)
    receiver = deferring(inbox, handle, "user.created", times={"clock": virtual.clock})
    await inbox.store(waiting("k"))
    async with receiver:
        await asyncio.sleep(600)
        looks = [each for each in claims if each]
        assert 9 <= len(looks) <= 11
        receiver.on(TYPE)(handle)  # as a deploy brings it
        await asyncio.sleep(120)
        assert (await receiver.waiting()).count == 0


@pytest.mark.parametrize(("places", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (8, 5), (100, 51)])
def test_one_type_holds_more_than_half_of_the_places_and_never_all_of_several(places: int, most: int) -> None:
    assert _most_of_one(places) == most
