"""A target that shares an inbox with others: each message is claimed, handled and recorded by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable

from ..._redaction.text import printable, shorten
from ..._work.attempts import AttemptResult, UnderWay
from ..._work.calls import HOST
from ..._work.failures import failure_text, reason_text
from ..._work.keys import inbox_key
from ..._work.limits import inbox_limit
from ..._work.once import Unit
from ..._work.protocol import Inbox, TransactionalInbox
from ...errors import InboxError
from ...models import Message
from ._base import MessageSessionHandler, Target

logger = logging.getLogger("basiq_async.replay")
LEASE = 30.0
"""Seconds for which a claim keeps others away if this process dies. It is renewed while the target works."""
PATIENCE = 360.0
"""Seconds to wait, at the end of a run, for another worker: until a live delivery's lease must have ended."""
_LONGEST_TRANSACTION = 300.0
"""A transaction ends with its process. Its lease is for a machine that vanishes, not for a slow handler."""
_RECORD_WITHIN = 90.0
"""Seconds for which the inbox is asked to record what was handled."""
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 5.0
_LONGEST_END = 60.0
"""Seconds to wait for a cancelled target to end. After that, its claim ends with its lease."""


def new_token() -> str:
    """Return a new token to claim with, which names this process."""
    return f"{HOST}/{os.getpid()}/{secrets.token_hex(16)}"


class Shared:
    """A target whose messages are claimed in an inbox, as live deliveries are.

    target: a target, or a handler that gets the session of the inbox's transaction: then its writes commit together
        with the inbox's entry.
    key_of: returns the key under which the event of a key is recorded; by default itself, as by its receiver.
    timeout: the limit, in seconds, of each call of the inbox.
    quarantined: the messages are in the quarantine, and are tried again.
    """

    def __init__(
        self,
        target: Target | MessageSessionHandler,
        inbox: Inbox,
        *,
        key_of: Callable[[str], str] = str,
        timeout: float = 5.0,
        lease: float = LEASE,
        quarantined: bool = False,
    ) -> None:
        # Asked once: for each message it would take 20 µs, since Python looks at every method of a protocol.
        self._target = target if isinstance(target, Target) else None
        self._handler = None if isinstance(target, Target) else target
        self._key_of = key_of
        self._session, trace_lease = None, lease
        if self._handler is not None and isinstance(inbox, TransactionalInbox):
            self._session = inbox
            lease = max(lease, _LONGEST_TRANSACTION)
        self._quarantined = quarantined
        grace = min(lease, _LONGEST_END)
        limits = {"lease": lease, "trace_lease": trace_lease, "call_timeout": timeout, "grace": grace}
        self._units = UnderWay(inbox, **limits, renew=True, logger=logger)
        self.patience = 0.0
        """Seconds to wait for another worker that holds a message."""
        self.alone = False
        """Whether one message is passed to the handler at a time."""

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``. Returns ``BUSY`` if another worker holds the message, and ``ALONE`` for what is dangerous."""
        key = self._key_of(inbox_key(message.event_id, message.id))
        token = new_token()
        unit = _Message(self._units, key, token, self.patience, session=self._session, quarantined=self._quarantined)
        unit.shared, unit.message, unit.can_be_alone = self, message, self.alone
        ending = await unit.handle_once()
        if ending.how is AttemptResult.HANDLED:
            if ending.unrecorded is not None:
                await self._record(key, token, ending.unrecorded)
            return ending.value
        if ending.how in (AttemptResult.DONE, AttemptResult.BUSY, AttemptResult.ALONE):
            return str(ending.how.value)
        raise ending.error or InboxError("the event loop shuts down")

    def leave_traces(self) -> None:
        """Let a handler with a session be claimed by a lease too, because a process was killed."""
        self._units.leaves_trace = True

    async def aclose(self) -> None:
        """End the claims whose end the inbox could not record."""
        await self._units.owed.aclose()

    async def _record(self, key: str, token: str, failure: Exception) -> None:
        """Record what was handled, as soon as the inbox can. Raises an ``InboxError`` that ends the run."""
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        until = loop.time() + _RECORD_WITHIN
        while loop.time() < until and not getattr(failure, "_lasts", False):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                async with inbox_limit(self._units.call_timeout):
                    await self._units.inbox.complete(key, token)
                return
            except Exception as exc:
                failure = exc
        text = failure_text(failure)
        error = InboxError(f"what was handled could not be recorded: {text}. Mend the inbox, then run the same again")
        error._lasts = True
        raise error from failure


class _Message(Unit[str | None]):
    shared: Shared
    message: Message

    async def work(self) -> str | None:
        shared = self.shared
        if shared._target is not None:
            return await shared._target.deliver(self.message)
        if self.session is not None and shared._handler is not None:
            async with self.session.transaction(self.key, self.token) as session:
                await shared._handler(self.message, session)
        return None

    def describe(self) -> str:
        return f"message {shorten(self.message.id)!r}"

    def report(self, what: str, failure: Exception) -> None:
        logger.error("%s %s in the inbox: %s", self.describe(), what, printable(reason_text(failure)))
