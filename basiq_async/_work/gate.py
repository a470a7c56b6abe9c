"""Whether the webhooks of a receiver may use an inbox: asked before each use."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

from .inbox_calls import InboxCalls
from .noted import Noted

logger = logging.getLogger("basiq_async.receiver")

_HOLDS = 60.0
"""Seconds for which a yes holds. After that it is asked again, because the inbox may have been flushed or restored."""


class Gate:
    """Lets the webhooks of one receiver use its inbox, and founds one that is empty. See ``InboxCalls.admit``.

    webhook_ids: none for a receiver in memory without an id, which is asked nothing.
    live: returns since when the inbox has the live deliveries of whoever asks now; None for who has none.
    patterns: returns those of the handlers, which are noted too.
    """

    def __init__(
        self,
        calls: InboxCalls,
        webhook_ids: Sequence[str],
        *,
        live: Callable[[], datetime | None],
        patterns: Callable[[], Collection[str]],
    ) -> None:
        self._calls = calls
        self._patterns = patterns
        self._webhook_ids = webhook_ids
        self._live = live
        self._asked_at = self._live_at = -math.inf
        self._seen: str | None = None
        """The salt of the note that was seen last: it is made with the note."""
        self._described: str | None = None
        """The salt with which the patterns were noted."""

    def is_open(self) -> bool:
        """Return whether the inbox said yes to live deliveries not long ago, so that it need not be asked."""
        return not self._webhook_ids or 0 <= asyncio.get_running_loop().time() - self._live_at < _HOLDS

    async def ask(self, *, live: bool = False) -> None:
        """Return if these webhooks may use the inbox. ``live``: for a delivery that Basiq sends.

        Raises ``ConfigurationError`` if it is that of other webhooks, and the errors of the inbox.
        """
        now = asyncio.get_running_loop().time()
        if self.is_open() or (not live and 0 <= now - self._asked_at < _HOLDS):
            return
        since = self._live() if live else None
        known = await self._calls.admit(self._webhook_ids, live=since)
        await self._compare(known)
        self._asked_at = now
        if since is not None:
            if self._described != known.salt:
                await self._calls.note_handled_types(self._patterns())
                self._described = known.salt
            self._live_at = now

    async def look(self) -> None:
        """Do the same without a write, and without what was said before."""
        if self._webhook_ids:
            known = await self._calls.look(self._webhook_ids)
            await self._compare(known)
            if known.text is None:
                self._asked_at = self._live_at = -math.inf  # the next use founds it

    async def _compare(self, known: Noted) -> None:
        """Log that the inbox began again since this process used it: a server was flushed, or a file replaced."""
        before, self._seen = self._seen, known.salt if known.webhooks else None
        if before in (None, known.salt):
            return
        try:
            since = (await self._calls.known_since()).astimezone(UTC)
        except BaseException:
            self._seen = before  # the next question logs it
            raise
        logger.error(
            "the inbox was emptied while it was in use, and has records since %s only: what waited or was in its "
            "quarantine is gone. A recovery passes over what Basiq had delivered before; everything=True "
            "(--everything) passes it to the handler, and handles again what was handled",
            f"{since:%Y-%m-%d %H:%M:%S} UTC",
        )
