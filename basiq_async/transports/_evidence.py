"""What may go along with an error: the exception behind it, unless that shows a credential."""

from __future__ import annotations

import traceback

from .._redaction import REDACTED
from ..errors import BasiqError
from .base import Request


def cause_of(exc: BaseException, request: Request) -> BaseException | None:
    """The exception itself, to raise an error from; None where its text, or one before it, shows a credential.

    aiohttp's errors can hold the headers of the request and pieces of the answer, and whoever is on the other side
    can have put our own credentials into that.
    """
    credential = _credential(request)
    try:
        return None if credential and credential in _shown(exc) else exc
    except Exception:  # what cannot even be shown is not shown
        return None


def cleaned(exc: BasiqError, request: Request) -> BasiqError:
    """An error that a transport raised, without the credential that it, or what is behind it, shows."""
    if cause_of(exc, request) is None:
        credential = _credential(request)
        exc.args = tuple(arg.replace(credential, REDACTED) if isinstance(arg, str) else REDACTED for arg in exc.args)
        exc.__cause__ = exc.__context__ = None
    return exc


def _credential(request: Request) -> str:
    return request.headers.get("authorization", "").rpartition(" ")[2]


def _shown(exc: BaseException) -> str:
    texts = traceback.format_exception(exc)
    seen: set[int] = set()
    left: list[BaseException | None] = [exc]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        texts.append(repr(one))
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
    return "".join(texts)
