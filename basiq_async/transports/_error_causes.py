"""The exception that led to an error may accompany it: without its traceback, and unless it shows a credential."""

from __future__ import annotations

import traceback

from .._redaction.credentials import REDACTED
from .._redaction.tracebacks import drop_tracebacks, walk
from ..errors import BasiqError
from .base import Request


def cause_of(exc: BaseException, request: Request) -> BaseException | None:
    """The exception to raise an error from; None where its text, or one before it, shows a credential.

    aiohttp's errors can hold the headers of the request and pieces of the response, and the other side can have put
    our own credentials into that.
    """
    return drop_tracebacks(exc) if _is_fit(exc, request) else None


def clean(exc: BasiqError, request: Request) -> BasiqError:
    """Remove the request's credential from an error that a transport raised, and from those that led to it."""
    if not _is_fit(exc, request):
        credential = _credential(request)
        exc.args = tuple(arg.replace(credential, REDACTED) if isinstance(arg, str) else REDACTED for arg in exc.args)
        exc.__cause__ = exc.__context__ = None
    for one in (exc.__cause__, exc.__context__):
        if one is not None:
            drop_tracebacks(one)
    return exc.with_traceback(None)


def _credential(request: Request) -> str:
    """The token or API key; of a request to an endpoint, which has neither, the query, where its key can be."""
    authorization = request.headers.get("authorization", "").rpartition(" ")[2]
    return authorization or request.url.partition("?")[2]


def _is_fit(exc: BaseException, request: Request) -> bool:
    credential = _credential(request)
    try:
        return not credential or credential not in _show(exc)
    except Exception:  # what cannot even be shown is not shown
        return False


def _show(exc: BaseException) -> str:
    return "".join([*traceback.format_exception(exc), *(repr(one) for one in walk(exc))])
