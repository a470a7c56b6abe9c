"""Check what a test hands to a fake. Each check raises ``ConfigurationError`` and names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from ...errors import ConfigurationError


def require(kept: bool, otherwise: str) -> None:
    """Raise ``ConfigurationError`` with the text ``otherwise``, unless ``kept`` is true."""
    if not kept:
        raise ConfigurationError(otherwise)


def require_text(name: str, value: str | None, *, or_none: bool = False) -> None:
    kept = isinstance(value, str) or (or_none and value is None)
    require(kept, f"{name} must be text{' or None' if or_none else ''}, not {value!r}")


def require_number(name: str, value: float, *, whole: bool = False) -> None:
    kept = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    require(kept, f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")


def require_mapping(name: str, value: Mapping[str, object] | None) -> None:
    kept = value is None or (isinstance(value, Mapping) and all(isinstance(each, str) for each in value))
    require(kept, f"{name} must be a mapping with texts as its keys, or None, not {value!r}")


def require_url(url: str) -> None:
    require(is_url(url), f"url must be an absolute http or https url, such as https://example.com/basiq, not {url!r}")


def is_url(text: object) -> bool:
    """Return whether a text is a url that a webhook can have."""
    if not isinstance(text, str):
        return False
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return usable and text.isprintable() and " " not in text


def read_texts(name: str, value: Iterable[str], one: str) -> tuple[str, ...]:
    """Return several texts. A single one in place of several is refused. ``one``: what each of them is."""
    is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
    require(is_list, f"{name} is a list of {one}s, not one {one}")
    found = tuple(value)
    require(all(isinstance(each, str) for each in found), f"{name} must hold {one}s as text")
    return found


def read_seconds(name: str, value: float | timedelta) -> float:
    """Return a length of time in seconds; it may be infinite."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    require_number(name, value)
    return value


def read_moment(name: str, value: datetime) -> datetime:
    """Return an aware datetime in UTC."""
    require(isinstance(value, datetime), f"{name} must be a datetime, not {value!r}")
    require(value.tzinfo is not None, f"{name} needs a time zone, such as datetime.UTC")
    return value.astimezone(UTC)
