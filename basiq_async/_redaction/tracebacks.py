"""Remove tracebacks, whose frames hold local variables, from an error and the errors that led to it. No I/O.

An error reporter shows the variables of every frame of a traceback, also of the errors that led to it: headers,
bodies, keys. Therefore an exception that is raised again loses the traceback of this library's frames, and gets a note
that says where it was raised. A text that the library's own frames have to hold is an ``UnshownText``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class UnshownText(str):
    """A text whose ``repr`` does not show it, such as a body, or JSON that contains one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters>"


def walk(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exception and each exception that led to it: causes, contexts and members of groups."""
    seen: set[int] = set()
    left: list[BaseException | None] = [exc]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def drop_tracebacks(exc: E) -> E:
    """Remove the tracebacks of the exception and of all exceptions that led to it. Return the exception."""
    for one in walk(exc):
        place = _place(one)
        if place is not None and place not in getattr(one, "__notes__", ()):
            one.add_note(place)
        one.__traceback__ = None
    return exc


def _place(exc: BaseException) -> str | None:
    traceback = exc.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    name = os.sep.join(code.co_filename.split(os.sep)[-2:])
    return f"raised at {name}:{traceback.tb_lineno} in {code.co_name}"
