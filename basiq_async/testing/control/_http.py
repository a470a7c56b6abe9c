"""The control API over HTTP, below ``/_fake/``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ..._ui._errors import ControlError
from ..._ui._respond import read_json, respond
from ...errors import BasiqError
from ._fields import Values, read_body, read_query
from ._openapi import ROOT, describe
from ._operations import OPERATIONS, Control, Operation

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def routes(control: Control) -> list[web.RouteDef]:
    """The routes of every operation, and of the description."""

    async def openapi(request: web.Request) -> web.Response:
        return respond(describe())

    made = [web.route(each.method, ROOT + each.path, _handler(control, each)) for each in OPERATIONS]
    return [web.get(ROOT + "/openapi.json", openapi), *made]


def _handler(control: Control, operation: Operation) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        values = await _read(request, operation)
        try:
            return respond(await operation.run(control, {**values, **request.match_info}))
        except BasiqError as error:
            raise ControlError(400, "not-valid", str(error)) from error

    return handle


async def _read(request: web.Request, operation: Operation) -> Values:
    if operation.method == "GET":
        return read_query(operation.fields, dict(request.query))
    return read_body(operation.fields, await read_json(request))
