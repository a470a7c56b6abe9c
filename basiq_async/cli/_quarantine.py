"""``basiq-async quarantine …`` and ``basiq-async inbox get``: what failed, and what an inbox knows of an event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._work.keys import inbox_key
from ..errors import ConfigurationError
from ._exit_codes import DONE, WRONG
from ._inboxes import INBOX_TIMEOUT, InboxPlace, Receiver, To, check_owner, open_inbox, open_receiver, record_file
from ._options import EndpointSecretFile, Json, Yes, option
from ._output import live, note
from ._results import Column, Output, Row, View
from ._run import confirm, make_client
from ._runs import Watch, open_target, run_watched
from ._settings import Settings

if TYPE_CHECKING:
    from ..models import Message
    from ..receiver import Inbox, QuarantinedDelivery
    from ..replay import Report, Target


WEBHOOK_VARIABLE = "BASIQ_WEBHOOK_ID"

quarantine_app = typer.Typer(
    help="What an inbox set aside: messages, events and deliveries that failed.", no_args_is_help=True
)
Webhook = Annotated[
    str | None, option("The id of the webhook that the messages are of.", "--webhook", envvar=WEBHOOK_VARIABLE)
]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="The ids to try again; all by default.")]


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


@quarantine_app.command("list")
async def list_(
    receiver: Receiver = None, inbox: InboxPlace = None, to: To = None, webhook: Webhook = None, json: Json = None
) -> int:
    """Show what is in the quarantine, oldest first.

    Name the inbox with --receiver or --inbox, or with --to and --webhook if it records what was posted. The exit code
    is 1 if there is anything, and 3 if the inbox gave no usable response.
    """
    async with _open(receiver, inbox, to, webhook) as entries:
        return await show_entries(entries, Output(json))


async def show_entries(entries: AsyncIterator[QuarantinedDelivery], output: Output) -> int:
    """Show what is in a quarantine, and return the exit code: 1 if there is anything."""
    page: list[QuarantinedDelivery] = []
    count = 0
    async for entry in entries:
        page.append(entry)
        count += 1
        if len(page) == _PAGE:
            output.rows(page, _ENTRY)
            page = []
    output.rows(page, _ENTRY)
    if count:
        return WRONG
    note("the quarantine is empty")
    return DONE


def tell_dropped(count: int, ids: Iterable[str]) -> None:
    """Say how many entries were removed. Raises ``ConfigurationError`` if others were not there."""
    note(f"{count:,} entries removed")
    if missing := len(set(ids)) - count:
        raise ConfigurationError(f"{missing:,} of these are not in the quarantine; {_HELP}")


@quarantine_app.command()
async def show(
    id: Annotated[str, typer.Argument(help="The id of a message, event or delivery.")],
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    to: To = None,
    webhook: Webhook = None,
    json: Json = None,
) -> None:
    """Show one entry of the quarantine, with what failed as Basiq sent it."""
    async with _open(receiver, inbox, to, webhook) as entries:
        async for entry in entries:
            if entry.delivery_id == id:
                Output(json).one(entry, _ENTRY)
                return
    raise _not_there([id])


@quarantine_app.command()
async def retry(
    ids: Ids = None,
    receiver: Receiver = None,
    to: To = None,
    webhook: Webhook = None,
    inbox: InboxPlace = None,
    secret_file: EndpointSecretFile = None,
    json: Json = None,
) -> int:
    """Hand what is in the quarantine to its handler or endpoint again, oldest first.

    What is handled leaves the quarantine. The result is a word for each: handled, failed, no-handler, handled-before
    (meanwhile), busy (another worker holds it), refused (another program changed it), unreadable. The exit code is 1 if
    anything stays. --inbox is the record of what was posted with --to, by default the file of that name.
    """
    if (receiver is None) == (to is None):
        raise ConfigurationError("name the target with one of --receiver or --to")
    if receiver is not None and inbox is not None:
        raise ConfigurationError("--inbox is for --to: a receiver has its own inbox")
    if to is not None and webhook is None:
        raise ConfigurationError(f"--to needs --webhook, or {WEBHOOK_VARIABLE}: the record is of one webhook")
    wanted = frozenset(ids or ())
    watch = _Retries(Output(json))

    async def work() -> Report:
        async with AsyncExitStack() as stack:
            # A receiver's own entries come from its inbox, and have its seal: nothing is asked of Basiq.
            client = make_client(Settings(_NO_KEY, _NOWHERE, "none") if to is None else None)
            basiq = await stack.enter_async_context(client)
            target, record = await open_target(
                stack, webhook, to=to, receiver=receiver, inbox=inbox, secret_file=secret_file
            )
            return await _retry(basiq, target, record, webhook, wanted, watch)

    ended = await run_watched(watch, work)
    watch.tell_busy()
    code = ended.exit(WRONG)
    if code != WRONG or ended.result is None:
        return code
    missing = wanted - watch.results.keys()
    if missing:
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


@quarantine_app.command()
def drop(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The ids to remove.")],
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    to: To = None,
    webhook: Webhook = None,
    yes: Yes = False,
    json: Json = None,
) -> Awaitable[None]:
    """Remove entries of the quarantine for good; they stay recorded as handled. Asks first."""
    wanted = frozenset(ids)
    confirm(f"Remove {len(wanted):,} entries of the quarantine for good?", yes=yes)

    async def work() -> None:
        from .._work.quarantine import drop_quarantined

        async with _open_inbox(receiver, inbox, to, webhook) as (opened, owner):
            dropped = await drop_quarantined(opened, owner, wanted, timeout=INBOX_TIMEOUT)
        Output(json).one({"dropped": dropped})
        tell_dropped(dropped, wanted)

    return work()


@quarantine_app.command()
async def export(
    file: Annotated[str, typer.Argument(help="The new file, with a line of JSON for each entry.")],
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    to: To = None,
    webhook: Webhook = None,
) -> None:
    """Write what is in the quarantine to a new file that only its owner can read. It stays in the quarantine."""
    from .._storage.exports import export_entries

    async with _open(receiver, inbox, to, webhook) as entries:
        count = await export_entries(entries, file)
    note(f"{count:,} entries written to {file!r}")


_HELP = "'basiq-async quarantine list' shows what is there"


def _not_there(ids: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(f"not in the quarantine: {', '.join(sorted(ids))}; {_HELP}")


_PAGE = 100


@asynccontextmanager
async def _open(
    receiver: str | None, inbox: str | None, to: str | None, webhook_id: str | None
) -> AsyncIterator[AsyncGenerator[QuarantinedDelivery]]:
    """Open the inbox that the options name, and yield what is in its quarantine."""
    from .._work.quarantine import read_quarantine

    async with (
        _open_inbox(receiver, inbox, to, webhook_id) as (opened, owner),
        aclosing(read_quarantine(opened, owner, timeout=INBOX_TIMEOUT)) as entries,
    ):
        yield entries


@asynccontextmanager
async def _open_inbox(
    receiver: str | None, inbox: str | None, to: str | None, webhook_id: str | None
) -> AsyncIterator[tuple[Inbox, str | None]]:
    """Open the inbox that the options name. Also yield the webhook whose entries are meant: by default all of it."""
    from .._work.quarantine import ANY_WEBHOOK

    if (receiver is None) == (inbox is None and to is None):
        raise ConfigurationError("name the inbox with --inbox or --receiver, or with --to and --webhook")
    if receiver is not None:
        async with open_receiver(receiver) as opened:
            yield opened.inbox, opened.webhook_id
        return
    if inbox is None and webhook_id is None:
        raise ConfigurationError(f"--to needs --webhook, or {WEBHOOK_VARIABLE}: the record is of one webhook")
    async with open_inbox(inbox or record_file(webhook_id or "", to or "")) as found:
        yield found, webhook_id or ANY_WEBHOOK


# --- what an inbox knows of an event ---

inbox_app = typer.Typer(help="What the inbox of a service knows about an event.", no_args_is_help=True)


@inbox_app.command()
async def get(
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    webhook: Webhook = None,
    event: Annotated[
        str | None, option("The event's type, such as consent.revoked; by default Basiq is asked.")
    ] = None,
    json: Json = None,
) -> int:
    """Show whether an event was handled, waits to be handled, is in the quarantine, or is unknown to the inbox.

    The exit code is 0 if it was handled, 1 if not, and 3 if Basiq or the inbox gave no usable response. By default each
    webhook of the inbox is looked at. When the event was handled is shown for an inbox in a SQL database. The other
    inboxes do not keep that time.
    """
    from .._work.owners import read_former

    if (receiver is None) == (inbox is None):
        raise ConfigurationError("name the inbox with either --inbox or --receiver")
    if event is None:
        async with make_client() as basiq:
            event = (await basiq.events.get(event_id)).type
    async with AsyncExitStack() as stack:
        if receiver is not None:
            opened = await stack.enter_async_context(open_receiver(receiver))
            check_owner(receiver, opened, webhook)
            found, own = opened.inbox, opened.webhook_id
            owners = [own, *await read_former(found, own, timeout=INBOX_TIMEOUT)]
        else:
            found = await stack.enter_async_context(open_inbox(inbox or ""))
            owners = await _find_owners(found, webhook)
        entry = await _find(found, event_id, event, owners)
    Output(json).one(entry)
    return DONE if entry["state"] == "handled" else WRONG


@inbox_app.command()
async def check(receiver: Receiver = None, inbox: InboxPlace = None, json: Json = None) -> None:
    """Check that an inbox can be used. Show since when it knows what was handled, and of which webhooks."""
    from .._work.limits import inbox_limit
    from .._work.owners import read_webhooks

    async with _open_inbox(receiver, inbox, None, None) as (opened, _):
        async with inbox_limit(INBOX_TIMEOUT):
            await opened.check()
            since = await opened.known_since()
        owners = await read_webhooks(opened, timeout=INBOX_TIMEOUT)
    Output(json).one({"known_since": since, "webhooks": list(owners)})


async def _find_owners(inbox: Inbox, webhook_id: str | None) -> list[str | None]:
    """Return the webhooks to look for: the one that is named, or else all of the inbox; and events of none."""
    from .._work.owners import read_webhooks

    known = await read_webhooks(inbox, timeout=INBOX_TIMEOUT)
    if webhook_id is None:
        return [*known, None]
    if known and webhook_id not in known:
        raise ConfigurationError(f"the inbox is of the webhook {', '.join(map(repr, known))}, not of {webhook_id!r}")
    return [webhook_id, None]


async def _find(inbox: Inbox, event_id: str, event_type_id: str | None, owners: Sequence[str | None]) -> Row:
    """Return what is known: whether the handler succeeded, since when that is known, and if not, why."""
    from .._work.limits import inbox_limit
    from .._work.quarantine import read_quarantine, read_waiting

    ids: dict[str, Any] = {"event_id": event_id, "event_type_id": event_type_id, "webhook_id": owners[0]}
    keys = {inbox_key(event_type_id, event_id, None, each): each for each in owners}
    async with inbox_limit(INBOX_TIMEOUT):
        known = await inbox.known([*keys])
    for key in known:
        ids["webhook_id"] = keys[key]
        for state, read in (("waiting", read_waiting), ("quarantined", read_quarantine)):
            async with aclosing(read(inbox, keys[key], timeout=INBOX_TIMEOUT)) as entries:
                async for entry in entries:
                    if entry.key == key:
                        found = {"since": entry.quarantined_at, "error": entry.error or None}
                        return {**ids, "state": state, **found, "failures": entry.failures}
        handled_at = getattr(inbox, "handled_at", None)  # only a SQLInbox keeps the time
        async with inbox_limit(INBOX_TIMEOUT):
            since = None if handled_at is None else await handled_at(key)
        return {**ids, "state": "handled", "since": since, "error": None, "failures": None}
    return {**ids, "state": "unknown", "since": None, "error": None, "failures": None}
