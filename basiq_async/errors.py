"""Every error that this package raises.

.. code-block:: text

    BasiqError
    ├── ConfigurationError             an invalid argument or setting (also a ValueError)
    │   └── MissingExtraError          an extra is not installed (also an ImportError)
    ├── TransportError                 no usable response
    │   ├── ConnectionFailedError
    │   └── RequestTimeoutError        (also a TimeoutError)
    ├── APIError                       a response with an error status
    │   ├── BadRequestError            400
    │   ├── AuthenticationError        401, and a key that the token endpoint refuses
    │   ├── PermissionDeniedError      403
    │   ├── NotFoundError              404
    │   ├── ConflictError              409
    │   ├── RateLimitError             429
    │   └── ServerError                5xx
    ├── ResponseDecodeError            a response that cannot be understood
    ├── PaginationError                a next link that loops, or leaves the API's own origin
    ├── SignatureVerificationError     a delivery that cannot be trusted
    ├── InboxError                     an inbox could not say, or not record, what was handled
    └── ReplayError                    a replay job that cannot start or go on
        ├── JobInUseError              another run writes to the file
        ├── RecordError                its record of what was handled is full, damaged, or another one
        └── TargetError                its target did not accept a message

No error holds a credential, in its text or in its attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

__all__ = [
    "APIError",
    "AuthenticationError",
    "BadRequestError",
    "BasiqError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "InboxError",
    "JobInUseError",
    "MissingExtraError",
    "NotFoundError",
    "PaginationError",
    "PermissionDeniedError",
    "RateLimitError",
    "RecordError",
    "ReplayError",
    "RequestTimeoutError",
    "ResponseDecodeError",
    "ServerError",
    "SignatureVerificationError",
    "TargetError",
    "TransportError",
    "error_class",
]


def _find_help(heading: str) -> str:
    """Return the page and the heading; the address, if ``Documentation`` was in ``project.urls`` at the build.

    Without that there is no address: a host that the project does not own could be claimed by anyone.
    """
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("basiq-async").get_all("Project-URL") or []
    except PackageNotFoundError:  # the code runs without being installed
        urls = []
    for label, _, url in (each.partition(", ") for each in urls):
        if label == "Documentation":
            return f"{url.rstrip('/')}/troubleshooting.html#{heading}"
    return f"docs/troubleshooting.md#{heading}"


class BasiqError(Exception):
    """The base class of every error of this package. All can be pickled and copied, and keep their attributes."""

    _too_large = False  # whether a response was refused for its size alone: a smaller page may be read

    @property
    def help(self) -> str:
        """The page and the heading in the documentation that explain this error and its remedy.

        That is ``docs/troubleshooting.md#notfounderror``, or the whole address if the package was built with one.
        """
        known = next(cls for cls in type(self).__mro__ if cls.__module__ == __name__)
        return _find_help(known.__name__.lower())

    def __reduce__(self) -> tuple[object, ...]:
        # The default calls the class with the positional arguments only: it loses or lacks the keyword arguments.
        return (_rebuild, (type(self), self.args, self.__dict__))


class ConfigurationError(BasiqError, ValueError):
    """An argument or a setting is invalid. Nothing was sent."""


class MissingExtraError(ConfigurationError, ImportError):
    """A name needs an extra of this package whose libraries are not installed."""


class TransportError(BasiqError):
    """A request got no usable response.

    ``method`` and ``path`` name the request. ``attempts`` is how many times it was sent. ``sent`` is False if no byte
    of the request can have reached the server, so that even a POST may be sent again.
    """

    def __init__(self, message: str, *, method: str | None = None, path: str | None = None, sent: bool = True) -> None:
        super().__init__(message)
        self.method = method
        self.path = path
        self.sent = sent
        self.attempts = 1

    def __str__(self) -> str:
        text = super().__str__()
        if self.method is not None:
            text += f" ({self.method} {self.path})"
        if self.attempts > 1:
            text += f" after {self.attempts} attempts"
        return text


class ConnectionFailedError(TransportError):
    """The connection could not be made, or broke before the response was complete."""


class RequestTimeoutError(TransportError, TimeoutError):
    """The timeout passed before the response was complete."""


class APIError(BasiqError):
    """The API responded with an error status.

    ``code``, ``title``, ``detail`` and ``parameter`` are those of the first error in the body, each None if the body
    does not have it. ``errors`` holds all errors of the body. Quote ``correlation_id`` to Basiq's support.
    ``retry_after`` is the wait that the response asked for, in seconds, or None. ``attempts`` is how many times the
    request was sent.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int,
        code: str | None = None,
        title: str | None = None,
        detail: str | None = None,
        parameter: str | None = None,
        errors: Sequence[Mapping[str, object]] = (),
        correlation_id: str | None = None,
        method: str | None = None,
        path: str | None = None,
        retry_after: float | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.parameter = parameter
        self.errors = tuple(errors)
        self.correlation_id = correlation_id
        self.method = method
        self.path = path
        self.retry_after = retry_after
        self.attempts = attempts

    def __str__(self) -> str:
        head = f"{self.status} {self.code}" if self.code else str(self.status)
        text = super().__str__() or self.detail or self.title or "the response says no more"
        where = [f"{self.method} {self.path}"] if self.method else []
        if self.parameter:
            where.append(f"parameter {self.parameter}")
        if self.correlation_id:
            where.append(f"correlation id {self.correlation_id}")
        if self.retry_after is not None:
            where.append(f"retry after {self.retry_after:g} s")
        if self.attempts > 1:
            where.append(f"after {self.attempts} attempts")
        return f"{head}: {text}" + (f" ({', '.join(where)})" if where else "")


class BadRequestError(APIError):
    """400: the API does not accept the request."""


class AuthenticationError(APIError):
    """401: the token was refused even after a renewal. 400, 401 or 404: the API key was not accepted."""


class PermissionDeniedError(APIError):
    """403: the account may not do this, or is disabled."""


class NotFoundError(APIError):
    """404: the resource does not exist."""


class ConflictError(APIError):
    """409: such a resource exists already."""


class RateLimitError(APIError):
    """429: too many requests. ``retry_after`` is the wait that the response asked for, in seconds, or None."""


class ServerError(APIError):
    """5xx: the API failed."""


class ResponseDecodeError(BasiqError):
    """A response could not be read.

    ``location`` is the JSON path of the part that is wrong, such as ``$.data[3].attempts[0].timestamp``.
    """

    def __init__(
        self, message: str, *, location: str = "$", method: str | None = None, path: str | None = None
    ) -> None:
        super().__init__(message)
        self.location = location
        self.method = method
        self.path = path

    def __str__(self) -> str:
        where = f" ({self.method} {self.path})" if self.method else ""
        return f"{self.location}: {super().__str__()}{where}"


class PaginationError(BasiqError):
    """A list cannot be read further.

    Its next link loops or leads to another origin than the API's, and ``link`` is that link. Or the item to resume
    after is no longer in the list, and ``link`` is None.
    """

    def __init__(self, message: str, *, link: str | None = None) -> None:
        super().__init__(message)
        self.link = link


class SignatureVerificationError(BasiqError):
    """A delivery's signature is missing, invalid or too old, or the receiver's secret cannot be used.

    ``reason`` is a short code that suits a metric, such as ``missing-header``, ``too-old`` or ``no-match``.
    """

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def help(self) -> str:
        return _find_help(self.reason)


class InboxError(BasiqError):
    """The inbox could not read or record which deliveries were handled, for example because the disk is full."""

    _lasts = False  # whether it is no outage: it helps nothing to wait, and a job ends at once


class ReplayError(BasiqError):
    """A replay job cannot start, or cannot continue.

    ``report`` is the ``basiq_async.replay.Report`` up to the error; None if the job had not started.
    """

    report: Any = None  # this module imports nothing of the project, so that every module can import it


class JobInUseError(ReplayError):
    """Another run writes to the same file. That run does the work, so this one can end."""


class RecordError(ReplayError):
    """The record of what a job has handled cannot be read or written, or belongs elsewhere. It was left as it is."""


class TargetError(ReplayError):
    """A target did not accept a message.

    ``status`` is the HTTP status of its response, or None. ``retry_after`` is the wait that the target asked for, in
    seconds, or None; a timedelta is accepted. A replay then waits for that long before it delivers any message.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | timedelta | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after.total_seconds() if isinstance(retry_after, timedelta) else retry_after


_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}


def error_class(status: int) -> type[APIError]:
    """Return the error class for an HTTP status."""
    if 500 <= status <= 599:
        return ServerError
    return _BY_STATUS.get(status, APIError)


def _rebuild(cls: type[BasiqError], args: tuple[object, ...], state: dict[str, object]) -> BasiqError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error
