"""What a caller or an endpoint did that the real Basiq would refuse, or that misuses it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import attrs

from ._clock import Clock

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
        self._codes: list[str] = []

    def add(self, code: str, detail: str) -> None:
        self._codes.append(code)
        if len(self._seen) < KEPT:
            self._seen.append(Violation(code, detail, self._clock()))

    def take_codes(self) -> tuple[str, ...]:
        """The codes of what was added since this was called last."""
        codes, self._codes = self._codes, []
        return tuple(codes)

    def seen(self) -> Sequence[Violation]:
        return tuple(self._seen)

    def clear(self) -> None:
        self._seen.clear()
