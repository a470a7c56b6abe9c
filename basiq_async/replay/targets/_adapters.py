"""Make a target from a function or a receiver."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, cast

from ..._arguments import has_parameter, is_async, with_session
from ...errors import ConfigurationError, ReplayError, TargetError
from ...models import Message
from ...receiver import Delivery, Inbox, Result, WebhookReceiver
from ...receiver.protocol import TransactionalInbox
from ._base import Function, Handler, SessionHandler, Target
from ._deduplicated import LEASE, PATIENCE, Deduplicated

if TYPE_CHECKING:
    from ...receiver import Outcome


class _Receiver:
    """A target that hands messages to a receiver's handlers, with its inbox and without HTTP."""

    def __init__(self, receiver: WebhookReceiver) -> None:
        self._receiver = receiver

    async def deliver(self, message: Message) -> str | None:
        return _interpret(await self._receiver.dispatch(Delivery.from_message(message), patience=PATIENCE))

    async def flush(self) -> None:
        pass


def _interpret(outcome: Outcome) -> str | None:
    how = outcome._meaning.in_replay
    if how == "handled":
        return None
    if how == "skipped":
        return outcome._meaning.word
    if how == "failed" and outcome.error is not None:
        raise outcome.error
    if how == "ends":
        raise ReplayError("the receiver is closed: end the replay before it is closed, or run it again with a new one")
    wait = outcome.retry_after if outcome.result is Result.UNAVAILABLE else None
    raise TargetError(
        f"the receiver did not handle the message: {outcome.result.value}", status=outcome.status, retry_after=wait
    )


def as_target(
    value: Target | WebhookReceiver | Handler | SessionHandler,
    inbox: Inbox | None = None,
    token: str = "",
    *,
    webhook_id: str | None = None,
    inbox_timeout: float = 5.0,
    inbox_lease: float = LEASE,
) -> Target:
    """Return a ``target`` argument of any form as a ``Target``, with an inbox if one is passed.

    Raises ``ConfigurationError``.
    """
    if isinstance(value, WebhookReceiver):
        if inbox is not None:
            raise ConfigurationError("a WebhookReceiver has its own inbox: pass inbox= only to the receiver")
        return _Receiver(value)
    if isinstance(value, Target):
        target = value
    elif callable(value) and not inspect.isgeneratorfunction(value) and not inspect.isasyncgenfunction(value):
        if not is_async(value):
            raise ConfigurationError(
                "the target is not async: pass an async function that accepts a Message, and use asyncio.to_thread for "
                "calls that block"
            )
        handler = with_session(value)
        if handler is not None:
            if not isinstance(inbox, TransactionalInbox):
                raise ConfigurationError(
                    "a target function accepts one argument, the message. A second one, the session, needs an inbox= "
                    "with transactions, such as SQLInbox(engine)"
                )
            connection = has_parameter(value, "connection")
            return Deduplicated(
                handler,
                inbox,
                token,
                webhook_id=webhook_id,
                timeout=inbox_timeout,
                lease=inbox_lease,
                connection=connection,
            )
        target = Function(cast(Handler, value))
    else:
        raise ConfigurationError(
            "target must be an async function that accepts a Message, a WebhookReceiver, an HttpTarget, a "
            "JSONLinesTarget, or an object with deliver() and flush()"
        )
    if inbox is None:
        return target
    return Deduplicated(target, inbox, token, webhook_id=webhook_id, timeout=inbox_timeout, lease=inbox_lease)
