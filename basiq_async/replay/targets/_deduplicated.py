"""A target with an inbox: events that were handled, or that another worker is handling, do not reach it."""

from __future__ import annotations

import logging

from ..._redaction.text import printable
from ..._work.keys import inbox_key
from ..._work.once import Ended, Unit, Units
from ...errors import InboxError, TargetError
from ...models import Message
from ...receiver import Inbox
from ...receiver.protocol import TransactionalInbox
from ._base import SessionHandler, Target

logger = logging.getLogger("basiq_async.replay")
HANDLED_BEFORE = "handled-before"
LEASE = 300.0
"""Seconds for which a claim is held by default."""
PATIENCE = LEASE + 60.0
"""Seconds to wait for another worker: until its lease must have ended."""
_LONGEST_END = 60.0
"""Seconds to wait for a cancelled target to end. After that, its claim ends with its lease."""


class Deduplicated:
    """A target with an inbox. A message counts as handled only after ``flush``.

    target: a target, or a handler that gets the session of the inbox's transaction: then its writes commit together
        with the inbox's entry.
    token: names this job's claims. It is the same in all runs, so that the next run takes over the claims of a killed
        run at once.
    webhook_id: the webhook of the events, so that their keys are those of its receiver.
    timeout: the limit, in seconds, of each call of the inbox.
    lease: the seconds for which a claim keeps other workers away if this process dies. It is renewed while the target
        handles the message.
    connection: the handler gets the transaction's connection in place of a session.
    """

    def __init__(
        self,
        target: Target | SessionHandler,
        inbox: Inbox,
        token: str,
        *,
        webhook_id: str | None = None,
        timeout: float = 5.0,
        lease: float = LEASE,
        connection: bool = False,
    ) -> None:
        self._target = target
        self._token = token
        self._webhook_id = webhook_id
        self._session = None
        if not isinstance(target, Target) and isinstance(inbox, TransactionalInbox):
            self._session = inbox
            # A transaction ends with this process. Its lease is for a machine that vanishes, not for a slow handler.
            lease = max(lease, LEASE)
        self._connection = connection
        grace = min(lease, _LONGEST_END)
        self._units = Units(inbox, lease=lease, call_timeout=timeout, grace=grace, renew=True, logger=logger)

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        key = inbox_key(message.event_type_id, message.event_id, message.id, self._webhook_id)
        patience = max(self._units.lease, LEASE) + 60.0
        unit = _Message(self._units, key, f"{self._token}:{message.id}", patience, session=self._session)
        unit.message, unit.target, unit.connection = message, self._target, self._connection
        ending = await unit.handle_once()
        if ending.how is Ended.HANDLED:
            return ending.value
        if ending.how is Ended.DONE:
            return HANDLED_BEFORE
        if ending.how is Ended.BUSY:
            raise TargetError("another worker holds this delivery in the inbox, and does not finish")
        raise ending.error or InboxError("the event loop shuts down")

    async def flush(self) -> None:
        """See ``Target``."""
        if isinstance(self._target, Target):
            await self._target.flush()


class _Message(Unit[str | None]):
    message: Message
    target: Target | SessionHandler
    connection: bool

    async def work(self) -> str | None:
        if isinstance(self.target, Target):
            found = await self.target.deliver(self.message)
            await self.target.flush()
            return found
        if self.session is not None:
            async with self.session.transaction(self.key, self.token, session=not self.connection) as session:
                await self.target(self.message, session)
        return None

    def describe(self) -> str:
        return f"message {self.message.id!r}"

    def report(self, what: str, failure: Exception) -> None:
        # If it was handled, the checkpoint will record it: a failure would certainly have it handled again.
        logger.error("%s %s in the inbox: %s", self.describe(), what, printable(failure))
