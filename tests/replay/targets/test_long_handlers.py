"""A message that takes longer than a claim in the inbox lasts: nobody else handles its event meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async import InboxError, Message
from basiq_async.receiver import MemoryInbox
from basiq_async.receiver.protocol import Claim, ClaimStatus, inbox_key
from tests.support import virtual
from tests.support.histories import shared_target

MESSAGE = Message("m1", {"id": "m1", "payload": {"eventId": "e1", "eventTypeId": "user.created"}})
KEY = inbox_key("user.created", "e1", "m1")
LEASE = 30.0


async def sleep(message: Message) -> None:
    await asyncio.sleep(3_600)


class Failing(MemoryInbox):
    """An inbox that fails, or hangs, for a while."""

    def __init__(self) -> None:
        super().__init__(clock=virtual.clock)
        self.calls = 0
        self.hanging = self.away = False

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        self.calls += 1
        if self.hanging:
            await asyncio.sleep(3_600)
        if self.away:
            raise InboxError("away")
        return await super().claim(key, token, lease=lease)


@virtual.clocked
async def test_an_event_that_takes_longer_than_its_lease_is_nobody_elses_meanwhile() -> None:
    inbox = Failing()

    async def handler(message: Message) -> None:
        for _ in range(20):
            await asyncio.sleep(LEASE / 2)
            claim = await MemoryInbox.claim(inbox, KEY, "live", lease=LEASE)
            assert claim.status is ClaimStatus.BUSY

    await shared_target(handler, inbox, lease=LEASE).deliver(MESSAGE)
    assert await inbox.known([KEY])
    calls = inbox.calls
    await asyncio.sleep(10 * LEASE)
    assert inbox.calls == calls  # a claim that has ended is not prolonged


@pytest.mark.parametrize("how", ["hanging", "away"])
@virtual.clocked
async def test_an_inbox_that_fails_for_a_while_is_asked_again(how: str, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Failing()

    async def handler(message: Message) -> None:
        setattr(inbox, how, True)
        await asyncio.sleep(LEASE / 2)
        setattr(inbox, how, False)
        await asyncio.sleep(2 * LEASE)
        claim = await MemoryInbox.claim(inbox, KEY, "live", lease=LEASE)
        assert claim.status is ClaimStatus.BUSY

    await shared_target(handler, inbox, lease=LEASE).deliver(MESSAGE)
    assert "could not be renewed" in caplog.text


@pytest.mark.parametrize("hanging", [False, True])
@virtual.clocked
async def test_a_cancelled_message_gives_its_claim_back_after_the_last_prolonging(*, hanging: bool) -> None:
    inbox = Failing()
    target = shared_target(sleep, inbox, lease=LEASE)
    handling = asyncio.create_task(target.deliver(MESSAGE))
    await asyncio.sleep(1)
    inbox.hanging = hanging
    await asyncio.sleep(LEASE / 3)
    for _ in range(3):
        handling.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await handling
    inbox.hanging = False
    claim = await inbox.claim(KEY, "another", lease=LEASE)
    assert claim.status is ClaimStatus.CLAIMED
