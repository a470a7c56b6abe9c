"""Read the page of a segment: what follows the ids at the end of the page before it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

import attrs

from ..client import BasiqClient
from ..errors import ConfigurationError, PaginationError, ReplayError
from ..models import Message
from ..replay.shared import message_of, open_events, place_after, placeholder_for
from ._record_types import EDGE, ListSpec, SegmentClaim, SegmentPage, Source

_MOST_ARRIVED = 100_000
"""Maximum number of messages that are read to find a known page again."""
_MOST_TRIES = 100
_INSTEAD = "begin another job, with an inbox, so that nothing is handled twice"


Pages: TypeAlias = Callable[[str | None], AsyncGenerator[SegmentPage]]
"""Returns the pages of a list from a cursor on; None is the start. Raises ``PaginationError`` if the place is lost."""


async def list_pages(
    client: BasiqClient, source: Source, list_spec: ListSpec, cursor: str | None
) -> AsyncGenerator[SegmentPage]:
    """Yield the pages of a job's list from a cursor on."""
    webhook_id, filter = list_spec.webhook_id, list_spec.filter or None
    try:
        listed = (
            open_events(client, filter, cursor)
            if source == "events"
            else client.messages.list(
                webhook_id, filter=filter, cursor=cursor, prefetch=0, on_unreadable=placeholder_for
            )
        )
    except ConfigurationError as exc:
        if cursor is None:
            raise
        raise PaginationError(str(exc)) from None  # the API key has changed since the cursor was made
    async for page in listed.pages():
        following = listed._next_page
        messages = [each if isinstance(each, Message) else message_of(each, webhook_id) for each in page.items]
        yield SegmentPage(messages=messages, cursor=cursor, next_cursor=following)
        cursor = following


async def read_page(pages: Pages, claim: SegmentClaim) -> SegmentPage:
    """Read the messages that follow the claim's ``after``: those of the page at its cursor, and what left that page.

    If a former owner of the segment read it, read on to the messages behind which the next segment begins: the ids
    decide, and not how many there were. A message is there once. Raises ``ReplayError`` if the place cannot be found,
    and the errors of the client.
    """
    step, page = claim, await _read_step(pages, claim)
    found = {message.id: message for message in page.messages}
    while claim.edge and claim.edge[-1] not in found and page.next_cursor is not None and len(found) < _MOST_ARRIVED:
        after = [*claim.after, *found][-EDGE:]
        step = attrs.evolve(step, before=page.cursor, cursor=page.next_cursor, after=after)
        page = await _read_step(pages, step)
        found |= {message.id: message for message in page.messages if message.id not in found}
    ids = list(found)
    while claim.edge and ids and ids[-1] not in claim.edge:
        ids.pop()  # of the next segment
    if claim.edge and not ids and page.next_cursor is not None:
        raise _lost(claim.edge)
    return SegmentPage(
        messages=[found[id] for id in ids],
        cursor=page.cursor,
        next_cursor=page.next_cursor,
        edge=[*claim.after, *ids][-EDGE:],
    )


async def _read_step(pages: Pages, claim: SegmentClaim) -> SegmentPage:
    return await (_read_after(pages, claim) if claim.after else _read(pages, claim.cursor))


def _lost(ids: Sequence[str]) -> ReplayError:
    return ReplayError(f"the place after message {ids[-1]!r} cannot be found again: {_INSTEAD}")


def _after(page: SegmentPage, ids: Sequence[str]) -> Sequence[Message] | None:
    """Return the messages after the last one with one of these ids; None if the page has no such message."""
    place = place_after([message.id for message in page.messages], frozenset(ids))
    return None if place is None else page.messages[place:]


async def _read(pages: Pages, cursor: str | None) -> SegmentPage:
    """Return the first page with messages from a cursor on; the last page if none has any: a filter can empty pages."""
    found = SegmentPage(cursor=cursor, next_cursor=None)
    async with aclosing(pages(cursor)) as each:
        async for found in each:
            if found.messages:
                break
    return found


async def _read_after(pages: Pages, claim: SegmentClaim) -> SegmentPage:
    """Return the page at the claim's cursor with the messages that follow ``after``.

    Messages slip to the page before, if pages are numbered and earlier messages vanish. So where the page itself does
    not show what it follows, the page before is requested, after it: whatever slipped away until then is there. A place
    that neither shows is searched from the start of the list.
    """
    before, cursor, ids = claim.before, claim.cursor, claim.after
    for _ in range(_MOST_TRIES):
        page, following = None, None
        try:
            page = await _read(pages, cursor)
            following = _after(page, ids)
            if following is None and (slipped := _after(await _read(pages, before), ids)) is not None:
                here = {message.id for message in page.messages}
                following = [*(each for each in slipped if each.id not in here), *page.messages]
        except PaginationError as exc:
            if exc.link is not None:
                raise
        if page is None or following is None:
            page = await _search(pages, ids)
            # If there is a page after it, that shows whether the place moves.
            following = _after(page, ids) if page.next_cursor is None else ()
        if following or page.next_cursor is None:
            return attrs.evolve(page, messages=following or ())
        before, cursor = page.cursor, page.next_cursor
    raise ReplayError(f"the place after message {ids[-1]!r} moves while it is read: {_INSTEAD}")


async def _search(pages: Pages, ids: Sequence[str]) -> SegmentPage:
    """Return the first page of the list that has one of these ids."""
    async with aclosing(pages(None)) as each:
        async for page in each:
            if _after(page, ids) is not None:
                return page
    raise _lost(ids)
