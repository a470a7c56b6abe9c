"""The interface of all transports: a request goes in, and a response comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, Protocol, Self, runtime_checkable

import attrs


def _show(url: object) -> str:
    path, mark, _ = str(url).partition("?")
    return repr(path + (mark and "?…"))


class _Confidential:
    """Base class of objects that can hold a credential. They cannot be pickled, and a copy is the object itself."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can hold a credential, which a pickle would show")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


@attrs.frozen
class Request(_Confidential):
    """One complete HTTP request.

    ``url`` is absolute and already percent-encoded. A transport must send it unchanged. Header names are in lower case.
    ``repr`` does not show the headers, the body and the url's query, because they can hold credentials; for the same
    reason a request cannot be pickled.
    """

    method: str
    url: str = attrs.field(repr=lambda url: _show(url))
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    idempotent: bool | None = None
    """Whether the request may be sent twice. ``None`` means yes for every method except POST and PATCH."""
    deadline: float | None = attrs.field(default=None, eq=False, repr=False)
    """The time of the event loop's clock at which the transport must give up. ``None`` sets no such time."""
    url_template: str | None = attrs.field(default=None, eq=False, repr=False)
    """The path with names in place of identifiers, such as ``/events/{id}``, for metrics. It is not sent."""
    _abridged: bool = attrs.field(default=False, eq=False, repr=False, alias="abridged")
    """Whether to leave out the long texts of the JSON in the response, which ``AiohttpTransport`` refused with them."""


@attrs.frozen
class Response(_Confidential):
    """One complete HTTP response, of any status.

    Header names are in lower case; a client also accepts other ones. The values of a repeated header are joined by
    ``", "``. ``body`` is decompressed. ``repr`` does not show the headers and the body, because they can hold tokens
    and secrets; for the same reason a response cannot be pickled.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    attempts: int = 1
    """How many times the request was sent, including the attempt that got this response."""
    repeated: bool = False
    """Whether the server may have carried out an earlier attempt, whose response was lost or not usable."""


def credential_of(request: Request) -> str:
    """Return the request's token or API key. Without either, return the url's query, which can hold a target's key."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    authorization = headers.get("authorization", "").rpartition(" ")[2]
    return authorization or request.url.partition("?")[2]


@runtime_checkable
class Transport(Protocol):
    """Sends requests to Basiq. The rules for an implementation:

    ``send`` returns a ``Response`` for every HTTP status. It raises only if there is no usable response, and then a
    ``TransportError``: ``ConnectionFailedError`` (with ``sent=False`` if nothing can have reached the server) or
    ``RequestTimeoutError``. It honours ``Request.deadline``. Many tasks may use a transport at once, and it stays
    usable after a ``send`` is cancelled. ``aclose`` may be called twice. A ``send`` after ``aclose`` raises
    ``ConnectionFailedError``.
    """

    async def send(self, request: Request, /) -> Response:
        """Send one request and return its response."""
        ...

    async def aclose(self) -> None:
        """Release the transport's resources, such as its connections."""
        ...
