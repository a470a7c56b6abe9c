"""``basiq-async work`` and ``basiq-async inbox …``: deferred deliveries, and what an inbox knows of an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from .._work.keys import identity_of, inbox_key, owner_of_job, webhook_of
from ..errors import ConfigurationError
from ._command import Group, command
from ._inboxes import INBOX_TIMEOUT, InboxOptions, Receiver, may_write, open_receiver, tell_newest
from ._options import LogLevel, Oldest
from ._output import live, say, show_logs
from ._quarantine import ID, WEBHOOK, show_entries
from ._results import Column, Output, Row, View, short_time
from ._run import DONE, WRONG, make_client, stopping

if TYPE_CHECKING:
    from ..receiver import Inbox, StoredDelivery

_EVERY = 1.0
"""Seconds between two looks at the counts."""

inbox_app = Group("What the inbox of a service knows about an event.")


@command()
def work(
    receiver: Receiver = None,
    log_level: LogLevel = "INFO",
) -> Awaitable[None]:
    """Work off the deferred deliveries of a receiver until SIGTERM or Ctrl-C.

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


def _view(*first: Column) -> View[StoredDelivery]:
    return View(
        "delivery_id webhook_id event_type_id event_id since failing_since due failures error signed_at",
        *first,
        Column("EVENT TYPE", "event_type_id", flexible=12),
        Column("SINCE (UTC)", lambda entry: short_time(entry["since"])),
        Column("DUE (UTC)", lambda entry: short_time(entry["due"])),
        Column("FAILURES", "failures"),
        Column("ERROR", "error", flexible=24),
        Column("FAILS SINCE", lambda entry: short_time(entry["failing_since"]), optional=True),
        id_below=True,
        webhook_id=lambda entry: identity_of(webhook_of(entry.key)),
        since=lambda entry: entry.quarantined_at,
        error=lambda entry: entry.error or None,
    )


_WAITING, _OF_SEVERAL = _view(ID), _view(ID, WEBHOOK)


@inbox_app.add(shows=_WAITING)
async def waiting(output: Output, place: InboxOptions, limit: Oldest = None) -> int:
    """Show the deferred deliveries that wait to be handled, oldest first: since when, and with which error they fail.

    The exit code is 1 if there are any.
    """
    from .._work.owners import read_owners
    from .._work.quarantine import read_waiting

    async with place.open() as (inbox, owner):
        owners = await read_owners(inbox, timeout=INBOX_TIMEOUT)
        view = _OF_SEVERAL if len({each.identity for each in owners.values()}) > 1 else _WAITING
        entries = read_waiting(inbox, owner, timeout=INBOX_TIMEOUT)
        return await show_entries(entries, output, limit, view, inbox, empty="nothing waits")


@inbox_app.add(View("known_since newest_record webhooks written"))
async def check(place: InboxOptions) -> Row:
    """Check that an inbox can be read and written. Show since when it knows what was handled, and of which webhooks.

    `newest_record` is when it last recorded something: a copy, or a restored one, may lack the last records. A file
    that this user cannot write is only read: `written` is then false.
    """
    from .._work.limits import inbox_limit
    from .._work.owners import read_owners

    async with place.open() as (inbox, _):
        async with inbox_limit(INBOX_TIMEOUT):
            since = await inbox.known_since()
        newest = await tell_newest(inbox)
        webhooks = list(await read_owners(inbox, timeout=INBOX_TIMEOUT))
        if not (written := may_write(inbox)):
            say("this user cannot write the inbox's file, so writing was not tried")
    if written:  # opened anew: what is only looked at cannot be written
        async with place.open(write=True) as (inbox, _), inbox_limit(INBOX_TIMEOUT):
            await inbox.check()
    return {"known_since": since, "newest_record": newest, "webhooks": webhooks, "written": written}


_STATE = View[Row]("event_id event_type_id webhook_id state since due error failures newest_record")


@inbox_app.add(shows=_STATE)
async def get(
    output: Output,
    event_id: str,
    place: InboxOptions,
    event: str | None = None,
) -> int:
    """Show whether an event was handled, waits to be handled, is in the quarantine, or is unknown to the inbox.

    For one that waits, `due` is the time of the next attempt, and `failures` the number of those that failed. The exit
    code is 0 if it was handled, and 1 if not. By default each webhook of the inbox is looked at. Only an inbox in a SQL
    database keeps the time at which it was handled.

    event_id: The event's id.
    event: The event's type, such as consent.revoked; by default Basiq is asked.
    """
    from .._work.owners import live_identities, read_jobs, read_owners
    from .._work.quarantine import ANY_WEBHOOK, with_jobs

    if event is None:
        async with make_client() as basiq:
            event = (await basiq.events.get(event_id)).type
    async with place.open() as (inbox, owner):
        owners = await read_owners(inbox, timeout=INBOX_TIMEOUT)
        known: list[str | None] = list(dict.fromkeys(each.identity for each in owners.values()))
        identity = identity_of(owner and owner.removeprefix(with_jobs("")))
        if place.receiver is None and known and owner != ANY_WEBHOOK and identity not in known:
            whose = ", ".join(map(repr, known))
            raise ConfigurationError(f"the inbox is of the webhook {whose}, not of {identity!r}")
        known = known if owner == ANY_WEBHOOK else [identity]
        if not live_identities(owners):  # a job's: what it posted, the service may have handled
            jobs = await read_jobs(inbox, timeout=INBOX_TIMEOUT)
            known += [owner_of_job(job, each) for job in jobs for each in known if each is not None]
        entry = await _find(inbox, event_id, event, [*known, None])  # None: of a receiver without a webhook
        entry = {**entry, "newest_record": await tell_newest(inbox)}
    output.one(entry)
    return DONE if entry["state"] == "handled" else WRONG


async def _find(inbox: Inbox, event_id: str, event_type_id: str | None, owners: Sequence[str | None]) -> Row:
    """Return what is known: whether the handler succeeded, since when that is known, and if not, why."""
    from .._work.limits import inbox_limit
    from .._work.quarantine import read_quarantine, read_waiting

    named = {"event_id": event_id, "event_type_id": event_type_id, "webhook_id": owners[0], "state": "unknown"}
    row: Row = {**dict.fromkeys(_STATE.names), **named}
    keys = {inbox_key(event_type_id, event_id, None, each): each for each in owners}
    async with inbox_limit(INBOX_TIMEOUT):
        known = await inbox.known([*keys])
    for key in [key for key in keys if key in known]:
        row = {**row, "webhook_id": keys[key]}
        for state, read in (("waiting", read_waiting), ("quarantined", read_quarantine)):
            async with aclosing(read(inbox, keys[key], timeout=INBOX_TIMEOUT)) as entries:
                async for entry in entries:
                    if entry.key == key:
                        found = {"since": entry.quarantined_at, "due": entry.due, "error": entry.error or None}
                        return {**row, "state": state, **found, "failures": entry.failures}
        handled_at = getattr(inbox, "handled_at", None)  # only a SQLInbox keeps the time
        async with inbox_limit(INBOX_TIMEOUT):
            return {**row, "state": "handled", "since": handled_at and await handled_at(key)}
    return row
