"""Whose an inbox is: the webhooks whose events it records, the identity of each, and since when it has it live.

The identity of a webhook is the id in the keys of its events: that of the first webhook of its service.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import attrs

from .._redaction.text import amount
from ..errors import ConfigurationError, InboxError
from .limits import inbox_limit
from .protocol import Inbox, Record
from .quarantine import count_quarantined
from .waiting import count_waiting

_NOTE = "webhooks"
_JOBS = "posting jobs"
_MOST = 500
"""The number of webhooks that are noted; an inbox has a few."""
_TRIES = 100


@attrs.frozen
class Owner:
    """A webhook in an inbox: its identity, and since when the inbox has its live deliveries; None if it has none."""

    identity: str
    since: datetime | None = None


class Owners(dict[str, Owner]):
    """The webhooks of an inbox, in the order in which they were noted. ``text`` is the note that says so."""

    text: str | None = None


async def read_owners(record: Record, *, timeout: float) -> Owners:
    """Return the webhooks of a record. It is empty for a record that was never used, or whose note is damaged."""
    async with inbox_limit(timeout):
        return _read(await record.note(_NOTE))


async def note_owners(
    inbox: Inbox, webhook_ids: Sequence[str], *, live: datetime | None, timeout: float, known: Owners | None = None
) -> Owners:
    """Note the webhooks of one service, newest first, whose last one is their identity. Return what was noted before.

    live: since when the inbox has their live deliveries; None for a job. ``known``: what was read before, if it was.
    Raises ``ConfigurationError`` for a list that contradicts what is noted, so that no order of the list has events
    handled again.
    """
    for _ in range(_TRIES):
        if known is None:
            known = await read_owners(inbox, timeout=timeout)
        joining = _check_order(known, webhook_ids, may_join=live is not None)
        for each in joining:
            await _check_is_drained(inbox, each, webhook_ids, timeout=timeout)
        noted = dict(known)
        for each in reversed(webhook_ids):
            found = known.get(each)
            since = live if found is None or found.since is None or each in joining else found.since
            noted[each] = Owner(webhook_ids[-1], since)
        if noted == known:
            return known
        async with inbox_limit(timeout):
            if await inbox.set_note(_NOTE, _write(noted), expected=known.text):
                return known
        known = None  # another program has changed it
    raise InboxError("other programs change the inbox's note of its webhooks again and again")


async def note_job(inbox: Inbox, job: str, *, timeout: float) -> None:
    """Note a job that posts, which keeps keys of its own in an inbox."""
    for _ in range(_TRIES):
        async with inbox_limit(timeout):
            text = await inbox.note(_JOBS)
        known = _read_jobs(text)
        if job in known:
            return
        async with inbox_limit(timeout):
            if await inbox.set_note(_JOBS, json.dumps([*known[-_MOST:], job]), expected=text):
                return


async def read_jobs(record: Record, *, timeout: float) -> list[str]:
    """Return the jobs that have posted with a record."""
    async with inbox_limit(timeout):
        return _read_jobs(await record.note(_JOBS))


def _read_jobs(text: str | None) -> list[str]:
    try:
        return [str(each) for each in list(json.loads(text or "[]"))]
    except (ValueError, TypeError, RecursionError):
        return []


async def find_identity(record: Record, webhook_id: str, given: str | None, *, timeout: float) -> str:
    """Return the identity of a webhook for a job: what the record's receivers noted, else what is given, else itself.

    Raises ``ConfigurationError`` if the two differ.
    """
    return identity_in(await read_owners(record, timeout=timeout), webhook_id, given)


def identity_in(known: Owners, webhook_id: str, given: str | None) -> str:
    """Return what ``find_identity`` returns, from what a record's note says."""
    if given is not None:
        _check_order(known, [webhook_id, given] if webhook_id != given else [given], may_join=False)
        return given
    return known[webhook_id].identity if webhook_id in known else webhook_id


async def find_recording_since(inbox: Inbox, webhook_id: str, *, timeout: float) -> datetime | None:
    """Return since when an inbox has recorded every live delivery of a webhook; None if it does not record them.

    Its note says so, which each receiver makes when it starts.
    """
    owner = (await read_owners(inbox, timeout=timeout)).get(webhook_id)
    live = None if owner is None else owner.since
    if live is None:
        return None
    async with inbox_limit(timeout):
        return max(await inbox.known_since(), live)


def live_identities(owners: Mapping[str, Owner]) -> Sequence[str]:
    """Return the identities whose live deliveries an inbox has, each once."""
    return list(dict.fromkeys(each.identity for each in owners.values() if each.since is not None))


def list_of(owners: Owners, identity: str, *newer: str) -> list[str]:
    """Return the webhooks of an identity as a receiver's ``webhook_id``: newest first, the identity last."""
    own = [each for each, owner in owners.items() if owner.identity == identity and each != identity]
    return [*dict.fromkeys([*(each for each in newer if each != identity), *reversed(own)]), identity]


def refuse_others(owners: Collection[str | None], webhook_id: str, what: str) -> None:
    """Raise ``ConfigurationError`` if an inbox or a receiver has owners, and the webhook is none of them."""
    if owners and webhook_id not in owners:
        raise ConfigurationError(
            f"the {what} is of the webhook {', '.join(map(repr, owners))}, not of {webhook_id!r}: it cannot tell what "
            "was handled of the other"
        )


def _check_order(known: Owners, webhook_ids: Sequence[str], *, may_join: bool) -> Sequence[str]:
    """Return the webhooks that had an identity of their own and join one from before.

    Raises ``ConfigurationError`` if one of the webhooks has another identity.
    """
    identity, joining = webhook_ids[-1], list[str]()
    others = {each: known[each].identity for each in webhook_ids if each in known and known[each].identity != identity}
    for each, other in others.items():
        if may_join and other == each and _came_later(known, each, identity):
            joining.append(each)
            continue
        right = list_of(known, other, *(each for each in webhook_ids if each not in known))
        raise ConfigurationError(
            f"the inbox has the events of the webhook {each!r} under the id {other!r}, and webhook_id="
            f"{list(webhook_ids)!r} would have them handled again: pass {right!r}, newest first. The last id stays "
            "the last for ever"
        )
    return joining


def _came_later(known: Owners, webhook_id: str, identity: str) -> bool:
    """Return whether a webhook alone under its own id was noted after an identity."""
    order = list(known)
    alone = list_of(known, webhook_id) == [webhook_id]
    is_identity = identity in known and known[identity].identity == identity
    return alone and is_identity and order.index(identity) < order.index(webhook_id)


async def _check_is_drained(inbox: Inbox, webhook_id: str, webhook_ids: Sequence[str], *, timeout: float) -> None:
    waiting = (await count_waiting(inbox, webhook_id, timeout=timeout)).count
    left = waiting + await count_quarantined(inbox, webhook_id, timeout=timeout)
    if left:
        raise ConfigurationError(
            f"the inbox has {amount(left, 'delivery', 'deliveries')} of the webhook {webhook_id!r} under its own id, "
            f"waiting or in the quarantine: finish that with webhook_id={webhook_id!r}, then pass {list(webhook_ids)!r}"
        )


def _read(text: str | None) -> Owners:
    owners = Owners()
    try:
        for each, (since, identity) in dict(json.loads(text or "{}")).items():
            moment = datetime.fromisoformat(since) if since else None
            if moment is not None and moment.tzinfo is None:
                raise ValueError("not a moment")
            owners[each] = Owner(str(identity), moment)
    except (ValueError, TypeError, RecursionError):
        owners.clear()
    owners.text = text
    return owners


def _write(owners: Mapping[str, Owner]) -> str:
    """Return the note of owners; the oldest ones beyond the number that is kept are left out."""
    latest = list(owners.items())[-_MOST:]
    return json.dumps({each: [owner.since and owner.since.isoformat(), owner.identity] for each, owner in latest})
