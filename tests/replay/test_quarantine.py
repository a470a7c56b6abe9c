"""Dead letters as a list that a person can act on: looked at, exported, dropped, some of them tried again."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from basiq_async import CheckpointError, ConfigurationError, ReplayError
from basiq_async.replay import DeadLetter, MemoryCheckpoint, SQLiteCheckpoint
from tests.support.histories import Refusing, history

pytestmark = pytest.mark.usefixtures("both_orders")


async def test_dead_letters_are_exported_a_line_each_and_stay(tmp_path: Path) -> None:
    async with history(300) as h:
        ids = await h.ids()
        target = Refusing(*ids[:270])
        replay = h.replay(target, checkpoint=SQLiteCheckpoint(tmp_path / "replay.db"))
        assert await replay.export_dead(tmp_path / "none.jsonl") == 0
        assert (tmp_path / "none.jsonl").read_text() == ""
        await replay.run()
        path = tmp_path / "dead.jsonl"
        assert await replay.export_dead(path) == 270
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert {row["id"] for row in rows} == set(ids[:270])
        assert rows[0]["error"] == "ValueError: poisoned"
        assert rows[0]["message"]["payload"]["eventId"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ConfigurationError, match="exists already"):
            await replay.export_dead(path)
        with pytest.raises(ReplayError, match="cannot be written"):
            await replay.export_dead(tmp_path / "nowhere" / "dead.jsonl")
        assert len(await replay.dead_letters(limit=1000)) == 270


async def test_an_export_that_fails_on_the_way_leaves_no_file_behind(tmp_path: Path) -> None:
    class Failing(MemoryCheckpoint):
        async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
            if after:
                raise CheckpointError("the disk is away")
            return await super().dead_letters(after=after, limit=limit)

    async with history(300) as h:
        ids = await h.ids()
        replay = h.replay(Refusing(*ids[:270]), checkpoint=Failing())
        await replay.run()
        with pytest.raises(CheckpointError, match="the disk is away"):
            await replay.export_dead(tmp_path / "dead.jsonl")
        assert not (tmp_path / "dead.jsonl").exists()


async def test_dead_letters_are_dropped_by_id() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(10) as h:
        ids = await h.ids()
        replay = h.replay(Refusing(*ids[:4]), checkpoint=checkpoint)
        assert await replay.drop_dead([ids[0]]) == 0
        await replay.run()
        assert await replay.drop_dead([ids[0], ids[2], "unknown"]) == 2
        assert {dead_letter.id for dead_letter in await replay.dead_letters()} == {ids[1], ids[3]}
        assert (await replay.run()).dead == 2
        with pytest.raises(ConfigurationError, match="must be a list"):
            await replay.drop_dead(ids[1])


async def test_some_dead_letters_are_tried_again_by_id() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(10) as h:
        ids = await h.ids()
        target = Refusing(*ids[:4])
        replay = h.replay(target, checkpoint=checkpoint)
        await replay.run()
        target.refused = set()
        report = await replay.retry_dead(ids=[ids[1], "unknown"])
        assert (report.handled, report.dead) == (1, 3)
        assert {dead_letter.id for dead_letter in await replay.dead_letters()} == {ids[0], ids[2], ids[3]}
