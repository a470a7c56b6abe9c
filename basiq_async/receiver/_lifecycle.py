"""When a receiver takes deliveries: until whoever entered it first has left it."""

from __future__ import annotations

import asyncio
import logging

from .._inbox.protocol import Inbox
from .._inbox.scope import Scope
from ..errors import ConfigurationError, InboxError

logger = logging.getLogger("basiq_async.receiver")


class Lifecycle:
    """Counts who has entered a receiver, and knows whether it is closed.

    inbox_timeout: seconds for looking at the inbox at the start.
    """

    def __init__(self, inbox: Inbox, scope: Scope, inbox_timeout: float) -> None:
        self._inbox = inbox
        self._scope = scope
        self._inbox_timeout = inbox_timeout
        self._entered = 0
        self._told = False
        self.closed = False

    async def enter(self) -> None:
        """Note one who enters. Log an error where the inbox cannot be used.

        Raises ``ConfigurationError`` for a receiver that was closed, and where the inbox is another webhook's.
        """
        if self.closed:
            raise ConfigurationError(
                "this receiver was closed, and cannot be started again: make it anew for each start, and the "
                "application too, in a function such as make_app(); a TestClient that is used twice starts twice"
            )
        self._entered += 1
        if self._entered == 1:
            try:
                await self._look_at_inbox()
            except BaseException:
                self._entered -= 1
                raise

    def leave(self) -> bool:
        """Note one who leaves; whether that was the last one."""
        self._entered -= 1
        return self._entered <= 0

    def tell_closed(self) -> None:
        """Log, once, that a delivery came to a closed receiver."""
        if not self._told:
            self._told = True
            logger.warning(
                "a delivery was refused with 503, for this receiver is closed. Where this is no shutdown, it was "
                "closed too early, or started again after it was closed: make it anew for each start"
            )

    async def _look_at_inbox(self) -> None:
        # Not a reason to refuse to start: a database may come back, and a deployment may make the tables later.
        limit = asyncio.timeout(self._inbox_timeout)
        try:
            async with limit:
                await self._inbox.check()
                await self._scope.find()
        except ConfigurationError:
            raise
        except Exception as exc:
            text = str(exc) if isinstance(exc, InboxError) else f"{type(exc).__name__}: {exc}"
            if limit.expired():
                text = f"it did not respond within {self._inbox_timeout:g} s"
            logger.error(
                "the receiver has started, but its inbox cannot be used, so that each delivery gets a 503: %s", text
            )
