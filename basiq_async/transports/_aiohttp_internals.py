"""What aiohttp does with kept-alive connections behind its caller's back, undone."""

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
    """aiohttp sends a GET or a DELETE again by itself when the connection breaks, and nobody would know of it.

    What may be sent again is decided, and counted, in ``Retrying``: a DELETE whose second sending finds nothing has
    succeeded.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            raise Broken from exc


def clean_request_class() -> type[aiohttp.ClientRequest]:
    """Requests that are not sent over a connection on which something came while it rested in the pool.

    aiohttp would take that for the answer: the next caller would read what nobody had asked for.
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


class Unclean(Exception):
    """Nothing was sent, and that connection is closed: another one will do."""


class Broken(aiohttp.ClientConnectionError):
    """The connection broke before there was an answer."""
