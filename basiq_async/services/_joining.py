"""Let a webhook join the inbox of its service, where Basiq proves that it took the place of the one before."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from .._redaction.text import printable
from .._work.inbox_calls import InboxCalls
from .._work.noted import Account
from .._work.protocol import Inbox
from ..errors import ConfigurationError
from ..models import EnsuredWebhook

if TYPE_CHECKING:
    from .webhooks import Webhooks

logger = logging.getLogger("basiq_async.webhooks")

_TIME_LIMIT = 5.0
"""For one call of the inbox, in seconds."""


class Joining:
    """Lets the webhook of ``ensure`` join an inbox; without one, it does nothing. ``account``: of the API key."""

    def __init__(self, inbox: Inbox | None, account: Account) -> None:
        if inbox is not None and (isinstance(inbox, type) or not isinstance(inbox, Inbox)):
            raise ConfigurationError(f"inbox must be an Inbox, such as SQLiteInbox(...), not {type(inbox).__name__}")
        self._calls = None if inbox is None else InboxCalls(inbox, _TIME_LIMIT)
        self._account = account

    async def begin(self) -> None:
        """Raise ``InboxError`` if the inbox cannot be used: before anything is created or moved."""
        if self._calls is not None:
            await self._calls.check()
            await self._calls.noted()

    async def join(self, webhooks: Webhooks, found: EnsuredWebhook) -> EnsuredWebhook:
        """Return the webhook, with whether it belongs to the inbox now. Raises ``InboxError``."""
        if self._calls is None:
            return found
        noted = await self._calls.noted()
        if found.action == "elsewhere" and found.id not in noted.webhooks:  # it may be another service's
            joined = False
        else:
            listed = [each.id async for each in webhooks.list()]
            joined = await self._calls.join_proven(found.id, found.name, listed=listed, account=self._account)
        if not joined and noted.webhooks:
            logger.error(
                "the webhook %s has not joined the inbox, which is of %s: a receiver of it is refused there. If it "
                "took the place of that one, a person says so with `basiq-async inbox join`, which shows what waits "
                "and is in the quarantine; another service needs an inbox of its own",
                printable(found.id),
                printable(", ".join(noted.webhooks)),
            )
        return attrs.evolve(found, joined=joined)
