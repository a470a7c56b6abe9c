"""What ``replay`` and ``recover`` share: the object of their options, the display of progress, and the end of a run."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TextIO

import attrs

from .._redaction.text import json_line
from .._wire.hosts import show_url
from ..errors import ConfigurationError
from ._options import program_line, selection
from ._output import live, note, session
from ._results import as_row, cell_text, count_details

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from ..models import Message
    from ..replay import Plan, Progress, Replay, Report, Target, Where


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of a run. An option that has its default value is not part of the line that continues the run."""

    command: ClassVar[str]

    webhook_id: str
    to: str | None = None
    since: str | None = None
    until: str | None = None
    event: Sequence[str] | None = None
    rate: float | None = None
    concurrency: int | None = None
    max_pause: float = 3_600.0
    checkpoint: str
    secret_file: Path | None = None
    json: bool = False

    @property
    def connections(self) -> int:
        """The number of connections to an endpoint."""
        return self.concurrency or 32

    @property
    def selected(self) -> Mapping[str, Any]:
        """The options that select messages. With the webhook and the target, they name the checkpoint."""
        return {"since": self.since, "until": self.until, "event": self.event}

    def where(self) -> Where | None:
        """Return the filter for the options; None if they select everything. Raises ``ConfigurationError``."""
        return selection(**{name: value for name, value in self.selected.items() if name != "filter"})

    def line(self, *flags: str) -> str:
        """Return the line that continues the run, with further flags, quoted for a shell."""
        options = {
            "--" + field.metadata.get("option", field.name.replace("_", "-")): _shown(value)
            for field in attrs.fields(type(self))
            if field.name != "webhook_id" and (value := getattr(self, field.name)) != field.default
        }
        return program_line(self.command, self.webhook_id, options={**options, **dict.fromkeys(flags, True)})

    def show_line(self, *flags: str, introduction: str = "to continue:") -> None:
        """Show the line that continues the run on standard error."""
        if any(_shown(value) != value for value in (getattr(self, name) for name in attrs.fields_dict(type(self)))):
            introduction = f"{introduction.removesuffix(':')} (put back what is not shown of its URL):"
        if session().json:
            note(introduction, command=self.line(*flags))
        else:
            note(introduction)
            note("  " + self.line(*flags))


def _shown(value: object) -> object:
    """Return a value of an option. A query or a password in a URL, which can be a key, is not shown."""
    return show_url(value) if isinstance(value, str) and "://" in value else value


def name_checkpoint(kind: str, webhook_id: str, target: str, selected: Mapping[str, Any]) -> str:
    """Return the name of a checkpoint file without its ending. The same line gets the same name.

    The limit is for one run, and does not change the name.
    """
    parts: list[object] = [target, *(value for name, value in sorted(selected.items()) if name != "limit")]
    digest = hashlib.blake2b(repr(parts).encode(errors="replace"), digest_size=4).hexdigest()
    return f"basiq-{kind}-{re.sub('[^A-Za-z0-9-]', '_', webhook_id)[:64]}-{digest}"


def report_row(report: Report | Plan) -> Mapping[str, Any]:
    """Return a report or a plan as JSON shows it: with the rate of a report."""
    row = as_row(report)
    rate = getattr(report, "rate", None)
    return row if rate is None else {**row, "rate": round(rate, 1)}


def report_details(report: Report | Plan) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of a report or a plan, with a line for each period in which a webhook was inactive."""
    yield from ((name, value) for name, value in count_details(report_row(report), "cursor", "inactive"))
    for period in report.inactive:
        yield "not active", f"{cell_text(period.since)} to {cell_text(period.until) if period.until else 'the end'}"


_TELL_EVERY = 60.0


class ProgressLine:
    """Shows the progress of a run as a status line.

    A note says when the target stops and starts to respond, and once a minute what the run waits for.
    """

    def __init__(self) -> None:
        self._down = False
        self._told = 0.0

    def __call__(self, now: Progress) -> None:
        """Show the progress of the run."""
        down = bool(now.down)
        if down != self._down:
            self._down, self._told = down, time.monotonic()
            if down:
                note(f"the target does not respond; one message is tried in {now.paused:.0f} s")
            else:
                note("the target responds again")
        elif now.paused and time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            why = f"which has been down for {now.down:.0f} s" if down else "which asked for a pause"
            note(f"waiting for the target, {why}; the next message is tried in {now.paused:.0f} s")
        live(draw_progress(now))


def draw_progress(now: Progress) -> RenderableType:
    """Return the progress of a run: with a bar and the time left if a plan was made."""
    done = now.handled + now.failed + sum(now.skipped.values())
    total = None if now.remaining is None else done + now.remaining
    words = [f"{done:,} done" if not total else f"{done:,}/{total:,}"]
    if now.failed:
        words.append(f"{now.failed:,} failed")
    words.append(f"{now.rate:,.0f}/s")
    if now.paused:
        words.append(f"paused for {now.paused:.0f} s{f', down for {now.down:.0f} s' if now.down else ''}")
    elif now.eta is not None:
        words.append(f"{_clock(now.eta)} left")
    return draw_bar(done, total, "  ".join(words))


def draw_bar(done: int, total: int | None, text: str) -> RenderableType:
    """Return a bar that is filled by a share, with a text beside it; without a total, only the text."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    shown = Text(text, no_wrap=True, overflow="crop")
    if not total:
        return shown
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(ProgressBar(total=total, completed=min(done, total), width=24), shown)
    return grid


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{whole // 60}:{whole % 60:02}"


# --- evidence: recover --report FILE ---


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
