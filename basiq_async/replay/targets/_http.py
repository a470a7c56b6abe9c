"""Post messages to an endpoint, signed as Basiq signs them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp

from ..._arguments import Duration, check_seconds, check_whole
from ..._redaction.tracebacks import hide_arguments
from ..._signing.secrets import SecretLike
from ..._signing.signature import RESULT, SigningKeys
from ..._wire.hosts import show_url
from ..._wire.payloads import payload_bytes
from ..._wire.urls import read_endpoint
from ..._work.clock import TimeSource
from ..._work.keys import posting_job
from ...errors import ReplayError, TargetError
from ...models import Message
from ...receiver import Result
from ...transports.aiohttp import StatusTransport
from ...transports.base import Request, Response
from ...transports.responses import read_retry_after
from ...transports.retry import Retrying, RetryPolicy
from ._base import Target

_ASKING_FOR_PATIENCE = (429, 503)
NOT_HANDLED = (Result.DUPLICATE, Result.QUARANTINED, Result.IGNORED)
"""The results with which a receiver acknowledges a delivery that it has not handled now, nor will."""


class HttpTarget(Target):
    """Posts each message to ``url`` as Basiq does: the payload as JSON, with the message's own ``webhook-id``, a new
    timestamp, and a new signature. Use it as ``async with HttpTarget(url, secret) as target``.

    url: without a user or password. Its query, which can hold a key, is never shown.
    secret: one or several, as for ``sign``; it is never shown.
    name: names the job in place of the url, for a url whose query holds a key that changes: what was posted under it is
        not posted again.
    retry: for failed connections, timeouts, 408, 429 and 5xx; a message may be sent again. A response 429 or 503 with
        Retry-After is not retried by this policy: it pauses the whole replay.
    timeout: seconds for one attempt.
    connections: maximum number of connections at once; pass the replay's ``concurrency``.
    session: an aiohttp session to use in place of its own; it is not closed.
    clock: returns the time to sign with, as an aware datetime; None is for the system's clock.

    Any 2xx is a success as soon as the response's head has arrived, whatever happens to its body. Redirects are not
    followed, cookies are not kept, and the environment's proxies are not used. ``deliver`` raises ``TargetError`` for
    any other response, and a ``TransportError`` if there was no response.
    """

    @hide_arguments
    def __init__(
        self,
        url: str,
        secret: SecretLike,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration = 30.0,
        connections: int = 100,
        session: aiohttp.ClientSession | None = None,
        clock: TimeSource | None = None,
    ) -> None:
        self._url = read_endpoint(url)
        self._job = posting_job(name or self._url)
        self._keys = SigningKeys.read(secret, for_many=True)
        check_whole("connections", connections, least=1)
        timeout = check_seconds("timeout", timeout)
        self._clock = partial(datetime.now, UTC) if clock is None else clock
        self._transport = StatusTransport(session, timeout=timeout, connections=connections)
        self._retrying = Retrying(self._transport, retry, timeout=timeout, gives_up=_asks_for_a_pause)
        self._closed = False
        self._responses = 0
        """The number of messages that got a response."""
        self._refused = 0
        """How many of the latest responses were a 401."""

    def __repr__(self) -> str:
        return f"HttpTarget({show_url(self._url)!r})"

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``. A receiver of this library says by a header that it has not handled what it acknowledged.

        The word is then ``duplicate``, ``quarantined``, or ``ignored`` without a handler.
        """
        if self._closed:
            raise ReplayError("the HttpTarget is closed: run the replay inside its async with")
        response = await self._retrying.send(self._request(message))
        status = response.status
        self._responses += 1
        self._refused = self._refused + 1 if status == 401 else 0
        if 200 <= status <= 299:
            result = response.headers.get(RESULT)
            return result if result in NOT_HANDLED else None
        pause = _requested_pause(response)
        if pause is not None:
            raise TargetError(f"the target responded with {status}", status=status, retry_after=pause)
        raise TargetError(f"the target responded with {status}{_tries(response.attempts)}", status=status)

    def _explain_refusals(self, since: int = 0) -> str | None:
        """Return what is wrong if each response was a 401, without the first ``since``; else None."""
        count = self._responses - since
        if not 0 < count <= self._refused:
            return None
        said = f"the target responded 401 to {'the message' if count == 1 else f'each of {count:,} messages'}"
        clock = "its clock is wrong, and its log says too-old or too-new"
        return f"{said}: it does not have the secret of the signature, or {clock}"

    def _request(self, message: Message) -> Request:
        body = payload_bytes(message)
        headers = {**self._keys.headers(message.id, self._clock(), body), "content-type": "application/json"}
        return Request("POST", self._url, headers, body, idempotent=True)

    async def aclose(self) -> None:
        """Close the connections, unless a session was passed."""
        self._closed = True
        await self._retrying.aclose()
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def _requested_pause(response: Response) -> float | None:
    """Return the pause, in seconds, that a response 429 or 503 asks for. It applies to the whole job."""
    if response.status not in _ASKING_FOR_PATIENCE:
        return None
    return read_retry_after(response, datetime.now(UTC))


def _asks_for_a_pause(response: Response) -> bool:
    return _requested_pause(response) is not None


def _tries(attempts: int) -> str:
    return "" if attempts == 1 else f" after {attempts} attempts"
