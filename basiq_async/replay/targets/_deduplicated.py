"""A target with an inbox: events that were handled, or that another worker is handling, do not reach it."""

from __future__ import annotations

import logging
from functools import partial

from ..._redaction.text import printable
from ..._work.keys import inbox_key
from ..._work.once import Ended, Unit, Units, handle_once
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
        self._inbox = inbox
        self._token = token
        self._webhook_id = webhook_id
        self._timeout = timeout
        self._session = None
        if not isinstance(target, Target) and isinstance(inbox, TransactionalInbox):
            self._session = inbox
        self._connection = connection
        # A transaction ends with this process. Its lease is for a machine that vanishes, not for a slow handler.
        self._lease = max(lease, LEASE) if self._session is not None else lease
        self._units = Units()

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        key, token = self._key(message), f"{self._token}:{message.id}"
        unit = Unit(
            self._inbox,
            key,
            token,
            lambda: f"message {message.id!r}",
            partial(self._work, message, key, token),
            self._lease,
            self._timeout,
            grace=min(self._lease, _LONGEST_END),
            patience=max(self._lease, LEASE) + 60.0,
            session=self._session,
            renew=self._session is None,
            logger=logger,
        )
        ending = await handle_once(unit, self._units)
        if ending.how is Ended.HANDLED:
            if ending.error is not None:
                # The checkpoint will record it. A failure would certainly have it handled again.
                text = "%r was handled, but that could not be recorded in the inbox: %s"
                logger.error(text, key, printable(ending.error))
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

    def _key(self, message: Message) -> str:
        return inbox_key(message.event_type_id, message.event_id, message.id, self._webhook_id)

    async def _work(self, message: Message, key: str, token: str) -> str | None:
        if isinstance(self._target, Target):
            found = await self._target.deliver(message)
            await self._target.flush()
            return found
        if self._session is not None:
            async with self._session.transaction(key, token, session=not self._connection) as session:
                await self._target(message, session)
        return None
