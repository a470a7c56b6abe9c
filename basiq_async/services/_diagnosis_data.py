"""Collect the data of a ``Diagnosis``."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .._arguments import check_whole
from .._work.protocol import Inbox
from ..models import EventType, Secret, Webhook
from ._diagnosis_history import HistoryScan, collecting
from ._diagnosis_inbox import KnownEvents
from ._endpoint import check_endpoint, find_signer
from .api import Api
from .diagnosis import Attempts, DiagnosedReceiver, Diagnosis, Look, TypeDifferences, cool_off_left, matches
from .problems import is_inactive, subscribed_at
from .resources import EVENT_TYPES, WEBHOOKS

_ATTEMPTS = "failed_share last_success by_status first_failure oldest_undelivered"
_SCAN = "undelivered never_sent unrecorded passed_over before_joining recovered unrecoverable"
"""What a ``Diagnosis`` takes from the scan."""


async def diagnose(
    api: Api,
    webhook_id: str,
    *,
    receiver: DiagnosedReceiver | None,
    secret: str | Secret | Sequence[str | Secret] | None,
    inbox: Inbox | None,
    max_items: int | None,
    test: bool,
) -> Diagnosis:
    """See ``Webhooks.diagnose``."""
    if max_items is not None:
        check_whole("max_items", max_items, least=1, or_else="or None for all")
    try:
        sign = find_signer(receiver, secret)
    finally:
        del secret  # error reporters show local variables
    known = KnownEvents(inbox, receiver, webhook_id)
    webhook = await api.get(Webhook, api.at(WEBHOOKS.one, webhook_id=webhook_id))
    now = api.now()  # by Basiq's clock, from the response above
    forbidden: list[str] = []
    offered: tuple[str, ...] | None = None
    with collecting(forbidden, EVENT_TYPES.path):
        offered = tuple([one.id async for one in api.listing(EventType, api.at(EVENT_TYPES.path), prefetch=0)])

    async def find_working() -> Collection[str] | None:
        with collecting(forbidden, WEBHOOKS.path):
            listed = api.listing(Webhook, api.at(WEBHOOKS.path), prefetch=0)
            return {each.id async for each in listed if not is_inactive(each)}
        return None

    await known.open(webhook.url, find_working)
    scan = HistoryScan(api, webhook, known, now, known.accepts_type)
    await scan.read(max_items, forbidden)
    await known.count_left()
    subscribed = webhook.subscribed_events
    patterns = receiver.patterns if receiver is not None else ()
    return Diagnosis(
        webhook=webhook,
        cool_off_left=cool_off_left(webhook, subscribed_at(webhook), now),
        types=TypeDifferences(
            retired=tuple(one for one in subscribed if offered is not None and one not in offered),
            unknown=tuple(
                one for one in patterns if offered is not None and not any(matches(one, each) for each in offered)
            ),
            unhandled=tuple(one for one in subscribed if not known.accepts_type(one)),
            unsubscribed=tuple(
                one for one in patterns if subscribed and not any(matches(one, each) for each in subscribed)
            ),
        ),
        attempts=Attempts(
            **{name: getattr(scan.attempts, name) for name in _ATTEMPTS.split()},
            refused=scan.refused,
            disabled_at=scan.disabled_at,
        ),
        **{name: getattr(scan, name) for name in _SCAN.split()},
        endpoint=await check_endpoint(sign, webhook.url) if test and sign is not None else None,
        quarantined=known.quarantined,
        quarantined_since=known.quarantined_since,
        not_joined=known.not_joined,
        waiting=known.waiting,
        failing_types=known.failing_types,
        clock_lead=api.clock_lead(),
        look=Look(
            at=now,
            items=scan.looked_at,
            earliest=scan.earliest,
            latest=scan.latest,
            complete=scan.complete,
            unreadable=scan.unreadable,
            unknown=scan.unknown,
            forbidden=tuple(forbidden),
            read_by_id=scan.read_by_id,
            unknown_reach=scan.unknown_reach,
            lacking=scan.lacking,
            killers=tuple(known.killers),
            alone=tuple(known.alone),
            unended=await known.find_unended(scan.missed),
            unsent=scan.unsent,
        ),
    )
