"""``basiq-async listen --poll``: new messages of the history, shown and posted, without a public address."""

from __future__ import annotations

import json
import math
import os
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from .._redaction.text import amount
from .._work.inbox_calls import InboxCalls
from ..errors import ConfigurationError, ReplayError
from ..models import Message
from ..receiver import SQLiteInbox
from ..replay import HttpTarget, Replay, since
from ._inboxes import INBOX_TIMEOUT, inbox_file_of
from ._options import read_moment, read_secrets
from ._output import OutputClosedError, OutputError, live, say
from ._results import Output
from ._run import follow_up, make_client
from ._runs import Watch
from ._showing import POLLED, ListenOptions, Showing

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import InboxEntry

_SLOWEST = 60.0
_CONCURRENCY = 8
_LONGEST_OUTAGE = 365 * 86_400.0
"""The longest outage of the service that the program waits for, in seconds: a year, so that it does not give up."""
_START = "listen start"
"""The note of the time of the first run's start: later runs must not skip the messages that were missed."""


class Polling(Showing):
    """Reads the new messages of a webhook, and posts them to a service if ``forward_to`` names one.

    This is a replay job, run again and again. Its inbox records which messages were shown, so that the next run begins
    with the messages that were missed. While no messages come, the time between requests grows to a minute.
    """

    def __init__(self, output: Output, options: ListenOptions, webhook_id: str) -> None:
        super().__init__(output, options, "accepted", "failed")
        if not math.isfinite(options.every):
            raise ConfigurationError("--every must be a finite number of seconds")
        self._webhook_id = webhook_id
        self._forwards = options.forward_to is not None
        self._secrets = read_secrets(options.secret_file) if self._forwards else []
        self._target: HttpTarget | None = None
        self._job: Replay | None = None
        """None before the start of the first run is known."""
        self._last: InboxEntry | None = None
        """The last entry of the quarantine that was shown."""
        self._under_way = self._unknown = 0
        self._watch = Watch()
        self._watch.begin("messages")

    async def run(self) -> None:
        """Poll until SIGINT or SIGTERM, or until the output's reader closes it."""
        options = self._options
        async with AsyncExitStack() as stack:
            basiq = await stack.enter_async_context(make_client())
            if options.forward_to is not None:
                target = HttpTarget(options.forward_to, self._secrets, connections=_CONCURRENCY)
                self._target = await stack.enter_async_context(target)
            slowest = max(_SLOWEST, options.every)
            say(
                f"polling: a message appears within {options.every:g} s while messages arrive, and within "
                f"{slowest:g} s after a quiet time; {60 / slowest:.0f} to {60 / options.every:.0f} requests per "
                "minute, and one token per hour"
            )

            async def poll() -> int:
                try:
                    if self._job is None:
                        self._job = await self._make_job(basiq, stack)
                    try:
                        report = await self._job.run(self._watch.on_progress)
                    finally:
                        await self._show_failed(self._job)
                    self._tell_unknown(report.skipped.get("unknown", 0))
                    return report.handled + report.failed
                except _NotShownError:
                    return 1
                finally:
                    live(f"{self.status}; Ctrl-C ends")

            stack.enter_context(self.until_end(lambda: self._under_way > 0))
            await follow_up(poll, first=options.every, longest=slowest, stop=self._done)
        if failed := self._counts["failed"]:
            what = amount(failed, "message was", "messages were")
            say(f"{what} not accepted; 'basiq-async messages resend' posts again what is named")

    def _tell_unknown(self, count: int) -> None:
        """Say that Basiq does not tell of messages whether they are new, if there are more than before."""
        if count > self._unknown:
            what, it = amount(count, "message was", "messages were"), "it is" if count == 1 else "they are"
            say(f"Basiq does not tell when {what} attempted, so {it} not shown; 'basiq-async messages list' has them")
        self._unknown = count

    async def _make_job(self, basiq: BasiqClient, stack: AsyncExitStack) -> Replay:
        options = self._options
        path = options.inbox or f"basiq-listen-{inbox_file_of(self._webhook_id, options.forward_to or '')[6:]}"
        start, inbox = None, SQLiteInbox(path, remember=None)
        calls = InboxCalls(inbox, INBOX_TIMEOUT)
        if os.path.lexists(path):  # noqa: ASYNC240  # once, before the work begins
            await stack.enter_async_context(inbox)
            if (await calls.noted()).live():
                raise ConfigurationError("this is the inbox of a service: pass a file that is kept for what was shown")
            start = await calls.note(_START)
        if start is None:  # a run that ends before it is known leaves no file
            start = str(await read_moment(basiq, options.since or "0s", "--since"))
            await stack.enter_async_context(inbox)
            await calls.set_note(_START, start)
        async for entry in calls.read_quarantine():
            self._last = entry
        return Replay(
            basiq,
            self._webhook_id,
            self,
            inbox=inbox,
            where=since(datetime.fromisoformat(start)),
            concurrency=_CONCURRENCY,
            max_failures=None,
            max_pause=_LONGEST_OUTAGE,
        )

    async def _show_failed(self, job: Replay) -> None:
        """Show what was quarantined since the last time: a failed attempt alone may still be tried again."""
        while entries := await job.quarantined(after=self._last):
            for entry in entries:
                self._last = entry
                with suppress(_NotShownError):
                    self.finish(Message(entry.delivery_id, json.loads(entry.body)), entry.error)

    async def deliver(self, message: Message) -> None:
        """Post a message, and show it if it was accepted. See ``Target``."""
        self._under_way += 1
        try:
            if self._target is not None:
                await self._target.deliver(message)
        finally:
            self._under_way -= 1
        self.finish(message)

    def finish(self, message: Message, error: str | None = None) -> None:
        """Show a message that was accepted, or with an error one that was not, and will not be tried again."""
        self._counts["failed" if error else "accepted"] += 1
        result = "failed" if error else "forwarded" if self._forwards else "received"
        row: dict[str, object] = {
            "result": result,
            "message_id": message.id,
            "event_type_id": message.event_type_id,
            "event_id": message.event_id,
            "webhook_id": message.webhook_id,
            "error": error,
        }
        try:
            self.show(row, POLLED, result, message.event_type_id, message.id, error)
        except (OutputClosedError, OutputError) as exc:
            self.fail(exc)
        if self._failure is not None and not self._forwards:
            raise _NotShownError("this message was not shown")

    def stop(self) -> bool:
        """See ``Showing``."""
        if self._job is not None:
            self._job.stop()
        return super().stop()


class _NotShownError(ReplayError):
    """A message was not delivered, or its output was not shown. It is not recorded, so the next run begins with it."""
