"""The control API over HTTP, below ``/_fake/``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from ...errors import BasiqError
from .._body import BodyError, read_body
from ._fields import ControlError, Json, Values, read_query
from ._fields import read_body as read_fields
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
    try:
        raw = await read_body(request)
    except BodyError as error:
        raise ControlError(error.status, "body-not-read", str(error)) from error
    try:
        body = json.loads(raw) if raw else {}
    except (ValueError, RecursionError):
        raise ControlError(400, "not-valid", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise ControlError(400, "not-valid", "the body is not a JSON object")
    return read_fields(operation.fields, body)


def respond(body: Json, status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json", charset="utf-8")


def respond_with_error(error: ControlError) -> web.Response:
    return respond({"error": {"code": error.code, "message": error.message}}, error.status)
