"""Inboxes that share a transaction with the handler."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

from ._protocol import Inbox

__all__ = ["TransactionalInbox"]


@runtime_checkable
class TransactionalInbox(Inbox, Protocol):
    """An inbox whose entry commits together with what a handler writes: both or neither.

    ``complete`` then raises where it did not commit, and never records a key whose transaction failed. An
    ``InboxError``, or a call that takes too long, is a failure of the storage. Anything else is what the storage has
    against what the handler wrote, and counts as the handler's failure.
    """

    def transaction(self, key: str, token: str) -> AbstractAsyncContextManager[Any]:
        """The session for a handler, within the transaction of the claim that ``token`` holds on ``key``.

        Leaving it writes what is pending, and commits nothing: that is what ``complete`` does. Raises ``InboxError``
        where the storage failed, be it in a statement of the handler's: the handler is not to blame then, and the
        delivery can be handled again.
        """
        ...
