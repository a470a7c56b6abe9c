"""What a failed handler's error says: whose failure it is, how long to wait, how to show it.

Everything that quotes an exception of others does so with ``failure_text``, ``reason_text`` or ``store_failure``; their
tracebacks are logged after ``hide_parameters``.

A handler with a TaskGroup raises its failures together, in an ExceptionGroup. Ask about its ``leaves``: a group is an
outage only if all of them are one.
"""

from __future__ import annotations

import math
from itertools import islice

from .._redaction.tracebacks import chain_of, hide_parameters
from ..errors import APIError, BasiqError, InboxError, ServerError, TransportError

_MOST_CAUSES = 100
_MOST_SHOWN = 3
"""Errors of a group whose texts are shown."""


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors of a group, and of the groups within it, in their order; of another error, itself."""
    found, left = [], [error]
    while left:
        one = left.pop()
        if isinstance(one, BaseExceptionGroup):
            left += reversed(one.exceptions)
        else:
            found.append(one)
    return found


def find_retry_after(error: BaseException) -> float | None:
    """Return the seconds that an error asks to wait, by a number ``retry_after``; the longest of a group; else None."""
    waits = [getattr(leaf, "retry_after", None) for leaf in leaves(error)]
    numbers = [float(wait) for wait in waits if isinstance(wait, (int, float)) and not isinstance(wait, bool)]
    return max((wait for wait in numbers if 0 <= wait < math.inf), default=None)


def is_outage(error: BaseException) -> bool:
    """Return whether a service is away: each leaf is an error of a connection, a server, a time limit or an inbox."""
    away = (TransportError, ServerError, ConnectionError, TimeoutError, InboxError)
    # SQLAlchemy's errors say so of a lost connection.
    return all(isinstance(leaf, away) or getattr(leaf, "connection_invalidated", False) for leaf in leaves(error))


def correlation_id(error: BaseException | None) -> str | None:
    """Return the correlation id, for Basiq's support, of the first ``APIError`` among the error and what led to it."""
    led = () if error is None else islice(chain_of(error), _MOST_CAUSES)
    return next((each.correlation_id for each in led if isinstance(each, APIError) and each.correlation_id), None)


def failure_text(error: BaseException, *, longest: int | None = None) -> str:
    """Return the type of an error, and its text if it has one, cut after ``longest`` characters.

    A group is shown by its first errors. The parameters of SQLAlchemy's statements are hidden, now and wherever the
    error is shown later: they are a person's data.
    """
    found = leaves(hide_parameters(error))
    text = "; ".join(map(_line, found[:_MOST_SHOWN]))
    if len(found) > _MOST_SHOWN:
        text += f"; and {len(found) - _MOST_SHOWN} more"
    return text if longest is None or len(text) <= longest else text[:longest] + "…"


def reason_text(error: BaseException) -> str:
    """Return the text of an error of this package, which says all by itself; of another one, its type and text."""
    return str(error) if isinstance(error, BasiqError) else failure_text(error)


def store_failure(error: BaseException) -> str:
    """Return the types of an error of a store of secrets, with their SQLSTATEs.

    Its text is not quoted: a database repeats the values of a row in it, even without the parameters.
    """
    names = []
    for leaf in leaves(error)[:_MOST_SHOWN]:
        cause = getattr(leaf, "orig", None) or leaf  # of SQLAlchemy
        state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        known = isinstance(state, str) and len(state) == 5 and state.isalnum() and state.isascii()
        names.append(f"{type(leaf).__name__} (SQLSTATE {state})" if known else type(leaf).__name__)
    return ", ".join(names)


def _line(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # its own __str__ fails
        return type(error).__name__
