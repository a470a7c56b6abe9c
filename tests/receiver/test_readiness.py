"""A readiness probe tells whether the inbox works, and a flood of probes asks it once a second."""

from __future__ import annotations

import asyncio
import logging

import pytest

from basiq_async import InboxError
from basiq_async.receiver import MemoryInbox, WebhookReceiver
from tests.support import virtual
from tests.support.deliveries import SECRET


class Asked(MemoryInbox):
    """An inbox that counts the questions, which take 0.1 s each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.error: Exception | None = None

    async def check(self) -> None:
        self.count += 1
        await asyncio.sleep(0.1)
        if self.error is not None:
            raise self.error


@virtual.clocked
async def test_a_flood_of_probes_asks_the_inbox_once_a_second() -> None:
    inbox = Asked()
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    for _ in range(50):  # 5 s
        assert await asyncio.gather(*(receiver.is_ready() for _ in range(100))) == [True] * 100
        await asyncio.sleep(0.1)
    assert 4 <= inbox.count <= 6


@virtual.clocked
async def test_probes_that_give_up_ask_no_more_often() -> None:
    inbox = Asked()
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    for _ in range(50):
        probe = asyncio.create_task(receiver.is_ready())
        await asyncio.sleep(0.05)
        probe.cancel()
        await asyncio.wait({probe})
        await asyncio.sleep(0.05)
    assert inbox.count <= 6
    await asyncio.sleep(1)
    assert await receiver.is_ready()


@virtual.clocked
@pytest.mark.parametrize("error", [InboxError("the tables are missing"), ConnectionError("the tables are missing")])
async def test_a_receiver_is_not_ready_while_its_inbox_fails_or_after_its_end(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Asked()
    async with WebhookReceiver(SECRET, inbox=inbox) as receiver:
        inbox.error = error
        with caplog.at_level(logging.WARNING, "basiq_async.receiver"):
            assert not await receiver.is_ready()
        assert "the tables are missing" in caplog.text
        inbox.error = None
        assert not await receiver.is_ready(), "it is the answer of this second"
        await asyncio.sleep(1)
        assert await receiver.is_ready()
    assert not await receiver.is_ready()


@virtual.clocked
async def test_an_inbox_that_hangs_is_not_ready() -> None:
    class Hanging(MemoryInbox):
        async def check(self) -> None:
            await asyncio.sleep(3600)

    receiver = WebhookReceiver(SECRET, inbox=Hanging(), inbox_timeout=2)
    began = virtual.now()
    assert await asyncio.gather(*(receiver.is_ready() for _ in range(100))) == [False] * 100
    assert virtual.now() - began == pytest.approx(2)
