"""The broker: others may write to it too, and taskiq logs what they wrote."""

from __future__ import annotations

import json
import logging

import pytest
from taskiq.brokers.inmemory_broker import InMemoryBroker
from taskiq.receiver import Receiver

from basiq_async.distributed import Fleet

FORGED = "no\n2026-11-27 12:00:00 INFO basiq_async.distributed the job 'job' is finished"


@pytest.mark.parametrize(
    "message",
    [
        json.dumps({"task_id": "1", "task_name": FORGED, "labels": {}, "args": [], "kwargs": {}}),
        FORGED,
        json.dumps({"task_id": FORGED * 1_000}),
    ],
    ids=["a task of that name", "no task", "a long one"],
)
async def test_what_others_wrote_to_the_broker_is_one_printable_line_of_the_log(
    message: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = InMemoryBroker()
    Fleet("redis://127.0.0.1:1/0", broker=broker)
    receiver = Receiver(broker, max_async_tasks=1)
    await receiver.callback(message.encode())
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    text = logging.Formatter("%(message)s").format(record)
    assert "\n" not in text
    assert len(text) < 5_000
