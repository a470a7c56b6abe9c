"""``basiq-async listen --poll``: read new messages from the history as they appear, without a public address."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import typer

from .._storage.private_files import publish_private
from .._wire.order import read_newest
from ..errors import APIError, ConfigurationError, NotFoundError, ReplayError, TransportError
from ..models import Message
from ..replay import (
    DeadLetter,
    HttpTarget,
    Progress,
    Replay,
    SQLiteCheckpoint,
    Target,
    Where,
    message_time,
)
from ..replay import event_types as of_types
from ..replay.protocol import Commit
from ._options import check_event_types, duration
from ._output import OutputClosedError, OutputError, flush, is_terminal, live, note, session, write, write_lines
from ._results import ABSENT, Output
from ._run import make_client, stopping, wait_patiently
from ._serving import watching_reader

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ._listen import ListenOptions

_SLOWEST = 60.0
_GROWTH = 1.5
_CONCURRENCY = 8
_LONGEST_OUTAGE = 365 * 86_400.0
"""The longest outage of the service that the program waits for, in seconds: a year, so that it does not give up."""

_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


@attrs.frozen(kw_only=True)
class Polled:
    """A message that ``listen --poll`` read."""

    result: str
    message_id: str
    event_type_id: str | None
    event_id: str | None
    webhook_id: str | None
    error: str | None
    body: Any = ABSENT


class Polling:
    """Reads the new messages of one or all webhooks, and posts them to a service if ``forward_to`` names one.

    Each webhook is a replay job. Its checkpoint remembers which messages were handled, so that the next run begins
    with the messages that were missed. While no messages come, the time between requests grows to a minute.
    """

    def __init__(self, output: Output, options: ListenOptions, secrets: Sequence[str]) -> None:
        forward_to, since, every = options.forward_to, options.since, options.every
        if options.webhook_id is None and options.checkpoint is not None:
            raise ConfigurationError("--checkpoint is for one webhook: with --all, each webhook has its own file")
        if not math.isfinite(every):
            raise ConfigurationError("--every must be a finite number of seconds")
        if session().stdout_closed and forward_to is None:
            raise ConfigurationError("standard output is closed: nobody could see the messages")
        self._output = output
        self._webhook_id = options.webhook_id
        self._forward_to = forward_to
        self._secrets = secrets
        self._event = options.event
        self._back = duration(since, "--since") if since is not None else timedelta()
        self._every = every
        self._checkpoint = options.checkpoint
        self._body = options.body
        self._stop = asyncio.Event()
        self._failure: Exception | None = None
        self._jobs: list[Replay] = []
        self._limit = options.limit
        self._under_way: set[str] = set()
        """The ids of messages whose delivery has begun and has not ended."""
        self._counts = {"accepted": 0, "failed": 0}
        self._down = False
        self._patience = False

    async def run(self) -> None:
        """Poll until SIGINT or SIGTERM, until the limit is reached, or until the output's reader closes it."""
        async with AsyncExitStack() as stack:
            basiq = await stack.enter_async_context(make_client())
            await check_event_types(basiq, self._event)
            inner: HttpTarget | None = None
            if self._forward_to is not None:
                inner = await stack.enter_async_context(
                    HttpTarget(self._forward_to, self._secrets, connections=_CONCURRENCY)
                )
            ids = [self._webhook_id] if self._webhook_id else [each.id async for each in basiq.webhooks.list()]
            if not ids:
                raise ConfigurationError("there is no webhook to poll")
            self._say_what_it_costs(len(ids))
            with (
                stopping(self._end, busy=lambda: bool(self._under_way)) as received,
                watching_reader(self._reader_left),
            ):
                try:
                    for webhook_id in ids:
                        await self._add(basiq, webhook_id, inner)
                    await self._poll()
                except asyncio.CancelledError:
                    if len(received) < 2:
                        raise
                    raise typer.Exit(128 + received[-1]) from None
        live(None)
        if is_terminal(sys.stderr):
            note(f"{self._counts['accepted']:,} accepted, {self._counts['failed']:,} failed", **self._counts)
        if self._failure is not None:
            raise self._failure
        if self._counts["failed"]:
            note(
                f"{self._counts['failed']:,} messages were not accepted; 'basiq-async messages resend' posts them again"
            )

    async def _add(self, basiq: BasiqClient, webhook_id: str, inner: HttpTarget | None) -> None:
        """Add the job of a webhook. While Basiq cannot be reached, wait and try again."""
        path = self._checkpoint or _default_path(webhook_id, self._forward_to)
        start = _read_start(path)
        wait = self._every
        while start is None and not self._stop.is_set():
            try:
                start = _remember_start(path, await self._find_start(basiq, webhook_id))
            except (APIError, TransportError) as exc:
                wait = wait_patiently(exc, wait, _SLOWEST)
                await self._wait(wait)
        if start is None:
            return
        self._jobs.append(
            Replay(
                basiq,
                webhook_id,
                _Shown(inner, self),
                checkpoint=_Announcing(path, self),
                where=_chosen(start, self._event),
                concurrency=_CONCURRENCY,
                max_failures=None,
                max_pause=_LONGEST_OUTAGE,
            )
        )

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.9, 1.0)):
                await self._stop.wait()

    async def _find_start(self, basiq: BasiqClient, webhook_id: str) -> Start:
        """Return the start of the first run: after the newest message, or ``--since`` ago by the API's clock."""
        newest: datetime | None = None
        ids: set[str] = set()

        def see(message: Message) -> None:
            nonlocal newest
            time = message_time(message)
            if time is not None and (newest is None or time >= newest):
                if time != newest:
                    ids.clear()
                newest = time
                ids.add(message.id)

        live(f"finding the newest message of {webhook_id}")
        await read_newest(aiter(basiq.messages.list(webhook_id)), 1, on_read=see)
        live(None)
        if self._back:
            # By the API's clock, as the times of its messages are. These have whole seconds.
            return Start((basiq._now() - self._back).replace(microsecond=0))
        return Start(newest or _LONG_AGO, frozenset(ids))

    async def _poll(self) -> None:
        wait = self._every
        while not self._stop.is_set():
            handed_out = 0
            try:
                for job in list(self._jobs):
                    if not self._stop.is_set():
                        handed_out += await self._read(job)
                wait = self._every if handed_out else min(max(_SLOWEST, self._every), wait * _GROWTH)
            except _NotShownError:
                wait = self._every
            except (APIError, TransportError) as exc:
                wait = wait_patiently(exc, wait, _SLOWEST)
            self._show_live(wait)
            await self._wait(wait)

    async def _read(self, job: Replay) -> int:
        """Deliver the new messages of one webhook, and return how many there were."""
        try:
            report = await job.run(self._tell_outage)
        except NotFoundError:
            if len(self._jobs) == 1:
                raise
            self._jobs.remove(job)
            note(f"the webhook {job.job.webhook_id} was deleted; the others are polled")
            return 0
        return report.handled + report.failed

    def begin(self, message: Message) -> None:
        """Record that the delivery of a message begins. Raises ``_NotShownError`` if the program is about to end."""
        shown = sum(self._counts.values())
        if self._stop.is_set() or (self._limit and shown + len(self._under_way - {message.id}) >= self._limit):
            raise _NotShownError("the program is ending: this message will be the first of the next run")
        self._under_way.add(message.id)

    def finish(self, message: Message) -> None:
        """Show a message that was accepted."""
        self._under_way.discard(message.id)
        self._show(message, None)
        if self._failure is not None and self._forward_to is None:
            raise _NotShownError("nobody saw this message")

    def give_up(self, dead_letter: DeadLetter) -> None:
        """Show a message that was not accepted and will not be tried again."""
        self._under_way.discard(dead_letter.id)
        self._show(Message(dead_letter.id, dead_letter.message), dead_letter.error)

    def _show(self, message: Message, error: str | None) -> None:
        self._counts["failed" if error else "accepted"] += 1
        result = "failed" if error else "forwarded" if self._forward_to is not None else "received"
        try:
            if self._output.as_json:
                polled = Polled(
                    result=result,
                    message_id=message.id,
                    event_type_id=message.event_type_id,
                    event_id=message.event_id,
                    webhook_id=message.webhook_id,
                    error=error,
                    body=dict(message.payload) if self._body else ABSENT,
                )
                self._output.one(polled)
            else:
                words = [result, message.event_type_id, message.id, error]
                write("  ".join(str(word) for word in words if word))
                if self._body:
                    write_lines(json.dumps(dict(message.payload), indent=2).splitlines())
            flush()
        except (OutputClosedError, OutputError) as exc:
            self._fail(exc)
        if self._limit and sum(self._counts.values()) >= self._limit:
            self._end()

    def _say_what_it_costs(self, webhooks: int) -> None:
        fastest, slowest = 60 / self._every * webhooks, 60 / max(_SLOWEST, self._every) * webhooks
        note(
            f"polling {webhooks} {'webhook' if webhooks == 1 else 'webhooks'}: a message appears within "
            f"{self._every:g} s while messages arrive, and within {max(_SLOWEST, self._every):g} s after a quiet time; "
            f"{slowest:.0f} to {fastest:.0f} requests per minute, and one token per hour"
        )

    def _tell_outage(self, now: Progress) -> None:
        if bool(now.down) != self._down:
            self._down = bool(now.down)
            note(
                f"the service does not respond; next attempt in {now.paused:.0f} s"
                if self._down
                else "the service responds again"
            )
        patience = now.paused > 0 and not now.down
        if patience and not self._patience:
            note(f"the service asked for a pause; next attempt in {now.paused:.0f} s")
        self._patience = patience

    def _show_live(self, wait: float) -> None:
        live(
            f"{self._counts['accepted']} accepted, {self._counts['failed']} failed; "
            f"next request in {wait:.0f} s; Ctrl-C ends"
        )

    def _end(self) -> None:
        self._stop.set()
        for job in self._jobs:
            job.stop()

    def _reader_left(self) -> None:
        self._fail(OutputClosedError())

    def _fail(self, exc: Exception) -> None:
        self._failure = self._failure or exc
        self._end()


class _NotShownError(ReplayError):
    """A message was not delivered, or nobody saw its output. It is not recorded, so the next run begins with it."""


class _Shown:
    """A target that shows each message that is accepted."""

    def __init__(self, inner: Target | None, polling: Polling) -> None:
        self._inner = inner
        self._polling = polling

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        self._polling.begin(message)
        found = await self._inner.deliver(message) if self._inner is not None else None
        self._polling.finish(message)
        return found

    async def flush(self) -> None:
        """See ``Target``."""
        if self._inner is not None:
            await self._inner.flush()


class _Announcing(SQLiteCheckpoint):
    """A checkpoint that shows each dead letter when it is saved: a failed attempt alone may still be retried."""

    def __init__(self, path: str, polling: Polling) -> None:
        super().__init__(path)
        self._polling = polling

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        await super().save(commit)
        for dead_letter in commit.dead:
            self._polling.give_up(dead_letter)


@dataclass(frozen=True)
class Start:
    """The start of the first run. Messages before ``time``, and the messages ``ids`` at ``time``, are not new."""

    time: datetime
    ids: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return json.dumps({"time": self.time.isoformat(), "ids": sorted(self.ids)})

    @classmethod
    def read(cls, text: str) -> Start:
        """Parse the text of ``str(start)``. Raises ``ValueError``."""
        found = json.loads(text)
        if not isinstance(found, dict) or not isinstance(found.get("ids"), list):
            raise ValueError("no start")
        return cls(datetime.fromisoformat(str(found.get("time"))), frozenset(map(str, found["ids"])))


def _chosen(start: Start, event: Sequence[str] | None) -> Where:
    def since_first_start(message: Message) -> bool:
        time = message_time(message)
        return time is None or time > start.time or (time == start.time and message.id not in start.ids)

    where = Where(since_first_start)
    return where & of_types(*event) if event else where


def _default_path(webhook_id: str, forward_to: str | None) -> str:
    import hashlib

    digest = hashlib.blake2b((forward_to or "").encode(errors="replace"), digest_size=4).hexdigest()
    return f"basiq-listen-{re.sub('[^A-Za-z0-9-]', '_', webhook_id)[:64]}-{digest}.db"


def _read_start(path: str) -> Start | None:
    """Return the start of the first run with this checkpoint; None if this is the first run."""
    file = Path(path + ".start")
    try:
        return Start.read(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise ConfigurationError(f"{str(file)!r} cannot be read: to start again, remove it and {path!r}") from None


def _remember_start(path: str, start: Start) -> Start:
    """Store and return the start of the first run, unless one is stored: later runs must not skip missed messages."""
    file = Path(path + ".start")
    try:
        if publish_private(file, str(start).encode()):
            return start
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not a path"
        raise ConfigurationError(f"{str(file)!r} cannot be written: {reason}") from None
    return _read_start(path) or start
