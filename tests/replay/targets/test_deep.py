"""One message that is nested a thousand deep ends no job, whatever the target, and none of the others is lost."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient, Message, Response
from basiq_async._wire import codec
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import HttpTarget, JSONLinesTarget, Replay
from basiq_async.replay.targets import _json_lines  # private: a machine without the quick encoder
from tests.support.deliveries import SECRET
from tests.support.histories import Receiving
from tests.support.scripted import Scripted
from tests.support.served import serving

COUNT, DEEP = 7, "m3"
PLACES = {
    "payload": '{{"id":"{id}","payload":{{{ids},"x":{deep}}},"attempts":[]}}',
    "attempt": '{{"id":"{id}","payload":{{{ids}}},"attempts":[{{"id":"a","x":{deep}}}]}}',
    "id at the end": '{{"payload":{{{ids},"x":{deep}}},"attempts":[],"id":"{id}"}}',
}
DEPTHS = (200, 300, 600, 900, 950, 1_000, 1_015, 1_100, 5_000)


def page_of(place: str, depth: int) -> Response:
    """A page of messages, one of which is so deep, in lists and objects by turns."""
    deep = '{"a":[' * (depth // 2) + "1" + "]}" * (depth // 2)
    items = [
        PLACES[place].format(
            id=f"m{number}",
            ids=f'"eventTypeId":"user.created","eventId":"e{number}"',
            deep=deep if f"m{number}" == DEEP else "1",
        )
        for number in range(COUNT)
    ]
    body = f'{{"type":"list","data":[{",".join(items)}],"links":{{}}}}'
    return Response(200, {"content-type": "application/json"}, body.encode())


@pytest.fixture(params=["orjson", "json"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "json":  # as without the extra `speed`
        monkeypatch.setattr(codec, "default_loads", lambda: codec._strict_loads)
        monkeypatch.setattr(_json_lines, "_quick_dumps", None)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def replaying(place: str, depth: int, target: Any, **options: Any) -> AsyncGenerator[Replay]:
    async with BasiqClient("a2V5", transport=Scripted(page_of(place, depth))) as client:
        yield Replay(client, "w1", target, **options)


@pytest.mark.parametrize("depth", DEPTHS)
async def test_a_function_that_fails_for_all_has_all_quarantined_and_gets_them_again(place: str, depth: int) -> None:
    inbox, fails, got = MemoryInbox(), True, set[str]()

    async def handle(message: Message) -> None:
        if fails:
            raise ValueError("no")
        got.add(message.id)

    async with replaying(place, depth, handle, inbox=inbox) as replay:
        report = await replay.run()
        assert (report.handled, report.failed, report.finished) == (0, COUNT, True)
        entries = await inbox.entries(limit=10)
        assert len(entries) == COUNT
        fails = False
        again = await replay.retry_quarantined()
        assert (again.handled + again.failed, again.handled >= COUNT - 1) == (COUNT, True)
    assert got >= {f"m{number}" for number in range(COUNT)} - {DEEP}
    assert len(await inbox.entries(limit=10)) == COUNT - again.handled


@pytest.mark.parametrize("depth", DEPTHS)
async def test_a_receiver_gets_the_others(place: str, depth: int) -> None:
    receiving = Receiving(MemoryInbox(), webhook_id="w1")
    async with replaying(place, depth, receiving.receiver, inbox=receiving.receiver.inbox) as replay:
        report = await replay.run()
    assert (report.handled + report.failed, report.finished) == (COUNT, True)
    assert len(receiving.got) == report.handled >= COUNT - 1
    assert len(await receiving.receiver.inbox.entries()) == report.failed


@pytest.mark.parametrize("depth", DEPTHS)
async def test_an_endpoint_gets_the_others(place: str, depth: int, tmp_path: Path) -> None:
    posted: list[bytes] = []
    receiver = WebhookReceiver(SECRET, quarantine_after=1)

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        posted.append(delivery.body)

    inbox = MemoryInbox()
    async with (
        serving(receiver.aiohttp_handler) as url,
        HttpTarget(url, SECRET) as target,
        replaying(place, depth, target, inbox=inbox) as replay,
    ):
        report = await replay.run()
    assert (report.handled + report.failed, report.finished) == (COUNT, True)
    assert len(posted) == report.handled >= COUNT - 1
    assert len(await inbox.entries()) == report.failed


@pytest.mark.parametrize("depth", DEPTHS)
async def test_an_export_has_one_line_for_each_that_any_reader_reads(place: str, depth: int, tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    for expected in (COUNT, 0):
        async with replaying(place, depth, JSONLinesTarget(path)) as replay:
            report = await replay.run()
        assert (report.handled, report.failed, report.finished) == (expected, 0, True)
    lines = path.read_text().splitlines()
    assert len(lines) == COUNT
    if depth <= 300:
        assert sorted(json.loads(line)["id"] for line in lines) == [f"m{number}" for number in range(COUNT)]
    assert sum(bool(json.loads(line)) for line in lines if '"raw"' in line or len(line) < 500) >= COUNT - 1
