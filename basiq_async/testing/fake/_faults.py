"""Faults of requests and deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import attrs

from ...transports.base import Response
from ._responses import error_of

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
        return error_of(status, "Asked for by a test.", self.headers, correlation_id)


@attrs.define
class DeliveryFault:
    """A fault for the next ``left`` deliveries to endpoints that match ``url``."""

    left: int
    url: str | None
    status: int | None
    drop: Drop | None

    def matches(self, url: str) -> bool:
        return self.url is None or fnmatchcase(url, self.url)


F = TypeVar("F", Fault, DeliveryFault)


def take_fault(faults: list[F], *what: str) -> F | None:
    """Return the first fault that matches, and reduce its remaining count."""
    for fault in faults:
        if fault.matches(*what):
            fault.left -= 1
            if not fault.left:
                faults.remove(fault)
            return fault
    return None
