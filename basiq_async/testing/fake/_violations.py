"""What a caller or an endpoint did that the real Basiq would refuse, or that misuses it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import attrs

from ._clock import Clock

__all__ = ["Violation"]

KEPT = 1000


@attrs.frozen
class Violation:
    """One misuse.

    ``code`` is one of ``token-per-request``, ``token-rate``, ``key-encoded-twice``, ``key-on-operation``,
    ``basiq-version``, ``limit`` and ``slow-acknowledgement``; ``detail`` tells a person; ``at`` is the time
    on the fake's clock.
    """

    code: str
    detail: str
    at: datetime


class Violations:
    """The misuses seen so far, at most the first thousand."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: list[Violation] = []

    def add(self, code: str, detail: str) -> None:
        if len(self._seen) < KEPT:
            self._seen.append(Violation(code, detail, self._clock()))

    def seen(self) -> Sequence[Violation]:
        return tuple(self._seen)

    def clear(self) -> None:
        self._seen.clear()
