"""``POST /token``, and the check of tokens."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import parse_qsl

from ...transports.base import Request, Response
from ._logs import Misuses
from ._responses import Refusal, json_response
from ._store import Application, IssuedToken, Store

LIFETIME = timedelta(seconds=3600)
RATE, RATE_WINDOW = 1500, timedelta(minutes=5)
# A program that ends after one command cannot reuse its token. It has this text in its User-Agent.
_COMMAND = "(command line)"
_SCOPES = ("SERVER_ACCESS", "CLIENT_ACCESS")


class Tokens:
    """Issues tokens, and checks the token of each request for something else."""

    def __init__(self, store: Store, misuses: Misuses) -> None:
        self._store = store
        self._misuses = misuses

    def issue(self, request: Request, now: datetime) -> Response:
        """Return the response to a token call. Raises ``Refusal``."""
        self._check_key(request.headers.get("authorization", ""))
        app = self._store.app
        if request.headers.get("basiq-version") != "3.0":
            self._misuses.add("basiq-version", "a token call needs the header basiq-version: 3.0")
            raise Refusal("parameter-not-valid", "The version in the header is missing or is not 3.0.", "basiq-version")
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise Refusal("parameter-not-valid", "The body must be form-encoded.", "Content-Type")
        try:
            form = dict(parse_qsl((request.body or b"").decode(), keep_blank_values=True, max_num_fields=50))
        except ValueError:
            raise Refusal("parameter-not-valid", "The body is not form-encoded text.", "body") from None
        scope = form.get("scope", "")
        if scope not in _SCOPES:
            raise Refusal("parameter-not-valid", f"The scope must be {' or '.join(_SCOPES)}.", "scope")
        if scope == "CLIENT_ACCESS" and not form.get("userId"):
            raise Refusal("parameter-not-valid", "CLIENT_ACCESS needs a userId.", "userId")
        if app.disabled:
            raise Refusal("forbidden-access", "The account is disabled.")
        once = _COMMAND in request.headers.get("user-agent", "")
        self._watch(app, now, once=once)
        text = "fake." + secrets.token_urlsafe(30)
        app.tokens[text] = IssuedToken(scope, now + LIFETIME, once=once)
        return json_response(
            {
                "access_token": text,
                "token_type": "Bearer",
                "expires_in": int(LIFETIME.total_seconds()),
            }
        )

    def admit(self, request: Request, now: datetime) -> None:
        """Count a use of a request's token. Raises ``Refusal`` if the token does not allow the request."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        app = self._store.app
        token = app.tokens.get(text) if scheme.lower() == "bearer" else None
        if token is None:
            if text == self._store.api_key:
                self._misuses.add("key-on-operation", "the API key is accepted by /token only: send a token")
            raise Refusal("unauthorized-access", "The access token is missing or is not valid.")
        token.used += 1
        if now >= token.expires:
            if self._store.quirks.expired_response == "403":
                raise Refusal("forbidden-access", "Token has expired")
            raise Refusal("unauthorized-access", "The access token has expired.")
        if app.disabled or token.scope != "SERVER_ACCESS":
            raise Refusal("forbidden-access", "The token does not open this resource.")

    def expire_all(self) -> None:
        """Let all tokens that were issued expire now."""
        for token in self._store.app.tokens.values():
            token.expires = min(token.expires, self._store.clock())

    def _check_key(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        if scheme.lower() == "basic":
            if key == self._store.api_key:
                return
            if self._store.api_key in _decode(key):
                self._misuses.add("key-encoded-twice", "the API key is base64 already: send it unchanged")
            if self._store.quirks.unknown_key_response == "404":
                raise Refusal("resource-not-found", "Unable to authenticate. Please, check your API key")
        raise Refusal("parameter-not-valid", "The API key in the header is missing or is not valid.", "Authorization")

    def _watch(self, app: Application, now: datetime, *, once: bool) -> None:
        # An expired token is remembered for a while: the response to its use says that it has expired.
        app.tokens = {text: token for text, token in app.tokens.items() if token.expires + LIFETIME >= now}
        recent = [token for token in app.tokens.values() if token.expires - LIFETIME > now - RATE_WINDOW]
        alive = [token for token in app.tokens.values() if token.expires > now and not token.once]
        # A client that renews its token has two for a while.
        if not once and len(alive) >= 2 and all(token.used <= 1 for token in alive[-2:]):
            self._misuses.add(
                "token-per-request",
                "another token was requested, although the 2 before it are valid and were used at most once",
            )
        if len(recent) >= RATE:
            self._misuses.add("token-rate", f"more than {RATE} token calls in {RATE_WINDOW}")
            raise Refusal(
                "too-many-requests",
                "The limit of token calls is reached.",
                headers={"retry-after": str(int(RATE_WINDOW.total_seconds()))},
            )


def _decode(key: str) -> Iterator[str]:
    try:
        text = base64.b64decode(key, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return
    yield text
    yield text.removesuffix(":")
