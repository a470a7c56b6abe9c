"""What went wrong in a database, in one line that holds no consumer's data, and whether it may pass."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, StatementError

from .._redaction.tracebacks import drop_tracebacks, walk

_PASSING = ("08", "40", "53", "55P03", "57", "58", "25P03", "25P04")
"""SQLSTATEs of what another attempt may not meet: lost connections, conflicts, too little of something, timeouts, an
operator, the system (PostgreSQL, appendix A)."""
_NO_TABLE, _NO_SCHEMA, _NO_COLUMN = "42P01", "3F000", "42703"
_READ_ONLY = "25006"


def is_passing(exc: BaseException) -> bool:
    """Whether an error of the database may not happen again, whatever was asked of it."""
    if not isinstance(exc, DBAPIError):
        return False
    return exc.connection_invalidated or _code(exc).startswith(_PASSING) or "locked" in str(exc.orig)


def brief(exc: BaseException) -> str:
    """What a driver said, in one line, without the statement and its values: they are consumers' data."""
    cause = getattr(exc, "orig", None) or exc
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def describe(exc: BaseException) -> str:
    """What failed, and what to do about it where that is known."""
    text, said, code = f"the database failed: {brief(exc)}", str(getattr(exc, "orig", "")), _code(exc)
    if code in (_NO_TABLE, _NO_SCHEMA) or said.startswith("no such table"):
        return (
            f"{text}. The inbox's tables are not there: run the migration that makes them (inbox.ddl() has the "
            "statements), or leave create_tables as True"
        )
    if code == _NO_COLUMN or said.startswith("no such column"):
        return (
            f"{text}. The inbox's tables are of another version of this library: migrate them to what inbox.ddl() "
            "makes, or pass another table="
        )
    if code == _READ_ONLY or "readonly" in said:
        return describe_read_only(brief(exc))
    if isinstance(exc, OSError) or "connection failed" in said:
        return f"{text}. Is it running, and is the engine's url right?"
    return text


def describe_read_only(said: str) -> str:
    """That the database cannot be written, and what to do about it."""
    return f"the database cannot be written: {said}. Connect the engine to one that can, such as the primary"


def without_values(exc: BaseException) -> BaseException:
    """What a driver raised, without the values of the statement, and without frames: they hold those, and passwords."""
    for one in walk(exc):
        if isinstance(one, StatementError):
            one.hide_parameters = True
    return drop_tracebacks(exc)


def _code(exc: BaseException) -> str:
    """The SQLSTATE, or an empty text."""
    cause = getattr(exc, "orig", None) or exc
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")
