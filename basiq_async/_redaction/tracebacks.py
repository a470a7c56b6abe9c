"""Remove tracebacks, whose frames hold local variables, from an error and the errors that led to it. No I/O.

An error reporter shows the variables of every frame of a traceback, also of the errors that led to it: headers,
bodies, keys. Therefore an exception that is raised again loses the traceback of this library's frames, and gets a note
that says where it was raised. A text that the library's own frames have to hold is an ``UnshownText``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from ..errors import BasiqError
from .credentials import REDACTED

E = TypeVar("E", bound=BaseException)
P = ParamSpec("P")
R = TypeVar("R")
_LONGEST = 1_000_000
"""An exception with a longer text is not kept as a cause: it is too long to read, and each look at it takes time."""


def hide_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that is given a key, a secret or a body: no frame of its errors holds what it was given.

    An error of this package loses the frames of the call, and what led to it, which can hold the text that was refused.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BasiqError as exc:
            failure = remove_frames(exc)
        del args, kwargs
        try:
            raise failure
        finally:
            del failure  # a frame that holds its own error is freed late

    return call


def remove_frames(exc: E) -> E:
    """Remove from an error its traceback, and what led to it. Return the error."""
    exc.__cause__ = exc.__context__ = None
    return exc.with_traceback(None)


class UnshownText(str):
    """A text whose ``repr`` does not show it, such as a body, or JSON that contains one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters>"


def chain_of(exc: BaseException) -> Iterator[BaseException]:
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


def hide_parameters(exc: E) -> E:
    """Let errors of SQLAlchemy show no parameters of their statements, which can be personal data. Return the error."""
    for one in chain_of(exc):
        if getattr(one, "hide_parameters", None) is False:
            one.hide_parameters = True  # type: ignore[attr-defined]  # of sqlalchemy.exc.StatementError
    return exc


def drop_tracebacks(exc: E) -> E:
    """Remove the tracebacks of the exception and of all exceptions that led to it. Return the exception."""
    for one in chain_of(exc):
        place = _place(one)
        if place is not None and place not in getattr(one, "__notes__", ()):
            one.add_note(place)
        one.__traceback__ = None
    return exc


def cause_of(exc: BaseException, hide: Callable[[str], str]) -> BaseException | None:
    """Return the exception to raise an error from, without tracebacks; None if its text, or a cause's, is not safe.

    ``hide`` removes credentials from a text. aiohttp's errors can hold the headers of the request and parts of the
    response, in which the server may have repeated a credential.
    """
    return drop_tracebacks(exc) if _is_safe(exc, hide) else None


def clean(exc: BasiqError, hide: Callable[[str], str]) -> BasiqError:
    """Remove credentials from an error that a transport raised, and from the error's causes."""
    if not _is_safe(exc, hide):
        exc.args = tuple(hide(arg) if isinstance(arg, str) else REDACTED for arg in exc.args)
        exc.__cause__ = exc.__context__ = None
    for one in (exc.__cause__, exc.__context__):
        if one is not None:
            drop_tracebacks(one)
    return exc.with_traceback(None)


def _is_safe(exc: BaseException, hide: Callable[[str], str]) -> bool:
    from traceback import format_exception  # on failures only

    try:
        shown = "".join([*format_exception(exc), *(repr(one) for one in chain_of(exc))])
        return len(shown) <= _LONGEST and hide(shown) == shown
    except Exception:  # an exception whose text cannot be made is left out
        return False


def _place(exc: BaseException) -> str | None:
    innermost = exc.__traceback__
    if innermost is None:
        return None
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code
    name = os.sep.join(code.co_filename.split(os.sep)[-2:])
    return f"raised at {name}:{innermost.tb_lineno} in {code.co_name}"
