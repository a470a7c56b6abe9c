"""Faults of requests and deliveries, and endpoints that are down."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import attrs

from ...transports.base import Response
from ._responses import CODES, Refusal, error_response

Drop = Literal["request", "response"]


@attrs.define
class Fault:
    """One kind of failure, for the next ``left`` requests that match."""

    left: int
    method: str | None
    path: str | None
    status: int | None
    headers: Mapping[str, str]
    body: bytes | None
    delay: float
    drop: Drop | None
    loop: bool

    def matches(self, method: str, path: str) -> bool:
        if self.method is not None and self.method != method:
            return False
        # A test that asks for the next request to fail does not mean the token call.
        return path != "/token" if self.path is None else fnmatchcase(path, self.path)

    def response(self, correlation_id: str) -> Response | None:
        """Return the response that replaces the normal one; None if the normal one is sent."""
        if self.status is None and self.body is None:
            return None
        status = self.status or 200
        if self.body is not None:
            return Response(status, {"content-type": "application/json", **self.headers}, self.body)
        code = CODES.get(status, "error")
        return error_response(Refusal(status, code, "Asked for by a test.", headers=self.headers), correlation_id)


class Faults:
    """The faults for coming requests. The first that matches is used."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def waiting(self) -> tuple[Fault, ...]:
        return tuple(self._waiting)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return the first fault that matches a request, and reduce its remaining count."""
        for fault in self._waiting:
            if fault.matches(method, path):
                fault.left -= 1
                if not fault.left:
                    self._waiting.remove(fault)
                return fault
        return None


@attrs.define
class DeliveryFault:
    """A fault for the next ``left`` deliveries to endpoints that match ``url``."""

    left: int
    url: str | None
    status: int | None
    drop: Drop | None

    def matches(self, url: str) -> bool:
        return self.url is None or fnmatchcase(url, self.url)


class Outages:
    """The endpoints that are down, and the faults for coming deliveries."""

    def __init__(self) -> None:
        self._down: dict[str | None, int | None] = {}
        self._faults: list[DeliveryFault] = []

    @property
    def down(self) -> dict[str | None, int | None]:
        """The urls of endpoints that are down (None: all), with the status of their responses (None: no response)."""
        return dict(self._down)

    @property
    def faults(self) -> tuple[DeliveryFault, ...]:
        return tuple(self._faults)

    def take_down(self, url: str | None, status: int | None) -> None:
        self._down[url] = status

    def bring_up(self, url: str | None) -> None:
        """End the outage of one endpoint, or of all if ``url`` is None."""
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
        """Return the fault for a delivery: of an outage, or else the first that matches, whose count is reduced."""
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
