"""Counts what changes in the fake, for those who show it."""

from __future__ import annotations

from collections.abc import Callable


class Changes:
    """Counts changes and calls those who watch."""

    def __init__(self) -> None:
        self.revision = 0
        self._watchers: list[Callable[[], None]] = []

    def note(self) -> None:
        """Count a change and tell the watchers."""
        self.revision += 1
        for watcher in tuple(self._watchers):
            watcher()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call ``watcher`` after each change; returns what ends that."""
        self._watchers.append(watcher)

        def stop() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

        return stop
