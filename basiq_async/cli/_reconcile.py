"""``basiq-async reconcile``: what Basiq says it delivered, against what an inbox has handled."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from ..errors import ConfigurationError
from ._options import EventPattern, Filter, Json, Since, Until, WebhookId, check_event_types, selection
from ._output import Output, Shape, note
from ._run import run

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import Inbox
    from ..replay import Reconciliation


def reconcile(
    webhook_id: WebhookId,
    inbox: Annotated[
        str | None, typer.Option(metavar="FILE", help="The file of a SQLiteInbox.", show_default=False)
    ] = None,
    receiver: Annotated[
        str | None,
        typer.Option(metavar="MODULE:RECEIVER", help="A WebhookReceiver with its inbox.", show_default=False),
    ] = None,
    since: Since = None,
    until: Until = None,
    event: EventPattern = None,
    filter: Filter = None,
    ids: Annotated[int, typer.Option(min=0, metavar="N", help="Show the ids of the first N missing messages.")] = 20,
    json: Json = None,
) -> None:
    """Compare what Basiq says it delivered with what an inbox has handled. Ends with 1 where something is missing.

    'basiq-async replay' with the same service delivers what is missing.
    """
    output = Output(json)

    async def work(basiq: BasiqClient) -> Reconciliation:
        from ..replay import JSONLinesTarget, MemoryCheckpoint, Replay

        await check_event_types(basiq, event)
        job = Replay(
            basiq,
            webhook_id,
            JSONLinesTarget(os.devnull),
            checkpoint=MemoryCheckpoint(),
            filter=filter,
            where=selection(since=since, until=until, event=event),
        )
        async with _open_inbox(inbox, receiver) as found:
            return await job.reconcile(found, ids=ids)

    found = run(work)
    output.one(found, _RECONCILIATION)
    if found.missing or found.undelivered:
        note("'basiq-async replay' or 'basiq-async recover' delivers what is missing")
        raise typer.Exit(1)


@asynccontextmanager
async def _open_inbox(inbox: str | None, receiver: str | None) -> AsyncIterator[Inbox]:
    if (inbox is None) == (receiver is None):
        raise ConfigurationError("say which inbox, with one of --inbox and --receiver")
    if receiver is not None:
        from ._options import open_receiver

        async with open_receiver(receiver) as opened:
            yield opened.inbox
        return
    assert inbox is not None  # noqa: S101  # one of the two is there
    from ..receiver import SQLiteInbox

    if not os.path.isfile(inbox):  # noqa: ASYNC240  # one look before anything begins
        raise ConfigurationError(f"there is no inbox {inbox!r}")
    async with SQLiteInbox(inbox) as made:
        yield made


def _reconciliation_row(found: Reconciliation) -> dict[str, Any]:
    return attrs.asdict(found, recurse=False)


def _reconciliation_details(found: Reconciliation) -> Any:
    for name, value in _reconciliation_row(found).items():
        if isinstance(value, dict):
            yield from ((f"{name.replace('_', ' ')} {key}", count) for key, count in value.items())
        elif not isinstance(value, (tuple, list)):
            yield name.replace("_", " "), value
        else:
            yield from ((f"{name.replace('_', ' ')}", each) for each in value)


_RECONCILIATION: Shape[Reconciliation] = Shape(
    ("checked", "delivered", "missing", "missing_by_type", "missing_ids", "undelivered"),
    _reconciliation_row,
    details=_reconciliation_details,
)
