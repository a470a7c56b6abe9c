"""Which messages: ``--since``, ``--until``, ``--failed``, ``--event`` and ``--limit`` as a ``Where``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..replay import Where

_DURATION = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def selection(
    *,
    since: str | None = None,
    until: str | None = None,
    failed: bool = False,
    event: Sequence[str] | None = None,
    limit: int | None = None,
) -> Where | None:
    """Return what the options choose, None where they choose everything. Raises ``ConfigurationError``."""
    from ..replay import event_types, failed_only
    from ..replay import limit as at_most
    from ..replay import since as from_then_on
    from ..replay import until as before

    chosen: list[Where] = []
    if since is not None:
        chosen.append(from_then_on(moment(since, "--since")))
    if until is not None:
        chosen.append(before(moment(until, "--until")))
    if failed:
        chosen.append(failed_only())
    if event:
        chosen.append(event_types(*event))
    if limit:
        chosen.append(at_most(limit))
    if not chosen:
        return None
    found = chosen[0]
    for each in chosen[1:]:
        found = found & each
    return found


def moment(text: str, name: str) -> datetime | timedelta:
    """Return a length of time before now, or a date. Raises ``ConfigurationError``."""
    try:
        found = _DURATION.fullmatch(text)
        return _length(found) if found is not None else _date(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{name} must be a length of time such as 2d, 12h or 90m, or a date, not {text!r}"
        ) from None


def duration(text: str, name: str) -> timedelta:
    """Return a length of time. Raises ``ConfigurationError``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ConfigurationError(f"{name} must be a length of time such as 30s, 15m, 12h or 2d, not {text!r}")
    return _length(found)


def _length(found: re.Match[str]) -> timedelta:
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _date(text: str) -> datetime:
    read = datetime.fromisoformat(text)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
