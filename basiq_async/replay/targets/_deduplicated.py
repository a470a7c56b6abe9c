"""Targets with an inbox: what it knows as handled, or is handled by others, does not reach them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Coroutine
from datetime import datetime, timedelta
from typing import Any

from ..._concurrency.handling import Handling
from ..._concurrency.tasks import run_to_completion, wait_uncancelled
from ..._inbox.calls import InboxCalls
from ..._inbox.keys import Scope
from ..._redaction.text import printable
from ...errors import InboxError, TargetError
from ...models import Message
from ...receiver import Claim, ClaimStatus, Inbox, TransactionalInbox
from ._base import SessionHandler, Target

logger = logging.getLogger("basiq_async.replay")
HANDLED_BEFORE = "handled-before"
DELIVERED = "delivered"
"""Why a message is left alone: Basiq says that it was delivered, at a time of which the inbox knows nothing."""
_FAILED_BEFORE = "failed-before"
LEASE = 300.0
"""Seconds for which a claim is held, unless it is said otherwise."""
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 5.0
_MARGIN = 60.0
_LONGEST_END = 60.0
"""Seconds for what a cancelled target left running to end; after that its claim is left to run out."""
_SKEW = timedelta(minutes=5)
"""By how much Basiq's clock and this one may differ."""
_LISTED = timedelta(days=8)
"""What was first tried longer ago than this is of an event that is not listed any more."""


class InProcess:
    """What this job has under way, by inbox key: one message at a time for each key."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Future[None] | None] = {}

    async def wait(self, key: str) -> None:
        """Wait until nobody is at ``key``."""
        while key in self.running:
            other = self.running[key]
            if other is None:
                other = self.running[key] = asyncio.get_running_loop().create_future()
            await asyncio.wait((other,))

    def begin(self, key: str) -> None:
        """Keep others away from ``key``, until ``end``."""
        self.running[key] = None

    def end(self, key: str) -> None:
        """Let the others begin."""
        waited_for = self.running.pop(key)
        if waited_for is not None:
            waited_for.set_result(None)


class OtherWorker:
    """Waiting for another worker, longer each time, until its lease must have run out."""

    def __init__(self, lease: float = LEASE) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + max(lease, LEASE) + _MARGIN
        self._wait = _FIRST_WAIT

    async def wait(self, lease_left: float) -> None:
        """Wait before asking again. Raises ``TargetError`` where that has lasted too long."""
        if self._clock() >= self._until:
            raise TargetError("another worker holds this delivery in the inbox, and does not finish")
        await asyncio.sleep(min(self._wait, max(lease_left, _FIRST_WAIT)))
        self._wait = min(_LONGEST_WAIT, 1.5 * self._wait)


class Deduplicated:
    """A target with an inbox: what the inbox knows as handled does not reach it.

    The events of ``webhook_id`` have the keys that its receiver gives them. ``token`` names this job's claims. It
    is the same in all its runs, so that the next run takes over at once what a killed run held. A message counts as
    handled only after ``flush``. ``timeout`` is the limit, in seconds, of each call of the inbox, ``lease`` how long a
    claim keeps others away when this process dies: it is prolonged for as long as the target is at it. A target that
    was cancelled keeps its claim until all that it began has ended, such as a commit of SQLAlchemy's.
    """

    def __init__(
        self,
        target: Target,
        inbox: Inbox,
        token: str,
        *,
        webhook_id: str | None = None,
        timeout: float = 5.0,
        lease: float = LEASE,
    ) -> None:
        self._lease = lease
        self._target = target
        self._inbox = inbox
        self._token = token
        self._scope = Scope(inbox, webhook_id)
        self._calls = InboxCalls(timeout)
        self._in_process = InProcess()

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        if not self._scope.known:
            await self._calls.within_limit(self._scope.find())
        key = self._scope.key(message.event_type_id, message.event_id, message.id)
        token = f"{self._token}:{message.id}"
        in_process = self._in_process
        if key in in_process.running:
            await in_process.wait(key)
        in_process.begin(key)
        try:
            claim = await self._claim(key, token)
            if claim.status is ClaimStatus.BUSY:
                claim = await self._claim_after_others(claim, key, token)
            if claim.status is ClaimStatus.DONE:
                return HANDLED_BEFORE
            return await self._deliver_claimed(message, key, token)
        finally:
            in_process.end(key)

    async def flush(self) -> None:
        """See ``Target``."""
        await self._target.flush()

    async def _claim(self, key: str, token: str) -> Claim:
        try:
            return await self._calls.within_limit(self._take(key, token))
        except (Exception, asyncio.CancelledError):
            await self._release(key, token)  # the claim may have been made
            raise

    async def _take(self, key: str, token: str) -> Claim:
        return await self._inbox.claim(key, token, lease=self._lease)

    async def _claim_after_others(self, claim: Claim, key: str, token: str) -> Claim:
        other = OtherWorker(self._lease)
        while claim.status is ClaimStatus.BUSY:
            await other.wait(claim.retry_after)
            claim = await self._claim(key, token)
        return claim

    async def _deliver_claimed(self, message: Message, key: str, token: str) -> str | None:
        handling = Handling(self._hand_over(message, key, token))
        prolonging = self._begin_prolonging(key, token)
        try:
            found = await handling.run()
            if prolonging is not None:
                await prolonging.end()
        except BaseException as exc:
            await self._release_at_end(handling, prolonging, exc, key, token)
            raise
        try:
            await self._complete(key, token)
        except asyncio.CancelledError:
            await run_to_completion(lambda: self._settle(lambda: self._inbox.complete(key, token), key))
            raise
        return found

    async def _hand_over(self, message: Message, key: str, token: str) -> str | None:
        found = await self._target.deliver(message)
        await self._target.flush()
        return found

    async def _release_at_end(
        self,
        handling: Handling[str | None],
        prolonging: _Prolonging | None,
        failure: BaseException,
        key: str,
        token: str,
    ) -> None:
        """Release the claim once nothing of the target runs any more; leave it to its lease where that takes long."""

        async def release() -> None:
            ended = not handling.may_run_on(failure) or await handling.wait(min(self._lease, _LONGEST_END))
            if prolonging is not None:
                await prolonging.end()
            if ended:
                await self._settle(lambda: self._inbox.release(key, token), key)
            else:
                logger.error(
                    "the target was cancelled at %r, and what it began has not ended: the claim stays in the inbox "
                    "until its lease runs out",
                    key,
                )

        await run_to_completion(release)

    def _begin_prolonging(self, key: str, token: str) -> _Prolonging | None:
        return _Prolonging(lambda: self._prolong(key, token), self._lease / 3)

    async def _prolong(self, key: str, token: str) -> None:
        try:
            await self._calls.within_limit(self._inbox.claim(key, token, lease=self._lease))
        except Exception as exc:
            logger.warning("the claim of %r could not be prolonged: %s", key, printable(exc))

    async def _complete(self, key: str, token: str) -> None:
        try:
            await self._calls.within_limit(self._inbox.complete(key, token))
        except Exception as exc:
            # It was handled, and the checkpoint will say so; to fail would have it handled again for certain.
            logger.error("%r was handled, but that could not be entered in the inbox: %s", key, printable(exc))

    async def _release(self, key: str, token: str) -> None:
        await run_to_completion(lambda: self._settle(lambda: self._inbox.release(key, token), key))

    async def _settle(self, call: Callable[[], Awaitable[object]], key: str) -> None:
        try:
            await self._calls.within_limit(call())
        except Exception as exc:
            logger.warning("the claim of %r stays in the inbox until its lease runs out: %s", key, printable(exc))


class _Prolonging:
    """Makes a call each ``every`` seconds, until it is ended: one timer, and a task for each call."""

    def __init__(self, call: Callable[[], Coroutine[Any, Any, None]], every: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._call = call
        self._every = every
        self._timer = self._loop.call_later(every, self._begin)
        self._task: asyncio.Task[None] | None = None

    def _begin(self) -> None:
        self._timer = self._loop.call_later(self._every, self._begin)
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._call())

    async def end(self) -> None:
        """Begin no more calls, and wait for the one under way, which has a time limit."""
        self._timer.cancel()
        task = self._task
        if task is not None and (cancelled := await wait_uncancelled(task)) is not None:
            raise cancelled


class InTransaction(Deduplicated):
    """A handler that accepts the session of the inbox's transaction: its effect and the entry commit together."""

    def __init__(
        self,
        handler: SessionHandler,
        inbox: TransactionalInbox,
        token: str,
        *,
        webhook_id: str | None = None,
        timeout: float = 5.0,
        lease: float = LEASE,
    ) -> None:
        super().__init__(_NoTarget(), inbox, token, webhook_id=webhook_id, timeout=timeout, lease=lease)
        self._handler = handler
        self._transactional = inbox

    async def _take(self, key: str, token: str) -> Claim:
        # The transaction ends with this process; the limit is for a machine that vanished, not for a slow handler.
        return await self._transactional.claim_transaction(key, token, lease=max(self._lease, LEASE))

    def _begin_prolonging(self, key: str, token: str) -> None:
        return None  # the transaction holds the claim

    async def _hand_over(self, message: Message, key: str, token: str) -> str | None:
        async with self._transactional.transaction(key, token) as session:
            await self._handler(message, session)
        return None

    async def _complete(self, key: str, token: str) -> None:
        if not await self._calls.within_limit(self._inbox.complete(key, token)):
            raise InboxError("the claim ended before its transaction was committed")


class _NoTarget:
    """In place of a target that has something to flush."""

    async def deliver(self, message: Message) -> None:
        pass

    async def flush(self) -> None:
        pass


def event_of(message: Message) -> tuple[str | None, str]:
    """Return what names a message's event: the same in both sources."""
    return message.event_type_id, message.event_id or message.id


class InboxKnowledge:
    """What an inbox can say of the past.

    ``shared``: the live service enters what it handles in this inbox. Otherwise it is the recovery's own, and knows of
    no delivery. ``now`` returns the time, ``timeout`` is the limit in seconds of each call.
    """

    def __init__(
        self, inbox: Inbox, scope: Scope, *, shared: bool, timeout: float, now: Callable[[], datetime]
    ) -> None:
        self._inbox = inbox
        self._scope = scope
        self._shared = shared
        self._calls = InboxCalls(timeout)
        self._now = now
        self._since: datetime | None = None

    async def would_know(self, message: Message) -> bool:
        """Whether the inbox would know a message that was delivered, had it been handled then."""
        if not self._shared:
            return False
        if self._since is None:
            self._since = await self._calls.within_limit(self._inbox.known_since())
        times = [each.timestamp for each in message.attempts if each.succeeded and each.timestamp is not None]
        return bool(times) and max(times) >= self._since + _SKEW

    async def has(self, message: Message) -> bool:
        """Whether it has the message's event as handled."""
        return await self._calls.within_limit(self._seen(message, left=False))

    async def leave(self, message: Message) -> None:
        """Note, for the event list, that a message was left alone."""
        first = message.first_attempt
        if first is None or first.timestamp is None or first.timestamp > self._now() - _LISTED:
            await self._calls.within_limit(self._mark(message))

    async def has_left(self, message: Message) -> bool:
        """Whether the message of this event was left alone."""
        return await self._calls.within_limit(self._seen(message, left=True))

    async def _seen(self, message: Message, *, left: bool) -> bool:
        return await self._inbox.seen(await self._key(message, left=left))

    async def _mark(self, message: Message) -> None:
        await self._inbox.complete(await self._key(message, left=True), uuid.uuid4().hex)

    async def _key(self, message: Message, *, left: bool) -> str:
        await self._scope.find()
        key = self._scope.left_key if left else self._scope.key
        return key(message.event_type_id, message.event_id, message.id)


class _Wrapper:
    def __init__(self, inner: Target) -> None:
        self._inner = inner

    async def flush(self) -> None:
        """See ``Target``."""
        await self._inner.flush()


class MissedMessages(_Wrapper):
    """A target without the messages that Basiq delivered when the inbox could not know of it."""

    def __init__(self, inner: Target, knowledge: InboxKnowledge) -> None:
        super().__init__(inner)
        self._knowledge = knowledge

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        if not message.delivered or await self._knowledge.would_know(message):
            return await self._inner.deliver(message)
        if await self._knowledge.has(message):
            return HANDLED_BEFORE
        await self._knowledge.leave(message)
        return DELIVERED


class MissedEvents(_Wrapper):
    """A target without the events whose messages were left alone, or failed.

    What failed as a message is kept: it is not tried, and kept, a second time. ``failed`` has those events.
    """

    def __init__(
        self, inner: Target, knowledge: InboxKnowledge | None, failed: Collection[tuple[str | None, str]]
    ) -> None:
        super().__init__(inner)
        self._knowledge = knowledge
        self._failed = failed

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        if self._failed and event_of(message) in self._failed:
            return _FAILED_BEFORE
        if self._knowledge is not None and await self._knowledge.has_left(message):
            return DELIVERED
        return await self._inner.deliver(message)
