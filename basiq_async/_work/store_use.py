"""What a process may do with the stores that it opens: a command that only looks makes, writes and handles nothing."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Literal

StoreUse = Literal["make", "existing", "look"]
"""make: create what does not exist, as a service does. existing: write, but only to an inbox that exists. look: write
nothing at all, and refuse what is no inbox."""

store_use: ContextVar[StoreUse] = ContextVar("basiq_async_store_use", default="make")
"""The use of the inboxes that are made from now on."""

may_work: ContextVar[bool] = ContextVar("basiq_async_may_work", default=True)
"""Whether entering a receiver begins to handle what waits. A command that looks at a receiver is not its service."""

NO_INBOX = (
    "no inbox has written to it since it was made or emptied. If it is a copy of a SQLite file, its -wal file is "
    "missing; else name the place that the service uses"
)
"""Why a place is refused that is to be looked at, and where no inbox has begun."""
