"""Read the status, headers and error body of a response. This module does no I/O."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from .._redaction.credentials import Redactor
from ..errors import APIError, error_class
from .base import Response

_MAX_TEXT = 500
_MAX_ERROR_BODY = 2**20
_MAX_HEADER = 1_000
_EXPIRED = re.compile(r"\btoken\b.*\bexpired\b", re.IGNORECASE | re.DOTALL)
_WAITS = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*, [^,]*|[^,]+", re.IGNORECASE)


def read_retry_after(response: Response, now: datetime) -> float | None:
    """Return the wait that a response asks for, in seconds, or None: see ``parse_retry_after``.

    A date is by the clock of whoever responded, which the ``Date`` header tells; without one, ``now`` counts.
    """
    date = response.headers.get("date")
    moment = parse_date(date) if isinstance(date, str) else None
    return parse_retry_after(response.headers.get("retry-after"), moment or now)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the wait that a ``Retry-After`` header asks for, in seconds, or None.

    The value is a number of seconds or an HTTP date (RFC 9110, 10.2.3). A repeated header has its values joined by
    commas, and the longest wait counts. A time in the past, a negative number or any other text gives None.
    """
    if not isinstance(value, str):  # a user's transport may return any value
        return None
    waits = [_one_wait(part.strip(), now) for part in _WAITS.findall(value[:_MAX_HEADER])]
    return max((wait for wait in waits if wait is not None), default=None)


_SAME_TIME = 5.0
"""Seconds by which a response's Date, which has whole ones, may differ from the time at which it came."""


def read_lead(date: str | None) -> float | None:
    """Return by how many seconds the clock behind a response's ``Date`` is ahead of this machine's; None if it is not.

    It is of whoever made the response: behind a proxy, of that proxy.
    """
    found = None if date is None else parse_date(date)
    lead = 0.0 if found is None else (found - datetime.now(UTC)).total_seconds()
    return lead if abs(lead) > _SAME_TIME else None


def parse_date(value: str) -> datetime | None:
    """Return the time in a ``Date`` header; None if it cannot be read."""
    from email.utils import parsedate_to_datetime  # imported here: it is slow to import, and rarely needed

    try:
        moment = parsedate_to_datetime(value[:_MAX_HEADER])
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _one_wait(text: str, now: datetime) -> float | None:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return min(float(text), sys.float_info.max)
    moment = parse_date(text)
    seconds = None if moment is None else (moment - now).total_seconds()
    return seconds if seconds is not None and seconds >= 0 else None


def read_correlation_id(response: Response, hide: Callable[[str], str]) -> str | None:
    """Return the correlation id of an error body, or None. ``hide`` removes credentials from it."""
    found = _error_body(response).get("correlationId") if response.status >= 400 else None
    # Cut last: the beginning of a credential would not be recognised.
    return _short_text(hide(found)) if isinstance(found, str) else None


def is_token_refused(response: Response) -> bool:
    """Return whether a new token may help: the status is 401, or 403 with an error that says "Token has expired".

    The vendor's page on errors has the 403 for about twenty endpoints. Any other 403 is about what the key may do.
    """
    if response.status != 403:
        return response.status == 401
    texts = [entry.get(name) for entry in _entries(_error_body(response)) for name in ("detail", "title")]
    return any(isinstance(text, str) and _EXPIRED.search(text[:_MAX_TEXT]) for text in texts)


def error_from(
    response: Response, *, method: str, path: str, now: datetime | None = None, redactor: Redactor | None = None
) -> APIError:
    """Return the error for a response. Its class depends only on the status.

    A body above 1 MiB is not read. Credentials that the ``redactor`` knows are removed.
    """
    body = (redactor or Redactor()).value(_error_body(response))
    errors = _entries(body)
    first: Mapping[str, Any] = errors[0] if errors else {}
    source = first.get("source")
    return error_class(response.status)(
        _explain(response),
        status=response.status,
        code=_short_text(first.get("code")),
        title=_short_text(first.get("title")),
        detail=_short_text(first.get("detail")),
        parameter=_short_text(source.get("parameter")) if isinstance(source, dict) else None,
        errors=errors,
        correlation_id=_short_text(body.get("correlationId")),
        method=method,
        path=path,
        retry_after=read_retry_after(response, now or datetime.now(UTC)),
        attempts=response.attempts,
    )


def _error_body(response: Response) -> Mapping[str, Any]:
    if len(response.body) > _MAX_ERROR_BODY:
        return {}
    try:
        try:
            body = json.loads(response.body)
        except UnicodeDecodeError:  # the correlation id is read even if a text was cut within a character
            body = json.loads(response.body.decode(errors="replace"))
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _entries(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = body.get("data")
    if isinstance(entries, dict):
        entries = [entries]
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _explain(response: Response) -> str:
    if 300 <= response.status < 400:
        return "a redirect, which is not followed because it could send the token elsewhere; check base_url"
    if response.status < 200:
        return "not a final status: it is below 200"
    return ""


def _short_text(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    printable = "".join(char if char.isprintable() else " " for char in value[: _MAX_TEXT + 1])
    return printable if len(value) <= _MAX_TEXT else printable[:_MAX_TEXT] + "…"
