"""A call that is refused."""

from __future__ import annotations


class ControlError(Exception):
    """A call of a control API that is refused: with which status, by what name, and why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
