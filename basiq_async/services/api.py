"""Send the requests of the services. Return each response as a model, or raise an error of this package."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import attrs

from .._redaction.credentials import Redactor
from .._redaction.tracebacks import UnshownText
from .._wire.codec import Codec, ListPage
from .._wire.cursors import CursorSeal
from .._wire.hosts import is_this_machine
from .._wire.paging import Listing, PageSize, is_too_large, raw_id
from .._wire.urls import PLAIN_SEGMENT, BaseURL, LinkError, quote_segment
from .._work.clock import LoopClock, clock_of
from .._work.tasks import TaskOwner
from ..errors import BasiqError, ConfigurationError, ConnectionFailedError, ResponseDecodeError
from ..filters import Filter, filter_text
from ..models import Webhook
from ..pagination import OnUnreadable, Paginator
from ..transports.base import Request, Response, Transport
from ..transports.responses import error_from, parse_date
from .resources import MESSAGES

T = TypeVar("T")

MOST_A_PAGE = 500
"""The maximum size of a page, the parameter ``limit`` (the vendor's reference)."""
_SKEW = timedelta(minutes=5)
"""How far two clocks may differ."""
_JSON_ACCEPTED = {"accept": "application/json"}
_JSON_SENT = {**_JSON_ACCEPTED, "content-type": "application/json"}


def with_usable_id(webhook: Webhook) -> Webhook:
    """Return the webhook. Raises ``ResponseDecodeError`` for an id that is no segment of a path.

    Programs name files by it: a server must not choose where they write.
    """
    try:
        quote_segment(webhook.id, "id")
    except ConfigurationError as exc:
        why = str(exc)
    else:
        return webhook
    raise ResponseDecodeError(f"the webhook has no usable id: {why}", location="$.id")


class ResourceUrl(NamedTuple):
    """A url of the API, and a template: its path with names in place of identifiers."""

    url: str
    template: str | None


@attrs.define
class Api:
    """Sends the requests of all services of a client."""

    base: BaseURL
    transport: Transport
    codec: Codec
    owner: TaskOwner
    redactor: Redactor
    seal: CursorSeal
    account: Callable[[str], str]
    """Returns a digest of the API key, for a salt: equal ones are of one key."""
    _dated: tuple[str, float] | None = attrs.field(default=None, init=False)
    """The ``Date`` header of the last response, and the monotonic time of its arrival."""

    def now(self) -> datetime:
        """Return the time by Basiq's clock, from the ``Date`` header of its last response.

        Before the first response it is the time by this machine's clock. If the transport has a clock, it is the time
        by that clock.
        """
        waits = clock_of(self.transport)
        if waits is not None or self._dated is None:
            return (waits or LoopClock()).now()
        text, at = self._dated
        date = parse_date(text)
        return LoopClock().now() if date is None else date + timedelta(seconds=time.monotonic() - at)

    def find_second_clock(self, began: datetime | None) -> str | None:
        """Return what is wrong if an inbox began later than it is by the clock of a fake; None if it is none."""
        if began is None or clock_of(self.transport) is None or began <= self.now() + _SKEW:
            return None
        return (
            f"the fake's clock is at {self.now():%Y-%m-%d %H:%M} UTC, and the inbox began at {began:%Y-%m-%d %H:%M} by "
            "another clock, so what Basiq delivered seems older than the inbox: let both go by one clock, "
            "WebhookReceiver(..., inbox=MemoryInbox(clock=fake.clock), clock=fake.clock)"
        )

    def clock_lead(self) -> float:
        """Return by how many seconds this machine's clock is ahead of Basiq's; 0 before the first response.

        It is 0 also for a mock, which is on this machine: its time is what a test makes it.
        """
        if clock_of(self.transport) is not None or is_this_machine(urlsplit(self.base.url("")).hostname or ""):
            return 0.0
        return (LoopClock().now() - self.now()).total_seconds()

    def at(self, template: str, **identifiers: str) -> ResourceUrl:
        """Return the endpoint of a template such as ``/events/{event_id}``. A bad id raises ``ConfigurationError``."""
        path = template
        for name, value in identifiers.items():
            is_plain = isinstance(value, str) and PLAIN_SEGMENT.fullmatch(value)
            path = path.replace(f"{{{name}}}", value if is_plain else quote_segment(value, name))
        return ResourceUrl(self.base.root + path, template)

    def at_path(self, path: str) -> ResourceUrl:
        """Return the endpoint of any path or link of the API. Raises ``ConfigurationError`` for any other text."""
        if not isinstance(path, str) or not path:
            raise ConfigurationError("path must be a path of the API, such as /users/42/accounts, or a link to one")
        return ResourceUrl(self.follow(path, "path"), "{path}")

    def follow(self, link: str, name: str) -> str:
        """Return the url of a link of the API. Raises ``ConfigurationError`` for a link to any other place."""
        try:
            return self.base.resolve(link, self.base.root + "/")
        except LinkError as exc:
            why = self.redactor.text(str(exc))
        raise ConfigurationError(f"{name} {why}; it was not followed")

    async def get(self, model: type[T], endpoint: ResourceUrl) -> T:
        """Request one object. A message that is too large is read without its long texts."""
        read = partial(self.codec.read, model)
        try:
            return self._read(await self.request("GET", endpoint), "GET", endpoint, read)
        except BasiqError as exc:
            if endpoint.template != MESSAGES.one or not is_too_large(exc):
                raise
        return self._read(await self.request("GET", endpoint, abridged=True), "GET", endpoint, read)

    async def post(self, model: type[T], endpoint: ResourceUrl, body: Mapping[str, Any]) -> T:
        """Create or change one object, and return the object in the response."""
        return self._read(await self.request("POST", endpoint, body), "POST", endpoint, partial(self.codec.read, model))

    async def request(
        self, method: str, endpoint: ResourceUrl, body: Mapping[str, Any] | None = None, *, abridged: bool = False
    ) -> Response:
        """Send a request, and return its response, whatever its status."""
        if self.owner.closed:
            path = self._path_of(endpoint)
            raise ConnectionFailedError("the client is closed", method=method, path=path, sent=False)
        url, template = endpoint
        request = Request(method, url, _JSON_ACCEPTED, url_template=template, abridged=abridged)
        if body is not None:
            request = Request(method, url, _JSON_SENT, encode(body), url_template=template)
        response = await self.transport.send(request)
        dated = response.headers.get("date")
        if dated is not None:
            self._dated = dated, time.monotonic()
        return response

    def acknowledge(self, response: Response, method: str, endpoint: ResourceUrl) -> None:
        """Check a response whose content is not needed.

        Raises ``ResponseDecodeError`` for a 2xx response other than 204 whose body is neither empty nor JSON: it may be
        a page of a proxy.
        """
        is_empty = response.status == 204 or not response.body.strip()
        self._read(response, method, endpoint, bytes if is_empty else self.codec.json)

    def listing(
        self,
        model: type[T],
        endpoint: ResourceUrl,
        *,
        page_size: int | None = None,
        filter: str | Filter | None = None,
        cursor: str | None = None,
        prefetch: int = 1,
        on_unreadable: OnUnreadable[T] | None = None,
    ) -> Paginator[T]:
        """Return the paginator of a list. A cursor is valid for the same path and filter, with any page size."""
        if page_size is not None and (type(page_size) is not int or not 1 <= page_size <= MOST_A_PAGE):
            raise ConfigurationError(f"page_size must be a whole number from 1 to {MOST_A_PAGE}")
        text = None if filter is None else filter_text(filter)
        query = {**({"limit": page_size} if page_size else {}), **({"filter": text} if text else {})}
        start = endpoint.url
        if query:
            start += ("&" if "?" in start else "?") + urlencode(query, quote_via=quote, safe="")

        size: PageSize | None = None  # once a page was too large
        first = {start: "the first of the list"}
        places = first.copy()

        async def fetch(url: str) -> ListPage:
            nonlocal size
            while True:
                page = ResourceUrl(url if size is None else size.url(url), endpoint.template)
                try:
                    response = await self.request("GET", page, abridged=size is not None and size.abridged)
                    found = self._read(response, "GET", page, self.codec.page)
                except BasiqError as exc:
                    size = size or PageSize(page_size or MOST_A_PAGE)
                    size.shrink(exc, places.get(url, "at an unknown place"))
                    continue
                if size is not None:
                    size.grow()
                if found.next_link is not None and found.items:
                    after = listing.resolve(found.next_link, page.url)[0]
                    if after is not None:
                        places.clear()  # one page is read after the other
                        places.update(first | {UnshownText(after): f"the one after {raw_id(found.items[-1])!r}"})
                return found

        listing = Listing(
            name=json.dumps([endpoint.url.removeprefix(self.base.root), text]),
            start=start,
            base=self.base,
            fetch=fetch,
            reader=self.codec.reader(model),
            owner=self.owner,
            seal=self.seal,
            redact=self.redactor.text,
        )
        return Paginator(listing, cursor=cursor, prefetch=prefetch, on_unreadable=on_unreadable)

    def _read(self, response: Response, method: str, endpoint: ResourceUrl, read: Callable[[bytes], T]) -> T:
        """Return what ``read`` makes of the body. Raise the error of a response whose status is not 2xx.

        An error of the codec gets the method and path, and loses the codec's frames: they hold the body.
        """
        if not 200 <= response.status < 300:
            raise error_from(response, method=method, path=self._path_of(endpoint), redactor=self.redactor)
        try:
            return read(response.body)
        except ResponseDecodeError as exc:
            failure = exc.with_traceback(None)
        failure.method, failure.path = method, self._path_of(endpoint)
        failure.__cause__ = failure.__context__ = None
        raise failure

    def _path_of(self, endpoint: ResourceUrl) -> str:
        """Return the path of a url for an error message, without credentials, which a link of the API can contain."""
        return self.redactor.known(self.base.path_of(endpoint.url))


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a body as JSON. Raises ``ConfigurationError`` for text that UTF-8 cannot hold."""
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        pass
    # Raised outside of the except block, because the UnicodeEncodeError holds the text.
    raise ConfigurationError("a text in the request holds characters that cannot be encoded as UTF-8")
