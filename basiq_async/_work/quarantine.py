"""Read and drop the entries of one webhook in the quarantine, and read those that wait.

Only this asks an inbox for its pages.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

from ..errors import ConfigurationError, InboxError
from .keys import identity_of, inbox_key, is_digest, webhook_of
from .limits import inbox_limit
from .protocol import ClaimStatus, Inbox, StoredDelivery, WaitingInbox

ANY_WEBHOOK = "*"
"""In place of the id of a webhook: the entries of all."""
_WITH_JOBS = "*:"
_PAGE = 100
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""How long to wait before each attempt to drop what another worker has, in seconds."""


def with_jobs(identity: str) -> str:
    """Return what stands in place of an identity for its entries, and for those of jobs that post its events."""
    return f"{_WITH_JOBS}{identity}"


def read_quarantine(
    inbox: Inbox, webhook_id: str | None, *, timeout: float, after: StoredDelivery | None = None
) -> AsyncGenerator[StoredDelivery]:
    """Yield each quarantined delivery of one webhook, once, oldest first.

    webhook_id: the identity of the webhook, or ``ANY_WEBHOOK``. Only those after ``after``, if it is given.
    ``timeout`` is the limit for a page, in seconds. Raises the inbox's errors, and ``InboxError`` for an inbox whose
    pages do not advance: other programs may write to its storage.
    """
    return _read(inbox, webhook_id, timeout, after)


async def read_waiting(inbox: Inbox, webhook_id: str | None, *, timeout: float) -> AsyncGenerator[StoredDelivery]:
    """Yield each delivery of one webhook that waits to be handled, oldest first. See ``read_quarantine``."""
    if isinstance(inbox, WaitingInbox):
        async with aclosing(_read(inbox, webhook_id, timeout, None, waiting=True)) as found:
            async for entry in found:
                yield entry


async def _read(
    inbox: Inbox, webhook_id: str | None, timeout: float, after: StoredDelivery | None, *, waiting: bool = False
) -> AsyncGenerator[StoredDelivery]:
    seen: set[str] = set()
    while True:
        async with inbox_limit(timeout):
            page = await inbox.entries(waiting=waiting, after=after, limit=_PAGE)
        if not page:
            return
        last = max(page, key=_place)
        if after is not None and _place(last) <= _place(after):
            raise InboxError(
                "the quarantine cannot be read further: a delivery in it is older than the page that it is on"
            )
        for delivery in page:
            # A delivery that failed again has moved to the end.
            own = webhook_id == ANY_WEBHOOK or _is_own(delivery, webhook_id)
            if own and delivery.key not in seen:
                seen.add(delivery.key)
                yield delivery
        after = last


async def count_quarantined(inbox: Inbox, webhook_id: str | None, *, timeout: float) -> int:
    """Return how many of the webhook's deliveries are in the quarantine. See ``read_quarantine``."""
    async with aclosing(read_quarantine(inbox, webhook_id, timeout=timeout)) as found:
        return len([delivery.key async for delivery in found])


async def count_by_owner(inbox: Inbox, identities: Sequence[str | None], *, timeout: float) -> Counter[str | None]:
    """Return how many entries of the quarantine are of each identity. Of the given ones, digests are known too."""
    counts = Counter[str | None]()
    async with aclosing(read_quarantine(inbox, ANY_WEBHOOK, timeout=timeout)) as found:
        async for entry in found:
            own = next((each for each in identities if _is_own(entry, each)), webhook_of(entry.key))
            counts[own] += 1
    return counts


async def first_quarantined(
    inbox: Inbox, webhook_id: str | None, limit: int, *, timeout: float, after: StoredDelivery | None = None
) -> Sequence[StoredDelivery]:
    """Return the webhook's oldest ``limit`` entries, or the next ones after ``after``. See ``read_quarantine``."""
    entries: list[StoredDelivery] = []
    async with aclosing(read_quarantine(inbox, webhook_id, timeout=timeout, after=after)) as found:
        async for entry in found:
            entries.append(entry)
            if len(entries) == limit:
                break
    return entries


async def read_pages(
    inbox: Inbox, webhook_id: str | None, *, timeout: float, ids: Collection[str] | None = None
) -> AsyncGenerator[Sequence[StoredDelivery]]:
    """Yield the webhook's entries, or those with these ids, some at once. See ``read_quarantine``."""
    page: list[StoredDelivery] = []
    async with aclosing(read_quarantine(inbox, webhook_id, timeout=timeout)) as found:
        async for entry in found:
            if ids is None or has_id(entry, ids):
                page.append(entry)
            if len(page) == _PAGE:
                yield page
                page = []
    if page:
        yield page


async def drop_quarantined(inbox: Inbox, webhook_id: str | None, ids: Collection[str], *, timeout: float) -> int:
    """Remove the webhook's entries with these ids; they count as handled. Return the number removed.

    See ``drop_entry``.
    """
    dropped = 0
    keys = [entry.key async for page in read_pages(inbox, webhook_id, timeout=timeout, ids=ids) for entry in page]
    for key in keys:
        dropped += await drop_entry(inbox, key, timeout=timeout)
    return dropped


async def drop_entry(inbox: Inbox, key: str, *, timeout: float) -> bool:
    """Remove an entry from the quarantine; its key is then handled. Return False if it was not there.

    Raises what ``try_to_drop`` raises, and ``InboxError`` if another worker does not end its claim within some seconds.
    """
    for pause in _PAUSES:
        await asyncio.sleep(pause)
        status = await try_to_drop(inbox, key, timeout=timeout)
        if status is not ClaimStatus.BUSY:
            return status is ClaimStatus.CLAIMED
    raise InboxError(
        "another worker is handling the delivery, which cannot be dropped until that has ended: try again later"
    )


async def try_to_drop(inbox: Inbox, key: str, *, timeout: float) -> ClaimStatus:
    """Remove an entry from the quarantine, if it can be claimed; its key is then handled.

    Return CLAIMED if it was removed, DONE if it was not there, and BUSY if another worker has the key: then it stays.
    ``timeout`` is the limit for each of two calls, in seconds. Raises the inbox's errors.
    """
    token = f"drop/{secrets.token_hex(16)}"
    async with inbox_limit(timeout):
        claim = await inbox.claim(key, token, lease=2 * timeout, quarantined=True)
    if claim.status is ClaimStatus.CLAIMED:
        async with inbox_limit(timeout):
            await inbox.complete(key, token)
    return claim.status


def has_id(entry: StoredDelivery, ids: Collection[str]) -> bool:
    """Return whether the id of an entry's delivery, message or event is one of these."""
    return entry.delivery_id in ids or entry.event_id in ids


def _place(delivery: StoredDelivery) -> tuple[float, str]:
    return delivery.quarantined_at.timestamp(), delivery.key


def _is_own(delivery: StoredDelivery, webhook_id: str | None) -> bool:
    if not is_digest(delivery.key):
        owner = webhook_of(delivery.key)
        if webhook_id is not None and webhook_id.startswith(_WITH_JOBS):
            return identity_of(owner) == webhook_id.removeprefix(_WITH_JOBS)
        return owner == webhook_id
    if delivery.kind == "unreadable":
        return True  # its ids may not be those of its key
    try:
        ids = delivery.event_type_id, delivery.event_id, delivery.delivery_id
        return delivery.key == inbox_key(*ids, webhook_id)
    except ConfigurationError:  # it has no ids: another program wrote it
        return False
