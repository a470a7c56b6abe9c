"""What aiohttp does with kept-alive connections behind its caller's back, undone."""

from __future__ import annotations

from weakref import WeakSet

import aiohttp
from aiohttp.connector import Connection


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """aiohttp sends a GET or a DELETE again by itself when the connection breaks, and nobody would know of it.

    What may be sent again is decided, and counted, in ``Retrying``: a DELETE whose second sending finds nothing has
    succeeded.
    """
    while True:
        try:
            return await handler(request)
        except Unclean:
            continue  # nothing was sent, and that connection is closed
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            raise Broken from exc


def clean_request_class() -> type[aiohttp.ClientRequest]:
    """Requests that are not sent over a connection on which something came while it rested in the pool.

    aiohttp would take that for the answer: the next caller would read what nobody had asked for.
    """
    used: WeakSet[object] = WeakSet()

    class CleanRequest(aiohttp.ClientRequest):
        async def send(self, conn: Connection) -> aiohttp.ClientResponse:
            protocol = conn.protocol
            if protocol is not None and protocol in used and protocol.should_close:
                raise Unclean
            used.add(protocol)
            return await super().send(conn)

    return CleanRequest


class Unclean(Exception):
    """The connection cannot be used again."""


class Broken(aiohttp.ClientConnectionError):
    """The connection broke before there was an answer."""
