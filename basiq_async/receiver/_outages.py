"""What the log says while the inbox's storage is away: one record a second, however many deliveries come."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping

from ..errors import BasiqError

logger = logging.getLogger("basiq_async.receiver")

_EVERY = 1.0


class Outages:
    """Logs the first failure at once, and all that follow within a second in one record, with their number.

    Each of those is logged at DEBUG as well.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._last = ""
        self._error: Exception | None = None
        self._fields: Mapping[str, object] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def report(self, delivery_id: str, what: str, error: Exception, fields: Mapping[str, object]) -> None:
        """Log ``what`` became of a delivery, such as "could not be claimed", because of an ``error`` of the inbox."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a later asyncio.run(), whose loop knows nothing of our timer
            self.flush()
            self._loop = loop
        text = f"delivery {delivery_id!r} {what}: {describe(error)}"
        if self._timer is None:
            logger.error("%s", text, exc_info=_unknown(error), extra=dict(fields))
            self._timer = loop.call_later(_EVERY, self._go_on)
            return
        logger.debug("%s", text, extra=dict(fields))
        self._counts[what] += 1
        self._last, self._error, self._fields = text, error, fields

    def flush(self) -> None:
        """Log what was counted, without waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._log()

    def _go_on(self) -> None:
        self._timer = None
        if self._counts and self._loop is not None:
            self._timer = self._loop.call_later(_EVERY, self._go_on)
            self._log()

    def _log(self) -> None:
        if not self._counts:
            return
        error, number = self._error, self._counts.total()
        counted = "; ".join(f"{count} x {what!r}" for what, count in self._counts.items())
        logger.error(
            "the inbox failed for more deliveries (%s) within %g s; the last: %s",
            counted,
            _EVERY,
            self._last,
            exc_info=_unknown(error),
            extra={**self._fields, "count": number},
        )
        self._counts.clear()
        self._error, self._fields = None, {}


def describe(error: BaseException) -> str:
    """The type of an error, and its text where it has one."""
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # its own __str__ fails
        return type(error).__name__


def _unknown(error: Exception | None) -> Exception | None:
    """An error of an inbox that is not ours, whose traceback is worth its lines."""
    return None if error is None or isinstance(error, (BasiqError, OSError)) else error
