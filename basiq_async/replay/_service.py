"""A job beside the service whose inbox it has: where it may post, what the service knows, and what is left there."""

from __future__ import annotations

import attrs

from .._work.keys import split_key
from .._work.noted import Noted
from ..client import BasiqClient
from ..errors import ConfigurationError
from ..receiver import Result
from ._report import Report
from .targets._adapters import Handling
from .targets._http import NOT_HANDLED, HttpTarget


async def check_place(client: BasiqClient, noted: Noted, webhook_id: str, target: HttpTarget) -> bool:
    """Return whether an inbox is the service's. Raises ``ConfigurationError`` if the target is at another place.

    The places of a service are the urls of its webhooks, as the inbox has noted them.
    """
    own = noted.live()
    if not own:
        return False
    own += [webhook_id] if webhook_id in noted.webhooks else []
    urls = {each.url async for each in client.webhooks.list() if each.id in own}
    if target._url not in urls:
        raise ConfigurationError(
            "the inbox is the service's, and what is posted to another place than its webhook's url does not reach it: "
            "pass an inbox that is kept for that place"
        )
    return True


async def end_known_entries(job: Handling) -> None:
    """End the entries of a job that posts whose events the service knows: Basiq's next attempt brought them."""
    if job.job is None or job.calls is None:
        return
    async for page in job.calls.read_pages(job.job):
        posted = {split_key(each.key)[1]: each.key for each in page}
        for key in await job.calls.known([*posted]):
            await job.calls.try_to_drop(posted[key])


def check_repeat(handling: Handling, webhook_id: str, again: str, *, selects: bool) -> None:
    """Raise ``ConfigurationError`` unless messages can be handled again under a name, and are selected."""
    if handling.job is not None:
        line = f"basiq-async replay {webhook_id} --receiver MODULE:RECEIVER --again {again}"
        raise ConfigurationError(
            "again= is not for an endpoint: a service that knows an event responds 200 (duplicate) to it, under any "
            "webhook-id, and a header that asked for more would let a captured delivery be repeated. Let its own "
            f"receiver handle the messages: {line}, with a selection"
        )
    if handling.calls is None:
        raise ConfigurationError("again= needs an inbox, which records what was handled under that name")
    if not selects:
        raise ConfigurationError(
            "again= handles again what was handled: select it with where= or filter=, such as where=since(moment), or "
            "say everything with where=lambda message: True"
        )


def count_held(report: Report) -> Report:
    """Return the report of a run that handles events again, with how many it left because they wait."""
    waiting = report.skipped.get("waiting", 0)
    return attrs.evolve(report, waiting=waiting, finished=report.finished and not waiting)


def accepted(report: Report) -> int:
    """Return how many messages an endpoint has accepted, whatever its receiver made of them."""
    return report.handled + sum(report.skipped.get(each, 0) for each in NOT_HANDLED)


def quarantined_at_service(report: Report) -> int:
    """Return how many messages the receiver of an endpoint has said to be in its quarantine."""
    return report.skipped.get(Result.QUARANTINED, 0)


def count_quarantined(report: Report) -> Report:
    """Return the report of a job that posts, with what the receiver has said to be in its quarantine."""
    quarantined = quarantined_at_service(report)
    return attrs.evolve(report, at_service=quarantined, finished=False) if quarantined else report


async def count_at_service(job: Handling, report: Report, known: int) -> Report | None:
    """Return a report that says what the service has not handled of the ``known`` events; None if that is nothing.

    The inbox knew them, or they were posted: they may wait at the service, or be in its quarantine.
    """
    if job.calls is None:
        return None
    waiting = (await job.calls.count_waiting()).count
    failed = 0 if job.job is None else await job.calls.count_quarantined()
    if not waiting and not failed:
        return None
    failed = max(report.at_service, min(known, failed))
    return attrs.evolve(report, waiting=min(known, waiting), at_service=failed, finished=False)
