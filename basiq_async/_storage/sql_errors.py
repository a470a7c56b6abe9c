"""The errors of SQL databases: what a failed statement says, whether another attempt may succeed, and what is left to
show of it."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from .._redaction.tracebacks import drop_tracebacks, hide_parameters
from .._work.failures import failure_text


class Failure(NamedTuple):
    """Why a statement failed, in one line. ``passing``: another attempt may succeed."""

    text: str
    passing: bool


def failed_in(connection: AsyncConnection) -> Failure | None:
    """Return the last failure of a statement on this connection, even if a handler caught it, else None."""
    sync = connection.sync_connection
    return None if sync is None else _failures.get(sync)


_failures: WeakKeyDictionary[Connection, Failure] = WeakKeyDictionary()


def keep_failure(context: ExceptionContext) -> None:
    """Record a failure: a listener of a dialect's ``handle_error``."""
    if context.connection is not None and context.sqlalchemy_exception is not None:
        # Keep the text, not the exception: its traceback refers to the connection, which would never be freed.
        exc = context.sqlalchemy_exception
        _failures[context.connection] = Failure(brief(exc), is_passing(exc))


_PASSING = ("08", "40", "53", "55P03", "57", "58", "25P03", "25P04")
"""SQLSTATEs of errors after which another attempt may succeed: lost connections, conflicts, lack of resources,
timeouts, operator intervention, system errors (PostgreSQL, appendix A)."""


def is_passing(exc: BaseException) -> bool:
    """Return whether another attempt may succeed after this error of the database."""
    if not isinstance(exc, DBAPIError):
        return False
    return exc.connection_invalidated or sqlstate(exc).startswith(_PASSING) or "locked" in said_by(exc)


def is_missing(exc: BaseException) -> bool:
    """Return whether a table or its schema does not exist."""
    return sqlstate(exc) in ("42P01", "3F000") or said_by(exc).startswith("no such table")


def brief(exc: BaseException) -> str:
    """Return a driver's error text in one line, without the statement and its values, which can be user data."""
    return failure_text(getattr(exc, "orig", None) or exc).splitlines()[0]


def without_values(exc: BaseException) -> BaseException:
    """Remove from a driver's error the statement's values, and the tracebacks, whose frames hold values and passwords.

    Return the error.
    """
    return drop_tracebacks(hide_parameters(exc))


def sqlstate(exc: BaseException) -> str:
    """Return the SQLSTATE of a driver's error, or an empty text."""
    cause = getattr(exc, "orig", None) or exc
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")


def said_by(exc: BaseException) -> str:
    """Return the text of the driver's own error, or an empty text."""
    return str(getattr(exc, "orig", ""))
