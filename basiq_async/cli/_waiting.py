"""``basiq-async work`` and ``basiq-async inbox …``: deferred deliveries, and what an inbox knows of an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from .._redaction.text import amount
from .._wire.hosts import show_url
from .._work.failures import failure_text
from .._work.keys import inbox_key, key_of_post
from .._work.schedule import believed_due
from ..errors import ConfigurationError, InboxError
from ._command import Group, command
from ._inboxes import INBOX_TIMEOUT, InboxOptions, ReceiverOption, may_write, open_receiver, tell_newest
from ._options import LogLevel, OldestOption, YesOption
from ._output import live, say, show_logs
from ._quarantine import ID, entries_of, show_entries
from ._results import Column, Output, Row, View, cell_text, short_time
from ._run import DONE, WRONG, confirm, stopping

if TYPE_CHECKING:
    from .._work.inbox_calls import InboxCalls
    from ..client import BasiqClient
    from ..receiver import InboxEntry, Outcome

AnyIdsArgument = Annotated[list[str] | None, typer.Argument()]
_EVERY = 1.0
"""Seconds between two looks at the counts."""

inbox_app = Group("What the inbox of a service knows about an event.")


@command()
def work(
    receiver: ReceiverOption = None,
    log_level: LogLevel = "INFO",
) -> Awaitable[None]:
    """Handle the deferred deliveries of a receiver until SIGTERM or Ctrl-C.

    A service that has the receiver open does so itself; this is for any number of separate processes. After a signal
    nothing new begins, and handlers that run have the receiver's handler_timeout to end; a second one ends them at
    once. The rest waits in the inbox.
    """
    if receiver is None:
        raise ConfigurationError("name the receiver with --receiver MODULE:RECEIVER")
    show_logs(log_level, "%(asctime)s %(levelname)s %(name)s %(message)s")
    return _work(receiver)


async def _work(place: str) -> None:
    """Work until the first signal, and let what runs end. A second signal cancels it."""
    import asyncio

    from .._work.limits import inbox_limit

    counts = Counter[str]()
    end = asyncio.Event()

    def stop() -> bool:
        end.set()
        return True

    def status() -> str:
        return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing was handled"

    async with open_receiver(place) as receiver:
        async with inbox_limit(INBOX_TIMEOUT):
            await receiver.inbox.check()
        receiver._add_hook(lambda event: counts.update([event.result]))
        with stopping(stop):
            tasks = [asyncio.create_task(each) for each in (receiver.work(), end.wait())]
            try:
                while not (await asyncio.wait(tasks, timeout=_EVERY, return_when=asyncio.FIRST_COMPLETED))[0]:
                    live(f"{status()}; Ctrl-C ends")
                await receiver.aclose()
            finally:
                tasks[1].cancel()
                await asyncio.wait(tasks)
                live(None)
        await tasks[0]
    say(status(), **counts)


# --- what an inbox knows ---


_WAITING: View[InboxEntry] = View(
    "delivery_id event_type_id event_id since failing_since due failures error signed_at",
    ID,
    Column("EVENT TYPE", "event_type_id", flexible=12),
    Column("SINCE (UTC)", lambda entry: short_time(entry["since"])),
    Column("DUE (UTC)", lambda entry: short_time(entry["due"])),
    Column("FAILURES", "failures"),
    Column("ERROR", "error", flexible=24),
    Column("FAILS SINCE", lambda entry: short_time(entry["failing_since"]), optional=True),
    id_below=True,
    since=lambda entry: entry.quarantined_at,
    error=lambda entry: entry.error or None,
    due=lambda entry: _due(entry),
)


def _due(entry: InboxEntry) -> datetime | None:
    return believed_due(entry.due, datetime.now(UTC))


@inbox_app.add(shows=_WAITING)
async def waiting(output: Output, place: InboxOptions, limit: OldestOption = None) -> int:
    """Show the deferred deliveries that wait to be handled, oldest first: since when, and with which error they fail.

    The exit code is 1 if there are any.
    """
    async with place.open() as (calls, _):
        return await show_entries(calls.read_waiting(), output, limit, _WAITING, calls.inbox, empty="nothing waits")


_RETRIED: View[Outcome] = View(
    "delivery_id event_id result error",
    ID,
    Column("RESULT", "result"),
    Column("ERROR", lambda each: each["error"] or "", flexible=24),
    delivery_id=lambda done: done.delivery and done.delivery.id,
    event_id=lambda done: done.delivery and done.delivery.event_id,
    result=lambda done: done.result.value,
    error=lambda done: None if done.error is None else failure_text(done.error),
)


@inbox_app.add(shows=_RETRIED)
async def retry(output: Output, ids: AnyIdsArgument = None, receiver: ReceiverOption = None) -> int:
    """Pass the deferred deliveries that wait to their handlers now, after a fix, though they are not due.

    One after the other, oldest first. What fails waits as before. The exit code is 1 if anything that was tried waits.

    ids: The ids of deliveries or events; all by default.
    """
    if receiver is None:
        raise ConfigurationError("name the receiver with --receiver MODULE:RECEIVER")
    async with open_receiver(receiver) as found:
        outcomes = await found.retry_waiting(ids or None)
        output.rows(outcomes, _RETRIED)
        named = {
            id for done in outcomes if done.delivery is not None for id in (done.delivery.id, done.delivery.event_id)
        }
        if missing := {*(ids or ())} - named:
            listed = ", ".join(sorted(missing))
            raise ConfigurationError(f"none waits with the id {listed}; 'basiq-async inbox waiting' shows what does")
        if not outcomes:
            say("nothing waits")
        return DONE if {done.result.value for done in outcomes} <= {"handled", "duplicate"} else WRONG


@inbox_app.add(View("known_since last_recorded webhooks written"))
async def check(place: InboxOptions) -> Row:
    """Check that an inbox can be read and written. Show since when it knows what was handled, and of which webhooks.

    `last_recorded` is when it last recorded something: a copy, or a restored one, may lack what came last. A file
    that this user cannot write is only read: `written` is then false.
    """
    async with place.open() as (calls, _):
        since, newest = await calls.known_since(), await tell_newest(calls.inbox)
        webhooks = list((await calls.noted()).webhooks)
        if not (written := may_write(calls.inbox)):
            say("this user cannot write the inbox's file, so writing was not tried")
    if written:  # opened again: what is only looked at cannot be written
        async with place.open(write=True) as (calls, _):
            await calls.check()
    return {"known_since": since, "last_recorded": newest, "webhooks": webhooks, "written": written}


@inbox_app.add(View("joined webhooks waiting quarantined"))
async def join(basiq: BasiqClient, webhook_id: str, place: InboxOptions, yes: YesOption = False) -> Row:
    """Let a webhook deliver into the inbox of another one, whose place it took. Shows what is there, and asks first.

    An inbox is one service at one Basiq account. What waits in it, and what is in its quarantine, is then handled by
    the service of this webhook. For another service, pass an inbox of its own instead: no question is needed for that.

    webhook_id: The webhook that took the place of another one.
    """
    webhook = await basiq.webhooks.get(webhook_id)
    async with place.open(write=True, joins=True) as (calls, _):
        try:
            noted = (await calls.noted()).webhooks
        except InboxError as exc:
            say(str(exc))
            noted = {}
        waiting, quarantined = await calls.count_waiting(), await calls.count_quarantined()
        if webhook_id not in noted:
            listed = {each.id: each.url async for each in basiq.webhooks.list()}
            for each, found in noted.items():
                since = "" if found.since is None else f", with live deliveries since {cell_text(found.since)}"
                url = f"at {show_url(listed[each])}" if each in listed else "which this API key does not list"
                say(f"the inbox is of the webhook {each}, {url}{since}")
            await tell_newest(calls.inbox)
            waits = amount(waiting.count, "delivery waits", "deliveries wait")
            say(f"{waits} in it, and {entries_of(quarantined)} in its quarantine")
            whose = f"{webhook_id}, {webhook.name or 'without a name'}, at {show_url(webhook.url)}"
            confirm(f"Is {whose}, of the same service, and handles them from now on?", yes=yes)
            noted = (await calls.join(webhook_id, webhook.name, basiq._api.account)).webhooks
    return {"joined": webhook_id, "webhooks": [*noted], "waiting": waiting.count, "quarantined": quarantined}


_STATE = View[Row]("event_id event_type_id job state since due error failures unended last_recorded")


@inbox_app.add(shows=_STATE)
async def get(output: Output, event_id: str, place: InboxOptions) -> int:
    """Show whether an event was handled, waits to be handled, is in the quarantine, or is unknown to the inbox.

    For one that waits, `due` is the time of the next attempt, and `failures` the number of those that failed. `unended`
    is the number of attempts without an end, also of an event that is not handled yet: their process was killed, or
    hung. Only an inbox in a SQL database keeps the time at which it was handled. The exit
    code is 0 if it was handled, and 1 if not.

    event_id: The event's id.
    """
    async with place.open() as (calls, _):
        noted = await calls.noted()
        # A job's: what it posted, the service may have handled.
        jobs = () if noted.live() else await calls.jobs()
        entry = {**await _find(calls, event_id, jobs), "last_recorded": await tell_newest(calls.inbox)}
    output.one(entry)
    return DONE if entry["state"] == "handled" else WRONG


async def _find(calls: InboxCalls, event_id: str, jobs: Sequence[str]) -> Row:
    """Return what is known: whether the handler succeeded, since when that is known, and if not, why."""
    from .._work.limits import inbox_limit

    row: Row = {"event_id": event_id, "event_type_id": None, "job": None, "state": "unknown",
                "since": None, "due": None, "error": None, "failures": None, "unended": None}  # fmt: skip
    own = inbox_key(event_id, None)
    keys = {own: None, **{key_of_post(job, own): job for job in jobs}}
    known = await calls.known([*keys])
    for key in [key for key in keys if key in known]:
        row = {**row, "job": keys[key]}
        for state, read in (("waiting", calls.read_waiting()), ("quarantined", calls.read_quarantine(keys[key]))):
            async with aclosing(read) as entries:
                async for entry in entries:
                    if entry.key == key:
                        found = {"since": entry.quarantined_at, "due": _due(entry), "error": entry.error or None}
                        more: Row = {"failures": entry.failures, "unended": entry.unended}
                        return {**row, "event_type_id": entry.event_type_id or None, "state": state, **found, **more}
        handled_at = getattr(calls.inbox, "handled_at", None)  # only a SQLInbox keeps the time
        async with inbox_limit(INBOX_TIMEOUT):
            return {**row, "state": "handled", "since": handled_at and await handled_at(key)}
    return {**row, "unended": (await calls.unended([own])).get(own)}
