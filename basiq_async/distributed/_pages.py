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
from ._record_types import ListSpec, Source

T = TypeVar("T")
_MOST_ARRIVED = 100_000
"""The most messages that are read to find a known page again."""


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


@attrs.frozen
class KnownPage:
    """The page that a former owner of the segment read: ``count`` messages, the last with the id ``last``."""

    count: int
    last: str | None


async def read_page(
    client: BasiqClient,
    source: Source,
    list_spec: ListSpec,
    cursor: str | None,
    after: str | None,
    known: KnownPage | None = None,
) -> SegmentPage:
    """Read the page at ``cursor`` or, if Basiq no longer accepts the cursor, the messages after the message ``after``.

    A ``known`` page is read again: the result has the same messages, or fewer if some were deleted. Page boundaries may
    have moved since, and in a list that begins with the newest message, newer ones may precede them. Raises
    ``CheckpointError`` if the place cannot be found, and the errors of the client.
    """
    filter = list_spec.filter or None
    try:
        if source == "events":
            events = open_events(client, filter, cursor, after, prefetch=0)
            return await _gather(events.pages(), partial(_messages_of, list_spec.webhook_id), known, after)
        messages = client.messages.list(
            list_spec.webhook_id, filter=filter, cursor=cursor, after=after, prefetch=0, on_unreadable=placeholder_for
        )
        return await _gather(messages.pages(), list, known, after)
    except PaginationError as exc:
        if after is None or exc.link is not None:
            raise
        raise CheckpointError(
            f"the place after message {after!r} cannot be found again ({exc}): begin another job, with an inbox, so "
            "that nothing is handled twice"
        ) from None


def _messages_of(webhook_id: str, events: Sequence[Event]) -> list[Message]:
    return [message_of(event, webhook_id) for event in events]


async def _gather(
    pages: AsyncIterator[pagination.Page[T]],
    read: Callable[[Sequence[T]], list[Message]],
    known: KnownPage | None,
    passed: str | None,
) -> SegmentPage:
    wanted, last = (0, None) if known is None else (known.count, known.last)
    messages: list[Message] = []
    count = 0
    next_cursor: str | None = None
    async for page in pages:
        found = read(page.items)
        # In a list that begins with the newest message, new ones shift messages from the page before to this one.
        again = max((index for index, message in enumerate(found) if message.id == passed), default=-1)
        messages += found[again + 1 :]
        count += len(found)
        next_cursor = page.next_cursor
        place = next((index for index, message in enumerate(messages) if message.id == last), None)
        if place is not None:
            messages = messages[: place + 1]
            break
        # An empty page is not the end of the list: a filter can leave a page empty, and so can the search for a place.
        if next_cursor is None or (messages and last is None) or count > wanted + _MOST_ARRIVED:
            break
        if last is not None:
            messages = messages[-wanted:]
    return SegmentPage(messages if last is None else messages[-wanted:], next_cursor)
