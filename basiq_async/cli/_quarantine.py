"""``basiq-async quarantine …`` and ``basiq-async inbox get``: what failed, and what an inbox knows of an event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from .._work.keys import inbox_key
from ..errors import ConfigurationError
from ._command import Group
from ._exit_codes import DONE, WRONG
from ._inboxes import INBOX_TIMEOUT, WEBHOOK_VARIABLE, InboxOptions
from ._options import EndpointSecretFile
from ._output import live, note
from ._results import ROWS, Column, Output, Row, View
from ._run import make_client
from ._runs import Watch, check_places, open_target, run_watched
from ._settings import Settings

if TYPE_CHECKING:
    from ..models import Message
    from ..receiver import Inbox, QuarantinedDelivery
    from ..replay import Report, Target


quarantine_app = Group("What an inbox set aside: messages, events and deliveries that failed.")
inbox_app = Group("What the inbox of a service knows about an event.")
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="The ids to remove.")]


_ENTRY: View[QuarantinedDelivery] = View(
    "delivery_id kind event_type_id event_id error failures signed_at quarantined_at acknowledged body",
    Column("ID", "delivery_id"),
    Column("EVENT TYPE", "event_type_id", flexible=16),
    Column("SET ASIDE", "quarantined_at", optional=True),
    Column("KIND", "kind", optional=True),
    Column("ERROR", "error", flexible=24),
    body=lambda entry: entry.body.decode(errors="replace"),
)
_RETRIED: View[Row] = View(
    "delivery_id result error",
    Column("ID", "delivery_id"),
    Column("RESULT", "result"),
    Column("ERROR", lambda each: each["error"] or "", flexible=24),
)


@quarantine_app.add(name="list")
async def list_(output: Output, place: InboxOptions) -> int:
    """Show what is in the quarantine, oldest first.

    Name the inbox with --receiver or --inbox, or with --to and --webhook if it records what was posted. The exit code
    is 1 if there is anything, and 3 if the inbox gave no usable response.
    """
    from .._work.quarantine import read_quarantine

    async with place.open() as (inbox, owner):
        return await show_entries(read_quarantine(inbox, owner, timeout=INBOX_TIMEOUT), output)


async def show_entries(entries: AsyncGenerator[QuarantinedDelivery], output: Output) -> int:
    """Show what is in a quarantine, and return the exit code: 1 if there is anything."""
    if await output.stream(entries, _ENTRY):
        return WRONG
    note("the quarantine is empty")
    return DONE


def tell_dropped(count: int, ids: Iterable[str]) -> None:
    """Say how many entries were removed. Raises ``ConfigurationError`` if others were not there."""
    note(f"{count:,} entries removed")
    if missing := len(set(ids)) - count:
        raise ConfigurationError(f"{missing:,} of these are not in the quarantine; {_HELP}")


@quarantine_app.add(_ENTRY)
async def show(id: str, place: InboxOptions) -> QuarantinedDelivery:
    """Show one entry of the quarantine, with what failed as Basiq sent it.

    id: The id of a message, event or delivery.
    """
    from .._work.quarantine import read_pages

    async with place.open() as (inbox, owner):
        async for found in read_pages(inbox, owner, timeout=INBOX_TIMEOUT, ids={id}):
            return found[0]
    raise _not_there([id])


@attrs.frozen(kw_only=True)
class RetryOptions(InboxOptions):
    """What to try again, and where.

    ids [ID...]: The ids to try again; all by default.
    """

    ids: Annotated[list[str] | None, typer.Argument()] = None
    secret_file: EndpointSecretFile = None


@quarantine_app.add()
async def retry(output: Output, options: RetryOptions) -> int:
    """Hand what is in the quarantine to its handler or endpoint again, oldest first.

    What is handled leaves the quarantine. The result is a word for each: handled, failed, no-handler, handled-before
    (meanwhile), busy (another worker holds it), refused (another program changed it), unreadable. The exit code is 1 if
    anything stays. --inbox is the record of what was posted with --to, by default the file of that name.
    """
    check_places(options, {"--receiver": options.receiver, "--to": options.to})
    if options.to is not None and options.webhook is None:
        raise ConfigurationError(f"--to needs --webhook, or {WEBHOOK_VARIABLE}: the record is of one webhook")
    wanted = frozenset(options.ids or ())
    watch = _Retries(output)

    async def work() -> Report:
        async with AsyncExitStack() as stack:
            # A receiver's own entries come from its inbox, and have its seal: nothing is asked of Basiq.
            client = make_client(Settings(_NO_KEY, _NOWHERE, "none") if options.to is None else None)
            basiq = await stack.enter_async_context(client)
            target, record = await open_target(stack, options.webhook, options)
            return await _retry(basiq, target, record, options.webhook, wanted, watch)

    ended = await run_watched(watch, work)
    watch.tell_busy()
    code = ended.exit(WRONG)
    if code != WRONG or ended.result is None:
        return code
    if missing := wanted - watch.results.keys():
        raise _not_there(missing)
    if not watch.results:
        note("the quarantine is empty")
    return DONE if all(each in _LEFT for each in watch.results.values()) else WRONG


_NO_KEY, _NOWHERE = "bm9uZTpub25l", "http://127.0.0.1:9"
_LEFT = ("handled", "handled-before")
_BUSY = "busy"


async def _retry(
    basiq: Any, target: Any, record: Inbox | None, webhook_id: str | None, ids: frozenset[str], watch: Watch
) -> Report:
    from .._work.owners import read_webhooks
    from ..replay import Replay

    owner = getattr(target, "webhook_id", None) or webhook_id or "none"
    if record is not None and (await read_webhooks(record, timeout=INBOX_TIMEOUT)).get(owner) is not None:
        raise ConfigurationError(
            "this is the inbox of the service, which takes what is in its quarantine for handled: name its --receiver"
        )
    job = Replay(basiq, owner, target, inbox=record, on_error="quarantine", max_failures=None)
    watch.follow(job)
    return await job.retry_quarantined(ids=ids or None)


class _Retries(Watch):
    """Observes a run that tries again, and shows the result for each message."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self._inner: Target
        self.results: dict[str, str] = {}

    def wrap(self, target: Target) -> Target:
        """See ``Observer``."""
        self._inner = target
        return self

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        try:
            reason = await self._inner.deliver(message)
        except Exception as exc:
            result = "failed" if getattr(message, "fault", None) is None else "unreadable"
            self._tell(message, result, f"{type(exc).__name__}: {exc}")
            raise
        self._tell(message, reason or "handled", None)
        return reason

    def _tell(self, message: Message, result: str, error: str | None) -> None:
        self.results[message.id] = result
        if result != _BUSY:  # it is tried once more at the end
            self._show(message.id, result, error)

    def tell_busy(self) -> None:
        """Show the messages that another worker held to the end."""
        for id in [id for id, result in self.results.items() if result == _BUSY]:
            self._show(id, _BUSY, None)

    def _show(self, id: str, result: str, error: str | None) -> None:
        live(None)
        self._output.rows([{"delivery_id": id, "result": result, "error": error}], _RETRIED)


@quarantine_app.add(ROWS, ask=lambda ids, place: f"Remove {len(set(ids)):,} entries of the quarantine for good?")
async def drop(ids: Ids, place: InboxOptions) -> Row:
    """Remove entries of the quarantine for good; they stay recorded as handled. Asks first."""
    from .._work.quarantine import drop_quarantined

    async with place.open() as (inbox, owner):
        dropped = await drop_quarantined(inbox, owner, frozenset(ids), timeout=INBOX_TIMEOUT)
    tell_dropped(dropped, ids)
    return {"dropped": dropped}


@quarantine_app.add()
async def export(file: str, place: InboxOptions) -> None:
    """Write what is in the quarantine to a new file that only its owner can read. It stays in the quarantine.

    file: The new file, with a line of JSON for each entry.
    """
    from .._storage.exports import export_entries
    from .._work.quarantine import read_quarantine

    async with place.open() as (inbox, owner):
        count = await export_entries(read_quarantine(inbox, owner, timeout=INBOX_TIMEOUT), file)
    note(f"{count:,} entries written to {file!r}")


_HELP = "'basiq-async quarantine list' shows what is there"


def _not_there(ids: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(f"not in the quarantine: {', '.join(sorted(ids))}; {_HELP}")


# --- what an inbox knows of an event ---


def _kept(state: str) -> View[QuarantinedDelivery]:
    return View(
        "state delivery_id event_type_id event_id since due failures error signed_at",
        Column("ID", "delivery_id"),
        Column("EVENT TYPE", "event_type_id", flexible=16),
        Column("STATE", "state"),
        Column("SINCE", "since", optional=True),
        Column("DUE", "due", optional=True),
        Column("FAILURES", "failures", optional=True),
        Column("ERROR", "error", flexible=24),
        state=lambda entry: state,
        since=lambda entry: entry.quarantined_at,
        error=lambda entry: entry.error or None,
    )


@inbox_app.add(name="list")
async def list_inbox(
    output: Output,
    place: InboxOptions,
    waiting: bool = False,
) -> int:
    """Show what an inbox keeps: the deferred deliveries that wait to be handled, then the quarantine, oldest first.

    The exit code is 1 if there is anything, and 3 if the inbox gave no usable response.

    waiting: Only deferred deliveries that wait to be handled.
    """
    from .._work.quarantine import read_quarantine, read_waiting

    async with place.open() as (inbox, owner):
        count = await output.stream(read_waiting(inbox, owner, timeout=INBOX_TIMEOUT), _kept("waiting"))
        if not waiting:
            entries = read_quarantine(inbox, owner, timeout=INBOX_TIMEOUT)
            count += await output.stream(entries, _kept("quarantined"))
    if count:
        return WRONG
    note("nothing waits" if waiting else "nothing waits, and the quarantine is empty")
    return DONE


@inbox_app.add(ROWS)
async def check(place: InboxOptions) -> Row:
    """Check that an inbox can be used. Show since when it knows what was handled, and of which webhooks."""
    from .._work.limits import inbox_limit
    from .._work.owners import read_webhooks

    async with place.open() as (inbox, _):
        async with inbox_limit(INBOX_TIMEOUT):
            await inbox.check()
            since = await inbox.known_since()
        return {"known_since": since, "webhooks": list(await read_webhooks(inbox, timeout=INBOX_TIMEOUT))}


@inbox_app.add()
async def get(
    output: Output,
    event_id: str,
    place: InboxOptions,
    event: str | None = None,
) -> int:
    """Show whether an event was handled, waits to be handled, is in the quarantine, or is unknown to the inbox.

    For one that waits, `due` is the time of the next attempt, and `failures` the number of those that failed.
    The exit code is 0 if it was handled, 1 if not, and 3 if Basiq or the inbox gave no usable response. By default each
    webhook of the inbox is looked at. When the event was handled is shown for an inbox in a SQL database. The other
    inboxes do not keep that time.

    event_id: The event's id.
    event: The event's type, such as consent.revoked; by default Basiq is asked.
    """
    from .._work.owners import read_former, read_webhooks
    from .._work.quarantine import ANY_WEBHOOK

    if event is None:
        async with make_client() as basiq:
            event = (await basiq.events.get(event_id)).type
    async with place.open() as (inbox, owner):
        known = await read_webhooks(inbox, timeout=INBOX_TIMEOUT)
        if place.receiver is None and known and owner not in (ANY_WEBHOOK, *known):
            whose = ", ".join(map(repr, known))
            raise ConfigurationError(f"the inbox is of the webhook {whose}, not of {owner!r}")
        owners = known if owner == ANY_WEBHOOK else [owner, *await read_former(inbox, owner, timeout=INBOX_TIMEOUT)]
        entry = await _find(inbox, event_id, event, [*owners, None])  # None: of a receiver without a webhook
    output.one(entry)
    return DONE if entry["state"] == "handled" else WRONG


async def _find(inbox: Inbox, event_id: str, event_type_id: str | None, owners: Sequence[str | None]) -> Row:
    """Return what is known: whether the handler succeeded, since when that is known, and if not, why."""
    from .._work.limits import inbox_limit
    from .._work.quarantine import read_quarantine, read_waiting

    row: Row = {"event_id": event_id, "event_type_id": event_type_id, "webhook_id": owners[0], "state": "unknown",
                "since": None, "due": None, "error": None, "failures": None}  # fmt: skip
    keys = {inbox_key(event_type_id, event_id, None, each): each for each in owners}
    async with inbox_limit(INBOX_TIMEOUT):
        known = await inbox.known([*keys])
    for key in known:
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
