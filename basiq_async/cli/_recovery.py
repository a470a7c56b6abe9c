"""What a recovery goes to, and how its report looks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from ..receiver import Inbox, SQLiteInbox, WebhookReceiver
from ..replay import Checkpoint, HttpTarget, Recovery, Target
from ._files import read_secrets
from ._job import report_row
from ._output import Shape
from ._problems import problem_details, problem_rows
from ._receivers import open_receiver
from ._replay import default_path


@asynccontextmanager
async def open_target(
    to: str | None, receiver: str | None, base: str, concurrency: int, secret_file: Any
) -> AsyncIterator[tuple[Target | WebhookReceiver, Inbox | None]]:
    """Open what a recovery goes to, and the inbox beside it, where the target has none of its own."""
    async with AsyncExitStack() as stack:
        if to is None:
            yield await stack.enter_async_context(open_receiver(receiver or "")), None
            return
        target = HttpTarget(to, read_secrets(secret_file), connections=concurrency)
        # An event that became a message is in both sources: what was posted for the first is not for the second.
        inbox = await stack.enter_async_context(SQLiteInbox(f"{base}-inbox.db"))
        yield await stack.enter_async_context(target), inbox


def checkpoint_base(webhook_id: str, target: str, chosen: dict[str, Any]) -> str:
    """Return the beginning of the names of the files of a recovery: the same for the same line."""
    return default_path(webhook_id, target, chosen).replace("-replay-", "-recover-")[:-3]


def checkpoints_at(base: str) -> tuple[Checkpoint, Checkpoint]:
    """Return the two checkpoints of a recovery."""
    from ..replay import SQLiteCheckpoint

    return SQLiteCheckpoint(f"{base}-messages.db"), SQLiteCheckpoint(f"{base}-events.db")


def _row(found: Recovery) -> dict[str, Any]:
    return {
        "finished": found.finished,
        "messages": report_row(found.messages),
        "events": report_row(found.events),
        "out_of_reach": [{"since": each.since, "until": each.until} for each in found.out_of_reach],
        "status": found.webhook.status,
        "quarantined": found.quarantined,
        "left_alone": found.left_alone,
        "problems": problem_rows(found.problems),
    }


def _details(found: Recovery) -> Iterable[tuple[str, Any]]:
    for source, report in (("messages", found.messages), ("events", found.events)):
        yield f"{source} handled", f"{report.handled:,}"
        for why, count in report.skipped.items():
            yield f"{source} skipped, {why}", f"{count:,}"
        if report.failed or report.dead:
            yield f"{source} failed", f"{report.failed:,}, {report.dead:,} kept"
    if found.left_alone:
        yield (
            "left alone",
            f"{found.left_alone:,} that Basiq delivered; --everything with a new --checkpoint",
        )
    yield "finished", found.finished
    yield from problem_details(found.problems, "left")


RECOVERY: Shape[Recovery] = Shape(
    ("finished", "messages", "events", "out_of_reach", "status", "quarantined", "left_alone", "problems"),
    _row,
    details=_details,
)
