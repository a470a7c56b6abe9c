"""``basiq-async quarantine …``: what failed, and was quarantined."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from .._arguments import read_webhook_ids
from .._redaction.text import amount
from .._work.failures import failure_text, find_retry_after
from .._work.keys import split_key
from ..errors import ConfigurationError
from ._command import Group
from ._inboxes import INBOX_TIMEOUT, WEBHOOK_VARIABLE, InboxOptions, tell_newest
from ._options import IN_A_TERMINAL, SECONDS, EndpointSecretFile, OldestOption, above_zero
from ._output import live, say
from ._results import Column, Output, Row, View, short_time
from ._run import DONE, WRONG, make_client
from ._runs import Watch, check_places, open_target, run_watched, show_at_service, tell_refusals
from ._settings import Settings

if TYPE_CHECKING:
    from .._work.inbox_calls import InboxCalls
    from ..models import Message
    from ..receiver import Inbox, InboxEntry
    from ..replay import Report, Target


quarantine_app = Group("What an inbox quarantined: messages, events and deliveries that failed.")
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="The ids of messages, events or deliveries.")]


def entry_id(row: Row) -> object:
    """Return the id by which an entry is named: its event's, else that of the delivery, which has no event."""
    return row["event_id"] or row["delivery_id"]


def entries_of(count: int) -> str:
    """Return a number of entries as text."""
    return amount(count, "entry", "entries")


ID = Column("ID", entry_id)
_ENTRY: View[InboxEntry] = View(
    "delivery_id job kind event_type_id event_id error failures signed_at quarantined_at acknowledged body",
    ID,
    Column("EVENT TYPE", "event_type_id", flexible=12),
    Column("SINCE (UTC)", lambda entry: short_time(entry["quarantined_at"])),
    Column("FAILURES", "failures"),
    Column("ERROR", "error", flexible=24),
    Column("KIND", "kind", optional=True),
    id_below=True,
    job=lambda entry: split_key(entry.key)[0],
    body=lambda entry: entry.body.decode(errors="replace"),
)
_RETRIED: View[Row] = View(
    "delivery_id event_id result error",
    Column("ID", entry_id),
    Column("RESULT", "result"),
    Column("ERROR", lambda each: each["error"] or "", flexible=24),
)


@quarantine_app.add(shows=_ENTRY, name="list")
async def list_(output: Output, place: InboxOptions, limit: OldestOption = None) -> int:
    """Show what is in the quarantine, oldest first.

    Name the inbox with --receiver or --inbox, or with --to and --webhook if it records what was posted. The exit code
    is 1 if there is anything.
    """
    async with place.open() as (calls, job):
        entries = calls.read_quarantine(job)
        return await show_entries(entries, output, limit, _ENTRY, calls.inbox, empty="the quarantine is empty")


async def show_entries(
    entries: AsyncGenerator[InboxEntry],
    output: Output,
    limit: int | None,
    view: View[InboxEntry],
    inbox: Inbox,
    *,
    empty: str,
) -> int:
    """Show entries of an inbox: all in a pipe, 50 in a terminal. Return the exit code: 1 if there are any."""
    most = limit if limit is not None else 0 if output.as_json else IN_A_TERMINAL
    more = False

    async def first() -> AsyncGenerator[InboxEntry]:
        nonlocal more
        count = 0
        async with aclosing(entries):
            async for entry in entries:
                if most and count == most:
                    more = True
                    return
                count += 1
                yield entry

    async with aclosing(first()) as shown:
        count = await output.stream(shown, view)
    if more:
        say(f"the oldest {count:,}, and there are more; --limit N shows N of them, --limit 0 shows all")
    await tell_newest(inbox, "" if count else empty)
    return WRONG if count else DONE


def tell_dropped(count: int, missing: int) -> None:
    """Say how many entries were removed. Raises ``ConfigurationError`` if others were not there."""
    say(f"{entries_of(count)} removed")
    if missing:
        raise ConfigurationError(f"{missing:,} of these are not in the quarantine; {_HELP}")


@quarantine_app.add(_ENTRY)
async def show(id: str, place: InboxOptions) -> InboxEntry:
    """Show one entry of the quarantine, with what failed as Basiq sent it.

    id: The id of a message, event or delivery.
    """
    async with place.open() as (calls, job):
        found = await _find(calls, job, {id})
        await tell_newest(calls.inbox)
    if not found:
        raise _not_there([id])
    return found[0]


async def _find(calls: InboxCalls, job: str | None, ids: Collection[str]) -> Sequence[InboxEntry]:
    """Return the entries with these ids."""
    return [entry async for page in calls.read_pages(job, ids=ids) for entry in page]


@attrs.frozen(kw_only=True)
class RetryOptions(InboxOptions):
    """What to try again, and where.

    ids [ID...]: The ids of messages, events or deliveries to try again; all by default.
    max_pause N: Stop when the target asks for a pause of more than N seconds.
    """

    ids: Annotated[list[str] | None, typer.Argument()] = None
    secret_file: EndpointSecretFile = None
    max_pause: float = attrs.field(default=60.0, validator=above_zero, metadata=SECONDS)


@quarantine_app.add(shows=_RETRIED)
async def retry(output: Output, options: RetryOptions) -> int:
    """Hand what is in the quarantine to its handler or endpoint again, oldest first, with one attempt each.

    What is handled leaves it. The result is a word for each: handled, failed, no-handler, handled-before
    (meanwhile), busy (another worker holds it), unreadable. The exit code is 1 if anything stays. --inbox is the record
    of what was posted with --to, by default the file of that name.
    """
    check_places(options, {"--receiver": options.receiver, "--to": options.to})
    if options.to is not None and options.webhook is None:
        raise ConfigurationError(f"--to needs --webhook, or {WEBHOOK_VARIABLE}: the record is of one webhook")
    wanted = frozenset(options.ids or ())
    watch = _Retries(output)

    async def work() -> Report:
        async with AsyncExitStack() as stack:
            # A receiver's own entries come from its inbox: nothing is asked of Basiq.
            client = make_client(Settings(_NO_KEY, _NOWHERE, "none") if options.to is None else None)
            basiq = await stack.enter_async_context(client)
            target, inbox = await open_target(stack, options.webhook, options, once=True)
            stack.callback(tell_refusals, target, basiq)
            return await _retry(basiq, target, inbox, options, wanted, watch)

    ended = await run_watched(watch, work)
    watch.tell_rest()
    code = ended.exit(WRONG)
    if code != WRONG or ended.result is None:
        return code
    if missing := wanted - watch.seen - watch.at_service:
        raise _not_there(missing)
    if watch.at_service:
        return WRONG
    if not watch.results:
        say("the quarantine is empty")
    gone = not watch.left and all(each in _LEFT for each in watch.results.values())
    return DONE if gone else WRONG


_NO_KEY, _NOWHERE = "bm9uZTpub25l", "http://127.0.0.1:9"
_LEFT = ("handled", "handled-before")
_BUSY = "busy"


async def _retry(
    basiq: Any, target: Any, inbox: Inbox | None, options: RetryOptions, ids: frozenset[str], watch: _Retries
) -> Report:
    from .._work.inbox_calls import InboxCalls
    from ..replay import Replay

    webhook_id = read_webhook_ids(getattr(target, "webhook_ids", None) or options.webhook or "none")[0]
    job = Replay(basiq, webhook_id, target, inbox=inbox, max_failures=None, max_pause=options.max_pause)
    watch.follow(job)
    report = await job.retry_quarantined(ids=ids or None)
    last = None
    while page := await job.quarantined(after=last):
        watch.left += sum(each.delivery_id in watch.results for each in page)
        last = page[-1]
    if inbox is not None:  # those of the service stay: their receiver has them
        entries = [entry async for entry in InboxCalls(inbox, INBOX_TIMEOUT).read_quarantine()]
        wanted = [each for each in entries if not ids or ids & {each.delivery_id, each.event_id}]
        watch.at_service = {id for each in wanted for id in (each.delivery_id, each.event_id)}
        if wanted:
            show_at_service(len(wanted))
    return report


class _Retries(Watch):
    """Observes a run that tries again, and shows the result for each message."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self._inner: Target
        self.results: dict[str, str] = {}
        self.left = 0
        """The number of those entries that stay."""
        self.at_service: set[str] = set()
        """The ids of what a job leaves, because it failed at the service."""
        self.seen: set[str] = set()
        """The ids of what was tried: of messages and of events."""
        self._events: dict[str, str | None] = {}
        self._later: dict[str, tuple[str, str | None]] = {}
        """The results of those that are to be tried again, and their errors."""

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
            self._say(message, result, failure_text(exc), again=find_retry_after(exc) is not None)
            raise
        self._say(message, reason or "handled", None, again=reason == _BUSY)
        return reason

    def _say(self, message: Message, result: str, error: str | None, *, again: bool) -> None:
        """Show how an attempt ended, unless the message is tried again: in this run, it may still be handled."""
        self.results[message.id] = result
        self._events[message.id] = message.event_id
        self.seen.update(each for each in (message.id, message.event_id) if each)
        self._later.pop(message.id, None)
        if again:
            self._later[message.id] = result, error
        else:
            self._show(message.id, result, error)

    def tell_rest(self) -> None:
        """Show the messages that another worker held to the end, or for which the run ended in a pause."""
        for id, (result, error) in self._later.items():
            self._show(id, result, error)

    def _show(self, id: str, result: str, error: str | None) -> None:
        live(None)
        row = {"delivery_id": id, "event_id": self._events[id], "result": result, "error": error}
        self._output.rows([row], _RETRIED)


@quarantine_app.add(
    View("dropped"), ask=lambda ids, place: f"Remove {entries_of(len(set(ids)))} of the quarantine for good?"
)
async def drop(ids: IdsArgument, place: InboxOptions) -> Row:
    """Remove entries of the quarantine for good; they stay recorded as handled. Asks first."""
    async with place.open(write=True) as (calls, job):
        found = await _find(calls, job, wanted := frozenset(ids))
        dropped = await calls.drop_ids(wanted, job)
    tell_dropped(dropped, len(wanted.difference(*((each.delivery_id, each.event_id) for each in found))))
    return {"dropped": dropped}


@quarantine_app.add()
async def export(file: str, place: InboxOptions) -> None:
    """Copy the quarantine to a new file that only its owner can read.

    file: The new file, with a line of JSON for each entry.
    """
    from .._storage.exports import export_entries

    async with place.open() as (calls, job):
        count = await export_entries(calls.read_quarantine(job), file)
        await tell_newest(calls.inbox)
    say(f"{entries_of(count)} written to {file!r}")


_HELP = "'basiq-async quarantine list' shows what is there"


def _not_there(ids: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(f"not in the quarantine: {', '.join(sorted(ids))}; {_HELP}")
