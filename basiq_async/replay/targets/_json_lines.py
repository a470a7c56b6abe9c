"""Export messages to a file of JSON lines."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO, Self

from ..._storage.private_files import open_private
from ..._work.tasks import run_to_completion, wait_uncancelled
from ...errors import ConfigurationError, ReplayError
from ...models import Message

_quick_dumps: Callable[[Any], bytes] | None = None
with suppress(ImportError):
    from orjson import dumps as _quick_dumps

if sys.platform == "win32":  # pragma: no cover  # the coverage is measured on Linux
    import msvcrt
else:
    import fcntl

_TAIL = 4 * 2**20
FILE_CONCURRENCY = 1_024
"""The default ``concurrency`` of a replay into a file: so many messages are written and synced at once."""
_dumps = json.JSONEncoder(separators=(",", ":")).encode
_BEGINNING = b'{"'
"""The beginning of each line."""
_PAST_THE_END = 2**40
"""The byte to lock on Windows. No file is that long: other programs could not read a locked part of the file."""


class JSONLinesTarget:
    """Appends each message, as Basiq sent it, to a file: one JSON object a line. May be used as ``async with``.

    Lines are written and synced to the disk in groups, before their messages are recorded as done. After a crash, the
    next run removes a half-written line, and skips messages that the last 4 MiB, or 1,024 lines, already contain. So no
    message is missing, and none is written twice. A file with other content is refused. Only its owner can read a new
    file. During a run the file is locked: another export to it is refused. A failure of the disk raises
    ``ReplayError``, which ends the job.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        if not isinstance(self._path, str) or not self._path or "\0" in self._path:
            raise ConfigurationError("path must be the path of a file")
        self._lines: list[bytes] = []
        self._file: BinaryIO | None = None
        self._size: int | None = None
        self._known: set[str] = set()
        self._writing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"JSONLinesTarget({self._path!r})"

    async def deliver(self, message: Message) -> None:
        """See ``Target``: the line is written with the next ``flush``."""
        if self._size is None:
            await self.flush()
        if message.id in self._known:
            self._known.discard(message.id)
            return
        self._lines.append(_make_line(message.raw))

    async def flush(self) -> None:
        """See ``Target``."""
        async with self._writing:
            if self._lines or self._size is None:
                await self._in_thread(self._write_lines)

    async def aclose(self) -> None:
        """Write the remaining lines, and close the file. A later ``deliver`` opens it again."""
        await run_to_completion(self._close)

    async def begin_run(self) -> None:
        """See ``RunScoped``: opens the file."""
        await self.flush()

    async def end_run(self) -> None:
        """See ``RunScoped``."""
        await self.aclose()

    async def _close(self) -> None:
        async with self._writing:
            if self._file is not None:
                try:
                    if self._lines:
                        await self._in_thread(self._write_lines)
                finally:
                    file, self._file, self._size = self._file, None, None
                    file.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Do ``work`` in a thread. A cancellation waits for its end, because a thread cannot be cancelled."""
        working = asyncio.ensure_future(asyncio.to_thread(work))
        cancelled = await wait_uncancelled(working)
        try:
            if not working.cancelled():
                working.result()
        except OSError as exc:
            self._size = None  # the next call reads the size and the last messages again
            raise ReplayError(
                f"the file {self._path!r} cannot be written: {exc.strerror}. Nothing was recorded since: fix that, "
                "then run the same again"
            ) from exc
        if cancelled is not None:
            raise cancelled
        if working.cancelled():
            raise asyncio.CancelledError

    # --- in a thread ---

    def _write_lines(self) -> None:
        file = self._file = self._file or self._open()
        if self._size is None:
            self._size = self._find_end(file)
        if self._size > os.fstat(file.fileno()).st_size:
            raise ReplayError(f"the file {self._path!r} became shorter meanwhile: another program writes to it")
        count = len(self._lines)
        file.truncate(self._size)  # remove the rest of a write that failed
        file.seek(self._size)
        file.write(b"\n".join(self._lines[:count]) + b"\n" if count else b"")
        file.flush()
        os.fsync(file.fileno())
        self._check_in_place(file)
        self._size = file.tell()
        del self._lines[:count]

    def _check_in_place(self, file: BinaryIO) -> None:
        opened = os.fstat(file.fileno())
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino):
            raise ReplayError(
                f"the file {self._path!r} was deleted or replaced while it was written. Nothing was recorded since: "
                "put it back, then run the same again"
            )

    def _open(self) -> BinaryIO:
        descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT)
        file = os.fdopen(descriptor, "r+b")
        try:
            _lock(file)
        except BlockingIOError:
            file.close()
            raise ReplayError(
                f"the file {self._path!r} is in use by another export that still runs: wait for it or stop it, or pass "
                "another path"
            ) from None
        except BaseException:
            file.close()
            raise
        return file

    def _find_end(self, file: BinaryIO) -> int:
        """Return the offset where to continue writing, and remember the messages in the last lines."""
        size = file.seek(0, os.SEEK_END)
        reach = _TAIL
        while True:
            start = file.seek(max(0, size - reach))
            tail = file.read()
            if not start or tail.count(b"\n") > FILE_CONCURRENCY:
                break
            reach *= 2
        whole, torn = tail[: tail.rfind(b"\n") + 1], tail[tail.rfind(b"\n") + 1 :]
        lines = whole.splitlines()
        if start:
            del lines[0]
        if torn and torn[:2] != _BEGINNING[: len(torn)]:
            raise self._foreign()
        try:
            self._known = {str(json.loads(line)["id"]) for line in lines}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._foreign() from None
        return size - len(torn)

    def _foreign(self) -> ReplayError:
        return ReplayError(
            f"the file {self._path!r} has other content than messages. It was left as it is: pass another path"
        )


def _make_line(message: Mapping[str, Any]) -> bytes:
    """Return a message as a line of ASCII, which is the same with orjson and without."""
    if _quick_dumps is not None:
        try:
            line = _quick_dumps(message)
        except TypeError:  # such as a number above 64 bits
            pass
        else:
            if line.isascii():
                return line
    return _dumps(message).encode()


if sys.platform == "win32":  # pragma: no cover  # the coverage is measured on Linux

    def _lock(file: BinaryIO) -> None:
        file.seek(_PAST_THE_END)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as exc:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked") from exc

else:

    def _lock(file: BinaryIO) -> None:
        """Lock a file until it is closed. Raises ``BlockingIOError`` if another process has locked it."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
