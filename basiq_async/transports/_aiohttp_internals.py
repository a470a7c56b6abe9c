"""Code that relies on internals of aiohttp's client. Because of it, pyproject.toml has an upper bound on aiohttp.

On a kept-alive connection, aiohttp can send a request a second time, or read bytes that belong to no request, without
telling its caller. This module prevents both. Tests in ``tests/transports`` fail if these internals change.
"""

from __future__ import annotations

from types import CoroutineType
from typing import Any
from weakref import ref

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

_MANY = 1_000
"""Above this number of remembered connections, the closed ones are forgotten."""


class SentOnce(aiohttp.ClientResponse):
    """Prevents aiohttp from sending a GET or a DELETE a second time after the connection broke.

    Only ``Retrying`` may send a request again, because it counts the attempts: a DELETE whose second attempt gets a 404
    has succeeded.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            raise Broken from exc


def clean_request_class() -> type[aiohttp.ClientRequest]:
    """Return a request class that refuses a connection that received bytes while it was idle in the pool.

    aiohttp would read these bytes as the response to the next request.
    """
    used: set[ref[ResponseHandler]] = set()

    class CleanRequest(aiohttp.ClientRequest):
        def send(self, conn: Connection) -> CoroutineType[Any, Any, aiohttp.ClientResponse]:
            protocol = conn.protocol
            if protocol is not None:
                known = ref(protocol)
                if protocol.should_close and known in used:
                    raise Unclean
                used.add(known)
                if len(used) > _MANY:
                    used.difference_update([each for each in used if each() is None])
            return super().send(conn)  # type: ignore[return-value]  # mypy sees only a Coroutine

    return CleanRequest


async def release(response: aiohttp.ClientResponse, *, sent_a_body: bool) -> None:
    """Return the connection to the pool. Waits until aiohttp's task has written the request's body."""
    response.release()
    if sent_a_body:
        await response.wait_for_close()


class Unclean(Exception):
    """The connection was closed before anything was sent. The request can use another connection."""


class Broken(aiohttp.ClientConnectionError):
    """The connection broke before a response came."""
