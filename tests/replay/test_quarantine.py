"""What a job quarantined, as a list that a person can act on: looked at, exported, dropped, tried again."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from basiq_async import ConfigurationError, InboxError, Message, ReplayError
from basiq_async.receiver import (
    Delivery,
    InboxEntry,
    MemoryInbox,
    Result,
    SQLiteInbox,
    WebhookReceiver,
)
from basiq_async.receiver.protocol import ClaimStatus, inbox_key
from basiq_async.replay._quarantine import make_entry, message_of_entry  # private: a replay makes and reads entries
from basiq_async.replay._sources import EventMessage, UnreadableMessage  # private: a reading makes them
from tests.support import virtual
from tests.support.deliveries import NOW, SECRET
from tests.support.histories import Receiving, Recorder, Refusing, history, quarantine_of


@virtual.clocked
async def test_a_retry_makes_one_attempt_each_and_waits_for_no_outage() -> None:
    async with history(20) as h:
        ids = await h.ids()
        tries: list[str] = []

        async def refuse(message: Message) -> None:
            tries.append(message.id)
            raise ConnectionRefusedError("away")

        inbox = MemoryInbox(clock=virtual.clock)
        await h.replay(Refusing(*ids), inbox=inbox).run()
        began = virtual.now()
        report = await h.replay(refuse, inbox=inbox, max_failures=None).retry_quarantined()
        assert (sorted(tries), report.failed, virtual.now() - began) == (sorted(ids), 20, pytest.approx(0, abs=1))
        assert {entry.failures for entry in (await quarantine_of(h.replay(refuse, inbox=inbox))).values()} == {2}


@pytest.mark.parametrize("body", [b"not JSON", b"[1]", b'"text"'])
async def test_a_delivery_in_the_quarantine_that_cannot_be_read_stays_there(body: bytes) -> None:
    async with history(1) as h:
        inbox, target = MemoryInbox(), Recorder()
        key = inbox_key("e-1", "msg_1")
        entry = InboxEntry(key, "msg_1", "user.created", "e-1", body, NOW, "by hand", 1, NOW)
        assert await inbox.quarantine(key, "token", entry)
        for handled in (target, Receiving(inbox, webhook_id=h.webhook_id).receiver):
            report = await h.replay(handled, inbox=inbox).retry_quarantined()
            assert (report.handled, report.failed) == (0, 1)
        assert target.ids == []
        assert [each.delivery_id for each in await inbox.entries()] == ["msg_1"]


async def test_what_was_quarantined_is_exported_a_line_each_and_stays(tmp_path: Path) -> None:
    async with history(300) as h, SQLiteInbox(tmp_path / "inbox.db") as inbox:
        ids = await h.ids()
        target = Refusing(*ids[:270])
        replay = h.replay(target, inbox=inbox)
        assert await replay.export_quarantined(tmp_path / "none.jsonl") == 0
        assert (tmp_path / "none.jsonl").read_text() == ""
        await replay.run()
        path = tmp_path / "failed.jsonl"
        assert await replay.export_quarantined(path) == 270
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert {row["id"] for row in rows} == set(ids[:270])
        assert (rows[0]["kind"], rows[0]["error"]) == ("message", "ValueError: poisoned")
        assert rows[0]["body"]["payload"]["eventId"] == rows[0]["eventId"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ConfigurationError, match="exists already"):
            await replay.export_quarantined(path)
        with pytest.raises(ReplayError, match="cannot be written"):
            await replay.export_quarantined(tmp_path / "nowhere" / "failed.jsonl")
        assert len(await replay.quarantined(limit=1000)) == 270


async def test_an_export_that_fails_on_the_way_leaves_no_file_behind(tmp_path: Path) -> None:
    class Failing(MemoryInbox):
        async def entries(
            self, *, waiting: bool = False, after: InboxEntry | None = None, limit: int = 100
        ) -> Sequence[InboxEntry]:
            if after is not None:
                raise InboxError("the disk is away")
            return await super().entries(waiting=waiting, after=after, limit=limit)

    async with history(300) as h:
        ids = await h.ids()
        replay = h.replay(Refusing(*ids[:270]), inbox=Failing())
        await replay.run()
        with pytest.raises(InboxError, match="the disk is away"):
            await replay.export_quarantined(tmp_path / "failed.jsonl")
        assert not (tmp_path / "failed.jsonl").exists()


async def test_what_was_quarantined_is_dropped_by_id_and_counts_as_handled() -> None:
    async with history(10) as h:
        ids = await h.ids()
        replay = h.replay(Refusing(*ids[:4]))
        assert await replay.drop_quarantined([ids[0]]) == 0
        await replay.run()
        assert await replay.drop_quarantined([ids[0], ids[2], "unknown"]) == 2
        assert set(await quarantine_of(replay)) == {ids[1], ids[3]}
        again = await replay.run()
        assert (again.handled, again.finished) == (0, True)
        with pytest.raises(ConfigurationError, match="must be a list"):
            await replay.drop_quarantined(ids[1])


async def test_some_are_tried_again_by_id() -> None:
    async with history(10) as h:
        ids = await h.ids()
        target = Refusing(*ids[:4])
        replay = h.replay(target)
        await replay.run()
        target.refused = set()
        report = await replay.retry_quarantined(ids=[ids[1], "unknown"])
        assert report.handled == 1
        assert set(await quarantine_of(replay)) == {ids[0], ids[2], ids[3]}


# --- with the live service ---


async def test_what_a_job_quarantined_is_handled_by_a_live_delivery_and_leaves_the_quarantine() -> None:
    inbox = MemoryInbox()
    async with history(5) as h:
        first, second, *_ = await h.messages()
        replay = h.replay(Refusing(first.id, second.id), inbox=inbox)
        assert (await replay.run()).failed == 2
        service = Receiving(inbox, webhook_id=h.webhook_id)
        receiver, service.refused = service.receiver, {second.id}
        assert (await receiver.dispatch(Delivery.from_message(first))).result is Result.HANDLED
        assert (await receiver.dispatch(Delivery.from_message(second))).result is Result.FAILED
        assert (service.ids, set(await quarantine_of(replay))) == ([first.id], {second.id})
        report = await h.replay(Recorder(), inbox=inbox).run()
        assert (report.handled, report.finished) == (0, True)


async def test_what_a_job_quarantined_with_a_receiver_is_tried_again_by_its_handlers() -> None:
    inbox = MemoryInbox()
    async with history(5) as h:
        ids = await h.ids()
        service = Receiving(inbox, webhook_id=h.webhook_id)
        service.refused = {ids[0], ids[1]}
        replay = h.replay(service.receiver)
        assert (await replay.run()).failed == 2
        service.refused = {ids[1]}
        report = await replay.retry_quarantined()
        assert (report.handled, report.failed, set(await quarantine_of(replay))) == (1, 1, {ids[1]})
        assert sorted(service.ids) == sorted(set(ids) - {ids[1]})
        # The receiver's own retry is the same one.
        service.refused = set()
        await service.receiver.retry_quarantined()
        assert await quarantine_of(replay) == {}


async def test_a_type_without_a_handler_is_told_and_stays() -> None:
    inbox = MemoryInbox()
    async with history(5) as h:
        ids = await h.ids()
        replay = h.replay(Refusing(ids[0]), inbox=inbox)
        await replay.run()
        receiver = WebhookReceiver(SECRET, webhook_id=h.webhook_id, inbox=inbox)
        report = await h.replay(receiver).retry_quarantined()
        assert (report.handled, report.skipped) == (0, {"no-handler": 1})
        assert set(await quarantine_of(replay)) == {ids[0]}


@virtual.clocked
async def test_what_was_handled_meanwhile_and_what_another_holds_have_a_word_each() -> None:
    class Late(MemoryInbox):
        """Another worker handles one entry, and claims one, after they were listed."""

        meanwhile = False

        async def entries(
            self, *, waiting: bool = False, after: InboxEntry | None = None, limit: int = 100
        ) -> Sequence[InboxEntry]:
            found = await super().entries(waiting=waiting, after=after, limit=limit)
            if self.meanwhile and found:
                self.meanwhile = False
                await self.complete(found[0].key, "another")
                assert (await self.claim(found[1].key, "another", lease=3_600)).status is ClaimStatus.CLAIMED
            return found

    inbox = Late()
    async with history(5) as h:
        ids = await h.ids()
        target = Refusing(*ids[:3])
        replay = h.replay(target, inbox=inbox)
        await replay.run()
        target.refused.clear()
        inbox.meanwhile = True
        report = await replay.retry_quarantined()
        assert (report.handled, report.skipped, report.finished) == (1, {"handled-before": 1, "busy": 1}, False)
        assert len(await quarantine_of(replay)) == 1


def test_neither_an_entry_nor_a_message_made_of_it_or_of_an_event_shows_its_content() -> None:
    raw = {"id": "m", "payload": {"x": "private"}}
    entry = make_entry(Message("m", raw), "key", "ValueError", now=NOW)
    made = (UnreadableMessage("m", raw, ValueError("no")), EventMessage("m", raw, NOW), message_of_entry(entry))
    for each in (entry, *made):
        assert "private" not in repr(each)
