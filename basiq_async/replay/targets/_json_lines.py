"""Export messages to a file of JSON lines, which is its own record: no message has two lines."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from types import EllipsisType, TracebackType
from typing import Any, BinaryIO, Self

import attrs

from ..._storage.file_locks import lock_file
from ..._storage.private_files import lasting_path, open_private, replace_private
from ..._wire.writing import write_json
from ..._work.ids import IdSet, digest_of
from ..._work.protocol import Record
from ..._work.tasks import run_to_completion, wait_uncancelled
from ...errors import ConfigurationError, JobInUseError, RecordError
from ...models import Message
from .._sources import UnreadableMessage, as_object, plain_id
from ._base import BulkTarget

_quick_dumps: Callable[[Any], bytes] | None = None
with suppress(ImportError):
    from orjson import dumps as _quick_dumps

_CHUNK = 2**20
_dumps = json.JSONEncoder(separators=(",", ":")).encode
_BEGINNING = b'{"'
"""The beginning of each line."""
_FIRST_ID = re.compile(rb'\{(?:"type":"[^"\\]*",)?"id":"([^"\\]+)"[,}]')
"""The id of a line that begins as Basiq's messages do. Any other line is parsed."""
"""The byte to lock on Windows. No file is that long: other programs could not read a locked part of the file."""
_MOST_NOTES, _LONGEST_NOTE = 24, 2**25


@attrs.frozen
class _Note:
    """The size of the file when a run ended, in bytes, and the digest of the id in its last line."""

    size: int
    last: str


class JSONLinesTarget(BulkTarget, Record):
    """Appends each message, as Basiq sent it, to a file: one JSON object a line. May be used as ``async with``.

    The file is its own record: a run reads the ids in it, and appends what is not there. So after any kill each message
    has exactly one line. A half-written last line is removed. The ids take 16 bytes each in memory. Messages that
    cannot be read are written as they came, and what is nested too deeply as a text. Only the owner can read a new
    file. During a run the file is locked: another export to it raises ``JobInUseError``.

    A file beside it, whose name ends with ``.note``, keeps where the last run ended. If the file itself is missing
    then, or is another one, for example because it was rotated, the run is refused with ``RecordError``, so that the
    whole history is not exported again by accident. ``overwrite`` begins a new file in that case.

    A file with other content, and a failure of the disk, raise ``RecordError``, which ends the job.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self._path = os.fspath(path)
        if not isinstance(self._path, str) or not self._path or "\0" in self._path:
            raise ConfigurationError("path must be the path of a file")
        self._path = str(lasting_path(self._path))
        self._note_path = self._path + ".note"
        self._overwrite = overwrite
        self._lines: list[bytes] = []
        """What was accepted: the lines of each page as one text, which was made while the page was in the cache."""
        self._unwritten: list[str] = []  # the ids in ``_lines``
        self._file: BinaryIO | None = None
        self._size = 0  # the bytes of the file up to the end of its last whole line
        self._last = b""  # the digest of the id in that line
        self._ids: IdSet | None = None
        """The ids in the file; None before it was read. During a run, those that it had before: the run itself knows
        which ones it has passed on since, and they are not kept twice."""
        self._in_run = False
        self._notes: dict[str, str] = {}
        self._using = asyncio.Lock()

    def __repr__(self) -> str:
        return f"JSONLinesTarget({self._path!r})"

    async def deliver(self, message: Message) -> None:
        """See ``Target``: the line is written with the next ``flush``."""
        raw = message.raw
        if isinstance(message, UnreadableMessage) and message.of_event:
            raw = {"id": message.id, "raw": raw}  # by this id the record knows it
        self._accept([raw], [plain_id(raw)])

    def _accept(self, items: Sequence[Any], ids: Sequence[str]) -> None:
        """Accept items as Basiq sent them, with their plain ids: their lines are written with the next ``flush``."""
        if items:
            self._lines.append(_make_lines(items, ids))
            self._unwritten += ids

    async def flush(self) -> None:
        """See ``BulkTarget``: the lines are on the disk when it returns."""
        async with self._using:
            if self._lines:
                await self._in_thread(self._write_lines)

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        """See ``Record``: the ids of messages that the file has."""
        async with self._using:
            if self._ids is None:
                await self._in_thread(self._look)
            if not self._ids:  # it is empty, as at the first run
                return []
            found = self._ids.known([digest_of(key) for key in keys])
        return [key for key, known in zip(keys, found, strict=True) if known]

    async def note(self, name: str) -> str | None:
        """See ``Record``: a note of the file beside."""
        async with self._using:
            if self._ids is None:
                await self._in_thread(self._look)
            return self._notes.get(name)

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        """See ``Record``. Lines that were not flushed are not in the file's size, which is noted with it.

        During a run, which has the file to itself, no other one writes a note.
        """
        async with self._using:
            if self._ids is None:
                await self._in_thread(self._look)
            if expected is not ... and self._notes.get(name) != expected:
                return False
            self._notes.pop(name, None)
            self._notes[name] = text
            while len(self._notes) > _MOST_NOTES:  # the one that was written first costs requests only
                del self._notes[next(iter(self._notes))]
            await self._in_thread(self._write_note)
            return True

    async def _begin_run(self) -> None:
        """Open and lock the file for a run, and read the ids in it. ``aclose`` ends the run."""
        async with self._using:
            await self._in_thread(self._write_lines if self._lines else self._begin)
            self._in_run = True

    async def aclose(self) -> None:
        """Write the remaining lines, and close the file. A later ``flush`` opens it again."""
        await run_to_completion(self._close)

    async def _close(self) -> None:
        async with self._using:
            if self._file is not None or self._lines:
                try:
                    if self._lines:
                        await self._in_thread(self._write_lines)
                    await self._in_thread(self._end)
                finally:
                    self._forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _in_thread(self, work: Callable[[], object]) -> None:
        """Do ``work`` in a thread. A cancellation waits for its end, because a thread cannot be cancelled."""
        working = asyncio.ensure_future(asyncio.to_thread(work))
        cancelled = await wait_uncancelled(working)
        try:
            if not working.cancelled():
                working.result()
        except OSError as exc:
            self._forget()  # the next run reads the file again
            raise RecordError(
                f"the file {self._path!r} cannot be written: {exc.strerror or exc}. What was not written is not "
                "recorded: fix that, then run the same again"
            ) from exc
        except RecordError:
            self._forget()
            raise
        if cancelled is not None:
            raise cancelled
        if working.cancelled():
            raise asyncio.CancelledError

    def _forget(self) -> None:
        """Close the file, and forget what was read from it."""
        file, self._file, self._ids = self._file, None, None
        self._lines, self._unwritten, self._in_run = [], [], False
        if file is not None:
            with suppress(OSError):
                file.close()

    # --- in a thread ---

    def _begin(self) -> tuple[BinaryIO, IdSet]:
        if self._file is not None and self._ids is not None:
            return self._file, self._ids
        note = self._read_note()
        file = self._file = self._open()
        ids = self._read_ids(file, note)
        file.truncate(self._size)  # remove a half-written line
        if note is None:
            self._write_note()
        return file, ids

    def _look(self) -> None:
        """Read the ids without a lock, and change nothing."""
        note = self._read_note()
        try:
            descriptor = open_private(self._path, os.O_RDONLY)
        except FileNotFoundError:
            self._ids = IdSet()
            return
        with os.fdopen(descriptor, "rb") as file:
            self._read_ids(file, note)

    def _write_lines(self) -> None:
        file, ids = self._begin()
        size = os.fstat(file.fileno()).st_size
        if self._size > size:
            raise RecordError(f"the file {self._path!r} became shorter meanwhile: another program writes to it")
        if self._size < size:
            file.truncate(self._size)  # remove the rest of a write that failed
        pages, count = len(self._lines), len(self._unwritten)
        file.seek(self._size)
        file.writelines(self._lines[:pages])
        file.flush()
        os.fsync(file.fileno())
        self._check_in_place(file)
        self._size = file.tell()
        self._last = digest_of(self._unwritten[count - 1])
        if not self._in_run:
            ids.extend(map(digest_of, self._unwritten[:count]))
        del self._lines[:pages], self._unwritten[:count]

    def _check_in_place(self, file: BinaryIO) -> None:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self._path), os.fstat(file.fileno())):
                return
        raise RecordError(
            f"the file {self._path!r} was deleted or replaced while it was written: put it back, then run the same "
            "again; or begin an export of everything to a new file (overwrite=True, --overwrite)"
        )

    def _open(self) -> BinaryIO:
        descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT)
        file = os.fdopen(descriptor, "r+b")
        try:
            lock_file(file)
        except OSError as exc:
            file.close()
            if not isinstance(exc, BlockingIOError):
                raise
            raise JobInUseError(
                f"the file {self._path!r} is in use by another export that still runs: wait for it or stop it, or pass "
                "another path"
            ) from None
        return file

    def _read_ids(self, file: BinaryIO, note: _Note | None) -> IdSet:
        """Read the ids of all lines. Raises ``RecordError`` for other content, and for another file than the note's."""
        found = _scan(file, None if note is None else note.size)
        size = 0 if found is None else found.size
        torn = file.seek(0, os.SEEK_END) - size
        file.seek(size)
        # A run writes its note before its first line. What has none, and no id, is no export.
        foreign = found is None or (note is None and size and not found.has_ids and not self._overwrite)
        if found is None or foreign or (torn and file.read(2) != _BEGINNING[: min(torn, 2)]):
            raise RecordError(
                f"the file {self._path!r} has other content than messages. It was left as it is: pass another path"
            )
        if note is not None and note.size and (found.noted is None or found.noted.hex() != note.last):
            raise RecordError(
                f"the file {self._path!r} is not the one that the last run wrote: put that back, or go on with this "
                "one (overwrite=True, --overwrite)"
            )
        self._ids, self._size, self._last = found.ids, size, found.last
        return found.ids

    def _read_note(self) -> _Note | None:
        """Return what the last run left; None if it left nothing, or it is damaged.

        Raises ``RecordError`` if the file itself is missing.
        """
        self._notes = {}
        if self._overwrite:
            return None
        try:
            with open(open_private(self._note_path, os.O_RDONLY), "rb") as file:
                found = json.loads(file.read(_LONGEST_NOTE))
            note = _Note(found["size"], found["last"])
            notes = {str(name): str(text) for name, text in dict(found["notes"]).items()}
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._note_error(exc, "read") from exc
        except (ValueError, TypeError, KeyError, RecursionError):
            return None  # without one that can be read, it costs requests: the lines say what is there
        if not (type(note.size) is int and 0 <= note.size < 2**63 and type(note.last) is str):
            return None
        if note.size and not os.path.lexists(self._path):
            raise RecordError(
                f"the file {self._path!r} is missing, and {self._note_path!r} says that it had {note.size:,} bytes: "
                "put it back, or begin an export of everything to a new file (overwrite=True, --overwrite)"
            )
        self._notes = notes
        return note

    def _end(self) -> None:
        if self._file is not None:
            self._check_in_place(self._file)
        self._write_note()

    def _write_note(self) -> None:
        note = {"size": self._size, "last": self._last.hex(), "notes": self._notes}
        try:
            replace_private(self._note_path, json.dumps(note).encode())
        except OSError as exc:
            raise self._note_error(exc, "written") from exc
        self._overwrite = False

    def _note_error(self, exc: OSError, what: str) -> RecordError:
        return RecordError(
            f"the file {self._note_path!r}, which says where the last export to {self._path!r} ended, cannot be "
            f"{what}: {exc.strerror or exc}. Mend that, or remove it: the next run then reads more, and writes no line "
            "twice"
        )


@attrs.define
class _Found:
    """What is in a file. ``noted``: the digest of the id in the line that ends where the note says; None without."""

    ids: IdSet = attrs.Factory(IdSet)
    size: int = 0
    last: bytes = b""
    noted: bytes | None = None
    has_ids: bool = False


def _scan(file: BinaryIO, noted: int | None) -> _Found | None:
    """Read the ids of all whole lines; None if one is no message. No error has a line in its frames."""
    found = _Found()
    last, size = b"", 0
    for lines in _whole_lines(file):
        digests: list[bytes] = []
        for line in lines:
            if match := _FIRST_ID.match(line):
                found.has_ids = True
                last = digest_of(match[1].decode("utf-8", "surrogatepass"))
            else:
                try:
                    message = json.loads(line)
                except (ValueError, RecursionError):
                    return None
                if not isinstance(message, dict):
                    return None
                found.has_ids = found.has_ids or "id" in message
                last = digest_of(plain_id(message))
            digests.append(last)
            size += len(line) + 1
            if size == noted:
                found.noted = last
        found.ids.extend(digests)
    found.last, found.size = last, size
    return found


def _whole_lines(file: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the lines of a file that end with a line feed, without it, some thousands at once."""
    file.seek(0)
    rest = b""
    while chunk := file.read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines


def _make_lines(items: Sequence[Any], ids: Sequence[str]) -> bytes:
    """Return the items of a page as lines (see ``_make_line``): nearly always, none needs to be looked at alone."""
    if _quick_dumps is not None and set(map(type, items)) <= {dict}:
        with suppress(TypeError):
            lines = b"\n".join([*map(_quick_dumps, items), b""])
            if lines.isascii():
                return lines
    return b"\n".join([*map(_make_line, items, ids), b""])


def _make_line(item: Any, item_id: str) -> bytes:
    """Return an item as a line of ASCII, which is the same with orjson and without."""
    found = as_object(item)
    try:
        line = None if _quick_dumps is None else _quick_dumps(found)
    except TypeError:  # such as a number above 64 bits
        line = None
    if line is not None and line.isascii():
        return line
    try:
        return _dumps(found).encode()
    except RecursionError:  # so that every reader of the file can read the line
        return _dumps({"id": item_id, "raw": write_json(found, _dumps)}).encode()
