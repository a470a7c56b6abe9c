"""Hooks of the client, for metrics and traces. No hook gets a credential, a header or a body."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import attrs

from ._redaction.tracebacks import hide_parameters

_log = logging.getLogger("basiq_async.hooks")
_E = TypeVar("_E")


@attrs.frozen
class RequestEvent:
    """One attempt of a request has ended.

    ``duration`` is in seconds. ``wait``, for ``on_retry`` alone, is the number of seconds until the next attempt.
    ``attempt`` counts from 1. ``status`` is None if there was no response; ``error`` is
    then the name of the error's class. ``correlation_id`` comes from an error body. ``url_template`` is the path with
    names in place of identifiers, such as ``/events/{event_id}``. It suits a metric, and ``path`` does not. It is None
    for a request that the client did not make.
    """

    method: str
    path: str
    attempt: int
    duration: float
    status: int | None = None
    error: str | None = None
    correlation_id: str | None = None
    url_template: str | None = None
    wait: float | None = None


OnRequest = Callable[[RequestEvent], None]


def call_hook(hook: Callable[[_E], None] | None, event: _E) -> None:
    """Call a hook, if one was passed. Its exceptions are logged and not raised: a hook must not break a request."""
    if hook is None:
        return
    try:
        hook(event)
    except Exception as exc:
        _log.error("the hook for %s failed", type(event).__name__, exc_info=hide_parameters(exc))


def chain_hooks(first: Callable[[_E], None] | None, second: Callable[[_E], None]) -> Callable[[_E], None]:
    """Combine two hooks into one. The second hook is called even if the first one fails."""
    if first is None:
        return second

    def both(event: _E) -> None:
        call_hook(first, event)
        second(event)

    return both
