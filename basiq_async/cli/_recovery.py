"""What a recovery goes to, and how its report looks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from ..errors import BasiqError
from ..models import Message
from ..receiver import Inbox, SQLiteInbox, WebhookReceiver
from ..replay import HttpTarget, Recovery, Target
from ._files import read_secrets
from ._job import report_row
from ._output import Shape
from ._receivers import open_receiver


@asynccontextmanager
async def open_target(
    to: str | None, receiver: str | None, base: str, everything: bool, concurrency: int, secret_file: Any
) -> AsyncIterator[tuple[Target | WebhookReceiver, Inbox | None]]:
    """Open what a recovery goes to, and the inbox beside it, where the target has none of its own."""
    async with AsyncExitStack() as stack:
        if to is None:
            yield await stack.enter_async_context(open_receiver(receiver or "")), None
            return
        target = HttpTarget(to, read_secrets(secret_file), connections=concurrency)
        inner = await stack.enter_async_context(target)
        # An event that became a message is in both sources: what was posted for the first is not for the second.
        inbox = await stack.enter_async_context(SQLiteInbox(f"{base}-inbox.db"))
        yield _Missed(inner, everything=everything), inbox


class _Missed:
    """A target that posts only what Basiq did not deliver, unless it is to post everything.

    What failed as a message is a dead letter already: the same event is not tried, and kept, a second time.
    """

    def __init__(self, inner: Target, *, everything: bool) -> None:
        self._inner = inner
        self._everything = everything
        self._failed: dict[tuple[str | None, str], str] = {}

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        if message.delivered and not self._everything:
            return "delivered"
        event = (message.event_type_id, message.event_id or message.id)
        if self._failed.get(event, message.id) != message.id:
            return "failed-before"
        try:
            found = await self._inner.deliver(message)
        except BasiqError:
            self._failed[event] = message.id
            raise
        self._failed.pop(event, None)
        return found

    async def flush(self) -> None:
        """See ``Target``."""
        await self._inner.flush()


def _row(found: Recovery) -> dict[str, Any]:
    return {
        "finished": found.finished,
        "messages": report_row(found.messages),
        "events": report_row(found.events),
        "out_of_reach": [{"since": each.since, "until": each.until} for each in found.out_of_reach],
    }


def _details(found: Recovery) -> Iterable[tuple[str, Any]]:
    for source, report in (("messages", found.messages), ("events", found.events)):
        yield f"{source} handled", f"{report.handled:,}"
        for why, count in report.skipped.items():
            yield f"{source} skipped, {why}", f"{count:,}"
        if report.failed or report.dead:
            yield f"{source} failed", f"{report.failed:,}, {report.dead:,} kept"
    for each in found.out_of_reach:
        yield "out of reach", str(each)
    yield "finished", found.finished


RECOVERY: Shape[Recovery] = Shape(("finished", "messages", "events", "out_of_reach"), _row, details=_details)
