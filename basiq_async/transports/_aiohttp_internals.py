"""Code that leans on the internals of aiohttp's client: pyproject.toml has an upper bound on aiohttp for it.

aiohttp sends again on, and reads from, kept-alive connections without telling its caller: that is undone here. Tests in
``tests/transports`` fail where these internals change.
"""

from __future__ import annotations

from types import CoroutineType
from typing import Any
from weakref import ref

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

_MANY = 1_000
"""How many connections are kept in mind before those that are gone are forgotten."""


class SentOnce(aiohttp.ClientResponse):
    """aiohttp sends a GET or a DELETE again by itself when the connection breaks, and says nothing of it.

    ``Retrying`` decides which requests are sent again, and counts them: a DELETE whose second attempt finds nothing
    has succeeded.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            raise Broken from exc


def clean_request_class() -> type[aiohttp.ClientRequest]:
    """A request class that refuses a connection on which something came while it rested in the pool.

    aiohttp would treat that as the response: the next caller would read bytes that belong to no request.
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
            return super().send(conn)  # type: ignore[return-value]  # mypy knows it as a mere Coroutine

    return CleanRequest


async def release(response: aiohttp.ClientResponse, *, sent_a_body: bool) -> None:
    """Give the connection back. Waits until the request's body is written: a task of aiohttp's does that."""
    response.release()
    if sent_a_body:
        await response.wait_for_close()


class Unclean(Exception):
    """Nothing was sent, and that connection is closed: another one will do."""


class Broken(aiohttp.ClientConnectionError):
    """The connection broke before there was a response."""
