"""Check arguments before anything is sent. Each check raises ``ConfigurationError`` and names the argument."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Literal, get_args

from .errors import ConfigurationError
from .models import DocumentedEventType

Duration = float | timedelta
"""A length of time: a number of seconds, or a timedelta."""


def check_positive(name: str, value: object, unit: str = "") -> float:
    """Return a finite number above 0. ``unit`` completes the error message, such as ``of seconds``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name} must be a finite number{_with_space(unit)} above 0")
    return value


def check_from_zero(name: str, value: object, unit: str = "") -> float:
    """Return a finite number of at least 0. ``unit`` completes the error message, such as ``of seconds``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{name} must be a finite number{_with_space(unit)} of at least 0")
    return value


def as_seconds(value: Duration) -> float:
    """Return a length of time in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def check_seconds(name: str, value: Duration, *, from_zero: bool = False) -> float:
    """Return a length of time in seconds, finite and above 0; or at least 0, with ``from_zero``."""
    return (check_from_zero if from_zero else check_positive)(name, as_seconds(value), "of seconds")


def check_remember(value: Duration | None) -> float:
    """Return for how many seconds to remember something: infinity for None, which is for ever."""
    return math.inf if value is None else check_seconds("remember", value)


def check_whole(name: str, value: object, *, least: int = 0, or_else: str = "") -> int:
    """Return an int of at least ``least``. ``or_else`` ends the error message, such as ``or None for all``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"{name} must be a whole number of at least {least}{', ' + or_else if or_else else ''}"
        )
    return value


def check_event_type_ids(name: str, value: Iterable[str], *, patterns: bool = False) -> list[str]:
    """Return a list of at least one event type id. A single text in place of a list is refused too.

    patterns: whether patterns are accepted. Basiq knows exact types only.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{name} must be a list of event type ids, such as ['user.created']")
    found = list(value)
    if not found:
        raise ConfigurationError(f"{name} must name at least one event type")
    if not all(isinstance(entry, str) and entry.strip() for entry in found):
        raise ConfigurationError(f"{name} must hold event type ids as text, none of them empty")
    if not patterns and (pattern := next((each for each in found if "*" in each), None)) is not None:
        matching = ", ".join(map(repr, match_event_types(pattern, EVENT_TYPES))) or "none of those that Basiq documents"
        raise ConfigurationError(
            f"{name} must name exact event types, because Basiq knows no patterns: {pattern!r} is {matching}. "
            "event_types.list() (basiq-async events types) lists all"
        )
    return found


def read_webhook_ids(value: object) -> tuple[str, ...]:
    """Return the webhooks of one service: one id, several, or a text of several with commas."""
    given = value.split(",") if isinstance(value, str) else value
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [None]
    ids = [each.strip() if isinstance(each, str) else "" for each in found]
    if not ids or not all(ids) or len(set(ids)) < len(ids):
        raise ConfigurationError(
            "webhook_id must be the id of a webhook, or the different ids of several webhooks of this service"
        )
    return tuple(ids)


def select_texts(**fields: str | None) -> dict[str, str]:
    """Return the text fields of a body, by their JSON names, without those that are None."""
    for name, value in fields.items():
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{name.lower()} must be text or None, not {type(value).__name__}")
    return {name: value for name, value in fields.items() if value is not None}


def _with_space(unit: str) -> str:
    return f" {unit}" if unit else ""


_Beginning = Literal["account.*", "connection.*", "consent.*", "transactions.*", "user.*", "*"]

EventTypePattern = DocumentedEventType | _Beginning | str
"""An event type, the common beginning of several (``consent.*``), or ``*`` for all."""

EVENT_TYPES: tuple[str, ...] = get_args(DocumentedEventType)


class UnknownEventTypeWarning(UserWarning):
    """An event type was named that Basiq does not document: it is misspelled or new."""


def match_event_types(pattern: str, known: Iterable[str] = EVENT_TYPES) -> list[str]:
    """Return the event types that a name, or a pattern such as ``consent.*`` or ``*``, stands for."""
    if pattern == "*" or pattern.endswith(".*"):
        return [name for name in known if name.startswith(pattern[:-1])]
    return [name for name in known if name == pattern]


def describe_unknown(patterns: Iterable[str], known: Sequence[str] = EVENT_TYPES) -> list[str]:
    """Return, for each name or pattern that stands for no event type, a sentence that names the most similar one."""
    said = []
    for pattern in patterns:
        if match_event_types(pattern, known):
            continue
        is_pattern = pattern.endswith("*")
        similar = ["*", *(f"{name.partition('.')[0]}.*" for name in known)] if is_pattern else known
        nearest = "".join(f" (did you mean {name!r}?)" for name in get_close_matches(pattern, similar, n=1))
        said.append(
            f"{pattern!r} {'matches no' if is_pattern else 'is not an'} event type that Basiq documents{nearest}"
        )
    return said


def warn_of_unknown_types(patterns: Iterable[str], *, stacklevel: int) -> None:
    """Warn (``UnknownEventTypeWarning``) of each name or pattern that stands for no documented event type."""
    for text in describe_unknown(patterns):
        warnings.warn(text, UnknownEventTypeWarning, stacklevel=stacklevel)
