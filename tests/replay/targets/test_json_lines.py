"""Exports: a file of JSON lines, which is its own record, with one line a message after any end."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from basiq_async import ConfigurationError, Message, ReplayError
from basiq_async._work.ids import digest_of
from basiq_async.errors import JobInUseError, RecordError
from basiq_async.replay import JSONLinesTarget, Replay, Target, limit
from tests.support.histories import Table, history, listed
from tests.support.real_time import PATIENCE


async def test_an_export_holds_every_message_as_it_came_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(1_200) as h, JSONLinesTarget(path) as target:
        report = await h.replay(target).run()
        messages = await h.messages()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert report.handled == 1_200
    assert lines == [each.raw for each in messages]
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


async def test_a_replay_into_a_file_writes_many_messages_at_once(tmp_path: Path) -> None:
    class Counting(JSONLinesTarget):
        flushes = 0

        async def flush(self) -> None:
            self.flushes += 1
            await super().flush()

    async with history(1_500) as h:
        target = Counting(tmp_path / "export.jsonl")
        assert (await h.replay(target).run()).handled == 1_500
    assert target.flushes <= 8


@pytest.mark.parametrize("noted", [False, True], ids=["first run", "later run"])
async def test_after_a_kill_at_any_byte_each_message_has_exactly_one_line(tmp_path: Path, noted: bool) -> None:
    path = tmp_path / "export.jsonl"
    async with history(12, page_size=5) as h:
        await h.replay(JSONLinesTarget(path)).run()
        whole, note = path.read_bytes(), path.with_name("export.jsonl.note").read_bytes()
        for length in range(0, len(whole) + 1, 97):
            if noted:  # the run that was killed appended to what an earlier one had noted
                first = whole.index(b"\n") + 1
                length = first + length % (len(whole) - first)
            path.unlink()
            path.touch(0o600)
            path.write_bytes(whole[:length])
            if noted:
                path.with_name("export.jsonl.note").write_bytes(small_note(whole[:first], note))
            else:
                path.with_name("export.jsonl.note").unlink(missing_ok=True)
            report = await h.replay(JSONLinesTarget(path)).run()
            assert report.finished
            assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines()), f"killed at byte {length}"


def small_note(lines: bytes, note: bytes) -> bytes:
    """Return the note of a run that ended with these lines."""
    last = json.loads(lines.splitlines()[-1])["id"]
    return json.dumps({**json.loads(note), "size": len(lines), "last": digest_of(last).hex()}).encode()


async def test_lines_whose_ids_are_known_are_not_written_again_however_many_there_are(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    path.touch(0o600)
    path.write_text("".join(f'{{"id":"old-{number}","n":{number}}}\n' for number in range(100_000)))
    items = [{"id": f"old-{number}"} for number in range(0, 100_000, 250)]
    async with listed([*items, {"id": "new"}], JSONLinesTarget(path), inbox=None) as replay:
        report = await replay.run()
    assert (report.handled, report.skipped) == (1, {"handled-before": 400})
    with path.open() as file:
        assert sum(1 for _ in file) == 100_001


async def test_messages_that_cannot_be_read_and_those_without_an_id_are_written_once_as_they_came(
    tmp_path: Path,
) -> None:
    path = tmp_path / "export.jsonl"
    items: list[Any] = [{"id": "a"}, {"id": "c", "payload": "text"}, {"no": "id"}, {"id": ""}, {"id": 7}, "text", 5]
    for _ in range(2):
        async with listed([*items, {"no": "id"}], JSONLinesTarget(path), inbox=None) as replay:
            assert (await replay.run()).finished
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [each if isinstance(each, dict) else {"raw": each} for each in items]


async def test_with_a_rate_or_a_limit_what_cannot_be_read_is_written_too(tmp_path: Path) -> None:
    items: list[Any] = [{"id": "a"}, {"no": "id"}, {"id": "b"}, "text"]
    for number, options in enumerate(({"rate": 100_000}, {"where": limit(10)})):
        path = tmp_path / f"{number}.jsonl"
        async with listed(items, JSONLinesTarget(path), inbox=None, **options) as replay:
            report = await replay.run()
        assert (report.handled, report.failed, report.finished) == (4, 0, True)
        assert len(path.read_text().splitlines()) == 4


async def test_a_table_gets_all_but_what_cannot_be_read_unless_it_is_to_stop() -> None:
    table, items = Table(), [{"id": "a"}, "text", {"id": "b"}]
    async with listed(items, table, inbox=None, on_error="stop") as replay:
        with pytest.raises(ReplayError, match=r"the replay stopped before it: ResponseDecodeError: .*data\[1\]"):
            await replay.run()
    assert table.rows == ["a"]
    for handled in (1, 0):
        async with listed(items, table, inbox=None) as replay:
            report = await replay.run()
        assert (report.handled, report.failed, report.finished) == (handled, 1, False)
    assert table.rows == ["a", "b"]


# --- a file that is another one ---


async def test_a_file_that_was_rotated_is_not_exported_again_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(10) as h:
        await h.replay(JSONLinesTarget(path)).run()
        path.rename(tmp_path / "export.jsonl.1")
        for look in (Replay.run, Replay.plan):
            with pytest.raises(
                RecordError, match=r"is missing, and .* put it back, or begin .* \(overwrite=True, --overwrite\)"
            ):
                await look(h.replay(JSONLinesTarget(path)))
        assert not path.exists()
        report = await h.replay(JSONLinesTarget(path, overwrite=True)).run()
        assert (report.handled, len(path.read_text().splitlines())) == (10, 10)
        assert (await h.replay(JSONLinesTarget(path)).run()).handled == 0, "the new file is the record now"


async def test_a_file_that_was_replaced_or_has_lost_lines_is_refused_until_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(10) as h:
        await h.replay(JSONLinesTarget(path)).run()
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        for other in (b"", b'{"id":"of another job"}\n', b"".join(lines[:-1]), b"".join(lines[1:])):
            path.write_bytes(other)
            with pytest.raises(
                RecordError, match=r"is not the one that the last run wrote.* \(overwrite=True, --overwrite\)"
            ):
                await h.replay(JSONLinesTarget(path)).run()
            assert path.read_bytes() == other
        path.write_bytes(b"".join(lines[1:]))
        report = await h.replay(JSONLinesTarget(path, overwrite=True)).run()
        assert (report.handled, report.finished) == (1, True)
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


NO_SIZES = ("1e999", "-5", "1e3", "true", "1" * 5_000, str(10**30), "null")


@pytest.mark.parametrize(
    "note",
    [
        *(b"", b"{", b"[]", b'{"size": "x", "last": 1, "notes": {}}', b'{"size": 5}', b"\xff", b"[" * 100_000),
        *(f'{{"size": {size}, "last": "", "notes": {{}}}}'.encode() for size in NO_SIZES),
    ],
)
async def test_a_note_that_is_damaged_or_lost_costs_requests_and_no_line(tmp_path: Path, note: bytes) -> None:
    path = tmp_path / "export.jsonl"
    async with history(60, page_size=10) as h:
        await h.replay(JSONLinesTarget(path)).run()
        path.with_name("export.jsonl.note").write_bytes(note)
        report = await h.replay(JSONLinesTarget(path)).run()
    assert (report.handled, report.finished) == (0, True)
    assert len(path.read_text().splitlines()) == 60


async def test_a_note_holds_the_latest_24_notes_of_jobs_and_can_be_read_however_long_they_are(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with JSONLinesTarget(path) as target:
        for number in range(30):
            await target.set_note(f"note {number}", "\u00e9" * 64 * 1024)
    async with JSONLinesTarget(path) as target:
        kept = [number for number in range(30) if await target.note(f"note {number}") is not None]
    assert kept == [*range(6, 30)]


def _widen(note: Path) -> None:
    note.chmod(0o644)


def _link(note: Path) -> None:
    note.rename(note.with_name("elsewhere"))
    note.symlink_to(note.with_name("elsewhere"))


def _make_folder(note: Path) -> None:
    note.unlink()
    note.mkdir()


FAULTS = {"other users can open it": _widen, "symbolic link": _link, "not a regular file": _make_folder}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes and links of POSIX")
@pytest.mark.parametrize("said", FAULTS)
async def test_a_fault_of_the_note_is_told_of_the_note_and_not_of_the_file(said: str, tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(5) as h:
        await h.replay(JSONLinesTarget(path)).run()
        FAULTS[said](tmp_path / "export.jsonl.note")
        with pytest.raises(ReplayError, match=said) as caught:
            await h.replay(JSONLinesTarget(path)).run()
        assert f"the file '{path}.note', which says where the last export to '{path}' ended" in str(caught.value)
        (tmp_path / "export.jsonl.note").rename(tmp_path / "away")
        assert (await h.replay(JSONLinesTarget(path)).run()).finished, "as the text says"
    assert len(path.read_text().splitlines()) == 5


async def test_lines_that_were_collected_and_not_flushed_are_written_at_the_close(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with JSONLinesTarget(path) as target:
        await target.deliver(Message("a", {"id": "a"}))
    assert path.read_text() == '{"id":"a"}\n'


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


async def test_a_file_that_cannot_be_written_ends_the_job(tmp_path: Path) -> None:
    async with history(3) as h:
        target = JSONLinesTarget(tmp_path / "nowhere" / "export.jsonl")
        with pytest.raises(ReplayError, match=r"cannot be written: No such file.*run the same again"):
            await h.replay(target).run()


class _FullDisk(io.FileIO):
    room = 0

    def write(self, part: Any) -> int:
        written = super().write(part[: self.room])
        self.room -= written
        if not written:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written


@pytest.mark.parametrize("room", [0, 1, 700, 90_000, 400_000])
async def test_a_disk_that_is_full_amid_pages_costs_no_message_and_doubles_none(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "export.jsonl"

    def open_file(target: JSONLinesTarget) -> BinaryIO:
        path.touch(0o600)
        disk = _FullDisk(path, "r+")
        disk.room = room
        return io.BufferedRandom(disk)

    async with history(1_200) as h, JSONLinesTarget(path) as target:
        with monkeypatch.context() as patch:
            patch.setattr(JSONLinesTarget, "_open", open_file)
            with pytest.raises(RecordError, match="No space left"):
                await h.replay(target).run()
        left = path.read_bytes()
        report = await h.replay(target).run()
        messages = await h.messages()
    written = path.read_bytes()
    assert written.startswith(left[: left.rfind(b"\n") + 1])
    assert report.handled == 1_200 - left.count(b"\n")
    assert [json.loads(line) for line in written.splitlines()] == [each.raw for each in messages]


async def test_who_only_watches_a_run_leaves_pages_to_the_file(tmp_path: Path) -> None:
    """To look at each message would take twice as long."""

    class Watching:
        wraps = False

        def wrap(self, target: Target) -> Target:
            return Wrapped(target) if self.wraps else target

        def begin(self, source: object) -> None: ...

        def on_progress(self, progress: object) -> None: ...

    class Wrapped:
        def __init__(self, target: Target) -> None:
            self.deliver = target.deliver

    async with history(3) as h:
        replay, watching = h.replay(JSONLinesTarget(tmp_path / "export.jsonl")), Watching()
        assert replay._job.takes_pages
        replay._job.observe(watching)
        assert replay._job.takes_pages
        watching.wraps = True
        assert not replay._job.takes_pages
        assert (await replay.run()).handled == 3


async def test_a_file_that_something_else_shortens_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    target = JSONLinesTarget(path)
    await target.deliver(Message("a", {"id": "a"}))
    await target.flush()
    os.truncate(path, 3)
    await target.deliver(Message("b", {"id": "b"}))
    with pytest.raises(ReplayError, match="another program writes to it"):
        await target.flush()
    await target.aclose()
    assert path.stat().st_size == 3, "it was left as it is"


async def test_a_flush_that_is_cancelled_has_written_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "export.jsonl"
    target = JSONLinesTarget(path)
    await target.deliver(Message("a", {"id": "a"}))
    is_cancelled, sync = threading.Event(), os.fsync

    def sync_later(descriptor: int) -> None:
        assert is_cancelled.wait(PATIENCE)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_later)
    flushing = asyncio.create_task(target.flush())
    await asyncio.sleep(0)
    flushing.cancel()
    is_cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    await target.deliver(Message("b", {"id": "b"}))
    await target.flush()
    assert path.read_text() == '{"id":"a"}\n{"id":"b"}\n'
    await target.aclose()


async def test_lines_that_were_collected_before_a_run_are_known_to_it(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    target = JSONLinesTarget(path)
    async with history(5) as h:
        async for message in h.client.messages.list(h.webhook_id):
            if len(target._lines) < 2:
                await target.deliver(message)
        assert (await h.replay(target).run()).handled == 3
    assert len(path.read_text().splitlines()) == 5


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
        path.write_bytes(whole + torn)
        await h.replay(JSONLinesTarget(path)).run()
    assert path.read_bytes() == whole


async def test_two_exports_to_one_file_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(5) as h:
        async with JSONLinesTarget(path) as first:
            await first.deliver(Message("a", {"id": "a"}))
            await first.flush()
            with pytest.raises(JobInUseError, match="in use by another export"):
                await h.replay(JSONLinesTarget(path)).run()
            await first.deliver(Message("b", {"id": "b"}))
        assert path.read_text() == '{"id":"a"}\n{"id":"b"}\n'
        await h.replay(JSONLinesTarget(path)).run()
    assert len(path.read_text().splitlines()) == 7


async def test_an_export_lets_go_of_its_file_at_the_end_of_each_run(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    target = JSONLinesTarget(path)
    async with history(5) as h:
        await h.replay(target).run()
        await h.replay(JSONLinesTarget(path)).run()
        await h.fake.emit("user.created")
        await h.replay(target).run()
    assert len(path.read_text().splitlines()) == 6


@pytest.mark.parametrize("replaced", [False, True])
async def test_an_export_that_is_deleted_or_replaced_meanwhile_ends_the_job(replaced: bool, tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(2) as h, JSONLinesTarget(path) as target:
        first, second = await h.messages()
        await target.deliver(first)
        await target.flush()
        path.rename(tmp_path / "gone")
        if replaced:
            path.touch(0o600)
        await target.deliver(second)
        with pytest.raises(ReplayError, match="deleted or replaced while it was written"):
            await target.flush()
        (tmp_path / "gone").replace(path)


@pytest.mark.parametrize("new", [0, 3])
async def test_an_export_that_is_deleted_under_a_run_is_found_at_its_end(new: int, tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"

    class Deleted(JSONLinesTarget):
        """It is deleted after the last write."""

        async def set_note(self, name: str, text: str, **more: Any) -> bool:
            stored = await super().set_note(name, text, **more)
            path.rename(tmp_path / "gone")
            return stored

    async with history(5, page_size=2) as h:
        await h.replay(JSONLinesTarget(path)).run()
        for _ in range(new):
            await h.fake.emit("user.created")
        with pytest.raises(RecordError, match="deleted or replaced while it was written"):
            await h.replay(Deleted(path)).run()
        (tmp_path / "gone").replace(path)
        assert (await h.replay(JSONLinesTarget(path)).run()).finished
    assert len(path.read_text().splitlines()) == 5 + new


async def test_a_note_is_stored_only_in_place_of_the_expected_one_and_the_file_stays_noted(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with history(3) as h:
        await h.replay(JSONLinesTarget(path)).run()
        ended = json.loads(Path(f"{path}.note").read_text())
        assert await JSONLinesTarget(path).set_note("n", "first", expected=None)
        stored = [
            await JSONLinesTarget(path).set_note("n", text, expected=expected)
            for text, expected in (("second", None), ("second", "other"), ("second", "first"), ("third", "first"))
        ]
        assert stored == [False, False, True, False]
        noted = json.loads(Path(f"{path}.note").read_text())
        assert noted == {**ended, "notes": {**ended["notes"], "n": "second"}}
        assert await JSONLinesTarget(path).note("n") == "second"
        assert (await h.replay(JSONLinesTarget(path)).run()).handled == 0


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes and links of POSIX")
async def test_an_export_that_others_can_open_or_a_link_is_refused(tmp_path: Path) -> None:
    loose, link = tmp_path / "loose.jsonl", tmp_path / "link.jsonl"
    loose.touch()
    loose.chmod(0o644)
    link.symlink_to(tmp_path / "nothing")
    for path, said in ((loose, "other users can open it"), (link, "symbolic link")):
        with pytest.raises(ReplayError, match=said):
            await JSONLinesTarget(path)._begin_run()
    assert not (tmp_path / "nothing").exists()


async def test_a_note_of_a_file_that_is_not_there_yet_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    target = JSONLinesTarget(path)
    assert await target.note("name") is None
    await target.set_note("name", "text")
    async with history(3) as h:
        assert (await h.replay(JSONLinesTarget(path)).run()).handled == 3
    assert await JSONLinesTarget(path).note("name") == "text"
