"""The one seam of the SDK: a request goes in, a response comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import attrs


def _lower_names(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name in headers:
        if not name.islower():
            return {name.lower(): value for name, value in headers.items()}
    return headers


def _show(url: object) -> str:
    path, mark, _ = str(url).partition("?")
    return repr(path + (mark and "?…"))


@attrs.frozen
class Request:
    """One HTTP request, whole.

    ``url`` is absolute and already percent-encoded; a transport sends it byte for byte. Header names are
    kept in lower case. Headers, body and the url's query stay out of ``repr``: they can hold credentials.
    """

    method: str
    url: str = attrs.field(repr=lambda url: _show(url))
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_lower_names, repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    idempotent: bool | None = None
    """Whether sending it twice does no harm. ``None``: as its method says (all but POST and PATCH)."""
    deadline: float | None = attrs.field(default=None, eq=False, repr=False)
    """The event loop's time at which a transport gives up; ``None`` leaves the limit to the transport."""
    url_template: str | None = attrs.field(default=None, eq=False, repr=False)
    """The path with names in place of identifiers, such as ``/events/{id}``: fit for a metric. Not sent."""


@attrs.frozen
class Response:
    """One complete HTTP response, of any status.

    Header names are kept in lower case; a header that came more than once has its values joined by ``", "``.
    ``body`` is decompressed. Headers and body stay out of ``repr``: they can hold tokens and secrets.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_lower_names, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    attempts: int = 1
    """How many times the request was sent until this response came."""
    repeated: bool = False
    """Whether an earlier attempt may have been carried out, though its response was lost or of no use."""


@runtime_checkable
class Transport(Protocol):
    """How requests reach Basiq.

    Every HTTP status is a ``Response``. Only a request that got no usable response raises, and then a
    ``TransportError``: ``ConnectionFailedError`` (with ``sent=False`` where nothing can have reached the
    server) or ``RequestTimeoutError``. A transport honours ``Request.deadline``. Many tasks may use a transport
    at once; cancelling a ``send`` leaves it usable. ``aclose`` may be called twice; a ``send`` after it raises
    ``ConnectionFailedError``.
    """

    async def send(self, request: Request, /) -> Response:
        """Send one request and return its response."""
        ...

    async def aclose(self) -> None:
        """Release what the transport owns."""
        ...
