"""The broker: others may write to it too, and taskiq logs what they wrote."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from taskiq import TaskiqEvents
from taskiq.brokers.inmemory_broker import InMemoryBroker
from taskiq.formatters.json_formatter import JSONFormatter
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


class Broker:
    """A broker with a fleet whose worker keeps what it was called with, and with a task of the user's own."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.own: list[Any] = []
        self.broker = InMemoryBroker()
        self.results = self.broker.result_backend.results
        fleet = Fleet("redis://127.0.0.1:1/0", broker=self.broker)
        fleet._worker = self  # type: ignore[assignment]

        async def own(*arguments: Any, **more: Any) -> None:
            await asyncio.sleep(0.02)
            self.own.append((arguments, more))

        self.broker.register_task(own, task_name="own")
        self.broker.with_formatter(JSONFormatter())  # as a user may after the fleet was made
        for limit in self.broker.event_handlers[TaskiqEvents.WORKER_STARTUP][:1]:  # the other one needs Redis
            limit(self.broker.state)

    async def process_segment(self, *arguments: Any) -> None:
        await asyncio.sleep(0.02)
        self.calls.append(arguments)

    async def carry(self, task: str = "basiq_async.distributed:process_segment", **changes: Any) -> None:
        fields = {"task_id": "id", "task_name": task, "labels": {}, "args": ["job", "0.0"], "kwargs": {}, **changes}
        await Receiver(self.broker, max_async_tasks=1).callback(json.dumps(fields).encode())


LABELS: dict[str, Any] = {
    "a timeout": {"labels": {"timeout": 0.001}},
    "a timeout with its type": {"labels": {"timeout": "0.001"}, "labels_types": {"timeout": 3}},
    "a timeout of another type": {"labels": {"timeout": ["x"]}},
    "a way to acknowledge": {"labels": {"ack_type": ["x"]}},
    "a type of a label that there is not": {"labels": {"x": "x"}, "labels_types": {"x": 99}},
    "further arguments": {"kwargs": {"more": "x"}},
    "one argument twice": {"kwargs": {"job": "x"}},
}


@pytest.mark.parametrize("changes", LABELS.values(), ids=LABELS)
async def test_what_a_notification_holds_besides_is_not_read(changes: dict[str, Any]) -> None:
    broker = Broker()
    await broker.carry(**changes, task_id="the id of another result")
    assert broker.calls == [("job", "0.0")]
    assert "the id of another result" not in broker.results


async def test_taskiq_obeys_these_labels_for_a_task_of_the_users_own() -> None:
    broker = Broker()
    await broker.carry("own", labels={"timeout": 0.001}, task_id="the id of another result")
    assert (broker.own, list(broker.results)) == ([], ["the id of another result"])
    await broker.carry("own", labels={"timeout": 10}, kwargs={"more": 1})
    assert broker.own == [(("job", "0.0"), {"more": 1})]


@pytest.mark.parametrize(
    "arguments",
    [[], ["job"], ["job", "0.0", "x"], ["k" * 1_200_000, "0.0"], ["job", "0." + "1" * 1_200_000], [5, "0.0"],
     ["job", None], [["job"], {}], ["", "0.0"], ["\x00" * 1_200_000, "\x00" * 1_200_000]],
    ids=["none", "one", "three", "long key", "long segment", "number", "null", "list", "empty key", "controls"],
)  # fmt: skip
async def test_what_is_no_notification_reaches_no_worker_and_is_a_short_line_of_the_log(
    arguments: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = Broker()
    await broker.carry(args=arguments)
    assert broker.calls == []
    assert sum(len(record.getMessage()) for record in caplog.records) < 20_000
    await broker.carry()
    assert broker.calls == [("job", "0.0")]
