"""Find out what a ``target`` argument is, and where its record stands."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

import attrs

from ..._callables import has_own, is_async, with_session
from ..._work.failures import failure_text
from ..._work.inbox_calls import InboxCalls
from ..._work.keys import key_of_post, key_of_repeat
from ..._work.protocol import Inbox, Record, TransactionalInbox
from ...errors import ConfigurationError, ReplayError, TargetError
from ...models import Message
from ...receiver import Delivery, MemoryInbox, Result, WebhookReceiver
from ._base import ALONE, BUSY, BulkTarget, MessageHandler, MessageSessionHandler, Target
from ._http import HttpTarget
from ._repeating import Repeating
from ._shared import LEASE, Shared

if TYPE_CHECKING:
    from ...receiver import Outcome

CALL = 5.0
"""Seconds for a call of an inbox."""
AnyTarget = Target | WebhookReceiver | MessageHandler | MessageSessionHandler


@attrs.frozen
class Function:
    """A target that calls an async function."""

    _handler: MessageHandler

    async def deliver(self, message: Message) -> None:
        """See ``Target``."""
        await self._handler(message)


@attrs.define
class ReceiverTarget:
    """A target that hands messages to a receiver's handlers, with its inbox and without HTTP."""

    _receiver: WebhookReceiver
    _again: str | None = None
    patience: float = 0.0
    alone: bool = False

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        delivery = Delivery.from_message(message)
        if self._again is not None:
            delivery = attrs.evolve(delivery, again=self._again)
        return interpret(await self._receiver.dispatch(delivery, patience=self.patience, can_be_alone=self.alone))


def interpret(outcome: Outcome) -> str | None:
    """Return the reason to skip a message, from what a receiver made of it. Raises the error of a failure."""
    how = outcome._meaning.in_replay
    if how == "handled":
        return None
    if outcome.result is Result.BUSY:
        return ALONE if outcome.reason == ALONE else BUSY
    if how == "skipped":
        return outcome._meaning.word
    if how == "failed" and outcome.error is not None:
        raise outcome.error
    if how == "ends":
        raise ReplayError("the receiver is closed: end the replay before it is closed, or run it again with a new one")
    wait = outcome.retry_after if outcome.result is Result.UNAVAILABLE else None
    why = outcome.result.value if outcome.error is None else failure_text(outcome.error)
    text = f"the receiver did not handle the message: {why}"
    raise TargetError(text, status=outcome.status, retry_after=wait) from outcome.error


@attrs.frozen
class Handling:
    """How the messages of a job are handled, and the record of what was.

    value: the target as it was passed, or made of a function.
    calls: those of the inbox, in which each message is claimed. None if the target has the record.
    receiver: the target, if it is a receiver.
    again: the name under which events are handled again, whatever the inbox knows of them.
    """

    value: Target | WebhookReceiver | MessageSessionHandler
    calls: InboxCalls | None
    receiver: WebhookReceiver | None = None
    again: str | None = None

    @cached_property
    def inbox(self) -> Inbox | None:
        """The inbox, if the record is one."""
        return None if self.calls is None else self.calls.inbox

    @cached_property
    def record(self) -> Record:
        """The record."""
        return cast(Record, self.value) if self.inbox is None else self.inbox

    @cached_property
    def job(self) -> str | None:
        """The id of a job that posts: what it posted is not handled, and has keys of its own. None for any other."""
        return self.value._job if isinstance(self.value, HttpTarget) else None

    @cached_property
    def accepts_type(self) -> Callable[[str], bool] | None:
        """Whether the receiver has a handler for an event type; None for a target without handlers."""
        return None if self.receiver is None else self.receiver.accepts_type

    def key_of(self, key: str) -> str:
        """Return the key under which this job records the event of a key."""
        if self.again is not None:
            return key_of_repeat(self.again, key)
        return key if self.job is None else key_of_post(self.job, key)

    def known(self, keys: Sequence[str]) -> Awaitable[Collection[str]]:
        """Return those of the keys of events that are recorded, or were posted: they are not passed to the handler."""
        if self.again is None and self.job is None:
            return self.record.known(keys)
        return self._known_to_job(keys)

    async def _known_to_job(self, keys: Sequence[str]) -> Collection[str]:
        own = {self.key_of(key): key for key in keys}
        asked = [*own] if self.job is None else [*keys, *own]
        return {own.get(each, each) for each in await self.record.known(asked)}

    def open(self, *, lease: float = LEASE, quarantined: bool = False) -> Target:
        """Return the target of a run. ``quarantined``: its messages are in the quarantine, and are tried again."""
        target = self._open(lease=lease, quarantined=quarantined)
        if self.again is None or self.calls is None or quarantined:
            return target
        return Repeating(target, self.calls)

    def _open(self, *, lease: float, quarantined: bool) -> Target:
        if self.receiver is not None:
            return ReceiverTarget(self.receiver, self.again)
        if self.inbox is None:
            return cast(Target, self.value)
        return Shared(
            cast("Target | MessageSessionHandler", self.value),
            self.inbox,
            key_of=self.key_of,
            lease=lease,
            quarantined=quarantined,
        )


def choose_handling(value: AnyTarget, inbox: Inbox | None) -> Handling:
    """Return how the messages for a ``target`` argument of any form are handled. Raises ``ConfigurationError``."""
    if inbox is not None and not isinstance(inbox, Inbox):
        raise ConfigurationError("inbox must be an inbox, such as SQLiteInbox(path)")
    if isinstance(value, WebhookReceiver):
        return _with_receiver(value, inbox)
    is_target = has_own(value, "deliver") and isinstance(value, Target)
    if is_target and isinstance(value, BulkTarget):
        if inbox is not None:
            raise ConfigurationError(f"a {type(value).__name__} is its own record: pass no inbox")
        if not isinstance(value, Record):
            raise ConfigurationError(
                f"a {type(value).__name__}, which has flush(), must be its own record: give it known(), note() and "
                "set_note(). Or drop flush(), write in deliver(), and pass an inbox"
            )
        return Handling(value, None)
    handler = cast(Target, value) if is_target else _read_function(cast(MessageHandler, value), inbox)
    if inbox is None:
        raise ConfigurationError(
            "the replay needs an inbox, which records what was handled: the inbox of the live service, so that both "
            "share the work, or one of the job's own, such as inbox=SQLiteInbox('job.db')"
        )
    return Handling(handler, InboxCalls(inbox, CALL))


def _with_receiver(receiver: WebhookReceiver, inbox: Inbox | None) -> Handling:
    if inbox is not None and inbox is not receiver.inbox:
        raise ConfigurationError("a WebhookReceiver has its own inbox: pass inbox= only to the receiver")
    if inbox is None and isinstance(receiver.inbox, MemoryInbox):
        raise ConfigurationError(
            "the receiver's MemoryInbox does not know what other processes and earlier runs have handled: give the "
            "receiver the inbox of the live service, or pass inbox=receiver.inbox to handle everything in this process"
        )
    return Handling(receiver, InboxCalls(receiver.inbox, CALL), receiver=receiver)


def _read_function(
    value: MessageHandler | MessageSessionHandler, inbox: Inbox | None
) -> Target | MessageSessionHandler:
    if not callable(value) or inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        raise ConfigurationError(
            "target must be an async function that accepts a Message, a WebhookReceiver, an HttpTarget, a "
            "JSONLinesTarget, or an object with deliver()"
        )
    if not is_async(value):
        raise ConfigurationError(
            "the target is not async: pass an async function that accepts a Message, and use asyncio.to_thread for "
            "calls that block"
        )
    handler = with_session(value)
    if handler is None:
        return Function(cast(MessageHandler, value))
    if not isinstance(inbox, TransactionalInbox):
        raise ConfigurationError(
            "a target function accepts one argument, the message. A second one, the session, needs an inbox= "
            "with transactions, such as SQLInbox(engine)"
        )
    return cast(MessageSessionHandler, handler)
