"""The settings of a receiver, checked."""

from __future__ import annotations

from datetime import timedelta

import attrs

from .._arguments import Duration, check_seconds, check_whole
from ..errors import ConfigurationError

_LEASE_MARGIN = 10.0
"""Seconds by which a lease outlasts the time limits of one delivery, so that it expires only if its worker is dead or
stuck."""


def _check_timeout(value: Duration) -> float:
    return check_seconds("timeout", value)


def _check_concurrency(value: int) -> int:
    return check_whole("concurrency", value, least=1)


def _check_keep_trying(value: Duration) -> float:
    return check_seconds("keep_trying", value, from_zero=True)


def _check_max_waiting(value: int) -> int:
    return check_whole("max_waiting", value, least=1)


@attrs.frozen(kw_only=True)
class Deferred:
    """How a receiver's deferred handlers work: ``WebhookReceiver(..., deferred=Deferred(timeout=30))``.

    timeout: the limit for a deferred handler, in seconds.
    concurrency: how many deferred deliveries are worked on at once, by this process. Where several event types come,
        one type holds little more than half of these places, so that a partner that hangs stops no
        other type. With 1, whatever hangs stops all others.
    keep_trying: a delivery that fails goes to the quarantine after eight failures, and not before so long after the
        first of them. It is tried again after 5 s, 30 s, 5 min, and then every 30 min.
    max_waiting: how many deliveries that never failed are stored. More are refused with 503, so that Basiq sends them
        again.

    Raises ``ConfigurationError`` for a value that cannot be right.
    """

    timeout: float = attrs.field(default=60.0, converter=_check_timeout)
    concurrency: int = attrs.field(default=8, converter=_check_concurrency)
    keep_trying: float = attrs.field(default=timedelta(days=3).total_seconds(), converter=_check_keep_trying)
    max_waiting: int = attrs.field(default=100_000, converter=_check_max_waiting)


@attrs.frozen(kw_only=True)
class ReceiverSettings:
    """See ``WebhookReceiver`` and ``Deferred``. Times are in seconds."""

    handler_timeout: float
    inbox_timeout: float
    lease: float
    quarantine_after: int | None
    is_deferred: bool
    deferred_timeout: float
    deferred_lease: float
    concurrency: int
    keep_trying: float
    max_waiting: int

    @classmethod
    def check(
        cls,
        *,
        handler_timeout: Duration,
        inbox_timeout: Duration,
        lease: Duration | None,
        quarantine_after: int | None,
        deferred: bool | Deferred,
    ) -> ReceiverSettings:
        """Check the values that were passed. Raises ``ConfigurationError``."""
        handler_timeout = check_seconds("handler_timeout", handler_timeout)
        inbox_timeout = check_seconds("inbox_timeout", inbox_timeout)
        if not isinstance(deferred, (bool, Deferred)):
            raise ConfigurationError("deferred must be True, False, or Deferred(timeout=..., ...)")
        options = deferred if isinstance(deferred, Deferred) else Deferred()
        rest = 2 * inbox_timeout + _LEASE_MARGIN
        if lease is None:
            lease = handler_timeout + rest
        elif (lease := check_seconds("lease", lease)) <= handler_timeout:
            raise ConfigurationError(
                f"lease ({lease:g} s) must be longer than handler_timeout ({handler_timeout:g} s): otherwise another "
                "worker takes over a delivery while its handler is still running"
            )
        if quarantine_after is not None:
            check_whole("quarantine_after", quarantine_after, least=1, or_else="or None for no quarantine")
        return cls(
            handler_timeout=handler_timeout,
            inbox_timeout=inbox_timeout,
            lease=lease,
            quarantine_after=quarantine_after,
            is_deferred=deferred is not False,
            deferred_timeout=options.timeout,
            deferred_lease=options.timeout + rest,
            concurrency=options.concurrency,
            keep_trying=options.keep_trying,
            max_waiting=options.max_waiting,
        )
