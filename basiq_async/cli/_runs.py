"""What ``replay`` and ``recover`` share: the object of their options, the display of progress, and the end of a run."""

from __future__ import annotations

import glob
import hashlib
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TextIO

import attrs
import typer

from .._redaction.text import json_line
from .._storage.private_files import open_new, open_private
from .._wire.hosts import show_place
from ..errors import CheckpointError, ConfigurationError
from ._options import (
    EndpointSecretFile,
    EventPattern,
    Json,
    Since,
    Until,
    WebhookId,
    Yes,
    explain,
    option,
    program_line,
    selection,
)
from ._output import OutputError, live, note, session
from ._results import Column, Output, View, as_row, cell_text, count_details
from ._run import confirm, stopping

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..distributed import Job
    from ..models import Message
    from ..replay import DeadLetter, Plan, Progress, Replay, Report, Target, Where

    HasDeadLetters = Replay | Job


To = Annotated[str | None, option("The endpoint to post to. Deliveries are signed as Basiq signs them.", metavar="URL")]
_FOR_ONE_RUN = frozenset(
    {"webhook_id", "dry_run", "plan", "retry_dead", "list_dead", "export_dead", "drop_dead", "ui", "yes"}
)
"""The options that are not part of the line that continues a run."""


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of a replay and of a recovery."""

    command: ClassVar[str]

    webhook_id: WebhookId
    to: To = None
    since: Since = None
    until: Until = None
    event: EventPattern = None
    rate: Annotated[float | None, option("Maximum messages per second.")] = None
    concurrency: int | None = None
    max_pause: Annotated[
        float, typer.Option(metavar="N", help="Stop when the target has been down, or asks for a pause, for N seconds.")
    ] = 3_600.0
    checkpoint: str | None = None
    retry_dead: Annotated[bool, option("Deliver the messages that failed in earlier runs again.", "--retry-dead")] = (
        False
    )
    list_dead: Annotated[bool, option("Show the messages that failed in earlier runs.", "--list-dead")] = False
    export_dead: Annotated[
        str | None, option("Write the messages that failed to a new file, one per line.", metavar="FILE")
    ] = None
    drop_dead: Annotated[list[str] | None, option("Drop a message that failed; may be repeated.", metavar="ID")] = None
    secret_file: EndpointSecretFile = None
    yes: Yes = False
    json: Json = None

    @property
    def place(self) -> str:
        """The checkpoint. A run has one that is named after the job if no option names one."""
        return self.checkpoint or ""

    @property
    def looks(self) -> bool:
        """Whether the command only looks at dead letters, and delivers nothing."""
        return self.list_dead or self.export_dead is not None or bool(self.drop_dead)

    @property
    def selected(self) -> Mapping[str, Any]:
        """The options that select messages. With the webhook and the target, they name the checkpoint."""
        return {"since": self.since, "until": self.until, "event": self.event}

    def confirm_drop(self) -> None:
        """Ask before messages are dropped."""
        if self.drop_dead:
            confirm(f"Drop {len(set(self.drop_dead)):,} of the messages that failed for good?", yes=self.yes)

    def where(self) -> Where | None:
        """Return the filter for the options; None if they select everything. Raises ``ConfigurationError``."""
        return selection(**{name: value for name, value in self.selected.items() if name != "filter"})

    def line(self, *flags: str) -> str:
        """Return the line that continues the run, with further flags. An option that has its default is left out."""
        options: dict[str, object] = {
            "--" + field.name.replace("_", "-"): _shown(field.name, value)
            for field in attrs.fields(type(self))
            if field.name not in _FOR_ONE_RUN and (value := getattr(self, field.name)) != field.default
        }
        options |= {
            "--checkpoint": _shown("checkpoint", self.place),
            "--json": self.json is not None,
            **dict.fromkeys(flags, True),
        }
        return program_line(self.command, self.webhook_id, options=options)

    @contextmanager
    def stopping(self, stop: Callable[[], None], *flags: str) -> Iterator[list[int]]:
        """As the function ``stopping``; a run that a second signal ends shows the line that continues it."""
        import asyncio

        with stopping(stop) as stopped:
            try:
                yield stopped
            except asyncio.CancelledError:
                if stopped:
                    live(None)
                    self.show_line(*flags)
                raise
            finally:
                live(None)

    def show_line(self, *flags: str, introduction: str = "to continue:") -> None:
        """Show the line that continues the run on standard error."""
        options = {**attrs.asdict(self, recurse=False), "checkpoint": self.place}
        if any(_shown(name, value) != value for name, value in options.items()):
            introduction = f"{introduction.removesuffix(':')} (put back what is not shown of its URL):"
        if session().json:
            note(introduction, command=self.line(*flags))
        else:
            note(introduction)
            note("  " + self.line(*flags))


def _shown(name: str, value: object) -> object:
    """Return a value of an option. A query or a password in a URL, which can be a key, is not shown."""
    return show_place(value) if isinstance(value, str) and name in ("to", "checkpoint", "inbox") else value


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
                note(f"the target does not respond; one message is tried in {math.ceil(now.paused)} s")
            else:
                note("the target responds again")
        elif now.paused and time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            why = f"which has been down for {now.down:.0f} s" if down else "which asked for a pause"
            note(f"waiting for the target, {why}; the next message is tried in {math.ceil(now.paused)} s")
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
            descriptor = open_private(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"--report {file!r} cannot be written: {explain(exc)}") from None
        self._file = os.fdopen(descriptor, "a", encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, what: str, **more: Any) -> None:
        """Append a line with the time."""
        if self._file is not None:
            self._file.write(json_line({what: datetime.now(UTC), **more}, ascii=True) + "\n")

    def watch(self, replay: Replay) -> None:
        """Write the id of each message that the target of a replay accepts."""
        if self._file is not None:
            replay._observe(_Watched(self, replay.job.source))

    def flush(self) -> None:
        """Pass the lines to the operating system."""
        if self._file is not None:
            self._file.flush()


class _Watched:
    """Observes a replay by its target: each message that it accepts is written."""

    def __init__(self, evidence: Evidence, source: str) -> None:
        self._evidence = evidence
        self._source = source

    def wrap(self, target: Target) -> Target:
        """Watch this target."""
        self._inner = target
        return self

    def begin(self) -> None:
        """Do nothing: the beginning of the recovery is written."""

    def on_progress(self, progress: Progress) -> None:
        """Do nothing."""

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


# --- dead letters ---

_PAGE = 250


def _read_type(dead: DeadLetter) -> str | None:
    from ..models import Message

    return Message(dead.id, dead.message).event_type_id


_DEAD_LETTER: View[DeadLetter] = View(
    "id error failed_at event_type_id",
    Column("ID", "id"),
    Column("FAILED AT", "failed_at"),
    Column("ERROR", "error", flexible=20),
    Column("EVENT TYPE", "event_type_id", optional=True),
    event_type_id=_read_type,
)


async def look_at_dead_letters(jobs: Sequence[HasDeadLetters], options: RunOptions) -> int:
    """Show, export and drop dead letters as the options say. Return 1 if they were shown or dropped and some are left.

    An export that succeeded returns 0.
    """
    if options.list_dead:
        await list_dead_letters(jobs, Output(options.json))
    if options.export_dead is not None:
        await export_dead_letters(jobs, options.export_dead)
    if options.drop_dead:
        await drop_dead_letters(jobs, options.drop_dead)
    return 1 if (options.list_dead or options.drop_dead) and await has_dead_letters(jobs) else 0


async def list_dead_letters(jobs: Sequence[HasDeadLetters], output: Output) -> int:
    """List the dead letters, or write a note that there are none. Return their number."""
    count = 0
    async for page in _pages(jobs):
        output.rows(page, _DEAD_LETTER)
        count += len(page)
    if not count:
        note("there are no dead letters")
    return count


async def export_dead_letters(jobs: Sequence[HasDeadLetters], path: str) -> None:
    """Write the dead letters to a new file that only its owner can read, one per line. The jobs keep them."""
    try:
        descriptor = open_new(path)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the new file {path!r} cannot be made: {explain(exc)}") from None
    count = 0
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            async for page in _pages(jobs):
                for each in page:
                    line = {"number": each.number, "id": each.id, "error": each.error, "failedAt": each.failed_at}
                    file.write(json_line({**line, "message": each.message}, ascii=True) + "\n")
                count += len(page)
    except BaseException as exc:
        os.unlink(path)
        if isinstance(exc, OSError):
            raise OutputError(f"{path!r} cannot be written: {exc.strerror}") from None
        raise
    note(f"{count:,} messages written to {path!r}")


async def drop_dead_letters(jobs: Sequence[HasDeadLetters], ids: Sequence[str]) -> None:
    """Remove the dead letters with these ids. Raises ``ConfigurationError`` if an id is not that of a dead letter."""
    dropped = sum([await job.drop_dead(ids) for job in jobs])
    note(f"{dropped:,} dead letters dropped")
    if missing := len(set(ids)) - dropped:
        raise ConfigurationError(f"{missing:,} of the ids are not ids of dead letters")


async def has_dead_letters(jobs: Sequence[HasDeadLetters]) -> bool:
    """Return whether one of the jobs has dead letters."""
    return any([await job.dead_letters(limit=1) for job in jobs])


async def _pages(jobs: Sequence[HasDeadLetters]) -> AsyncIterator[Sequence[DeadLetter]]:
    for job in jobs:
        after = 0
        while page := await job.dead_letters(after=after, limit=_PAGE):
            yield page
            after = page[-1].number


def find_recoveries(webhook_id: str) -> list[str]:
    """Return the beginnings of the names of the files that recoveries of a webhook left in this folder."""
    beginning = name_checkpoint("recover", webhook_id, "", {}).rpartition("-")[0]
    return [file.removesuffix("-messages.db") for file in sorted(glob.glob(f"{beginning}-*-messages.db"))]


async def tell_of_recoveries(webhook_id: str) -> bool:
    """Write a note for each recovery of a webhook in this folder that keeps dead letters. Return whether there is one.

    A recovery of which only a part is known, because it selects messages, is named too.
    """
    from ..replay import SQLiteCheckpoint, recovered_by

    found = False
    for base in find_recoveries(webhook_id):
        file = f"{base}-messages.db"
        try:
            recovered = await recovered_by(webhook_id, SQLiteCheckpoint(file), SQLiteCheckpoint(f"{base}-events.db"))
            count = f"{recovered.dead_letters:,}"
        except CheckpointError:
            count = "perhaps some"
        if count == "0":
            continue
        found = True
        line = program_line("recover", webhook_id, options={"--checkpoint": base, "--list-dead": True})
        note(f"recover keeps {count} dead letters in {file!r}; list them with: {line}")
    return found
