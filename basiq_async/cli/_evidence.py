"""``recover --report FILE``: evidence of what a recovery did, as JSON lines that are appended to a file."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from .._redaction.text import json_line
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..models import Message
    from ..replay import Progress, Replay, Target


class Evidence:
    """Appends a line when a recovery begins, one for each message that the target accepted, and one at the end.

    Without a file, nothing is written. Use it as a context manager. Raises ``ConfigurationError`` if the file cannot be
    opened.
    """

    def __init__(self, file: str | None) -> None:
        self._file: TextIO | None = None
        if file is None:
            return
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"--report {file!r} cannot be written: {exc}") from None
        self._file = os.fdopen(descriptor, "a", encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, what: str, **more: Any) -> None:
        """Append a line with the time."""
        if self._file is not None:
            self._file.write(json_line({what: datetime.now(UTC), **more}, ascii=True) + "\n")

    def watch(self, replay: Replay) -> None:
        """Write the id of each message that the target of a replay accepts."""
        if self._file is not None:
            replay._observe(_Watching(self, replay.job.source))

    def flush(self) -> None:
        """Pass the lines to the operating system."""
        if self._file is not None:
            self._file.flush()


class _Watching:
    """Observes a replay."""

    def __init__(self, evidence: Evidence, source: str) -> None:
        self._evidence = evidence
        self._source = source

    def wrap(self, target: Target) -> Target:
        """Return the target, wrapped so that each accepted message is written."""
        return _Watched(target, self._evidence, self._source)

    def begin(self) -> None:
        """Do nothing: the beginning of the recovery is written."""

    def on_progress(self, progress: Progress) -> None:
        """Do nothing."""


class _Watched:
    def __init__(self, inner: Target, evidence: Evidence, source: str) -> None:
        self._inner = inner
        self._evidence = evidence
        self._source = source

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        skipped = await self._inner.deliver(message)
        if skipped is None:
            ids = {"id": message.id, "event_type_id": message.event_type_id, "event_id": message.event_id}
            self._evidence.write("accepted", source=self._source, **ids)
        return skipped

    async def flush(self) -> None:
        """See ``Target``."""
        await self._inner.flush()
        self._evidence.flush()
