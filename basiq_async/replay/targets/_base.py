"""The protocols of targets, to which a replay hands its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ..._work.attempts import AttemptResult
from ...models import Message

MessageHandler = Callable[[Message], Awaitable[object]]
MessageSessionHandler = Callable[[Message, Any], Awaitable[object]]
"""A handler that also accepts the session of the inbox's transaction, such as an ``AsyncSession``."""

HANDLED_BEFORE = AttemptResult.DONE.value
"""The reason to skip a message that the record knows."""
BUSY = AttemptResult.BUSY.value
"""The reason to skip a message that another worker holds."""
ALONE = AttemptResult.ALONE.value
"""The reason to pass a message to the handler alone, at the end: it, or one beside it, killed a process."""
STOPPED = "(the run stops)"
"""The reason why a message was not tried: the run stops."""
End: TypeAlias = str | Exception | None
"""How a message ended: None if the target accepted it, the reason why there was nothing to do, or its error."""


@runtime_checkable
class Target(Protocol):
    """Handles the messages of a replay. The code that makes a target closes it, if it needs closing."""

    async def deliver(self, message: Message) -> str | None:
        """Accept one message. Many calls are under way at once. When a call returns, the target has accepted it.

        Returns None, or a word for the reason why there was nothing to do: the message then counts as skipped for that
        reason. Raises any exception if the message was not accepted. An error with a number ``retry_after`` (seconds),
        such as ``TargetError`` or ``RateLimitError``, pauses the whole job for that long, and the message is tried
        again. Repeated ``TransportError``, ``ConnectionError`` or ``TimeoutError`` count as an outage: the job waits
        until the target works again. A ``ReplayError`` other than ``TargetError`` ends the job.
        """
        ...


@runtime_checkable
class BulkTarget(Target, Protocol):
    """A target that collects messages and writes them together, and is its own record.

    It has the methods of a ``Record`` too: what it wrote is the record, such as the rows of a table, and ``known`` says
    which ids of messages it has.

    ``deliver`` has to raise for a message that could not be written: then the job goes on without it.

    Two runs at once both write what both read: let one run at a time, or the table refuse a key that it has.
    """

    async def flush(self) -> None:
        """Make all accepted messages durable. They count as handled when it returns. An exception ends the job.

        If a call is cancelled, the next call completes its work.
        """
        ...
