"""``basiq-async quarantine …`` and ``basiq-async inbox get``: what the inbox of a service knows."""

from __future__ import annotations

import glob
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import attrs
import typer

from ..errors import CheckpointError, ConfigurationError
from ._completion import option
from ._options import Json, Yes
from ._output import note, session
from ._places import WEBHOOK_VARIABLE, InboxPlace, Receiver, open_inbox_of, open_receiver
from ._results import Column, Output
from ._run import confirm, make_client, run_until_signal
from ._views import view_of

if TYPE_CHECKING:
    from ..receiver import Inbox, Outcome, QuarantinedDelivery, WebhookReceiver
    from ..replay import DeadLetter


quarantine_app = typer.Typer(help="Deliveries that an inbox set aside: their handler failed.", no_args_is_help=True)
_PAGE = 100


@attrs.frozen(kw_only=True)
class QuarantinedView:
    """A delivery in the quarantine."""

    delivery_id: str
    event_type_id: str
    event_id: str
    error: str
    failures: int
    signed_at: datetime
    quarantined_at: datetime
    body: str

    @classmethod
    def of(cls, delivery: QuarantinedDelivery) -> QuarantinedView:
        """Return the view of a quarantined delivery."""
        return view_of(cls, delivery, body=delivery.body.decode(errors="replace"))


_QUARANTINED: Sequence[Column[QuarantinedView]] = (
    Column("DELIVERY", lambda delivery: delivery.delivery_id),
    Column("EVENT TYPE", lambda delivery: delivery.event_type_id, flexible=16),
    Column("SET ASIDE", lambda delivery: delivery.quarantined_at, optional=True),
    Column("ERROR", lambda delivery: delivery.error, flexible=24),
)


@attrs.frozen(kw_only=True)
class RetriedView:
    """A delivery of the quarantine that was handled again."""

    delivery_id: str | None
    result: str
    handled: bool
    error: str | None

    @classmethod
    def of(cls, outcome: Outcome) -> RetriedView:
        """Return the view of an outcome. A delivery that stays in the quarantine is acknowledged, but not handled."""
        return cls(
            delivery_id=outcome.delivery.id if outcome.delivery else None,
            result=str(outcome.result),
            handled=outcome.acknowledged and str(outcome.result) != "quarantined",
            error=None if outcome.error is None else f"{type(outcome.error).__name__}: {outcome.error}",
        )


_RETRIED: Sequence[Column[RetriedView]] = (
    Column("DELIVERY", lambda each: each.delivery_id),
    Column("RESULT", lambda each: each.result),
    Column("ERROR", lambda each: each.error or "", flexible=24),
)


@quarantine_app.command("list")
def list_(receiver: Receiver = None, inbox: InboxPlace = None, json: Json = None) -> None:
    """Show the deliveries in the quarantine, oldest first.

    The exit code is 1 if there are any, and 3 if the inbox gave no usable response.
    """
    session().verdict = True
    output = Output(json)

    async def work() -> int:
        count = 0
        async with _open(receiver, inbox) as opened:
            async for page in _pages(opened):
                output.rows(map(QuarantinedView.of, page), _QUARANTINED, QuarantinedView)
                count += len(page)
        return count

    if run_until_signal(work):
        raise typer.Exit(1)
    note("the quarantine is empty")


@quarantine_app.command("retry")
def retry(
    receiver: Receiver = None,
    delivery_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[DELIVERY_ID...]", help="The deliveries to retry; all by default.")
    ] = None,
    json: Json = None,
) -> None:
    """Pass deliveries to their handlers again, oldest first. The exit code is 1 if a delivery fails again."""
    session().verdict = True
    if receiver is None:
        raise ConfigurationError("name the receiver whose handlers to use with --receiver")

    async def work() -> Sequence[Outcome]:
        async with open_receiver(receiver) as opened:
            return await opened.retry_quarantined(delivery_ids or None)

    found = [RetriedView.of(outcome) for outcome in run_until_signal(work)]
    Output(json).rows(found, _RETRIED, RetriedView)
    if not found and not delivery_ids:
        note("the quarantine is empty")
    tried = {each.delivery_id for each in found}
    missing = [each for each in delivery_ids or () if each not in tried]
    if missing:
        raise ConfigurationError(
            f"not in the quarantine: {', '.join(missing)}; 'basiq-async quarantine list' shows its deliveries"
        )
    if not all(each.handled for each in found):
        raise typer.Exit(1)


@quarantine_app.command("drop")
def drop(
    delivery_ids: Annotated[list[str], typer.Argument(metavar="DELIVERY_ID...", help="The deliveries to remove.")],
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    yes: Yes = False,
    json: Json = None,
) -> None:
    """Remove deliveries for good; they stay recorded as handled. Asks first."""
    session().verdict = True
    confirm(f"Remove {len(set(delivery_ids)):,} of the deliveries in the quarantine for good?", yes=yes)

    async def work() -> int:
        if receiver is not None and inbox is None:
            async with open_receiver(receiver) as opened:
                return await opened.drop_quarantined(delivery_ids)
        async with open_inbox_of(inbox, receiver) as found:
            keys = [each.key async for page in _pages(found) for each in page if each.delivery_id in delivery_ids]
            return sum([await found.drop_quarantined(key) for key in keys])

    dropped = run_until_signal(work)
    Output(json).one({"dropped": dropped})
    if dropped < len(set(delivery_ids)):
        raise ConfigurationError(
            f"{len(set(delivery_ids)) - dropped} of these deliveries are not in the quarantine; "
            "'basiq-async quarantine list' shows its deliveries"
        )


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


@attrs.frozen(kw_only=True)
class EntryView:
    """What is known about an event: whether its handler succeeded, and if not, why."""

    event_id: str
    event_type_id: str
    webhook_id: str | None
    state: Literal["handled", "quarantined", "dead", "unknown"]
    since: datetime | None = None
    error: str | None = None


@inbox_app.command("get")
def get(
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
) -> None:
    """Show whether an event was handled, is in the quarantine, or is a dead letter of a recovery in this folder.

    The exit code is 0 if it was handled, 1 if not, and 3 if Basiq or the inbox gave no usable response.
    """
    session().verdict = True

    async def work() -> EntryView:
        kind = event
        if kind is None:
            async with make_client() as basiq:
                kind = (await basiq.events.get(event_id)).type
        async with open_inbox_of(inbox, receiver) as found:
            return await _find(found, event_id, kind, webhook)

    entry = run_until_signal(work)
    Output(json).one(entry)
    if entry.state != "handled":
        raise typer.Exit(1)


async def _find(inbox: Inbox, event_id: str, kind: str, webhook_id: str | None) -> EntryView:
    from ..receiver.protocol import inbox_key

    view = EntryView(event_id=event_id, event_type_id=kind, webhook_id=webhook_id, state="unknown")
    keys = [inbox_key(kind, event_id, None, each) for each in dict.fromkeys((webhook_id, None))]
    async for page in _pages(inbox):
        for delivery in page:
            if delivery.key in keys:
                return attrs.evolve(view, state="quarantined", since=delivery.quarantined_at, error=delivery.error)
    if webhook_id is not None and (dead := await _find_dead(webhook_id, event_id)) is not None:
        return attrs.evolve(view, state="dead", since=dead.failed_at, error=dead.error)
    handled = any([await inbox.seen(key) for key in keys])
    return attrs.evolve(view, state="handled" if handled else "unknown")


async def _find_dead(webhook_id: str, event_id: str) -> DeadLetter | None:
    """Return the dead letter of an event that a recovery in this folder keeps."""
    from ..models import Message
    from ..replay import SQLiteCheckpoint
    from ..replay.protocol import ReplayJob

    for file in sorted(glob.glob("basiq-recover-*-*.db")):
        source = "events" if file.endswith("-events.db") else "messages"
        if file.endswith("-inbox.db"):
            continue
        checkpoint, after = SQLiteCheckpoint(file), 0
        try:
            await checkpoint.open(ReplayJob(webhook_id, source=source), concurrency=0)
            while page := await checkpoint.dead_letters(after=after, limit=_PAGE):
                for dead_letter in page:
                    if event_id in (dead_letter.id, Message(dead_letter.id, dead_letter.message).event_id):
                        return dead_letter
                after = page[-1].number
        except CheckpointError:  # of another webhook, or of a recovery that selects messages
            continue
        finally:
            await checkpoint.aclose()
    return None
