"""The client: one object that holds the services and what they share."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from ._arguments import check_positive
from ._codec import Codec
from ._cursor import CursorSeal
from ._redaction import Redactor
from ._tasks import TaskOwner
from ._urls import VENDOR_URL, BaseURL
from .errors import ConfigurationError
from .hooks import OnRequest, OnRetry
from .services._api import Api
from .services.event_types import EventTypes
from .services.events import Events
from .services.messages import Messages
from .services.webhooks import Webhooks
from .transports.auth import ApiKey, Authenticated
from .transports.base import Transport
from .transports.retry import Retrying, RetryPolicy


class BasiqClient:
    """The way to Basiq's webhooks. Use it as ``async with BasiqClient() as basiq``, or call ``aclose``.

    ``api_key`` is the text that Basiq's dashboard shows; None takes the environment variable ``BASIQ_API_KEY``.
    ``base_url`` may carry a path prefix, for a proxy. ``timeout`` is for each attempt of a request, in seconds.
    A ``transport`` that is passed in is wrapped with authentication and retries, and closed only by whoever made
    it; without one an ``AiohttpTransport`` is made, and closed with the client. ``on_request`` and ``on_retry``
    are called with a ``RequestEvent`` and a ``RetryEvent``, for metrics.

    One client may be used by any number of tasks of one event loop at once. Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        transport: Transport | None = None,
        base_url: str = VENDOR_URL,
        retry: RetryPolicy | None = None,
        timeout: float = 30.0,
        on_request: OnRequest | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        check_positive("timeout", timeout, "of seconds")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise ConfigurationError("retry must be a RetryPolicy, or None for the usual one")
        if transport is not None and not isinstance(transport, Transport):
            raise ConfigurationError("transport must have the methods send and aclose")
        key = ApiKey(api_key)
        base = BaseURL.parse(base_url)
        self._owned: Transport | None = None
        if transport is None:
            from .transports.aiohttp import AiohttpTransport

            transport = self._owned = AiohttpTransport(timeout=timeout)
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
        authenticated = Authenticated(self._retrying, key, base, max_elapsed=policy.max_elapsed, redactor=redactor)
        api = Api(base, authenticated, Codec(), self._owner, redactor, CursorSeal(key.reveal()))
        self._base = base
        self.webhooks = Webhooks(api)
        self.messages = Messages(api)
        self.event_types = EventTypes(api)
        self.events = Events(api)

    async def aclose(self) -> None:
        """End what is under way ahead of time, and close the transport if it is the client's own."""
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
        return f"BasiqClient(base_url={self._base.url('')!r})"
