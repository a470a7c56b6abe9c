"""Keep the exception that caused an error, without its traceback, unless its text shows a credential."""

from __future__ import annotations

import traceback

from .._redaction.credentials import REDACTED
from .._redaction.tracebacks import drop_tracebacks, walk
from ..errors import BasiqError
from .base import Request


def cause_of(exc: BaseException, request: Request) -> BaseException | None:
    """Return the exception to raise an error from, or None if the text of it or of its causes shows a credential.

    aiohttp's errors can hold the headers of the request and parts of the response. The server may have repeated a
    credential in its response.
    """
    return drop_tracebacks(exc) if _is_fit(exc, request) else None


def clean(exc: BasiqError, request: Request) -> BasiqError:
    """Remove the request's credential from an error that a transport raised, and from the error's causes."""
    if not _is_fit(exc, request):
        credential = _credential(request)
        exc.args = tuple(arg.replace(credential, REDACTED) if isinstance(arg, str) else REDACTED for arg in exc.args)
        exc.__cause__ = exc.__context__ = None
    for one in (exc.__cause__, exc.__context__):
        if one is not None:
            drop_tracebacks(one)
    return exc.with_traceback(None)


def _credential(request: Request) -> str:
    """Return the request's token or API key. Without either, return the url's query, which can hold a target's key."""
    authorization = request.headers.get("authorization", "").rpartition(" ")[2]
    return authorization or request.url.partition("?")[2]


def _is_fit(exc: BaseException, request: Request) -> bool:
    credential = _credential(request)
    try:
        return not credential or credential not in _show(exc)
    except Exception:  # an exception whose text cannot be made is left out
        return False


def _show(exc: BaseException) -> str:
    return "".join([*traceback.format_exception(exc), *(repr(one) for one in walk(exc))])
