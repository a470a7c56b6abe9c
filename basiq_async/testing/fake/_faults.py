"""Faults on demand: what goes wrong with the next requests."""

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
        # The token call is not what a test means that asks for "the next request to fail".
        return path != "/token" if self.path is None else fnmatchcase(path, self.path)

    def response(self, correlation_id: str) -> Response | None:
        """The response in place of the real one; None where that one stands."""
        if self.status is None and self.body is None:
            return None
        status = self.status or 200
        if self.body is not None:
            return Response(status, {"content-type": "application/json", **self.headers}, self.body)
        code = CODES.get(status, "error")
        return error_response(Refusal(status, code, "Asked for by a test.", headers=self.headers), correlation_id)


class Faults:
    """The faults that are still to come, the first that matches first."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def waiting(self) -> tuple[Fault, ...]:
        return tuple(self._waiting)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, used up by it."""
        for fault in self._waiting:
            if fault.matches(method, path):
                fault.left -= 1
                if not fault.left:
                    self._waiting.remove(fault)
                return fault
        return None
