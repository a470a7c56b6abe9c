"""``basiq-async listen --poll``: new messages of the history, shown and posted, without a public address."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from .._wire.order import read_newest
from .._work.limits import inbox_limit
from .._work.quarantine import read_quarantine
from ..errors import ConfigurationError, NotFoundError, ReplayError
from ..models import Message
from ..receiver import SQLiteInbox
from ..replay import HttpTarget, Replay, Target, event_types, message_time, since
from ..replay.shared import message_key
from ._follow import follow_up
from ._inboxes import INBOX_TIMEOUT, record_file
from ._options import check_event_types, duration, read_secrets
from ._output import OutputClosedError, OutputError, live, note
from ._results import Row, View
from ._run import make_client
from ._runs import Watch
from ._showing import ListenOptions, Showing

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import QuarantinedDelivery

_SLOWEST = 60.0
_CONCURRENCY = 8
_LONGEST_OUTAGE = 365 * 86_400.0
"""The longest outage of the service that the program waits for, in seconds: a year, so that it does not give up."""
_START = "listen start"
"""The note of the time of the first run's start: later runs must not skip the messages that were missed."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


_POLLED: View[Row] = View("result message_id event_type_id event_id webhook_id error body")


class Polling(Showing):
    """Reads the new messages of one or all webhooks, and posts them to a service if ``forward_to`` names one.

    Each webhook is a replay job. Its inbox records which messages were shown, so that the next run begins with the
    messages that were missed. While no messages come, the time between requests grows to a minute.
    """

    def __init__(self, options: ListenOptions) -> None:
        super().__init__(options, "accepted", "failed")
        if options.poll is None and options.inbox is not None:
            raise ConfigurationError("--inbox is for one webhook: with --all, each webhook has its own file")
        if not math.isfinite(options.every):
            raise ConfigurationError("--every must be a finite number of seconds")
        forwards = options.forward_to is not None
        self._secrets = read_secrets(options.secret_file, options.secret) if forwards else []
        self._back = duration(options.since, "--since") if options.since is not None else timedelta()
        self._jobs: dict[str, _Job | None] = {}
        """The job of each webhook; None before the start of its first run is known."""
        self._under_way: set[str] = set()
        """The ids of messages whose delivery has begun and has not ended."""
        self._watch = Watch()
        self._watch.begin("messages")

    async def run(self) -> None:
        """Poll until SIGINT or SIGTERM, until the limit is reached, or until the output's reader closes it."""
        options = self._options
        async with AsyncExitStack() as stack:
            basiq = await stack.enter_async_context(make_client())
            await check_event_types(basiq, options.event)
            target: HttpTarget | None = None
            if options.forward_to is not None:
                target = HttpTarget(options.forward_to, self._secrets, connections=_CONCURRENCY)
                await stack.enter_async_context(target)
            ids = [options.poll] if options.poll else [each.id async for each in basiq.webhooks.list()]
            if not ids:
                raise ConfigurationError("there is no webhook to poll")
            self._jobs = dict.fromkeys(ids)
            slowest = max(_SLOWEST, options.every)
            note(
                f"polling {len(ids)} {'webhook' if len(ids) == 1 else 'webhooks'}: a message appears within "
                f"{options.every:g} s while messages arrive, and within {slowest:g} s after a quiet time; "
                f"{60 / slowest * len(ids):.0f} to {60 / options.every * len(ids):.0f} requests per minute, and one "
                "token per hour"
            )

            async def poll() -> int:
                return sum([await self._read(basiq, each, target, stack) for each in list(self._jobs)])

            stack.enter_context(self.until_end(lambda: bool(self._under_way)))
            await follow_up(poll, first=options.every, longest=slowest, stop=self._done)
        if failed := self._counts["failed"]:
            note(f"{failed:,} messages were not accepted; 'basiq-async messages resend' posts them again")

    async def _read(self, basiq: BasiqClient, webhook_id: str, target: HttpTarget | None, stack: AsyncExitStack) -> int:
        """Deliver the new messages of one webhook, and return how many there were."""
        if self._done.is_set():
            return 0
        try:
            job = self._jobs[webhook_id]
            if job is None:
                job = self._jobs[webhook_id] = await self._make_job(basiq, webhook_id, target, stack)
            try:
                report = await job.replay.run(self._watch.on_progress)
            finally:
                await self._show_failed(webhook_id, job)
            return report.handled + report.failed
        except _NotShownError:
            return 1
        except NotFoundError:
            if len(self._jobs) == 1:
                raise
            del self._jobs[webhook_id]
            note(f"the webhook {webhook_id} was deleted; the others are polled")
            return 0
        finally:
            live(f"{self.status}; Ctrl-C ends")

    async def _make_job(
        self, basiq: BasiqClient, webhook_id: str, target: HttpTarget | None, stack: AsyncExitStack
    ) -> _Job:
        options = self._options
        path = options.inbox or f"basiq-listen-{record_file(webhook_id, options.forward_to or '')[6:]}"
        start, inbox = None, SQLiteInbox(path, remember=None)
        if os.path.lexists(path):  # noqa: ASYNC240  # once, before the work begins
            await stack.enter_async_context(inbox)
            start = await inbox.note(_START)
        if start is None:  # a run that ends before it is known leaves no file
            start, keys = await self._find_start(basiq, webhook_id)
            await stack.enter_async_context(inbox)
            async with inbox_limit(2 * INBOX_TIMEOUT):
                await inbox.complete(keys, "the start")
                await inbox.set_note(_START, start)
        where = since(datetime.fromisoformat(start))
        replay = Replay(
            basiq,
            webhook_id,
            _Shown(target, self),
            inbox=inbox,
            exclusive=True,
            where=where & event_types(*options.event) if options.event else where,
            concurrency=_CONCURRENCY,
            max_failures=None,
            max_pause=_LONGEST_OUTAGE,
        )
        job = _Job(replay, inbox)
        async for entry in read_quarantine(inbox, webhook_id, timeout=INBOX_TIMEOUT):
            job.last = entry
        return job

    async def _show_failed(self, webhook_id: str, job: _Job) -> None:
        """Show what was set aside since the last time: a failed attempt alone may still be tried again."""
        async for entry in read_quarantine(job.inbox, webhook_id, timeout=INBOX_TIMEOUT, after=job.last):
            job.last = entry
            with suppress(_NotShownError):
                self.finish(Message(entry.delivery_id, json.loads(entry.body)), entry.error)

    async def _find_start(self, basiq: BasiqClient, webhook_id: str) -> tuple[str, Sequence[str]]:
        """Return when the messages that are new begin, and the keys of those of that moment that are not new.

        That is after the newest message, or ``--since`` ago by the API's clock.
        """
        live(f"finding the newest message of {webhook_id}")
        keys: list[str] = []
        latest = _LONG_AGO

        def see(message: Message) -> None:
            nonlocal latest, keys
            time = message_time(message) or _LONG_AGO
            if time > latest:
                latest, keys = time, []
            if time == latest:
                keys.append(message_key(message.raw, webhook_id=webhook_id))

        await read_newest(aiter(basiq.messages.list(webhook_id)), 1, on_read=see)
        if self._back:
            # By the API's clock, as the times of its messages are. These have whole seconds.
            return (basiq._now() - self._back).replace(microsecond=0).isoformat(), []
        return latest.isoformat(), keys

    def begin(self, message: Message) -> None:
        """Record that the delivery of a message begins. Raises ``_NotShownError`` if the program is about to end."""
        limit, shown = self._options.limit, sum(self._counts.values())
        if self._done.is_set() or (limit and shown + len(self._under_way - {message.id}) >= limit):
            raise _NotShownError("the program is ending: this message will be the first of the next run")
        self._under_way.add(message.id)

    def finish(self, message: Message, error: str | None = None) -> None:
        """Show a message that was accepted, or with an error one that was not, and will not be tried again."""
        forwarding = self._options.forward_to is not None
        self._under_way.discard(message.id)
        self._counts["failed" if error else "accepted"] += 1
        result = "failed" if error else "forwarded" if forwarding else "received"
        row: dict[str, object] = {
            "result": result,
            "message_id": message.id,
            "event_type_id": message.event_type_id,
            "event_id": message.event_id,
            "webhook_id": message.webhook_id,
            "error": error,
        }
        if self._options.body:
            row["body"] = dict(message.payload)
        try:
            self.show(row, _POLLED, result, message.event_type_id, message.id, error)
        except (OutputClosedError, OutputError) as exc:
            self.fail(exc)
        if self._options.limit and sum(self._counts.values()) >= self._options.limit:
            self.stop()
        if self._failure is not None and not forwarding:
            raise _NotShownError("nobody saw this message")

    def stop(self) -> bool:
        """See ``Showing``."""
        for job in self._jobs.values():
            if job is not None:
                job.replay.stop()
        return super().stop()


@attrs.define
class _Job:
    """The job of a webhook. ``last``: the last entry of the quarantine that was shown."""

    replay: Replay
    inbox: SQLiteInbox
    last: QuarantinedDelivery | None = None


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
