"""An event loop whose clock runs while the loop waits, and hardly while it works.

A time limit in a test is then a limit on waiting. It does not depend on how busy the machine is: a response that is on
its way within this process arrives before any limit runs out, however long the processor was away.
"""

from __future__ import annotations

import asyncio
import selectors
import time

WORK = 0.0001
"""What one turn of the loop counts as, in seconds, at most: a loop that polls the clock still comes to its end."""


class _PatientSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = self._left = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        began = time.monotonic()
        events = super().select(timeout)
        self.now += min(began - self._left, WORK)
        self._left = time.monotonic()
        waited = self._left - began
        # More than the timeout means that this process did not run.
        self.now += waited if timeout is None else min(waited, max(timeout, 0.0))
        return events


class PatientLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._patient = _PatientSelector()
        super().__init__(self._patient)

    def time(self) -> float:
        return self._patient.now
