"""Find out what a ``target`` argument is, and where its record stands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import attrs

from ..._callables import has_own, is_async, with_session
from ..._work.failures import failure_text
from ..._work.keys import key_at_service, owner_of_job
from ..._work.protocol import Inbox, Record, TransactionalInbox
from ...errors import ConfigurationError, ReplayError, TargetError
from ...models import Message
from ...receiver import Delivery, MemoryInbox, Result, WebhookReceiver
from ._base import ALONE, BUSY, BulkTarget, Handler, SessionHandler, Target
from ._http import HttpTarget
from ._shared import LEASE, Shared

if TYPE_CHECKING:
    from ...receiver import Outcome

AnyTarget = Target | WebhookReceiver | Handler | SessionHandler


@attrs.frozen
class Function:
    """A target that calls an async function."""

    _handler: Handler

    async def deliver(self, message: Message) -> None:
        """See ``Target``."""
        await self._handler(message)


@attrs.define
class ReceiverTarget:
    """A target that hands messages to a receiver's handlers, with its inbox and without HTTP."""

    _receiver: WebhookReceiver
    patience: float = 0.0
    alone: bool = False

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        delivery = Delivery.from_message(message)
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
class HandOut:
    """How the messages of a job are handled, and the record of what was.

    value: the target as it was passed, or made of a function.
    inbox: the record, in which each message is claimed. None if the target, or the caller, has the record.
    webhook_id: the id in the keys of the inbox. Only a receiver with a ``MemoryInbox`` may have none.
    identity: that of the webhook's service. A job that posts has keys of its own, and the service's are evidence.
    receiver: the target, if it is a receiver.
    """

    value: Target | WebhookReceiver | SessionHandler
    inbox: Inbox | None
    webhook_id: str | None
    identity: str | None = None
    receiver: WebhookReceiver | None = None

    @property
    def record(self) -> Record:
        """The record."""
        return cast(Record, self.value) if self.inbox is None else self.inbox

    @property
    def accepts_type(self) -> Callable[[str], bool] | None:
        """Whether the receiver has a handler for an event type; None for a target without handlers."""
        return None if self.receiver is None else self.receiver.accepts_type

    @property
    def posts(self) -> bool:
        """Whether the target is an endpoint: what was posted is not what the service has handled."""
        return isinstance(self.value, HttpTarget)

    def of(self, identity: str) -> HandOut:
        """Return the same for the events of a service."""
        owner = owner_of_job(self.value._job, identity) if isinstance(self.value, HttpTarget) else identity
        return attrs.evolve(self, webhook_id=owner, identity=identity)

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        """Return those of the keys that need not be handed out: the record, or the inbox of the service, knows them."""
        if not self.posts or self.inbox is None:
            return await self.record.known(keys)
        of_service = self.keys_at_service(keys)
        found = await self.inbox.known([*keys, *of_service])
        return {of_service.get(each, each) for each in found}

    def keys_at_service(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the keys of a job that posts, each by that of the service."""
        owner, identity = self.webhook_id or "", self.identity or ""
        found = ((key_at_service(key, owner, identity), key) for key in keys)
        return {own: key for own, key in found if own is not None}

    def open(self, *, timeout: float = 5.0, lease: float = LEASE, quarantined: bool = False) -> Target:
        """Return the target of a run. ``timeout`` limits each call of the inbox; both are in seconds.

        ``quarantined``: its messages are in the quarantine, and are tried again.
        """
        if self.receiver is not None:
            return ReceiverTarget(self.receiver)
        if self.inbox is None:
            return cast(Target, self.value)
        return Shared(
            cast("Target | SessionHandler", self.value),
            self.inbox,
            webhook_id=self.webhook_id,
            timeout=timeout,
            lease=lease,
            quarantined=quarantined,
        )


def choose_hand_out(
    value: AnyTarget, inbox: Inbox | None, *, webhook_id: str | None = None, is_recorded: bool = False
) -> HandOut:
    """Return how the messages for a ``target`` argument of any form are handled. Raises ``ConfigurationError``.

    ``is_recorded``: the caller has a record, so that a target needs neither an inbox nor a record of its own.
    """
    if inbox is not None and not isinstance(inbox, Inbox):
        raise ConfigurationError("inbox must be an inbox, such as SQLiteInbox(path)")
    if isinstance(value, WebhookReceiver):
        return _with_receiver(value, inbox)
    is_target = has_own(value, "deliver") and isinstance(value, Target)
    if is_target and isinstance(value, BulkTarget):
        if inbox is not None:
            raise ConfigurationError(f"a {type(value).__name__} is its own record: pass no inbox")
        if not is_recorded and not isinstance(value, Record):
            raise ConfigurationError(
                f"a {type(value).__name__}, which has flush(), must be its own record: give it known(), note() and "
                "set_note(). Or drop flush(), write in deliver(), and pass an inbox"
            )
        return HandOut(value, None, None)
    handler = cast(Target, value) if is_target else _read_function(cast(Handler, value), inbox)
    if inbox is None and is_recorded and isinstance(handler, Target):
        return HandOut(handler, None, None)
    if inbox is None:
        raise ConfigurationError(
            "the replay needs an inbox, which records what was handled: the inbox of the live service, so that both "
            "share the work, or one of the job's own, such as inbox=SQLiteInbox('job.db')"
        )
    return HandOut(handler, inbox, webhook_id)


def _with_receiver(receiver: WebhookReceiver, inbox: Inbox | None) -> HandOut:
    if inbox is not None and inbox is not receiver.inbox:
        raise ConfigurationError("a WebhookReceiver has its own inbox: pass inbox= only to the receiver")
    if inbox is None and isinstance(receiver.inbox, MemoryInbox):
        raise ConfigurationError(
            "the receiver's MemoryInbox does not know what other processes and earlier runs have handled: give the "
            "receiver the inbox of the live service, or pass inbox=receiver.inbox to handle everything in this process"
        )
    return HandOut(receiver, receiver.inbox, receiver.webhook_id, receiver=receiver)


def _read_function(value: Handler | SessionHandler, inbox: Inbox | None) -> Target | SessionHandler:
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
        return Function(cast(Handler, value))
    if not isinstance(inbox, TransactionalInbox):
        raise ConfigurationError(
            "a target function accepts one argument, the message. A second one, the session, needs an inbox= "
            "with transactions, such as SQLInbox(engine)"
        )
    return cast(SessionHandler, handler)
