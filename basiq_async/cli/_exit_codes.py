"""The exit codes of the program, and the one table that says with which of them an error ends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .. import errors

DONE: Final = 0
WRONG: Final = 1
USAGE: Final = 2
NO_ANSWER: Final = 3
IN_USE: Final = 4

MEANINGS: Mapping[int, str] = {
    DONE: "success",
    WRONG: "something failed, is wrong, or is left to do",
    USAGE: "wrong usage, or wrong settings",
    NO_ANSWER: "nothing could be checked: Basiq, an inbox, Redis or a proxy gave no usable response",
    IN_USE: "another run of this job is alive, and does the work",
    130: "ended by SIGINT (Ctrl-C)",
    143: "ended by SIGTERM",
}

_CODES: Mapping[type[BaseException], int] = {
    errors.BasiqError: WRONG,
    errors.ConfigurationError: USAGE,
    errors.TransportError: NO_ANSWER,
    errors.APIError: NO_ANSWER,  # such as 302 or 408: a proxy's, or none that the API documents
    errors.BadRequestError: WRONG,
    errors.NotFoundError: WRONG,
    errors.ConflictError: WRONG,
    errors.ResponseDecodeError: NO_ANSWER,
    errors.PaginationError: NO_ANSWER,
    errors.SignatureVerificationError: WRONG,
    errors.InboxError: NO_ANSWER,
    errors.ReplayError: WRONG,
    errors.RecordError: NO_ANSWER,
    errors.JobInUseError: IN_USE,
    TimeoutError: NO_ANSWER,
}


_LISTS = ("/events", "/events/types", "/notifications/webhooks")
"""The paths that Basiq always has: nothing in them was named by a user."""


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error.

    An error status is no answer if its body has no error in it, as of a proxy; and so is any status of the login.
    """
    if isinstance(error, errors.RequestTimeoutError) and error.method is None:  # what was waited for did not come
        return WRONG
    if isinstance(error, errors.APIError):
        path = error.path or ""
        is_missing_list = isinstance(error, errors.NotFoundError) and path.endswith(_LISTS)
        if not error.errors or is_missing_list or path.endswith("/token"):
            return NO_ANSWER
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), WRONG)
