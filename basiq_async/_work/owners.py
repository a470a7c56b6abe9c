"""Whose an inbox is: the webhooks whose events it records, and since when it has their live deliveries."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime

from ..errors import ConfigurationError
from .limits import inbox_limit
from .protocol import Inbox, Record

_NOTE = "webhooks"
_FORMER_NOTE = "formerly"
_MOST = 500
"""The number of webhooks that are noted; an inbox has a few."""


async def note_webhook(record: Record, webhook_id: str, *, live: datetime | None, timeout: float) -> None:
    """Note that a record has events of a webhook, and since when its live deliveries, if it has them."""
    known = await read_webhooks(record, timeout=timeout)
    if webhook_id in known and (live is None or known[webhook_id] is not None):
        return
    known = {**dict(list(known.items())[-_MOST:]), webhook_id: live}
    text = json.dumps({each: since and since.isoformat() for each, since in known.items()})
    async with inbox_limit(timeout):
        await record.set_note(_NOTE, text)


async def read_webhooks(record: Record, *, timeout: float) -> dict[str, datetime | None]:
    """Return the webhooks of a record, each with the time since which it has its live deliveries; None if it has none.

    It is empty for a record that nobody has used, or whose note is damaged.
    """
    async with inbox_limit(timeout):
        text = await record.note(_NOTE)
    try:
        found = json.loads(text or "{}")
        known = {str(each): datetime.fromisoformat(since) if since else None for each, since in dict(found).items()}
        return {} if any(since is not None and since.tzinfo is None for since in known.values()) else known
    except (ValueError, TypeError, RecursionError):
        return {}


async def note_former(record: Record, webhook_id: str, former: str, *, timeout: float) -> None:
    """Note that a webhook replaces another, and those that this one replaced."""
    known = await _read_former(record, timeout=timeout)
    known[webhook_id] = list(dict.fromkeys([*known.get(webhook_id, []), former, *known.get(former, [])]))
    async with inbox_limit(timeout):
        await record.set_note(_FORMER_NOTE, json.dumps(dict(list(known.items())[-_MOST:])))


async def read_former(record: Record, webhook_id: str | None, *, timeout: float) -> tuple[str, ...]:
    """Return the webhooks that a webhook replaces: what a record has of them belongs to it."""
    return () if webhook_id is None else tuple((await _read_former(record, timeout=timeout)).get(webhook_id, ()))


async def _read_former(record: Record, *, timeout: float) -> dict[str, list[str]]:
    async with inbox_limit(timeout):
        text = await record.note(_FORMER_NOTE)
    try:
        return {str(each): [str(one) for one in former] for each, former in dict(json.loads(text or "{}")).items()}
    except (ValueError, TypeError, RecursionError):
        return {}


async def find_recording_since(inbox: Inbox, webhook_id: str, *, timeout: float) -> datetime | None:
    """Return since when an inbox has recorded every live delivery of a webhook; None if it does not record them.

    Its note says so, which each receiver makes when it starts.
    """
    live = (await read_webhooks(inbox, timeout=timeout)).get(webhook_id)
    if live is None:
        return None
    async with inbox_limit(timeout):
        return max(await inbox.known_since(), live)


def refuse_others(owners: Collection[str | None], webhook_id: str, what: str) -> None:
    """Raise ``ConfigurationError`` if an inbox or a receiver has owners, and the webhook is none of them."""
    if owners and webhook_id not in owners:
        raise ConfigurationError(
            f"the {what} is of the webhook {', '.join(map(repr, owners))}, not of {webhook_id!r}: it cannot tell what "
            "was handled of the other"
        )
