"""Where messages go: the small protocol, and what turns a function or a receiver into it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ...errors import ConfigurationError, ReplayError, TargetError
from ...models import Message
from ...receiver import ClaimStatus, Delivery, Inbox, Result, WebhookReceiver, inbox_key

if TYPE_CHECKING:
    from ...receiver import Outcome

__all__ = ["Handler", "Once", "Target", "as_target"]

Handler = Callable[[Message], Awaitable[object]]
_BUSY_TRIES = 20
_LEASE = 300.0


@runtime_checkable
class Target(Protocol):
    """What messages are replayed into. Whoever makes a target closes it, if there is anything to close."""

    async def deliver(self, message: Message) -> str | None:
        """Take one message; many are under way at once. When this returns, the target has taken it.

        Gives None, or in a word why there was nothing to do: the message then counts as skipped for that. Raises
        whatever it likes where the message was not taken. An error with a number ``retry_after`` (seconds), such as
        ``TargetError`` or ``RateLimitError``, has the whole job wait for that long, and the message tried again.
        A ``ReplayError`` that is no ``TargetError`` ends the job.
        """
        ...

    async def flush(self) -> None:
        """Make durable all that was taken. Called before it is recorded as done; what fails ends the job.

        Where one is cancelled, the next one does what it left undone.
        """
        ...


class _Function:
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def deliver(self, message: Message) -> None:
        await self._handler(message)

    async def flush(self) -> None:
        pass


class _PerhapsAsync(_Function):
    """A callable of which only a call tells whether it can be awaited."""

    async def deliver(self, message: Message) -> None:
        working = self._handler(message)
        if not inspect.isawaitable(working):
            raise ReplayError("the target is not async: pass an async function that takes a Message")
        await working


class _Receiver:
    """A receiver's handlers and inbox, without HTTP."""

    def __init__(self, receiver: WebhookReceiver) -> None:
        self._receiver = receiver

    async def deliver(self, message: Message) -> str | None:
        delivery = Delivery.from_message(message)
        for _ in range(_BUSY_TRIES):
            outcome = await self._receiver.dispatch(delivery)
            if outcome.result is not Result.BUSY:
                return _understood(outcome)
            # Held by another worker, or by one that was killed: until its lease runs out.
            await asyncio.sleep(min(outcome.retry_after or 1.0, 30.0))
        raise TargetError("another worker holds this delivery in the inbox, and does not finish")

    async def flush(self) -> None:
        pass


def _understood(outcome: Outcome) -> str | None:
    if outcome.result is Result.HANDLED:
        return None
    if outcome.result is Result.DUPLICATE:
        return "handled-before"
    if outcome.result is Result.IGNORED:
        return "no-handler"
    if outcome.result in (Result.FAILED, Result.TIMED_OUT) and outcome.error is not None:
        raise outcome.error
    if outcome.result is Result.CLOSED:
        raise ReplayError("the receiver is closed: end the replay before it, or run it again with another one")
    wait = outcome.retry_after if outcome.result is Result.UNAVAILABLE else None
    raise TargetError(
        f"the receiver did not handle it: {outcome.result.value}", status=outcome.status, retry_after=wait
    )


class Once:
    """A target behind an inbox: what the inbox knows as handled does not reach it.

    ``token`` names this job's claims. It is the same in all its runs, so that what a killed run held is taken up
    at once by the next. What is handled counts as such only after ``flush``.
    """

    def __init__(self, target: Target, inbox: Inbox, token: str) -> None:
        self._target = target
        self._inbox = inbox
        self._token = token

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        key = inbox_key(message.event_type_id, message.event_id, message.id)
        token = f"{self._token}:{message.id}"
        for _ in range(_BUSY_TRIES):
            claim = await self._inbox.claim(key, token, lease=_LEASE)
            if claim.status is ClaimStatus.DONE:
                return "handled-before"
            if claim.status is ClaimStatus.CLAIMED:
                return await self._claimed(message, key, token)
            await asyncio.sleep(min(max(claim.retry_after, 0.1), 30.0))
        raise TargetError("another worker holds this delivery in the inbox, and does not finish")

    async def _claimed(self, message: Message, key: str, token: str) -> str | None:
        try:
            found = await self._target.deliver(message)
            await self._target.flush()
        except BaseException:
            await self._inbox.release(key, token)
            raise
        await self._inbox.complete(key, token)
        return found

    async def flush(self) -> None:
        """See ``Target``."""
        await self._target.flush()


def as_target(value: Target | WebhookReceiver | Handler, inbox: Inbox | None, token: str) -> Target:
    """A ``target`` argument, whatever form it has. Raises ``ConfigurationError``."""
    if isinstance(value, WebhookReceiver):
        if inbox is not None:
            raise ConfigurationError("a WebhookReceiver has its inbox already: pass inbox to the receiver alone")
        return _Receiver(value)
    if isinstance(value, Target):
        target = value
    elif callable(value) and not inspect.isgeneratorfunction(value) and not inspect.isasyncgenfunction(value):
        target = (_Function if inspect.iscoroutinefunction(value) else _PerhapsAsync)(value)
    else:
        raise ConfigurationError(
            "target must be an async function that takes a Message, a WebhookReceiver, an HttpTarget, a "
            "JSONLinesTarget, or an object with deliver() and flush()"
        )
    return target if inbox is None else Once(target, inbox, token)
