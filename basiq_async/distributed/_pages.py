"""Read the page of a segment, with its cursor or without it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs

from .. import pagination
from ..client import BasiqClient
from ..errors import CheckpointError, PaginationError
from ..models import Event, Message
from ..replay.engine import message_of, open_events, placeholder_for
from ._record_types import ListSpec, SegmentClaim, Source

T = TypeVar("T")
_MOST_ARRIVED = 100_000
"""Maximum number of messages to read to find a known page again."""


@attrs.frozen
class SegmentPage:
    """The messages of a page, and the cursor of the next page; None at the end of the list.

    ``last`` identifies the last message: by its id or, for dead letters, by its number. ``problem``: see ``PageMark``.
    """

    messages: Sequence[Message]
    next_cursor: str | None
    problem: str = attrs.field(kw_only=True, default="")
    last: str | None = attrs.field(
        kw_only=True,
        default=attrs.Factory(lambda page: page.messages[-1].id if page.messages else None, takes_self=True),
    )


async def read_page(client: BasiqClient, source: Source, list_spec: ListSpec, claim: SegmentClaim) -> SegmentPage:
    """Read the page at the claim's cursor or, if Basiq no longer accepts that, the messages after its ``after``.

    A page that a former owner of the segment read has the same messages again. Messages that were added since are not
    part of the job: page boundaries may have moved, and newer messages may precede the page in a list that begins with
    the newest. Raises ``CheckpointError`` if the place cannot be found or the page has changed, and the errors of the
    client.
    """
    filter, cursor, after = list_spec.filter or None, claim.cursor, claim.after
    try:
        if source == "events":
            events = open_events(client, filter, cursor, after, prefetch=0)
            page = await _gather(events.pages(), partial(_messages_of, list_spec.webhook_id), claim)
        else:
            messages = client.messages.list(
                list_spec.webhook_id,
                filter=filter,
                cursor=cursor,
                after=after,
                prefetch=0,
                on_unreadable=placeholder_for,
            )
            page = await _gather(messages.pages(), list, claim)
    except PaginationError as exc:
        if after is None or exc.link is not None:
            raise
        raise CheckpointError(
            f"the place after message {after!r} cannot be found again ({exc}): begin another job, with an inbox, so "
            "that nothing is handled twice"
        ) from None
    if claim.count is None:
        return page
    known = page.messages[-claim.count :] if claim.count else []
    if len(known) < claim.count or (known and known[-1].id != claim.last):
        raise CheckpointError(
            f"its page has changed: when it was read first, it had {claim.count} messages up to {claim.last!r}. Begin "
            "another job, with an inbox, so that nothing is handled twice"
        )
    return SegmentPage(known, page.next_cursor)


def _messages_of(webhook_id: str, events: Sequence[Event]) -> list[Message]:
    return [message_of(event, webhook_id) for event in events]


async def _gather(
    pages: AsyncIterator[pagination.Page[T]], read: Callable[[Sequence[T]], list[Message]], claim: SegmentClaim
) -> SegmentPage:
    """Read one page with messages or, if the segment's page is known, as many as lead to its last message."""
    messages: list[Message] = []
    count, longest = 0, (claim.count or 0) + _MOST_ARRIVED
    next_cursor: str | None = None
    async for page in pages:
        found = read(page.items)
        # In a list that begins with the newest message, new ones shift messages from the page before to this one.
        again = max((index for index, message in enumerate(found) if message.id == claim.after), default=-1)
        messages += found[again + 1 :]
        count += len(found)
        next_cursor = page.next_cursor
        place = next((index for index, message in enumerate(messages) if message.id == claim.last), None)
        if place is not None:
            return SegmentPage(messages[: place + 1], next_cursor)
        # An empty page is not the end of the list: a filter can leave a page empty, and so can the search for a place.
        if next_cursor is None or (messages and claim.last is None) or count > longest:
            break
        if claim.count:
            messages = messages[-claim.count :]
    return SegmentPage(messages, next_cursor)
