"""Read the quarantine of one webhook: the one place that asks an inbox for its pages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..errors import ConfigurationError, InboxError
from .keys import inbox_key, may_be_of
from .limits import inbox_limit
from .protocol import Inbox, QuarantinedDelivery

_PAGE = 100


async def read_quarantine(
    inbox: Inbox, webhook_id: str | None, *, timeout: float, after: QuarantinedDelivery | None = None
) -> AsyncGenerator[QuarantinedDelivery]:
    """Yield each quarantined delivery of one webhook once, oldest first; those after ``after``, if it is given.

    ``timeout`` is the limit for a page, in seconds. Raises the inbox's errors, and ``InboxError`` for an inbox whose
    pages do not advance: other programs may write to its storage.
    """
    seen: set[str] = set()
    while True:
        async with inbox_limit(timeout):
            page = await inbox.quarantined(after=after, limit=_PAGE)
        if not page:
            return
        last = max(page, key=_place)
        if after is not None and _place(last) <= _place(after):
            raise InboxError(
                "the quarantine cannot be read further: a delivery in it is older than the page that it is on"
            )
        for delivery in page:
            # A delivery that failed again has moved to the end.
            if delivery.key not in seen and _is_own(delivery, webhook_id):
                seen.add(delivery.key)
                yield delivery
        after = last


async def count_quarantined(inbox: Inbox, webhook_id: str | None, *, timeout: float) -> int:
    """Return how many of the webhook's deliveries are in the quarantine. See ``read_quarantine``."""
    async with aclosing(read_quarantine(inbox, webhook_id, timeout=timeout)) as found:
        return len([delivery.key async for delivery in found])


def _place(delivery: QuarantinedDelivery) -> tuple[float, str]:
    return delivery.quarantined_at.timestamp(), delivery.key


def _is_own(delivery: QuarantinedDelivery, webhook_id: str | None) -> bool:
    if delivery.kind == "unreadable":  # its ids may not be those of its key
        return may_be_of(delivery.key, webhook_id)
    try:
        ids = delivery.event_type_id, delivery.event_id, delivery.delivery_id
        return delivery.key == inbox_key(*ids, webhook_id)
    except ConfigurationError:  # it has no ids: another program wrote it
        return False
