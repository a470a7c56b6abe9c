"""Whether entering a receiver begins to handle what waits."""

from __future__ import annotations

from contextvars import ContextVar

may_work: ContextVar[bool] = ContextVar("basiq_async_may_work", default=True)
"""The command line sets it to False: it looks at a receiver, and is not its service."""
