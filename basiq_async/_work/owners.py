"""Whose an inbox is: the webhooks whose events it records, and since when it has their live deliveries."""

from __future__ import annotations

import json
from datetime import datetime

from .limits import inbox_limit
from .protocol import Record

_NOTE = "webhooks"
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
