"""Exports: a file of JSON lines, whole after any end."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from basiq_async.replay.protocol import Commit, ReplayJob

from basiq_async import BasiqClient, ConfigurationError, Message, ReplayError
from basiq_async.replay import JSONLinesTarget, MemoryCheckpoint, Replay
from tests.support.histories import history
from tests.support.scripted import Scripted, page


async def test_an_export_holds_every_message_as_it_came_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(1_200) as h, JSONLinesTarget(path) as target:
        report = await h.replay(target).run()
        messages = [each async for each in h.client.messages.list(h.webhook_id)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert report.handled == 1_200
    # Messages are under way together, so that the order of the lines is not promised.
    assert sorted(lines, key=itemgetter("id")) == sorted((each.raw for each in messages), key=lambda raw: raw["id"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert repr(target) == f"JSONLinesTarget({str(path)!r})"


@pytest.mark.parametrize("with_orjson", [True, False])
async def test_each_line_is_ascii_with_orjson_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, with_orjson: bool
) -> None:
    if not with_orjson:
        monkeypatch.setattr("basiq_async.replay.targets._json_lines._quick_dumps", None)
    path = tmp_path / "export.jsonl"
    async with JSONLinesTarget(path) as target:
        for raw in ({"id": "a", "n": 1.5}, {"id": "b", "name": "Zoë\x9b"}, {"id": "c", "big": 2**70}):
            await target.deliver(Message(str(raw["id"]), raw))
    lines = ['{"id":"a","n":1.5}', '{"id":"b","name":"Zo\\u00eb\\u009b"}', f'{{"id":"c","big":{2**70}}}']
    assert path.read_text(encoding="ascii").splitlines() == lines


async def test_a_replay_into_a_file_writes_and_records_many_messages_at_once(tmp_path: Path) -> None:
    commits = []

    class Counting(MemoryCheckpoint):
        async def save(self, commit: Commit) -> None:
            commits.append(commit)
            await super().save(commit)

    async with history(1_500) as h:
        target = JSONLinesTarget(tmp_path / "export.jsonl")
        report = await h.replay(target, checkpoint=Counting()).run()
    assert report.handled == 1_500
    assert len(commits) <= 8


async def test_as_many_lines_as_a_replay_has_under_way_are_known_to_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    old = [{"id": f"old-{number}", "filler": "x" * 10_000} for number in range(1_100)]
    path.touch(0o600)
    path.write_text("".join(json.dumps(each) + "\n" for each in old))
    async with BasiqClient("a2V5", transport=Scripted(page([*old[-1_024:], {"id": "new"}]))) as client:
        await Replay(client, "w1", JSONLinesTarget(path), checkpoint=MemoryCheckpoint()).run()
    assert len(path.read_text().splitlines()) == 1_101


async def test_an_export_that_was_killed_continues_with_nothing_missing_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(100) as h:
        messages = [each async for each in h.client.messages.list(h.webhook_id)]
        lines = [json.dumps(each.raw).encode() + b"\n" for each in messages]
        # Sixty were written, the last one half; none of it had been recorded.
        path.touch(0o600)
        path.write_bytes(b"".join(lines[:60]) + lines[60][:25])
        report = await h.replay(JSONLinesTarget(path)).run()
        assert report.handled == 100
    assert [json.loads(line)["id"] for line in path.read_bytes().splitlines()] == [each.id for each in messages]


async def test_the_tail_of_a_long_export_is_all_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    old = [json.dumps({"id": f"old-{i}", "filler": "x" * 10_000}) for i in range(1_000)]
    path.touch(0o600)
    path.write_text("\n".join(old) + "\n")
    async with BasiqClient("a2V5", transport=Scripted(page([{"id": "old-999"}, {"id": "new"}]))) as client:
        await Replay(client, "w1", JSONLinesTarget(path), checkpoint=MemoryCheckpoint()).run()
    lines = path.read_text().splitlines()
    assert len(lines) == 1_001
    assert json.loads(lines[-1]) == {"id": "new"}


@pytest.mark.parametrize(
    "content", [b"a note", b"a note\n", b'{"no": "id"}\n', b"[1]\n", b'{"id": "a"}\nnot json\n', b"\x00\xff"]
)
async def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.touch(0o600)
    path.write_bytes(content)
    async with history(3) as h:
        with pytest.raises(ReplayError, match="has other content"):
            await h.replay(JSONLinesTarget(path)).run()
    assert path.read_bytes() == content


async def test_a_file_that_cannot_be_written_ends_the_job_and_nothing_is_recorded(tmp_path: Path) -> None:
    checkpoint = MemoryCheckpoint()
    async with history(3) as h:
        target = JSONLinesTarget(tmp_path / "nowhere" / "export.jsonl")
        with pytest.raises(ReplayError, match=r"cannot be written: No such file.*run the same again"):
            await h.replay(target, checkpoint=checkpoint).run()
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
    assert state is not None
    assert state.handled == 0


async def test_a_file_that_something_else_shortens_is_told(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    target = JSONLinesTarget(path)
    await target.deliver(Message("a", {"id": "a"}))
    await target.flush()
    os.truncate(path, 3)
    await target.deliver(Message("b", {"id": "b"}))
    with pytest.raises(ReplayError, match="another program writes to it"):
        await target.flush()
    with pytest.raises(ReplayError, match="another program writes to it"):
        await target.aclose()


async def test_a_flush_that_is_cancelled_has_written_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    target = JSONLinesTarget(path)
    await target.deliver(Message("a", {"id": "a"}))
    flushing = asyncio.create_task(target.flush())
    await asyncio.sleep(0)
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    await target.deliver(Message("b", {"id": "b"}))
    await target.flush()
    assert path.read_text() == '{"id":"a"}\n{"id":"b"}\n'
    await target.aclose()


@pytest.mark.parametrize("path", ["", "a\0b", b"bytes"])
def test_a_path_that_is_no_file_is_refused(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="path must be"):
        JSONLinesTarget(path)


@pytest.mark.parametrize("torn", [b"{", b'{"', b'{"id":"m'])
async def test_a_line_that_was_torn_anywhere_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "export.jsonl"
    async with history(5) as h:
        await h.replay(JSONLinesTarget(path)).run()
        whole = path.read_bytes()
        first = whole.index(b"\n") + 1
        path.touch(0o600)
        path.write_bytes(whole[:first] + torn)
        await h.replay(JSONLinesTarget(path)).run()
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


async def test_two_exports_to_one_file_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(5) as h:
        async with JSONLinesTarget(path) as first:
            await first.deliver(Message("a", {"id": "a"}))
            await first.flush()
            with pytest.raises(ReplayError, match="in use by another export"):
                await h.replay(JSONLinesTarget(path)).run()
            await first.deliver(Message("b", {"id": "b"}))
        assert path.read_text() == '{"id":"a"}\n{"id":"b"}\n'
        await h.replay(JSONLinesTarget(path)).run()
    assert len(path.read_text().splitlines()) == 7


async def test_an_export_lets_go_of_its_file_at_the_end_of_each_run(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    target = JSONLinesTarget(path)
    async with history(5) as h:
        checkpoint = MemoryCheckpoint()
        await h.replay(target, checkpoint=checkpoint).run()
        await h.replay(JSONLinesTarget(path)).run()
        await h.fake.emit("user.created")
        await h.replay(target, checkpoint=checkpoint).run()
    assert len(path.read_text().splitlines()) == 6


@pytest.mark.parametrize("replaced", [False, True])
async def test_an_export_that_is_deleted_or_replaced_meanwhile_ends_the_job(replaced: bool, tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(2) as h, JSONLinesTarget(path) as target:
        first, second = [each async for each in h.client.messages.list(h.webhook_id)]
        await target.deliver(first)
        await target.flush()
        path.rename(tmp_path / "gone")
        if replaced:
            path.touch(0o600)
        await target.deliver(second)
        with pytest.raises(ReplayError, match="deleted or replaced while it was written"):
            await target.flush()
        (tmp_path / "gone").replace(path)


async def test_an_export_that_others_can_open_or_a_link_is_refused(tmp_path: Path) -> None:
    loose, link = tmp_path / "loose.jsonl", tmp_path / "link.jsonl"
    loose.touch(0o644)
    link.symlink_to(tmp_path / "nothing")
    for path, said in ((loose, "other users can open it"), (link, "symbolic link")):
        with pytest.raises(ReplayError, match=said):
            await JSONLinesTarget(path).flush()
    assert not (tmp_path / "nothing").exists()
