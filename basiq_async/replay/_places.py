"""Check that what a job posts arrives at the service whose inbox says what was handled."""

from __future__ import annotations

from .._work.owners import Owners, list_of
from ..client import BasiqClient
from ..errors import ConfigurationError
from .targets._http import HttpTarget


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
