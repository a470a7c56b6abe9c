"""What every service stands on: a call, its status and its body turned into a model or one of our errors."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import attrs

from .._codec import Codec, ListPage
from .._redaction import Redactor
from .._responses import error_from
from .._tasks import TaskOwner
from .._urls import BaseURL
from ..errors import ConfigurationError, ConnectionFailedError, ResponseDecodeError
from ..pagination import Listing, Paginator
from ..transports.base import Response, Transport, quick_request

T = TypeVar("T")


@attrs.frozen
class Api:
    """The API, seen from a service."""

    base: BaseURL
    transport: Transport
    codec: Codec
    owner: TaskOwner
    redactor: Redactor = attrs.field(factory=Redactor)

    def path_of(self, url: str) -> str:
        """The path of a url, for messages: without credentials that a link of the API's can have brought along."""
        return self.redactor.known(self.base.path_of(url))

    def answer(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Awaitable[Response]:
        """Send, and give back the answer, whatever its status."""
        if self.owner.closed:
            raise ConnectionFailedError("the client is closed", method=method, path=self.path_of(url), sent=False)
        headers = {"accept": "application/json"}
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = _encoded(body)
        return self.transport.send(quick_request(method, url, headers, content))

    def accepted(self, response: Response, method: str, url: str) -> bytes:
        """The body of a 2xx answer. Raises the error that any other status stands for."""
        if not 200 <= response.status < 300:
            raise error_from(response, method=method, path=self.path_of(url), redactor=self.redactor)
        return response.body

    def acknowledge(self, response: Response, method: str, url: str) -> None:
        """Look at an answer that has nothing to read. A page of a proxy is not the API's word for it.

        Raises ``ResponseDecodeError`` for a 2xx answer with a body that is neither empty nor JSON, on any status but
        204.
        """
        body = self.accepted(response, method, url)
        if response.status != 204 and body.strip():
            self.read_json(response, method, url)

    def read(self, model: type[T], response: Response, method: str, url: str) -> T:
        """A 2xx answer, as a model."""
        if not 200 <= response.status < 300:
            self.accepted(response, method, url)
        try:
            return self.codec.read(model, response.body)
        except ResponseDecodeError as exc:
            raise self._placed(exc, method, url) from None

    def read_json(self, response: Response, method: str, url: str) -> Any:
        """A 2xx answer, as its JSON value."""
        body = self.accepted(response, method, url)
        try:
            return self.codec.json(body)
        except ResponseDecodeError as exc:
            raise self._placed(exc, method, url) from None

    def listing(
        self,
        model: type[T],
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        filter: str | None = None,
        cursor: str | None = None,
        prefetch: int = 1,
    ) -> Paginator[T]:
        """A list that can be streamed. Its filter belongs to its identity, the size of its pages does not."""
        start = self.base.url(path, {**(query or {}), **({"filter": filter} if filter else {})})
        listing = Listing(
            name=json.dumps([path, filter]),
            start=start,
            base=self.base,
            fetch=self._fetch_page,
            reader=self.codec.reader(model),
            owner=self.owner,
            redact=self.redactor.text,
        )
        return Paginator(listing, cursor=cursor, prefetch=prefetch)

    async def _fetch_page(self, url: str) -> ListPage:
        body = self.accepted(await self.answer("GET", url), "GET", url)
        try:
            return self.codec.page(body)
        except ResponseDecodeError as exc:
            raise self._placed(exc, "GET", url) from None

    def _placed(self, exc: ResponseDecodeError, method: str, url: str) -> ResponseDecodeError:
        exc.method, exc.path = method, self.path_of(url)
        return exc


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise ConfigurationError("a text to be sent holds characters that cannot be encoded as UTF-8") from exc
