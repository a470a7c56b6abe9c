"""How problems look, each with the line that helps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .._redaction.shell import shell_line

if TYPE_CHECKING:
    from ..services.diagnosis import Problem


def problem_rows(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Return problems as they look in JSON."""
    return [
        {"code": each.code, "text": str(each), "command": shell_line(each.command) if each.command else None}
        for each in problems
    ]


def problem_details(problems: Iterable[Problem], name: str = "problem") -> Iterable[tuple[str, Any]]:
    """Return problems as they look in text, each with the line that helps."""
    for each in problems:
        yield name, str(each)
        if each.command:
            yield "what helps", shell_line(each.command)
