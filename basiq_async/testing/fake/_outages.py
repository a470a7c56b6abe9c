"""Endpoints that are down, and deliveries that go wrong on demand."""

from __future__ import annotations

from fnmatch import fnmatchcase

import attrs

from ._faults import Drop


@attrs.define
class DeliveryFault:
    """What goes wrong with the next ``left`` deliveries to endpoints that match ``url``."""

    left: int
    url: str | None
    status: int | None
    drop: Drop | None

    def matches(self, url: str) -> bool:
        return self.url is None or fnmatchcase(url, self.url)


class Outages:
    """The endpoints that are down, and the faults that deliveries are still to meet."""

    def __init__(self) -> None:
        self._down: dict[str | None, int | None] = {}
        self._faults: list[DeliveryFault] = []

    @property
    def down(self) -> dict[str | None, int | None]:
        """Each endpoint that is down (None: every one), with the status it responds with, if it responds."""
        return dict(self._down)

    @property
    def faults(self) -> tuple[DeliveryFault, ...]:
        return tuple(self._faults)

    def take_down(self, url: str | None, status: int | None) -> None:
        self._down[url] = status

    def bring_up(self, url: str | None) -> None:
        """End the outage of one endpoint; None ends them all."""
        if url is None:
            self._down.clear()
        else:
            self._down.pop(url, None)

    def add(self, fault: DeliveryFault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._down.clear()
        self._faults.clear()

    def take(self, url: str) -> DeliveryFault | None:
        """What this delivery meets: an outage, or the first fault that matches, used up by it."""
        for place in (url, None):
            if place in self._down:
                status = self._down[place]
                return DeliveryFault(1, url, status, None if status is not None else "request")
        for fault in self._faults:
            if fault.matches(url):
                fault.left -= 1
                if not fault.left:
                    self._faults.remove(fault)
                return fault
        return None
