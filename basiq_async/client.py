"""The client: one object that holds the services, their transport and their credentials."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from ._arguments import Duration, check_seconds
from ._redaction.credentials import Redactor, SecretText
from ._redaction.tracebacks import hide_arguments
from ._signing.seal import Seal
from ._wire.codec import Codec
from ._wire.cursors import CursorSeal
from ._wire.urls import VENDOR_URL, BaseURL, find_base_url
from ._work.tasks import TaskOwner
from .errors import ConfigurationError
from .filters import Filter
from .hooks import OnRequest, chain_hooks
from .pagination import Paginator
from .services.api import Api
from .services.event_types import EventTypes
from .services.events import Events
from .services.messages import Messages
from .services.webhooks import Webhooks
from .transports.auth import ApiKey, Authenticated
from .transports.base import Transport
from .transports.retry import Retrying, RetryPolicy


class BasiqClient:
    """A client of Basiq's API for webhooks. Use it as ``async with BasiqClient() as basiq``, or call ``aclose``.

    api_key: the text that Basiq's dashboard shows, or a ``SecretStr`` of it. With None, the environment variable
        ``BASIQ_API_KEY`` is used.
    transport: sends the requests. The client adds authentication and retries to it, and does not close it. With None,
        the client makes an ``AiohttpTransport``, and closes it with itself.
    base_url: the URL of the API. It may have a path prefix, for a proxy. With None, the environment variable
        ``BASIQ_BASE_URL`` is used, or else Basiq's own address. An empty variable is refused.
    retry: when to send a request again.
    timeout: the limit for each attempt of a request, in seconds.
    allow_http: accept a ``base_url`` without TLS on another machine. ``BASIQ_ALLOW_HTTP=1`` in the environment does
        the same.
    proxy: the URL of an HTTP proxy, or ``"environment"`` for the one that ``HTTPS_PROXY`` and ``NO_PROXY`` name; see
        ``AiohttpTransport``. With None, no proxy is used. A transport that is passed has its own.
    on_request, on_retry: called with a ``RequestEvent``, after each attempt and before each wait.

    Any number of tasks of one event loop may use a client at once. Raises ``ConfigurationError`` for invalid arguments.
    """

    @hide_arguments
    def __init__(
        self,
        api_key: str | SecretText | None = None,
        *,
        transport: Transport | None = None,
        base_url: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration = 30.0,
        allow_http: bool = False,
        proxy: str | None = None,
        on_request: OnRequest | None = None,
        on_retry: OnRequest | None = None,
    ) -> None:
        key = ApiKey(api_key)
        allow_http = allow_http or os.environ.get("BASIQ_ALLOW_HTTP") == "1"
        if base_url is None and (base_url := find_base_url()) is None:
            base_url = VENDOR_URL
        base = BaseURL.parse(base_url, allow_http=allow_http)
        timeout = check_seconds("timeout", timeout)
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise ConfigurationError("retry must be a RetryPolicy, or None for the usual one")
        if transport is not None and not isinstance(transport, Transport):
            raise ConfigurationError("transport must have the methods send and aclose")
        self._owned: Transport | None = None
        if transport is None:
            from .transports.aiohttp import AiohttpTransport

            transport = self._owned = AiohttpTransport(timeout=timeout, proxy=proxy)
        elif proxy is not None:
            raise ConfigurationError(
                "proxy belongs to the transport: pass it to AiohttpTransport, or pass no transport"
            )
        policy = retry or RetryPolicy()
        redactor = Redactor(key.reveal())
        self._retrying = Retrying(
            transport,
            policy,
            timeout=timeout,
            on_request=on_request,
            on_retry=on_retry,
            path_of=lambda url: redactor.known(base.path_of(url)),
            redact=redactor.text,
        )
        self._owner = TaskOwner()
        self._observed = False
        authenticated = Authenticated(self._retrying, key, base, max_elapsed=policy.max_elapsed, redactor=redactor)
        codec, seal = Codec(clean=redactor.clean_body), CursorSeal(key.reveal())
        api = self._api = Api(base, authenticated, codec, self._owner, redactor, seal, key.digest)
        self._base = base
        self._key = key
        self.webhooks = Webhooks(api)
        self.messages = Messages(api)
        self.event_types = EventTypes(api)
        self.events = Events(api)

    async def get(self, path: str) -> dict[str, Any]:
        """Return any object of the API as JSON, such as ``get("/users/42/accounts/7")``.

        path: a path, with its query if it has one, or a link from a response of the API. Identifiers in it must be
            percent-encoded. The token is sent only to the API: a link to another origin, or out of ``base_url``, raises
            ``ConfigurationError``.

        Raises ``ResponseDecodeError`` for a response that is not a JSON object, and the errors of a request.
        """
        return await self._api.get(dict[str, Any], self._api.at_path(path))

    def list(
        self, path: str, *, filter: str | Filter | None = None, page_size: int | None = None, cursor: str | None = None
    ) -> Paginator[dict[str, Any]]:
        """Return any list of the API as JSON objects, such as ``list("/users/42/transactions")``.

        path: as for ``get``.
        filter: built with ``F``, or plain text.
        page_size: how many items a page holds, 1 to 500; None for the API's own default.
        cursor: the ``cursor`` of an earlier paginator. The list resumes with the very next item.

        An item that is not an object raises ``ResponseDecodeError`` when it is reached.
        """
        endpoint = self._api.at_path(path)
        return self._api.listing(dict[str, Any], endpoint, filter=filter, page_size=page_size, cursor=cursor)

    @property
    def base_url(self) -> str:
        """The URL of the API."""
        return self._base.url("")

    async def aclose(self) -> None:
        """Cancel the requests for prefetched pages, and close the transport if the client made it."""
        await self._owner.aclose()
        await self._retrying.aclose()
        if self._owned is not None:
            await self._owned.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"BasiqClient(base_url={self.base_url!r})"

    def _seal(self, purpose: str, what: str) -> Seal:
        """Return a seal for texts that pass through other programs. Its key is derived from the API key."""
        return Seal(self._key.reveal().encode(), purpose, what)

    def _observe(self, wrap: Callable[[Transport], Transport], on_request: OnRequest, on_retry: OnRequest) -> None:
        """Send every call through the transport that ``wrap`` returns: it wraps authentication and retries.

        The hooks are called after those that were passed to the constructor.
        """
        if self._observed:
            raise ConfigurationError("this client is instrumented already")
        self._observed = True
        self._api.transport = wrap(self._api.transport)
        self._retrying.on_request = chain_hooks(self._retrying.on_request, on_request)
        self._retrying.on_retry = chain_hooks(self._retrying.on_retry, on_retry)
