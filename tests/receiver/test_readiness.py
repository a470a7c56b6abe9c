"""A readiness probe tells whether the inbox works, and a flood of probes asks it once a second."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from unittest.mock import AsyncMock

import pytest

from basiq_async import InboxError
from basiq_async.receiver import MemoryInbox, WebhookReceiver
from tests.support import virtual
from tests.support.deliveries import SECRET
from tests.support.inboxes import fail_in


def asked() -> Any:
    """An inbox of which a question takes 0.1 s."""

    async def check() -> None:
        await asyncio.sleep(0.1)

    inbox: Any = MemoryInbox()
    inbox.check = AsyncMock(side_effect=check)
    return inbox


@virtual.clocked
async def test_a_flood_of_probes_asks_the_inbox_once_a_second() -> None:
    inbox = asked()
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    for _ in range(50):  # 5 s
        assert await asyncio.gather(*(receiver.is_ready() for _ in range(100))) == [True] * 100
        await asyncio.sleep(0.1)
    assert 4 <= inbox.check.await_count <= 6


@virtual.clocked
async def test_probes_that_give_up_ask_no_more_often() -> None:
    inbox = asked()
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    for _ in range(50):
        probe = asyncio.create_task(receiver.is_ready())
        await asyncio.sleep(0.05)
        probe.cancel()
        await asyncio.wait({probe})
        await asyncio.sleep(0.05)
    assert inbox.check.await_count <= 6
    await asyncio.sleep(1)
    assert await receiver.is_ready()


@virtual.clocked
@pytest.mark.parametrize("error", [InboxError("the tables are missing"), ConnectionError("the tables are missing")])
async def test_a_receiver_is_not_ready_while_its_inbox_fails_or_after_its_end(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = asked()
    async with WebhookReceiver(SECRET, inbox=inbox) as receiver:
        inbox.check.side_effect, usual = error, inbox.check.side_effect
        with caplog.at_level(logging.WARNING, "basiq_async.receiver"):
            assert not await receiver.is_ready()
        assert "the tables are missing" in caplog.text
        inbox.check.side_effect = usual
        assert not await receiver.is_ready(), "it is the answer of this second"
        await asyncio.sleep(1)
        assert await receiver.is_ready()
    assert not await receiver.is_ready()


@virtual.clocked
async def test_an_inbox_that_hangs_is_not_ready() -> None:
    receiver = WebhookReceiver(SECRET, inbox=fail_in("check"), inbox_timeout=2)
    began = virtual.now()
    assert await asyncio.gather(*(receiver.is_ready() for _ in range(100))) == [False] * 100
    assert virtual.now() - began == pytest.approx(2)
