"""Start and close a receiver, and check that its inbox can be used and is not another webhook's."""

from __future__ import annotations

import logging
from contextlib import suppress
from weakref import WeakKeyDictionary

from .._signing.signature import SigningKeys
from .._work.calls import InboxCalls
from .._work.keys import Scope
from .._work.protocol import Inbox
from ..errors import ConfigurationError, InboxError

logger = logging.getLogger("basiq_async.receiver")

_KEYS: WeakKeyDictionary[Inbox, WeakKeyDictionary[object, SigningKeys]] = WeakKeyDictionary()
"""For each inbox, the signing keys of its receivers without a ``webhook_id``, as long as both are alive."""


class Lifecycle:
    """Counts how often a receiver was entered with ``async with``, and knows whether it is closed.

    inbox_timeout: seconds for the check of the inbox at the start.
    """

    def __init__(self, inbox: Inbox, scope: Scope, inbox_timeout: float) -> None:
        self._inbox = inbox
        self._scope = scope
        self._calls = InboxCalls(inbox_timeout)
        self._entered = 0
        self._told = False
        self.closed = False

    async def enter(self) -> None:
        """Count one entry. Log an error if the inbox cannot be used.

        Raises ``ConfigurationError`` if the receiver was closed, or if the inbox is another webhook's.
        """
        if self.closed:
            raise ConfigurationError(
                "this receiver was closed, and cannot be started again. Make a new receiver and application for each "
                "start, in a function such as make_app(). A TestClient that is entered twice starts them twice"
            )
        self._entered += 1
        if self._entered == 1:
            try:
                await self._look_at_inbox()
            except BaseException:
                self._entered -= 1
                raise

    def leave(self) -> bool:
        """Count one exit. Return whether it was the last."""
        self._entered -= 1
        return self._entered <= 0

    def tell_closed(self) -> None:
        """Log, once, that a delivery came to a closed receiver."""
        if not self._told:
            self._told = True
            logger.warning(
                "a delivery was refused with 503: this receiver is closed. Unless the service is shutting down, the "
                "receiver was closed too early, or used again after it was closed: make a new one for each start"
            )

    async def _check_inbox(self) -> None:
        await self._inbox.check()
        await self._scope.find()

    async def _look_at_inbox(self) -> None:
        # The receiver starts all the same: the database may come back, or a deployment may make the tables later.
        try:
            await self._calls.within_limit(self._check_inbox())
        except ConfigurationError:
            raise
        except Exception as exc:
            text = str(exc) if isinstance(exc, InboxError) else f"{type(exc).__name__}: {exc}"
            logger.error(
                "the receiver has started, but its inbox cannot be used, so each delivery gets a 503: %s", text
            )


def check_inbox_methods(inbox: object) -> None:
    """Raise ``ConfigurationError`` for an object that is not an inbox. None, for the default, passes."""
    if isinstance(inbox, type):
        raise ConfigurationError(
            f"inbox is the class {inbox.__name__}: pass an instance, such as {inbox.__name__}(...)"
        )
    if inbox is None or isinstance(inbox, Inbox):
        return
    methods = [name for name in vars(Inbox) if not name.startswith("_")]
    missing = ", ".join(name for name in methods if not callable(getattr(inbox, name, None)))
    raise ConfigurationError(
        f"inbox must have the methods of the Inbox protocol; {type(inbox).__name__} lacks {missing}"
    )


def join_inbox(inbox: Inbox, receiver: object, keys: SigningKeys, webhook_id: str | None) -> None:
    """Note that a receiver uses an inbox.

    Raises ``ConfigurationError`` if another receiver uses it, and both have no ``webhook_id`` and no secret in common:
    they serve two webhooks, and each would skip the other's events as handled.
    """
    if webhook_id is not None:
        return
    try:
        others = _KEYS.setdefault(inbox, WeakKeyDictionary())
    except TypeError:  # an inbox without a hash, or without support for weak references
        return
    if not all(keys.has_key_of(other) for other in others.values()):
        raise ConfigurationError(
            "two receivers with different secrets, and without a webhook_id, share this inbox: each would skip events "
            "that the other has handled; pass webhook_id to both"
        )
    others[receiver] = keys


def leave_inbox(inbox: Inbox, receiver: object) -> None:
    """Forget a receiver that is closed."""
    with suppress(TypeError):
        others = _KEYS.get(inbox)
        if others is not None:
            others.pop(receiver, None)
