"""The checkpoint in memory."""

from __future__ import annotations

from collections import defaultdict

from basiq_async.replay import MemoryCheckpoint
from basiq_async.replay.protocol import ReplayJob
from basiq_async.testing import check_checkpoint

JOB = ReplayJob("w1")


async def test_the_memory_checkpoint_keeps_its_promises() -> None:
    stores: defaultdict[str, MemoryCheckpoint] = defaultdict(MemoryCheckpoint)
    await check_checkpoint(lambda name: stores[name])
