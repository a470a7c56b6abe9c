"""Targets with an inbox: events that it has as handled, or that another worker is handling, do not reach them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ..._redaction.text import printable
from ..._work.calls import InboxCalls
from ..._work.handling import Handling
from ..._work.keys import inbox_key
from ..._work.tasks import run_to_completion, wait_uncancelled
from ...errors import InboxError, TargetError
from ...models import Message
from ...receiver import Claim, ClaimStatus, Inbox, TransactionalInbox
from ._base import SessionHandler, Target

logger = logging.getLogger("basiq_async.replay")
HANDLED_BEFORE = "handled-before"
LEASE = 300.0
"""Seconds for which a claim is held by default."""
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 5.0
_MARGIN = 60.0
_LONGEST_END = 60.0
"""Seconds to wait for the tasks of a cancelled target to end. After that, its claim ends with its lease."""


class InProcess:
    """The inbox keys of the messages that this job has under way: one message at a time for each key."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Future[None] | None] = {}

    async def wait(self, key: str) -> None:
        """Wait until no other message with ``key`` is under way."""
        while key in self.running:
            other = self.running[key]
            if other is None:
                other = self.running[key] = asyncio.get_running_loop().create_future()
            await asyncio.wait((other,))

    def begin(self, key: str) -> None:
        """Make other messages with ``key`` wait, until ``end``."""
        self.running[key] = None

    def end(self, key: str) -> None:
        """Let the next message with ``key`` begin."""
        waited_for = self.running.pop(key)
        if waited_for is not None:
            waited_for.set_result(None)


class OtherWorker:
    """Waits for another worker, longer each time, until its lease must have ended."""

    def __init__(self, lease: float = LEASE) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + max(lease, LEASE) + _MARGIN
        self._wait = _FIRST_WAIT

    async def wait(self, lease_left: float) -> None:
        """Wait before the next attempt to claim. Raises ``TargetError`` once the other's lease must have ended."""
        if self._clock() >= self._until:
            raise TargetError("another worker holds this delivery in the inbox, and does not finish")
        await asyncio.sleep(min(self._wait, max(lease_left, _FIRST_WAIT)))
        self._wait = min(_LONGEST_WAIT, 1.5 * self._wait)


class Deduplicated:
    """A target with an inbox: events that the inbox has as handled do not reach the target.

    A message counts as handled only after ``flush``. After a cancellation, its claim is kept until all tasks of the
    target have ended, for example a commit of SQLAlchemy.

    token: names this job's claims. It is the same in all runs, so that the next run takes over the claims of a killed
        run at once.
    webhook_id: the webhook of the events, so that their keys are those of its receiver.
    timeout: the limit, in seconds, of each call of the inbox.
    lease: the seconds for which a claim keeps other workers away if this process dies. It is renewed while the target
        handles the message.
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
        self._webhook_id = webhook_id
        self._calls = InboxCalls(timeout)
        self._in_process = InProcess()

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        key = inbox_key(message.event_type_id, message.event_id, message.id, self._webhook_id)
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
            await self._release(key, token)  # the inbox may have made the claim
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
        """Release the claim when all tasks of the target have ended. If that takes too long, it ends with its lease."""

        async def release() -> None:
            ended = not handling.may_run_on(failure) or await handling.wait(min(self._lease, _LONGEST_END))
            if prolonging is not None:
                await prolonging.end()
            if ended:
                await self._settle(lambda: self._inbox.release(key, token), key)
            else:
                logger.error(
                    "the target was cancelled while it handled %r, and still runs: the claim stays in the inbox until "
                    "its lease runs out",
                    key,
                )

        await run_to_completion(release)

    def _begin_prolonging(self, key: str, token: str) -> _Prolonging | None:
        return _Prolonging(lambda: self._prolong(key, token), self._lease / 3)

    async def _prolong(self, key: str, token: str) -> None:
        try:
            await self._calls.within_limit(self._inbox.claim(key, token, lease=self._lease))
        except Exception as exc:
            logger.warning("the claim on %r could not be renewed: %s", key, printable(exc))

    async def _complete(self, key: str, token: str) -> None:
        try:
            await self._calls.within_limit(self._inbox.complete(key, token))
        except Exception as exc:
            # It was handled, and the checkpoint will record that. A failure would certainly have it handled again.
            logger.error("%r was handled, but that could not be recorded in the inbox: %s", key, printable(exc))

    async def _release(self, key: str, token: str) -> None:
        await run_to_completion(lambda: self._settle(lambda: self._inbox.release(key, token), key))

    async def _settle(self, call: Callable[[], Awaitable[object]], key: str) -> None:
        try:
            await self._calls.within_limit(call())
        except Exception as exc:
            logger.warning("the claim on %r stays in the inbox until its lease runs out: %s", key, printable(exc))


class _Prolonging:
    """Makes a call every ``every`` seconds until ``end``, with a single timer, and a task for each call."""

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
        """Begin no more calls, and wait for a call under way, which has a time limit."""
        self._timer.cancel()
        task = self._task
        if task is not None and (cancelled := await wait_uncancelled(task)) is not None:
            raise cancelled


class InTransaction(Deduplicated):
    """A target whose handler gets the session of the inbox's transaction: its writes commit together with the entry."""

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
        # The transaction ends with this process. The lease is for a machine that vanishes, not for a slow handler.
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
    """A target that does nothing: the handler is called directly."""

    async def deliver(self, message: Message) -> None:
        pass

    async def flush(self) -> None:
        pass
