"""Inboxes that share a transaction with the handler."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

from ._claim import Claim
from ._protocol import Inbox

__all__ = ["TransactionalInbox"]


@runtime_checkable
class TransactionalInbox(Inbox, Protocol):
    """An inbox whose entry commits together with what a handler writes: both or neither.

    ``complete`` then raises where it did not commit, and never records a key whose transaction failed. An
    ``InboxError``, or a call that takes too long, is a failure of the storage. Anything else is what the storage has
    against what the handler wrote, and counts as the handler's failure.
    """

    async def claim_transaction(self, key: str, token: str, *, lease: float, quarantined: bool = False) -> Claim:
        """Claim for a handler that takes a session: as ``claim``, or ``claim_quarantined``, and begin its transaction.

        It may wait until a connection is free. ``lease`` is how long, in seconds, the storage waits for a worker that
        says nothing.
        """
        ...

    def transaction(self, key: str, token: str) -> AbstractAsyncContextManager[Any]:
        """The session for a handler, within the transaction that ``claim_transaction`` began for ``token``.

        Leaving it writes what is pending, and commits nothing: that is what ``complete`` does. Raises ``InboxError``
        where the storage failed, be it in a statement of the handler's: the handler is not to blame then, and the
        delivery can be handled again.
        """
        ...
