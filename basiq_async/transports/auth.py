"""Authentication: all requests share one token, which is renewed before it expires.

``POST /token`` expects the API key verbatim after ``Basic``, and the header ``basiq-version: 3.0``. A token is valid
for 60 minutes, and should be cached and shared (the vendor's authentication page).
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import math
import os
import re
from typing import Any

import attrs

from .._redaction.credentials import Redactor, SecretText, Unpicklable
from .._redaction.tracebacks import hide_arguments
from .._signing.secrets import is_quoted
from .._wire.urls import BaseURL
from .._work.clock import clock_of
from .._work.limits import limit
from ..errors import (
    APIError,
    AuthenticationError,
    BasiqError,
    ConfigurationError,
    RequestTimeoutError,
    ResponseDecodeError,
)
from .base import Request, Response, Transport
from .responses import error_from, is_token_refused

_log = logging.getLogger("basiq_async.auth")
_LIFETIME = 3600.0
_MARGIN = 60.0
_TOKEN = re.compile(r"[!-~]{1,65536}")
_MAX_BODY = 2**20
_MAY_REFUSE = (401, 403)
"""Statuses of a response by which the API may have refused the token."""


class ApiKey(Unpicklable):
    """A checked API key. ``repr`` does not show it."""

    __slots__ = ("_text",)

    @hide_arguments
    def __init__(self, text: str | SecretText | None) -> None:
        if isinstance(text, SecretText):
            text = text.get_secret_value()
        if text is None:
            text = os.environ.get("BASIQ_API_KEY")
            if text is None:
                raise ConfigurationError("no API key: pass api_key, or set the environment variable BASIQ_API_KEY")
        if isinstance(text, str) and is_quoted(text):
            raise ConfigurationError("the API key is in quotes: remove them, where it is set")
        if not isinstance(text, str) or not _TOKEN.fullmatch(text):
            raise ConfigurationError(
                "the API key must be exactly the text that Basiq's dashboard shows: not empty, ASCII, without "
                "spaces or newlines, and without 'Basic ' before it"
            )
        self._text = text

    def header(self) -> str:
        """The value of the ``Authorization`` header of a token request."""
        return f"Basic {self._text}"

    def digest(self, salt: str) -> str:
        """Return a salted digest: two are equal if the keys are, and neither shows its key."""
        return hashlib.sha256(f"{salt}:{self._text}".encode()).hexdigest()

    def reveal(self) -> str:
        """The text of the key."""
        return self._text

    def __repr__(self) -> str:
        return "ApiKey('**********')"


@attrs.frozen
class _AccessToken(Unpicklable):
    authorization: str = attrs.field(repr=False)
    renew_at: float


class Authenticated:
    """A transport that adds the token to each request, and requests a token when it needs one.

    A request to a url outside of the API's base is refused. After a 401, or a 403 that says that the token has expired,
    the token is renewed and the request is sent again, both once. All of this takes at most ``max_elapsed`` seconds.
    The inner transport is not closed. The ``redactor`` learns each token.
    """

    def __init__(
        self,
        inner: Transport,
        api_key: ApiKey,
        base: BaseURL,
        *,
        max_elapsed: float = math.inf,
        redactor: Redactor | None = None,
    ) -> None:
        self._inner = inner
        self.waits = clock_of(inner)
        self._api_key = api_key
        self._base = base
        self._below = base.url("/")
        self._max_elapsed = max_elapsed
        self._redactor = redactor or Redactor(api_key.reveal())
        self._token: _AccessToken | None = None
        self._renewal = asyncio.Lock()
        self._renewals_ended = 0
        self._failure: BasiqError | None = None

    async def send(self, request: Request, /) -> Response:
        """Send the request with the token. Raises the error of the token request if no token can be had."""
        if not request.url.startswith(self._below):
            raise ConfigurationError("refused to send the token to a url outside of base_url")
        now = asyncio.get_running_loop().time()
        deadline = now + self._max_elapsed if request.deadline is None else request.deadline
        if self.waits is not None:
            now = self.waits.time()
        token = self._token
        if token is None or now >= token.renew_at:
            token = await self._renew(token, deadline)
        response = await self._inner.send(_with_token(request, token, deadline))
        if response.status in _MAY_REFUSE and is_token_refused(response):
            refused = response
            token = await self._renew(token, deadline)
            response = await self._inner.send(_with_token(request, token, deadline))
            response = attrs.evolve(
                response,
                attempts=refused.attempts + response.attempts,
                repeated=refused.repeated or response.repeated,
            )
        return response

    async def aclose(self) -> None:
        """Do nothing: the inner transport is closed by the code that made it."""

    async def _renew(self, stale: _AccessToken | None, deadline: float | None) -> _AccessToken:
        """Renew the token once for all requests that wait for it, and return it.

        A failure is raised for all of them. If the request that renews is cancelled, the next one renews.
        """
        ended_before = self._renewals_ended
        late = RequestTimeoutError("no token was received within max_elapsed", method="POST", path="/token")
        async with limit(None if deadline is None else deadline - asyncio.get_running_loop().time(), late):
            await self._renewal.acquire()
        try:
            if self._token is not None and self._token is not stale:
                return self._token
            if self._failure is not None and self._renewals_ended > ended_before:
                raise copy.copy(self._failure) from self._failure.__cause__
            self._token, self._failure = None, None
            try:
                token = await self._fetch(deadline)
            except BasiqError as exc:
                self._failure = copy.copy(exc)  # a copy has no traceback, which would keep its frames alive
                self._failure.__cause__ = exc.__cause__
                self._renewals_ended += 1
                raise
            self._token = token
            self._renewals_ended += 1
            return token
        finally:
            self._renewal.release()

    async def _fetch(self, deadline: float | None) -> _AccessToken:
        url = self._base.url("/token")
        request = Request(
            "POST",
            url,
            {
                "authorization": self._api_key.header(),
                "basiq-version": "3.0",
                "content-type": "application/x-www-form-urlencoded",
                "accept": "application/json",
            },
            b"scope=SERVER_ACCESS",
            idempotent=True,  # a token request changes nothing at Basiq, so it may be sent twice
            deadline=deadline,
            url_template="/token",
        )
        began = asyncio.get_running_loop().time() if self.waits is None else self.waits.time()
        response = await self._inner.send(request)
        path = self._base.path_of(url)
        if not 200 <= response.status < 300:
            raise _explain_refusal(response, path, self._redactor)
        token = _read_token(response.body, began, self._redactor, path)
        _log.debug("got a token, to be renewed in %.0f s", token.renew_at - began)
        return token


def _with_token(request: Request, token: _AccessToken, deadline: float | None) -> Request:
    # The headers are in no local variable, because error reports with local variables would show the token.
    return attrs.evolve(request, headers={**request.headers, "authorization": token.authorization}, deadline=deadline)


def _explain_refusal(response: Response, path: str, redactor: Redactor) -> APIError:
    error = error_from(response, method="POST", path=path, redactor=redactor)
    is_basiqs = bool(error.errors) and bool(error.code or error.detail)
    if response.status == 404 and not is_basiqs:
        error.args = ("there is no Basiq API at this URL; check base_url, and BASIQ_BASE_URL in the environment",)
        return error
    if response.status not in (400, 401, 404):
        return error
    said = ": ".join(text for text in (error.title, error.detail) if text)
    # The vendor's page on errors has a 404 for a key of which Basiq knows nothing.
    gone = "its application may be deleted or of another environment; " if response.status == 404 else ""
    refused = AuthenticationError(
        f"the API key was not accepted; {gone}pass it exactly as Basiq's dashboard shows it"
        + (f" (the response says: {said})" if said else ""),
        status=response.status,
    )
    refused.__dict__.update(vars(error))
    return refused


@hide_arguments
def _read_token(body: bytes, began: float, redactor: Redactor, path: str) -> _AccessToken:
    try:
        value: Any = json.loads(body) if len(body) <= _MAX_BODY else None
    except (ValueError, RecursionError):
        raise ResponseDecodeError("the response to the token request is not JSON", method="POST", path=path) from None
    token = value.get("access_token") if isinstance(value, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        said = "expected a token of printable ASCII characters"
        raise ResponseDecodeError(said, location="$.access_token", method="POST", path=path)
    redactor.learn(token)
    lifetime = _read_lifetime(value.get("expires_in"))
    return _AccessToken(f"Bearer {token}", began + lifetime - min(_MARGIN, lifetime / 10))


def _read_lifetime(value: object) -> float:
    """Return a token's lifetime in seconds. An invalid value counts as the documented hour: a 401 renews the token."""
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        seconds = 0.0
    return seconds if 0 < seconds <= _LIFETIME and math.isfinite(seconds) else _LIFETIME
