"""The settings of a receiver, checked."""

from __future__ import annotations

import attrs

from .._arguments import Duration, check_seconds, check_whole
from ..errors import ConfigurationError

_LEASE_MARGIN = 10.0
"""Seconds by which a lease outlasts the time limits of one delivery, so that it expires only if its worker is dead or
stuck."""


@attrs.frozen(kw_only=True)
class Settings:
    """See ``WebhookReceiver``. Times are in seconds."""

    handler_timeout: float
    inbox_timeout: float
    lease: float
    quarantine_after: int | None
    deferred_timeout: float
    deferred_lease: float
    attempts: int
    concurrency: int
    max_waiting: int
    max_waiting_bytes: int

    @classmethod
    def check(
        cls,
        *,
        handler_timeout: Duration,
        inbox_timeout: Duration,
        lease: Duration | None,
        quarantine_after: int | None,
        deferred_timeout: Duration,
        **counts: int,
    ) -> Settings:
        """Check the values that were passed. Raises ``ConfigurationError``."""
        handler_timeout = check_seconds("handler_timeout", handler_timeout)
        inbox_timeout = check_seconds("inbox_timeout", inbox_timeout)
        deferred_timeout = check_seconds("deferred_timeout", deferred_timeout)
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
            deferred_timeout=deferred_timeout,
            deferred_lease=deferred_timeout + rest,
            **{name: check_whole(name, value, least=1) for name, value in counts.items()},
        )
