"""Receivers and inboxes that an option names; ``basiq-async quarantine …`` and ``basiq-async inbox get``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from traceback import walk_tb
from typing import TYPE_CHECKING, Annotated

import typer

from .._wire.hosts import is_readable_url, show_place, show_url, show_urls_in
from ..errors import BasiqError, CheckpointError, ConfigurationError, InboxError
from ._options import Json, Yes, option
from ._output import note, session
from ._results import Column, Output, Row, View
from ._run import confirm, make_client
from ._runs import find_recoveries

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ..receiver import Inbox, Outcome, QuarantinedDelivery, WebhookReceiver
    from ..replay import Checkpoint, DeadLetter


WEBHOOK_VARIABLE = "BASIQ_WEBHOOK_ID"

Receiver = Annotated[
    str | None,
    option(
        "The place of a WebhookReceiver, such as service.hooks:receiver; or of a function that returns one, or an "
        "async context manager of one.",
        "--receiver",
        metavar="MODULE:RECEIVER",
    ),
]
InboxPlace = Annotated[
    str | None,
    option(
        "The inbox of the service: the file of a SQLiteInbox, or a URL such as postgresql+asyncpg://... or redis://...",
        "--inbox",
        metavar="URL|FILE",
    ),
]


@asynccontextmanager
async def open_receiver(place: str) -> AsyncIterator[WebhookReceiver]:
    """Import a receiver from a module of the current folder or of the environment, and close it at the end.

    Raises ``ConfigurationError`` if the module or variable does not exist or raises, or does not hold a receiver.
    """
    from ..receiver import WebhookReceiver

    async with AsyncExitStack() as stack:
        found = _load(place)
        try:
            if callable(found) and not isinstance(found, WebhookReceiver):
                found = found()
            if isinstance(found, WebhookReceiver):
                if (close := getattr(found.inbox, "aclose", None)) is not None:
                    stack.push_async_callback(close)
                stack.push_async_callback(found.aclose)
            elif isinstance(found, AbstractAsyncContextManager):
                found = await stack.enter_async_context(found)
        except BasiqError:
            raise
        except Exception as exc:
            raise name_failure(place, exc) from exc
        if not isinstance(found, WebhookReceiver):
            raise ConfigurationError(f"{place!r} is a {type(found).__name__}, not a WebhookReceiver")
        yield found


def _load(place: str) -> object:
    name, colon, attribute = place.partition(":")
    if not colon or not name or not attribute:
        raise ConfigurationError(
            f"a receiver must be named as module:variable, such as service.hooks:receiver, not {place!r}"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: object = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as exc:  # whatever the user's own module raises
        raise name_failure(place, exc) from exc
    return found


_STORES = ("asyncpg", "psycopg", "redis", "sqlalchemy")


def name_failure(place: str, exc: Exception) -> BasiqError:
    """Return the error for a user's module that raised, or whose storage is away."""
    is_away = isinstance(exc, OSError) or type(exc).__module__.partition(".")[0] in _STORES
    kind = InboxError if is_away else ConfigurationError
    return kind(f"{place!r} cannot be used: {type(exc).__name__}: {_said(exc)[:500]}")


def _said(exc: Exception) -> str:
    """Return the text of an error without the passwords of URLs."""
    frames = [frame for frame, _ in walk_tb(exc.__traceback__)]
    if frames and frames[-1].f_globals.get("__name__") == "urllib.parse":  # it quotes pieces of what it cannot parse
        return "a URL cannot be parsed"
    return show_urls_in(str(exc))


_ENCODE = "a '/', '@', '?', '#' or ':' in its user or password must be percent-encoded"


@asynccontextmanager
async def open_inbox(place: str, *, of_recovery: bool = False) -> AsyncIterator[Inbox]:
    """Open the inbox of a service, which must exist: a file, a database or Redis. It is closed at the end.

    of_recovery: open an inbox that a recovery has beside that of the service, and make it if it does not exist.

    Raises ``ConfigurationError`` for a file that does not exist, and ``InboxError`` if the inbox cannot be used.
    """
    from ..receiver import SQLiteInbox

    name = "basiq_recover" if of_recovery else "basiq"
    async with AsyncExitStack() as stack:
        inbox: Inbox
        if place.startswith(("redis://", "rediss://", "unix://")):
            inbox = await _open_redis(stack, place, name)
        elif "://" in place:
            from ..receiver import SQLInbox

            engine = open_engine(stack, place)
            inbox = SQLInbox(engine, table=f"{name}_inbox", create_tables=of_recovery)
        else:
            shown = show_place(place)
            is_file = os.path.isfile(place)  # noqa: ASYNC240  # once, before the work begins
            if not is_file and (not of_recovery or shown != place):
                raise ConfigurationError(f"the inbox file {shown!r} does not exist")
            inbox = await stack.enter_async_context(SQLiteInbox(place))
        if not of_recovery:
            await inbox.check()
        yield inbox


async def _open_redis(stack: AsyncExitStack, place: str, prefix: str) -> Inbox:
    try:
        from redis.asyncio import Redis
    except ImportError as exc:
        raise ConfigurationError(f"an inbox in Redis needs the extra 'redis': {exc}") from None
    try:
        client = Redis.from_url(place) if is_readable_url(place) else None
    except (ValueError, TypeError):  # the error's text can hold the password
        client = None
    if client is None:
        raise ConfigurationError(f"the URL {show_url(place)!r} of Redis cannot be used: {_ENCODE}")
    from ..receiver import RedisInbox

    stack.push_async_callback(client.aclose)
    return RedisInbox(client, prefix=prefix)


def open_engine(stack: AsyncExitStack, url: str) -> AsyncEngine:
    """Make SQLAlchemy's engine for a URL. Raises ``ConfigurationError`` if the URL or its driver cannot be used."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.ext.asyncio import create_async_engine
    except ImportError as exc:
        raise ConfigurationError(f"a database needs the extra 'sql': {exc}") from None
    if not is_readable_url(url):
        raise ConfigurationError(f"the URL {show_url(url)!r} of the database cannot be used: {_ENCODE}")
    try:
        engine = create_async_engine(url)
    except (SQLAlchemyError, ImportError, ValueError, TypeError) as exc:  # the error's text can hold the password
        why = f"{type(exc).__name__}; {_ENCODE}"
        raise ConfigurationError(f"the URL {show_url(url)!r} of the database cannot be used: {why}") from None
    stack.push_async_callback(engine.dispose)
    return engine


@asynccontextmanager
async def open_inbox_of(inbox: str | None, receiver: str | None) -> AsyncIterator[Inbox]:
    """Open the inbox that is named by exactly one of ``--inbox`` and ``--receiver``."""
    if (inbox is None) == (receiver is None):
        raise ConfigurationError("name the inbox with either --inbox or --receiver")
    if inbox is not None:
        async with open_inbox(inbox) as found:
            yield found
    else:
        async with open_receiver(receiver or "") as opened:
            yield opened.inbox


@asynccontextmanager
async def open_checkpoints(base: str) -> AsyncIterator[tuple[Checkpoint, Checkpoint]]:
    """Open the two checkpoints of a recovery, for its messages and its events: files, or a database for both."""
    if "://" in base:
        async with open_checkpoint(base) as both:
            yield both, both
    else:
        async with open_checkpoint(f"{base}-messages.db") as messages, open_checkpoint(f"{base}-events.db") as events:
            yield messages, events


@asynccontextmanager
async def open_checkpoint(place: str) -> AsyncIterator[Checkpoint]:
    """Open a checkpoint: a file, or a database by its URL."""
    if "://" not in place:
        from ..replay import SQLiteCheckpoint

        yield SQLiteCheckpoint(place)
        return
    from ..replay import SQLCheckpoint  # SQLAlchemy is slow to import

    async with AsyncExitStack() as stack:
        yield SQLCheckpoint(open_engine(stack, place))


quarantine_app = typer.Typer(help="Deliveries that an inbox set aside: their handler failed.", no_args_is_help=True)
_PAGE = 100
_HELP = "'basiq-async quarantine list' shows its deliveries"


_QUARANTINED: View[QuarantinedDelivery] = View(
    "delivery_id event_type_id event_id error failures signed_at quarantined_at body",
    Column("DELIVERY", "delivery_id"),
    Column("EVENT TYPE", "event_type_id", flexible=16),
    Column("SET ASIDE", "quarantined_at", optional=True),
    Column("ERROR", "error", flexible=24),
    body=lambda delivery: delivery.body.decode(errors="replace"),
)
_RETRIED: View[Outcome] = View(
    "delivery_id result handled error",
    Column("DELIVERY", "delivery_id"),
    Column("RESULT", "result"),
    Column("ERROR", lambda each: each["error"] or "", flexible=24),
    delivery_id=lambda outcome: outcome.delivery.id if outcome.delivery else None,
    result=lambda outcome: str(outcome.result),
    # A delivery that stays in the quarantine is acknowledged, but not handled.
    handled=lambda outcome: outcome.acknowledged and outcome.result != "quarantined",
    error=lambda outcome: f"{type(outcome.error).__name__}: {outcome.error}" if outcome.error else None,
)


@quarantine_app.command("list")
async def list_(receiver: Receiver = None, inbox: InboxPlace = None, json: Json = None) -> int:
    """Show the deliveries in the quarantine, oldest first.

    The exit code is 1 if there are any, and 3 if the inbox gave no usable response.
    """
    session().verdict = True
    output, found = Output(json), False
    async with _open(receiver, inbox) as opened:
        async for page in _pages(opened):
            output.rows(page, _QUARANTINED)
            found = True
    if found:
        return 1
    note("the quarantine is empty")
    return 0


@quarantine_app.command()
async def retry(
    receiver: Receiver = None,
    delivery_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[DELIVERY_ID...]", help="The deliveries to retry; all by default.")
    ] = None,
    json: Json = None,
) -> int:
    """Pass deliveries to their handlers again, oldest first. The exit code is 1 if a delivery fails again."""
    session().verdict = True
    if receiver is None:
        raise ConfigurationError("name the receiver whose handlers to use with --receiver")
    async with open_receiver(receiver) as opened:
        found = [_RETRIED.row(outcome) for outcome in await opened.retry_quarantined(delivery_ids or None)]
    Output(json).rows(found, _RETRIED)
    if not found and not delivery_ids:
        note("the quarantine is empty")
    missing = sorted(set(delivery_ids or ()) - {each["delivery_id"] for each in found})
    if missing:
        raise ConfigurationError(f"not in the quarantine: {', '.join(missing)}; {_HELP}")
    return 0 if all(each["handled"] for each in found) else 1


@quarantine_app.command()
def drop(
    delivery_ids: Annotated[list[str], typer.Argument(metavar="DELIVERY_ID...", help="The deliveries to remove.")],
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    yes: Yes = False,
    json: Json = None,
) -> Awaitable[None]:
    """Remove deliveries for good; they stay recorded as handled. Asks first."""
    session().verdict = True
    asked = len(set(delivery_ids))
    confirm(f"Remove {asked:,} of the deliveries in the quarantine for good?", yes=yes)

    async def work() -> None:
        from ..receiver import WebhookReceiver

        async with _open(receiver, inbox) as opened:
            if isinstance(opened, WebhookReceiver):
                dropped = await opened.drop_quarantined(delivery_ids)
            else:
                keys = [each.key async for page in _pages(opened) for each in page if each.delivery_id in delivery_ids]
                dropped = sum([await opened.drop_quarantined(key) for key in keys])
        Output(json).one({"dropped": dropped})
        if dropped < asked:
            raise ConfigurationError(f"{asked - dropped} of these deliveries are not in the quarantine; {_HELP}")

    return work()


@asynccontextmanager
async def _open(receiver: str | None, inbox: str | None) -> AsyncIterator[WebhookReceiver | Inbox]:
    """Open the receiver, which shows the deliveries of its own webhook, or the inbox, which shows all."""
    if receiver is not None and inbox is None:
        async with open_receiver(receiver) as opened:
            yield opened
    else:
        async with open_inbox_of(inbox, receiver) as found:
            yield found


async def _pages(opened: WebhookReceiver | Inbox) -> AsyncIterator[Sequence[QuarantinedDelivery]]:
    after: QuarantinedDelivery | None = None
    while page := await opened.quarantined(after=after, limit=_PAGE):
        yield page
        after = page[-1]


inbox_app = typer.Typer(help="What the inbox of a service knows about an event.", no_args_is_help=True)


@inbox_app.command()
async def get(
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    webhook: Annotated[
        str | None, option("The id of the webhook that delivers the event.", envvar=WEBHOOK_VARIABLE)
    ] = None,
    event: Annotated[
        str | None, option("The event's type, such as consent.revoked; by default Basiq is asked.")
    ] = None,
    json: Json = None,
) -> int:
    """Show whether an event was handled, is in the quarantine, or is a dead letter of a recovery in this folder.

    The exit code is 0 if it was handled, 1 if not, and 3 if Basiq or the inbox gave no usable response. When it was
    handled is shown for an inbox in a SQL database. The other inboxes do not keep that time.
    """
    session().verdict = True
    if event is None:
        async with make_client() as basiq:
            event = (await basiq.events.get(event_id)).type
    async with open_inbox_of(inbox, receiver) as found:
        entry = await _find(found, event_id, event, webhook)
    Output(json).one(entry)
    return 0 if entry["state"] == "handled" else 1


async def _find(inbox: Inbox, event_id: str, kind: str, webhook_id: str | None) -> Row:
    """Return what is known: whether the handler succeeded, since when that is known, and if not, why."""
    from ..receiver.protocol import inbox_key

    ids = {"event_id": event_id, "event_type_id": kind, "webhook_id": webhook_id}
    keys = [inbox_key(kind, event_id, None, each) for each in dict.fromkeys((webhook_id, None))]
    async for page in _pages(inbox):
        for delivery in page:
            if delivery.key in keys:
                return {**ids, "state": "quarantined", "since": delivery.quarantined_at, "error": delivery.error}
    if webhook_id is not None and (dead := await _find_dead(webhook_id, event_id)) is not None:
        return {**ids, "state": "dead", "since": dead.failed_at, "error": dead.error}
    for key in keys:
        if await inbox.known([key]):
            handled_at = getattr(inbox, "handled_at", None)  # only a SQLInbox keeps the time
            since = None if handled_at is None else await handled_at(key)
            return {**ids, "state": "handled", "since": since, "error": None}
    return {**ids, "state": "unknown", "since": None, "error": None}


async def _find_dead(webhook_id: str, event_id: str) -> DeadLetter | None:
    """Return the dead letter of an event that a recovery in this folder keeps."""
    from ..models import Message
    from ..replay import SQLiteCheckpoint
    from ..replay.protocol import ReplayJob

    for base in find_recoveries(webhook_id):
        for source in ("messages", "events"):
            checkpoint, after = SQLiteCheckpoint(f"{base}-{source}.db"), 0
            try:
                await checkpoint.open(ReplayJob(webhook_id, source=source), concurrency=0)
                while page := await checkpoint.dead_letters(after=after, limit=_PAGE):
                    for dead_letter in page:
                        if event_id in (dead_letter.id, Message(dead_letter.id, dead_letter.message).event_id):
                            return dead_letter
                    after = page[-1].number
            except CheckpointError:  # of a recovery that selects messages
                continue
            finally:
                await checkpoint.aclose()
    return None
