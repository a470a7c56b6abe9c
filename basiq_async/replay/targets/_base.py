"""The protocol of what messages are replayed into."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from ...models import Message

Handler = Callable[[Message], Awaitable[object]]
SessionHandler = Callable[[Message, Any], Awaitable[object]]
"""A handler that also accepts the session of the inbox's transaction, such as an ``AsyncSession``."""


@runtime_checkable
class Target(Protocol):
    """What messages are replayed into. The code that makes a target closes it, if there is anything to close."""

    async def deliver(self, message: Message) -> str | None:
        """Accept one message; many are under way at once. When this returns, the target has accepted it.

        Returns None, or in a word why there was nothing to do: the message then counts as skipped for that reason.
        Raises any exception if the message was not accepted. An error with a number ``retry_after`` (seconds), such
        as ``TargetError`` or ``RateLimitError``, pauses the whole job for that long, and the message is tried again.
        A ``TransportError``, ``ConnectionError`` or ``TimeoutError``, again and again, counts as an outage: the job
        waits until the target is back. A ``ReplayError`` other than ``TargetError`` ends the job.
        """
        ...

    async def flush(self) -> None:
        """Make durable all that was accepted. Called before it is recorded as done; a failure ends the job.

        Where a call is cancelled, the next one does what it left undone.
        """
        ...


@runtime_checkable
class RunScoped(Protocol):
    """A target that holds something, such as the lock of a file, from the beginning of a run to its end."""

    async def end_run(self) -> None:
        """Let go. The next run begins anew."""
        ...


class Function:
    """An async function. A replay that has nothing between calls ``function`` itself, which spares it a coroutine."""

    def __init__(self, handler: Handler) -> None:
        self.function = handler

    async def deliver(self, message: Message) -> None:
        await self.function(message)

    async def flush(self) -> None:
        pass
