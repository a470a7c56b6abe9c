"""A job beside the service whose inbox it has: where it may post, what the service knows, and what is left there."""

from __future__ import annotations

import attrs

from .._work.limits import inbox_limit
from .._work.owners import Owners, list_of
from .._work.quarantine import count_quarantined, read_pages, try_to_drop
from .._work.waiting import count_waiting
from ..client import BasiqClient
from ..errors import ConfigurationError
from ..receiver import Result
from ._report import Report
from .targets._adapters import HandOut
from .targets._http import NOT_HANDLED, HttpTarget

_CALL = 5.0


async def check_place(client: BasiqClient, owners: Owners, webhook_id: str, target: HttpTarget) -> bool:
    """Return whether an inbox is the service's. Raises ``ConfigurationError`` if the target is at another place.

    The places of a service are the urls of its webhooks, as the inbox has noted them.
    """
    owner = owners.get(webhook_id)
    if owner is None:
        return False
    own = [each for each in list_of(owners, owner.identity) if each in owners and owners[each].since is not None]
    if not own:
        return False
    urls = {each.url async for each in client.webhooks.list() if each.id in {webhook_id, *own}}
    if target._url not in urls:
        raise ConfigurationError(
            "the inbox is the service's, and what is posted to another place than its webhook's url does not reach it: "
            "pass an inbox that is kept for that place"
        )
    return True


async def end_known_entries(job: HandOut) -> None:
    """End the entries of a job that posts whose events the service knows: Basiq's next attempt brought them."""
    if not job.posts or job.inbox is None:
        return
    async for page in read_pages(job.inbox, job.webhook_id, timeout=_CALL):
        of_service = job.keys_at_service(each.key for each in page)
        async with inbox_limit(_CALL):
            known = await job.inbox.known([*of_service])
        for key in known:
            await try_to_drop(job.inbox, of_service[key], timeout=_CALL)


def accepted(report: Report) -> int:
    """Return how many messages an endpoint has accepted, whatever its receiver made of them."""
    return report.handled + sum(report.skipped.get(each, 0) for each in NOT_HANDLED)


def count_set_aside(report: Report) -> Report:
    """Return the report of a job that posts, with what the receiver has said to be in its quarantine."""
    aside = report.skipped.get(Result.QUARANTINED, 0)
    return attrs.evolve(report, at_service=aside, finished=False) if aside else report


async def count_at_service(job: HandOut, report: Report, known: int) -> Report | None:
    """Return a report that says what the service has not handled of the ``known`` events; None if that is nothing.

    The inbox knew them, or they were posted: they may wait at the service, or be in its quarantine.
    """
    waiting = (await count_waiting(job.inbox, job.identity or job.webhook_id, timeout=_CALL)).count
    failed = 0
    if job.posts and job.inbox is not None:
        failed = await count_quarantined(job.inbox, job.identity, timeout=_CALL)
    if not waiting and not failed:
        return None
    failed = max(report.at_service, min(known, failed))
    return attrs.evolve(report, waiting=min(known, waiting), at_service=failed, finished=False)
