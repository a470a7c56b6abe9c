"""Exporting messages to a file of JSON lines."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Self

from ...errors import ConfigurationError, ReplayError
from ...models import Message

__all__ = ["JSONLinesTarget"]

_TAIL = 4 * 2**20


class JSONLinesTarget:
    """Appends each message, as Basiq gave it, to a file: one JSON object a line. May be used as ``async with``.

    Lines are written and synced to the disk in groups, before they are recorded as done. After a crash the next
    run cuts off a line that was left half written, and does not write again what the last lines (up to 4 MiB) hold
    already: no message is missing, none is there twice. A file that holds something else is refused. A new one
    can be read by its owner alone. Failures of the disk are a ``ReplayError``, which ends the job.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        if not isinstance(self._path, str) or not self._path or "\0" in self._path:
            raise ConfigurationError("path must be that of a file")
        self._lines: list[str] = []
        self._size: int | None = None
        self._there: set[str] = set()
        self._writing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"JSONLinesTarget({self._path!r})"

    async def deliver(self, message: Message) -> None:
        """See ``Target``: the line is written with the next ``flush``."""
        if self._size is None:
            await self.flush()
        if message.id in self._there:
            self._there.discard(message.id)
            return
        self._lines.append(json.dumps(message.raw, separators=(",", ":")) + "\n")

    async def flush(self) -> None:
        """See ``Target``."""
        async with self._writing:
            lines, self._lines = self._lines, []
            if not lines and self._size is not None:
                return
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, lines))
            try:
                # A thread cannot be cancelled: whatever happens, no other write may begin before it has ended.
                await asyncio.shield(writing)
                self._size = writing.result()
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                self._size = None  # looked up anew, and with it what the file holds
                raise
            except OSError as exc:
                raise ReplayError(
                    f"the file {self._path!r} cannot be written: {exc.strerror}; nothing was recorded since: "
                    "mend it, then run the same again"
                ) from exc

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.flush()

    # --- in a thread ---

    def _write(self, lines: Iterable[str]) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        with open(descriptor, "r+b") as file:
            size = self._begin(file) if self._size is None else self._size
            if size > os.fstat(descriptor).st_size:
                raise ReplayError(f"the file {self._path!r} became shorter meanwhile: something else writes to it")
            file.truncate(size)  # what a write that failed has left
            file.seek(size)
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(descriptor)
            return file.tell()

    def _begin(self, file: BinaryIO) -> int:
        """Where to go on writing. Remembers which messages the last lines hold."""
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - _TAIL))
        tail = file.read()
        whole, torn = tail[: tail.rfind(b"\n") + 1], tail[tail.rfind(b"\n") + 1 :]
        lines = whole.splitlines()
        if start:
            del lines[0]
        if torn and not torn.startswith(b'{"'):
            raise self._foreign()
        try:
            self._there = {str(json.loads(line)["id"]) for line in lines}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._foreign() from None
        return size - len(torn)

    def _foreign(self) -> ReplayError:
        return ReplayError(f"the file {self._path!r} holds something else than messages; it was left as it is")
