"""Show and remove the dead letters of a replay or of a fleet's job; and the commands ``basiq-async quarantine …``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from ..errors import ConfigurationError
from ._options import App, Json, Yes, open_receiver
from ._output import note
from ._results import Column, Output, Shape, attributes, cell_text, shows
from ._run import confirm, run_until_signal

if TYPE_CHECKING:
    from ..receiver import Outcome, QuarantinedDelivery, WebhookReceiver
    from ..replay import DeadLetter


_PAGE = 250

DEAD_LETTER: Shape[DeadLetter] = Shape(
    {**attributes("id", "error", "failed_at"), "event_type_id": lambda dead: _event_type(dead)},
    (
        Column("ID", lambda dead: dead.id),
        Column("FAILED AT", lambda dead: cell_text(dead.failed_at)),
        Column("ERROR", lambda dead: dead.error, flexible=True, least=32),
        Column("EVENT TYPE", lambda dead: cell_text(_event_type(dead)), optional=True),
    ),
)


class HasDeadLetters(Protocol):
    """A replay, or a job of a fleet."""

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return a page of dead letters."""
        ...

    async def export_dead(self, path: str) -> int:
        """Write the dead letters to a new file, and return how many."""
        ...

    async def drop_dead(self, ids: Sequence[str]) -> int:
        """Remove the dead letters with these ids, and return how many."""
        ...


def _event_type(dead: DeadLetter) -> str | None:
    from ..models import Message

    return Message(dead.id, dead.message).event_type_id


async def list_dead_letters(job: HasDeadLetters, output: Output) -> None:
    """List the dead letters, or write a note that there are none."""
    count = 0
    async for page in _dead_letter_pages(job):
        output.rows(page, DEAD_LETTER)
        count += len(page)
    if not count:
        note("there are no dead letters")


async def export_dead_letters(job: HasDeadLetters, file: str) -> None:
    """Write the dead letters to a new file. The job keeps them."""
    note(f"{await job.export_dead(file):,} messages written to {file!r}")


async def drop_dead_letters(job: HasDeadLetters, ids: Sequence[str]) -> None:
    """Remove the dead letters with these ids. Raises ``ConfigurationError`` if an id is not that of a dead letter."""
    dropped = await job.drop_dead(ids)
    note(f"{dropped:,} dead letters dropped")
    missing = len(set(ids)) - dropped
    if missing:
        raise ConfigurationError(f"{missing:,} of the ids are not ids of dead letters")


async def has_dead_letters(job: HasDeadLetters) -> bool:
    """Return whether the job has dead letters."""
    return bool(await job.dead_letters(limit=1))


async def _dead_letter_pages(job: HasDeadLetters) -> AsyncIterator[Sequence[DeadLetter]]:
    after = 0
    while page := await job.dead_letters(after=after, limit=_PAGE):
        yield page
        after = page[-1].number


quarantine_app = typer.Typer(help="Deliveries that an inbox set aside: their handler failed.", no_args_is_help=True)

_QUARANTINED: Shape[QuarantinedDelivery] = Shape(
    {
        **attributes("delivery_id", "event_type_id", "event_id", "error", "failures", "signed_at", "quarantined_at"),
        "body": lambda delivery: delivery.body.decode(errors="replace"),
    },
    (
        Column("DELIVERY", lambda delivery: delivery.delivery_id),
        Column("EVENT TYPE", lambda delivery: delivery.event_type_id),
        Column("SET ASIDE", lambda delivery: cell_text(delivery.quarantined_at), optional=True),
        Column("ERROR", lambda delivery: delivery.error, flexible=True, least=32),
    ),
)
_OUTCOME: Shape[Outcome] = Shape(
    {
        "delivery_id": lambda outcome: outcome.delivery.id if outcome.delivery else None,
        "result": lambda outcome: str(outcome.result),
        "handled": lambda outcome: _is_handled(outcome),
        "error": lambda outcome: _error(outcome),
    },
    (
        Column("DELIVERY", lambda outcome: outcome.delivery.id if outcome.delivery else "-"),
        Column("RESULT", lambda outcome: str(outcome.result)),
        Column("ERROR", lambda outcome: _error(outcome) or "", flexible=True, least=24),
    ),
)
_DROPPED: Shape[int] = Shape({"dropped": int})


@quarantine_app.command("list")
@shows(_QUARANTINED)
def list_(app: App, json: Json = None) -> None:
    """Show the deliveries in the quarantine, oldest first. The exit code is 1 if there are any."""
    output = Output(json)

    async def work() -> int:
        count = 0
        async with open_receiver(app) as receiver:
            async for page in _quarantine_pages(receiver):
                output.rows(page, _QUARANTINED)
                count += len(page)
        return count

    count = run_until_signal(work)
    if count:
        raise typer.Exit(1)
    note("the quarantine is empty")


@quarantine_app.command("retry")
@shows(_OUTCOME)
def retry(
    app: App,
    delivery_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[DELIVERY_ID...]", help="The deliveries to retry; all by default.")
    ] = None,
    json: Json = None,
) -> None:
    """Pass deliveries to their handlers again, oldest first. The exit code is 1 if a delivery fails again."""
    output = Output(json)

    async def work() -> Sequence[Outcome]:
        async with open_receiver(app) as receiver:
            return await receiver.retry_quarantined(delivery_ids or None)

    outcomes = run_until_signal(work)
    output.rows(outcomes, _OUTCOME)
    if not outcomes and not delivery_ids:
        note("the quarantine is empty")
    tried = {outcome.delivery.id for outcome in outcomes if outcome.delivery}
    _refuse_unknown([each for each in delivery_ids or () if each not in tried])
    if not all(map(_is_handled, outcomes)):
        raise typer.Exit(1)


@quarantine_app.command("drop")
@shows(_DROPPED)
def drop(
    app: App,
    delivery_ids: Annotated[list[str], typer.Argument(metavar="DELIVERY_ID...", help="The deliveries to remove.")],
    yes: Yes = False,
    json: Json = None,
) -> None:
    """Remove deliveries for good; they stay recorded as handled. In a terminal, asks first."""
    confirm(f"Remove {len(set(delivery_ids)):,} of the deliveries in the quarantine for good?", yes=yes)

    async def work() -> int:
        async with open_receiver(app) as receiver:
            return await receiver.drop_quarantined(delivery_ids)

    dropped = run_until_signal(work)
    Output(json).one(dropped, _DROPPED)
    if dropped < len(set(delivery_ids)):
        raise ConfigurationError(
            f"{len(set(delivery_ids)) - dropped} of these deliveries are not in the quarantine; "
            "'basiq-async quarantine list' shows its deliveries"
        )


async def _quarantine_pages(receiver: WebhookReceiver) -> AsyncIterator[Sequence[QuarantinedDelivery]]:
    after: QuarantinedDelivery | None = None
    while page := await receiver.quarantined(after=after, limit=100):
        yield page
        after = page[-1]


def _refuse_unknown(ids: Sequence[str]) -> None:
    if ids:
        raise ConfigurationError(
            f"not in the quarantine: {', '.join(ids)}; 'basiq-async quarantine list' shows its deliveries"
        )


def _is_handled(outcome: Outcome) -> bool:
    # A delivery that stays in the quarantine is acknowledged too.
    return outcome.acknowledged and str(outcome.result) != "quarantined"


def _error(outcome: Outcome) -> str | None:
    return None if outcome.error is None else f"{type(outcome.error).__name__}: {outcome.error}"
