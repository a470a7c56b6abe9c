"""When a failed attempt is followed by another one, and what ends a webhook, by the rules that ``Quirks`` chooses."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from random import Random

import attrs

from ._endpoints import MOST_KEPT, EndpointResponse, phrase
from ._items import FakeWebhook
from ._quirks import Quirks
from .catalog import SCHEDULE

_JITTER = 0.2
_AFTER_TIMEOUT = timedelta(seconds=60)
_FAILING = timedelta(hours=120)
_FORGIVEN = timedelta(hours=240)


@attrs.frozen
class EndpointResult:
    """How an attempt ended. ``status`` is None if no response was received; ``text`` is what the attempt keeps."""

    status: int | None
    text: str
    retry_after: str | None = None
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299


def end_of(response: EndpointResponse, quirks: Quirks) -> EndpointResult:
    """Return the end of an attempt that got this response."""
    kept = response.body[: MOST_KEPT if quirks.responses == "20000-bytes" else 1000]
    try:
        text = kept.decode()
    except UnicodeDecodeError:
        is_whole = quirks.binary_responses == "base64"
        text = base64.b64encode(kept).decode() if is_whole else kept.decode(errors="replace")
    return EndpointResult(response.status, text or phrase(response.status), response.headers.get("retry-after"))


def next_due(
    quirks: Quirks, number: int, end: EndpointResult, started: datetime, ended: datetime, random: Random
) -> datetime | None:
    """Return when the attempt after attempt ``number``, which failed, is due; None if that was the last one."""
    if number >= len(SCHEDULE):
        return None
    wait = SCHEDULE[number]
    if end.timed_out and quirks.after_timeout == "60s":
        wait = max(wait, _AFTER_TIMEOUT)
    if quirks.waits == "jittered":
        wait *= random.uniform(1 - _JITTER, 1 + _JITTER)
    if quirks.retry_after == "obeyed":
        wait = min(max(wait, _read_retry_after(end.retry_after, ended)), 2 * wait)
    return (ended if quirks.waits == "jittered" else started) + wait


def _read_retry_after(text: str | None, now: datetime) -> timedelta:
    """Return the wait that a ``Retry-After`` asks for: seconds, or a date."""
    if text is None:
        return timedelta()
    try:
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return timedelta()
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now


def is_over_after(webhook: FakeWebhook, quirks: Quirks, now: datetime) -> bool:
    """Note that a message of a webhook came to its end without a success. Return whether that ends the webhook too."""
    if quirks.disables != "failing-120h":
        return True
    first = webhook.exhausted_at
    if first is None or now - first >= _FORGIVEN:
        webhook.exhausted_at = now
        return False
    return now - first >= _FAILING
