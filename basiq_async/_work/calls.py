"""Which process calls: its name for others, and the errors of a store that is used after its end or after a fork."""

from __future__ import annotations

import os
import socket

from ..errors import InboxError

CLOSED = "is closed: close the receiver before its inbox, as `async with inbox, receiver` does"
"""The error text of an inbox that is used after it was closed."""


HOST = socket.gethostname().encode("ascii", "replace").decode()[:60]
"""The name of this machine, in ASCII. With the id of the process, a claim names its holder by it."""


class OneProcess:
    """Detects that the process was forked after a store was first used.

    A child inherits the parent's connections: a rollback that it sends would undo the parent's work.

    what: names the store.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid: int | None = None

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one that first used the store."""
        return self._pid not in (None, os.getpid())

    def check(self) -> None:
        """Note the first process that uses the store. Raises ``InboxError`` in a fork of it."""
        if self._pid is None:
            self._pid = os.getpid()
        elif self.inherited:
            raise InboxError(
                f"{self._what} was in use when this process forked, and its connections are the parent's: make it, and "
                "its engine or client, after the fork, in each worker process"
            )
